package store

import (
	"context"
	"sync/atomic"
)

// room bounds the bytes of content that wait in a shard's queue. Where there is
// room, it costs two atomic operations and no lock. It is safe for concurrent use.
type room struct {
	limit   int64
	used    atomic.Int64
	waiting atomic.Int64  // callers of take that found no room; others go behind them
	freed   chan struct{} // there may be room; full: somebody will look anyway
}

func newRoom(limit int) room { return room{limit: int64(limit), freed: make(chan struct{}, 1)} }

// tryTake takes n bytes if nobody waits for some and there are as many. What is
// larger than the limit fits into an empty queue.
func (r *room) tryTake(n int) bool { return r.waiting.Load() == 0 && r.fits(int64(n)) }

func (r *room) fits(n int64) bool {
	for {
		used := r.used.Load()
		if used > 0 && used+n > r.limit {
			return false
		}
		if r.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// take waits for n bytes, and reports false when ctx ends first.
func (r *room) take(ctx context.Context, n int) bool {
	r.waiting.Add(1)
	defer r.wake() // the next one may fit as well
	defer r.waiting.Add(-1)
	for !r.fits(int64(n)) {
		select {
		case <-r.freed:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// give returns n bytes.
func (r *room) give(n int) {
	r.used.Add(int64(-n))
	r.wake()
}

func (r *room) wake() {
	if r.waiting.Load() > 0 {
		select {
		case r.freed <- struct{}{}:
		default:
		}
	}
}
