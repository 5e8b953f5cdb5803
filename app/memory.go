package app

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	memoryEvery = 10 * time.Second // how often the connections are counted
	memoryStorm = 1000             // connections more or fewer are a storm, if they are half of all
)

// settled tells when a storm of connections is over: when so many have come or gone since
// the last one that it was a storm, and their number stays as it is.
type settled struct {
	last, before int64 // connections after the last storm, and when they were counted last
}

func (s *settled) count(now int64) (over bool) {
	change, moving := max(now-s.last, s.last-now), max(now-s.before, s.before-now)
	s.before = now
	if change < memoryStorm || 2*change < max(now, s.last) || 20*moving > now {
		return false
	}
	s.last = now
	return true
}

// releaseMemory gives memory back to the system after a storm of connections. The runtime
// would keep as much again as the heap holds, and after they have gone, what they had, until
// the next collection, which on a quiet server is up to two minutes away.
func (a *App) releaseMemory(ctx context.Context) error {
	var s settled
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if n := a.broker.Counts().Connections; s.count(n) {
			start := time.Now()
			debug.FreeOSMemory()
			a.logger.Debug("memory was given back to the system", "connections", n, "elapsed_ms", time.Since(start).Milliseconds())
		}
	}
}
