package redis

import (
	"context"
	_ "embed"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
)

//go:embed lease.lua
var leaseScript string

var lease = redis.NewScript(leaseScript)

const (
	leaseBeats = 4           // how long a lease lasts without a heartbeat
	afterLease = time.Minute // how long an ended one stays, for whoever looks into Redis
)

// renew renews the lease. was: the entry was still there.
func (l *Link) renew(ctx context.Context, c *client) (was bool, _ *clock, err error) {
	began := time.Now()
	reply, err := lease.Run(ctx, c, []string{l.o.Prefix + "nodes"}, l.member(), (leaseBeats * l.o.Beat).Milliseconds(), afterLease.Milliseconds()).Int64Slice()
	if err != nil {
		return false, nil, err
	}
	// The middle of the round trip is the best guess of when Redis looked at its clock.
	return reply[1] == 1, &clock{reply[0], began.Add(time.Since(began) / 2)}, nil
}

func (l *Link) member() string { return l.o.Node.ID + "|" + l.o.Node.Name }

// heartbeat renews the lease until ctx ends, and decides whether Redis is away. Each
// failure ends the client, too: the next one looks up addresses, Sentinels and slots anew.
func (l *Link) heartbeat(ctx context.Context) {
	var (
		c          *client
		wait       = backoff.New(l.o.Beat/32, l.o.Beat)
		since      = time.Now() // the last heartbeat that succeeded
		ever       bool         // one has succeeded
		registered bool         // the registry was filled since Redis was away last
	)
	for {
		was, now, err := func() (bool, *clock, error) {
			ctx, cancel := context.WithTimeout(ctx, l.o.Beat)
			defer cancel()
			if c == nil {
				var err error
				if c, err = l.connect(ctx); err != nil {
					return false, nil, err
				}
			}
			return l.renew(ctx, c)
		}()
		if err != nil && ctx.Err() != nil {
			if c != nil && l.client.Load() != c {
				shut(c) // farewell closes the one that is in use
			}
			return
		}
		if err != nil {
			l.metrics.beats.WithLabelValues("failed").Inc()
			l.client.Store(nil)
			if c != nil {
				shut(c)
				c = nil
			}
			l.setUp(false)
			if !wait.Waiting() {
				l.log.Warn("Redis is unavailable; messages reach other nodes within seconds until it answers",
					"redis", l.target.String(), "err", explain("redis.heartbeat", err))
			}
			registered = false
			if !wait.Sleep(ctx) {
				return
			}
			continue
		}

		l.metrics.beats.WithLabelValues("ok").Inc()
		l.clock.Store(now)
		l.client.Store(c)
		l.setUp(true)
		if wait.Waiting() || !ever {
			l.log.Info("Redis answers", "redis", l.target.String(), "cluster", c.sharded, "elapsed_ms", time.Since(since).Milliseconds())
		}
		if !was && ever {
			l.metrics.flushes.WithLabelValues("lease").Inc()
			if registered {
				l.log.Warn("Redis was emptied; registering all users again", "redis", l.target.String())
			}
		}
		if !was || !registered {
			// After an absence the registry may be that of a replica that knows less.
			l.reg.again()
			signal(l.changed)
		}
		ever, registered, since = true, true, time.Now()
		wait.Reset()
		signal(l.reg.wake)
		l.sendProbe(ctx, c)
		// A failure elsewhere shortens the pause, but not below an eighth.
		if !backoff.Sleep(ctx, l.o.Beat/8) || !sleepOr(ctx, l.o.Beat-l.o.Beat/8, l.beatNow) {
			return
		}
	}
}

// setUp notes whether the last heartbeat succeeded.
func (l *Link) setUp(up bool) {
	if l.up.Swap(up) == up {
		return
	}
	value := 0.0
	if up {
		value = 1
	}
	l.metrics.up.Set(value)
	signal(l.changed)
}

// sleepOr waits for d, or until c has a value, and reports whether ctx goes on.
func sleepOr(ctx context.Context, d time.Duration, c <-chan struct{}) bool {
	select {
	case <-time.After(d):
	case <-c:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
