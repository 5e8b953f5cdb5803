package store_test

import (
	"testing"
	"time"

	"github.com/parleymq/parley/store/storetest"
)

// A node's clock is 40 s behind the database's: what it asks is the database's.
func TestClock(t *testing.T) {
	t.Parallel()
	c, err := storetest.Open(t, storetest.Ahead(t, storetest.DSN(t), 40*time.Second)).NewClock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	got := c.Now()
	if after := time.Now(); got.Before(before.Add(39*time.Second)) || got.After(after.Add(41*time.Second)) {
		t.Errorf("Now = %v, want 40 s after %v", got, before)
	}
	if next := c.Now(); next.Before(got) {
		t.Errorf("Now = %v after %v", next, got)
	}
}
