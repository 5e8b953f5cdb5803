package redis

import (
	"context"
	_ "embed"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
)

//go:embed lease.lua
var leaseScript string

var lease = redis.NewScript(leaseScript)

const (
	leaseBeats = 4           // a lease expires after this many heartbeat intervals without a heartbeat
	afterLease = time.Minute // how long an expired lease stays, for people who look into Redis
)

// renewal is what Redis answers to the renewal of a lease.
type renewal struct {
	was   bool     // the lease was still there
	nodes []string // "id|name" of all nodes with a lease, at most 300
}

// renew renews the lease of this node, and sets the client's clock.
func (l *Link) renew(ctx context.Context, c *client) (r renewal, err error) {
	began := time.Now()
	reply, err := lease.Run(ctx, c, []string{l.nodesKey()}, l.member(), (leaseBeats * l.o.HeartbeatInterval).Milliseconds(), afterLease.Milliseconds()).Slice()
	if err != nil {
		return r, err
	}
	ms, _ := reply[0].(int64)
	was, _ := reply[1].(int64)
	nodes, _ := reply[2].([]any)
	r.was = was == 1
	for _, n := range nodes {
		if s, ok := n.(string); ok {
			r.nodes = append(r.nodes, s)
		}
	}
	// The middle of the round trip is the best guess of when Redis looked at its clock.
	c.setClock(ms, began.Add(time.Since(began)/2))
	return r, nil
}

// strangers are nodes with a lease in Redis that this node's database does not know: since
// when, and whether that was logged. Owned by heartbeat.
type strangers map[string]*stranger

type stranger struct {
	since  time.Time
	logged bool
}

// watch notes which of the nodes with a lease are strangers, and logs those that stay so for
// twice as long as a lease: by then the database knows every node that can reach it. Nothing
// is exchanged with them (cluster.Bus), but the operator has mixed something up.
func (l *Link) watch(s strangers, nodes []string) {
	seen := map[string]bool{}
	for _, member := range nodes {
		id, name, _ := strings.Cut(member, "|")
		if !validID(id) || id == l.o.Node.ID || l.peers.has(id) {
			continue
		}
		seen[id] = true
		if s[id] == nil {
			s[id] = &stranger{since: time.Now()}
		}
		if !s[id].logged && time.Since(s[id].since) > 2*leaseBeats*l.o.HeartbeatInterval {
			s[id].logged = true
			l.logger.Error("a node uses this Redis in the name of this installation, and is not in its database; nothing is exchanged with it. "+
				"It runs on a copy of the database's files, or cannot reach its database. For a copy, give its nodes a REDIS_URL with another server or database number",
				"redis", l.target.String(), "other_node", name, "installation", l.o.Installation)
		}
	}
	known := 0
	for id, one := range s {
		if !seen[id] {
			delete(s, id)
		} else if one.logged {
			known++
		}
	}
	l.foreign.Store(int64(known))
}

func (l *Link) member() string { return l.o.Node.ID + "|" + l.o.Node.Name }

// beat sends one heartbeat, by a new client if c is nil, and returns the client.
func (l *Link) beat(ctx context.Context, c *client) (_ *client, r renewal, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.o.HeartbeatInterval)
	defer cancel()
	if c == nil {
		if c, err = l.connect(ctx); err != nil {
			return nil, r, err
		}
	}
	r, err = l.renew(ctx, c)
	return c, r, err
}

// heartbeat renews the lease until ctx ends, and decides whether Redis is available. A
// failure ends the client, too: the next one looks up addresses, Sentinels and slots anew.
func (l *Link) heartbeat(ctx context.Context) {
	var (
		c     *client
		r     renewal
		other = strangers{}
		err   error
		wait  = backoff.New(l.o.HeartbeatInterval/32, l.o.HeartbeatInterval)
		since = time.Now() // the last heartbeat that succeeded
		ever  bool         // one has succeeded
	)
	for {
		c, r, err = l.beat(ctx, c)
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
		l.watch(other, r.nodes)
		if !r.was && ever {
			l.metrics.flushes.WithLabelValues("lease").Inc()
			if !back {
				l.logger.Warn("Redis has lost its data; registering all users again", "redis", l.target.String())
			}
		}
		if !r.was || back { // after an outage it may be a replica that knows less
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
