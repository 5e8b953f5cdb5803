package batch

import (
	"context"
	"sync/atomic"
)

// budget bounds the bytes in a queue. Where there are bytes left, taking some costs two
// atomic operations and no lock. It is safe for concurrent use.
type budget struct {
	limit   int64
	used    atomic.Int64
	waiting atomic.Int64  // callers of take that wait; others go behind them
	freed   chan struct{} // bytes may be left; full: somebody will look anyway
}

func newBudget(limit int) budget { return budget{limit: int64(limit), freed: make(chan struct{}, 1)} }

// tryTake takes n bytes if nobody waits for some and as many are left. More than the limit
// can be taken when none are in use.
func (b *budget) tryTake(n int) bool { return b.waiting.Load() == 0 && b.fits(int64(n)) }

func (b *budget) fits(n int64) bool {
	for {
		used := b.used.Load()
		if used > 0 && used+n > b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// take waits for n bytes, and reports false when ctx ends first.
func (b *budget) take(ctx context.Context, n int) bool {
	b.waiting.Add(1)
	defer b.wake() // the next one may fit as well
	defer b.waiting.Add(-1)
	for !b.fits(int64(n)) {
		select {
		case <-b.freed:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// give returns n bytes.
func (b *budget) give(n int) {
	b.used.Add(int64(-n))
	b.wake()
}

func (b *budget) wake() {
	if b.waiting.Load() > 0 {
		select {
		case b.freed <- struct{}{}:
		default:
		}
	}
}
