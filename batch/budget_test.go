package batch

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits for bytes gets them as they become free; nobody is forgotten, and the
// limit is kept.
func TestBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		budget := newBudget(100)
		var mu sync.Mutex
		var used, most, refused int
		var wg sync.WaitGroup
		for i := range 200 {
			n := 1 + i%100
			wg.Go(func() {
				for range 20 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					if i%10 == 0 {
						cancel() // these give up, unless there are enough at once
					}
					ok := budget.tryTake(n) || budget.take(ctx, n)
					cancel()
					mu.Lock()
					if !ok {
						refused++
						mu.Unlock()
						continue
					}
					used += n
					most = max(most, used)
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
					used -= n
					mu.Unlock()
					budget.give(n)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		if most > 100 || most < 90 || refused > 20*20 || time.Since(start) > time.Minute {
			t.Errorf("%d bytes were taken at most, %d callers refused, in %v", most, refused, time.Since(start))
		}
		if !budget.tryTake(100) || budget.tryTake(1) {
			t.Error("what was given back is not all there")
		}
		budget.give(100)
		if !budget.tryTake(1000) || budget.tryTake(1) {
			t.Error("what is larger than the limit does not fit alone")
		}
	})
}
