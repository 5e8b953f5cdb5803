package store

import (
	"context"
	"sync"
	"time"
)

// commitSlots bounds how many commits of a node are under way at once: while a shard waits
// for a slot, its queue fills, and the next commit is larger. Several nodes share one
// PostgreSQL, where many small commits cost more than few large ones. A wait is short: a
// commit that hangs behind a lock must not hold up the other shards.
type commitSlots struct {
	limit func() int // nil: none

	mu    sync.Mutex
	taken int           // mu guards
	freed chan struct{} // mu guards: closed, and replaced, when a slot is given back
}

// slotPatience is how long a shard waits for a slot; then it commits without one.
const slotPatience = 20 * time.Millisecond

func newCommitSlots(limit func() int) *commitSlots {
	return &commitSlots{limit: limit, freed: make(chan struct{})}
}

// take waits for a slot. give returns it.
func (c *commitSlots) take(ctx context.Context) {
	if c.limit == nil {
		return
	}
	var late <-chan time.Time
	for {
		c.mu.Lock()
		freed := c.freed
		if c.taken < max(1, c.limit()) {
			c.taken++
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if late == nil {
			late = time.After(slotPatience)
		}
		select {
		case <-freed:
			continue
		case <-late:
		case <-ctx.Done():
		}
		c.mu.Lock()
		c.taken++
		c.mu.Unlock()
		return
	}
}

func (c *commitSlots) give() {
	if c.limit == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken--
	close(c.freed)
	c.freed = make(chan struct{})
}
