// Package seedtest makes random tests repeatable. Each takes its randomness from one seed, which is
// logged when the test fails; PARLEY_TEST_SEED runs it again with that seed:
//
//	PARLEY_TEST_SEED=7 go test ./store -run '^TestSyncModel$'
//
// A seed repeats what a test does, not how its goroutines are scheduled.
package seedtest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// EnvSeed is the environment variable with the seed of every random test, a decimal number.
const EnvSeed = "PARLEY_TEST_SEED"

// Seed returns the seed of a test: that of EnvSeed, or a random one. If the test fails, its log says how
// to repeat it. It is called once for each test.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(EnvSeed); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", EnvSeed, err)
		}
	}
	tellSeed(t, &seed)
	return seed
}

func tellSeed(t testing.TB, seed *uint64) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("to repeat this: %s=%d go test -run '^%s$'", EnvSeed, *seed, t.Name())
		}
	})
}

// New returns a random generator for one goroutine of a test, numbered n; each n is another sequence.
func New(seed uint64, n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }

// Each runs a short model once for each seed from 1 to n, in tests that are the same every time, and stops
// at the first that fails, saying which. With EnvSeed it runs that seed alone.
func Each(t testing.TB, n uint64, run func(seed uint64)) {
	t.Helper()
	if os.Getenv(EnvSeed) != "" {
		run(Seed(t))
		return
	}
	if testing.Short() {
		n /= 10
	}
	seed := uint64(1)
	tellSeed(t, &seed)
	for run(seed); seed < n && !t.Failed(); {
		seed++
		run(seed)
	}
}
