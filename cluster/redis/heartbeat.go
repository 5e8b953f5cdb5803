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
	nodesKey   = "parley:nodes"
	leaseBeats = 4           // a lease expires after this many heartbeat intervals without a heartbeat
	afterLease = time.Minute // how long an expired lease stays, for people who look into Redis
)

// renew renews the lease of this node, and sets the client's clock. was reports whether the
// lease was still there.
func (l *Link) renew(ctx context.Context, c *client) (was bool, err error) {
	began := time.Now()
	reply, err := lease.Run(ctx, c, []string{nodesKey}, l.member(), (leaseBeats * l.o.HeartbeatInterval).Milliseconds(), afterLease.Milliseconds()).Int64Slice()
	if err != nil {
		return false, err
	}
	// The middle of the round trip is the best guess of when Redis looked at its clock.
	c.setClock(reply[0], began.Add(time.Since(began)/2))
	return reply[1] == 1, nil
}

func (l *Link) member() string { return l.o.Node.ID + "|" + l.o.Node.Name }

// beat sends one heartbeat, by a new client if c is nil, and returns the client.
func (l *Link) beat(ctx context.Context, c *client) (_ *client, was bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.o.HeartbeatInterval)
	defer cancel()
	if c == nil {
		if c, err = l.connect(ctx); err != nil {
			return nil, false, err
		}
	}
	was, err = l.renew(ctx, c)
	return c, was, err
}

// heartbeat renews the lease until ctx ends, and decides whether Redis is available. A
// failure ends the client, too: the next one looks up addresses, Sentinels and slots anew.
func (l *Link) heartbeat(ctx context.Context) {
	var (
		c     *client
		was   bool
		err   error
		wait  = backoff.New(l.o.HeartbeatInterval/32, l.o.HeartbeatInterval)
		since = time.Now() // the last heartbeat that succeeded
		ever  bool         // one has succeeded
	)
	for {
		c, was, err = l.beat(ctx, c)
		if err != nil && ctx.Err() != nil {
			if c != nil && l.client.Load() != c {
				shut(c) // Run closes the one that is in use
			}
			return
		}
		if err != nil {
			l.metrics.beats.WithLabelValues("failed").Inc()
			l.setClient(nil)
			if c != nil {
				shut(c)
				c = nil
			}
			if !wait.Waiting() {
				l.logger.Warn("Redis is unavailable; messages reach other nodes within seconds until it answers",
					"redis", l.target.String(), "err", explain("redis.heartbeat", err))
			}
			if !wait.Sleep(ctx) {
				return
			}
			continue
		}

		l.metrics.beats.WithLabelValues("ok").Inc()
		l.setClient(c)
		back := wait.Waiting() || !ever
		if back {
			l.logger.Info("Redis answers", "redis", l.target.String(), "cluster", c.sharded, "elapsed_ms", time.Since(since).Milliseconds())
		}
		if !was && ever {
			l.metrics.flushes.WithLabelValues("lease").Inc()
			if !back {
				l.logger.Warn("Redis has lost its data; registering all users again", "redis", l.target.String())
			}
		}
		if !was || back { // after an outage it may be a replica that knows less
			l.reg.registerAll()
			signal(l.changed)
		}
		ever, since = true, time.Now()
		wait.Reset()
		signal(l.reg.wake)
		l.probeOrCut(ctx, c)
		// A failure elsewhere brings the next heartbeat forward, but not by more than seven eighths.
		if !backoff.Sleep(ctx, l.o.HeartbeatInterval/8) {
			return
		}
		select {
		case <-time.After(l.o.HeartbeatInterval - l.o.HeartbeatInterval/8):
		case <-l.beatNow:
		case <-ctx.Done():
			return
		}
	}
}

// setClient says by which client Redis is available; nil: it is unavailable.
func (l *Link) setClient(c *client) {
	if before := l.client.Swap(c); (before == nil) != (c == nil) {
		signal(l.changed)
	}
}
