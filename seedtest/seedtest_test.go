package seedtest_test

import (
	"testing"

	"github.com/parleymq/parley/seedtest"
)

// The same seed and number are the same sequence; the variable decides the seed.
func TestSeed(t *testing.T) {
	if a, b := seedtest.Seed(t), seedtest.Seed(t); a == b {
		t.Errorf("two seeds are both %d", a)
	}
	t.Setenv(seedtest.EnvSeed, "7")
	seed := seedtest.Seed(t)
	if seed != 7 {
		t.Errorf("Seed = %d, want 7", seed)
	}
	if a, b := seedtest.New(seed, 1).Uint64(), seedtest.New(seed, 1).Uint64(); a != b {
		t.Errorf("the same generator gives %d and %d", a, b)
	}
	if a, b := seedtest.New(seed, 1).Uint64(), seedtest.New(seed, 2).Uint64(); a == b {
		t.Errorf("two generators both give %d", a)
	}
}
