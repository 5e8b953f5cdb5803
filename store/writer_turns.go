package store

import (
	"context"
	"sync"
	"time"
)

// turns bounds how many commits of a node are under way at once: while a shard waits
// for its turn, its queue gathers, and the commit is larger. Several nodes share one
// PostgreSQL, where many small commits cost more than few large ones. Nobody waits for
// long: a commit that hangs behind a lock must not hold up the other shards.
type turns struct {
	limit func() int // nil: none

	mu    sync.Mutex
	taken int           // mu guards
	free  chan struct{} // mu guards: closed, and replaced, when a turn ends
}

// turnPatience is how long a shard waits for its turn at most.
const turnPatience = 20 * time.Millisecond

func newTurns(limit func() int) *turns { return &turns{limit: limit, free: make(chan struct{})} }

// take waits for a turn. give ends it.
func (t *turns) take(ctx context.Context) {
	if t.limit == nil {
		return
	}
	var patience <-chan time.Time
	for {
		t.mu.Lock()
		free := t.free
		if t.taken < max(1, t.limit()) {
			t.taken++
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		if patience == nil {
			timer := time.NewTimer(turnPatience)
			defer timer.Stop()
			patience = timer.C
		}
		select {
		case <-free:
			continue
		case <-patience:
		case <-ctx.Done():
		}
		t.mu.Lock()
		t.taken++
		t.mu.Unlock()
		return
	}
}

func (t *turns) give() {
	if t.limit == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	close(t.free)
	t.free = make(chan struct{})
}
