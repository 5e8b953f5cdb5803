package backoff_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/backoff"
)

func TestPauses(t *testing.T) {
	t.Parallel()
	b := backoff.New(10*time.Millisecond, time.Second)
	for range 2 {
		if b.Waiting() {
			t.Error("Waiting() = true before the first pause")
		}
		for full := 10 * time.Millisecond; full < 5*time.Second; full *= 2 {
			most := min(full, time.Second)
			if d := b.Next(); d < most/2 || d > most {
				t.Errorf("Next() = %v, want %v to %v", d, most/2, most)
			}
		}
		if !b.Waiting() {
			t.Error("Waiting() = false after pauses")
		}
		b.Reset()
	}
}

// A limit below the first pause wins, and pauses of nothing are allowed.
func TestSmall(t *testing.T) {
	t.Parallel()
	b := backoff.New(time.Second, time.Millisecond)
	if d := b.Next(); d > time.Millisecond {
		t.Errorf("Next() = %v, want at most 1ms", d)
	}
	var zero backoff.Backoff
	if d := zero.Next(); d != 0 {
		t.Errorf("Next() = %v, want 0", d)
	}
}

func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if !backoff.Sleep(t.Context(), time.Minute) || time.Since(start) != time.Minute {
			t.Errorf("slept for %v, want 1m", time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		b := backoff.New(time.Hour, time.Hour)
		if start = time.Now(); b.Sleep(ctx) || time.Since(start) != time.Second {
			t.Errorf("slept for %v, want 1s and false", time.Since(start))
		}
	})
}
