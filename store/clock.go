package store

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

const (
	clockSQL = `SELECT clock_timestamp()`

	clockEvery = 10 * time.Second // between two readings
	clockWait  = 5 * time.Second  // for one
)

// Clock is the database's clock, as this process knows it: read every few seconds, and counted
// on in between without a query. The clocks of nodes may differ; what one writes and another
// compares with its present, such as the end of a token or the time of a revocation, is told
// by this one. It implements chat.Clock, and is safe for concurrent use.
type Clock struct {
	s    *Store
	read atomic.Pointer[reading]
}

// A reading is what the database's clock said, and when, by the monotonic clock.
type reading struct{ said, at time.Time }

var _ chat.Clock = (*Clock)(nil)

// NewClock returns the database's clock, read once. It blocks for a round trip; Unavailable.
func (s *Store) NewClock(ctx context.Context) (*Clock, error) {
	c := &Clock{s: s}
	return c, c.look(ctx)
}

// Now implements chat.Clock. It is off by half of a round trip at most.
func (c *Clock) Now() time.Time {
	r := c.read.Load()
	return r.said.Add(time.Since(r.at))
}

// Run reads the clock again every 10 s, until ctx ends, and returns nil. While the database
// does not answer, the last reading stands.
func (c *Clock) Run(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = c.look(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Clock) look(ctx context.Context) error {
	ctx, cancel := chat.WithDeadline(ctx, clockWait, "store.Clock")
	defer cancel()
	before := time.Now()
	said, err := collectOne(ctx, c.s.pool, pgx.RowTo[time.Time], clockSQL)
	if err != nil {
		return translate("store.Clock", err)
	}
	c.read.Store(&reading{said, before.Add(time.Since(before) / 2)})
	return nil
}
