package redis

import (
	"context"
	_ "embed"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/cluster"
)

//go:embed lease.lua
var leaseScript string

var lease = redis.NewScript(leaseScript)

const (
	maxPeers   = 1000        // entries of the lease that are read
	afterLease = time.Minute // how long an ended one stays, for whoever looks into Redis
)

// heard is what a heartbeat brought.
type heard struct {
	nodes []cluster.Node // without this one, by id
	was   bool           // the own entry was still there
	clock *clock
}

func (l *Link) member() string { return l.o.Node.ID + "|" + l.o.Node.Name }

// renew renews the lease.
func (l *Link) renew(ctx context.Context, c *client) (heard, error) {
	began := time.Now()
	reply, err := lease.Run(ctx, c, []string{l.o.Prefix + "nodes"},
		l.member(), l.o.Lease.Milliseconds(), afterLease.Milliseconds(), maxPeers).Slice()
	if err != nil {
		return heard{}, err
	}
	if len(reply) != 3 {
		return heard{}, errors.New("the lease script answers something else")
	}
	now, ok1 := reply[0].(int64)
	was, ok2 := reply[1].(int64)
	entries, ok3 := reply[2].([]any)
	if !ok1 || !ok2 || !ok3 {
		return heard{}, errors.New("the lease script answers something else")
	}
	// The middle of the round trip is the best guess of when Redis looked at its clock.
	h := heard{was: was == 1, clock: &clock{now, began.Add(time.Since(began) / 2)}}
	for _, e := range entries {
		s, _ := e.(string)
		id, name, _ := strings.Cut(s, "|")
		if validID(id) && validName(name) && id != l.o.Node.ID {
			h.nodes = append(h.nodes, cluster.Node{ID: id, Name: name})
		}
	}
	h.nodes = union(h.nodes, nil)
	return h, nil
}

// union is a and b by id, each id once.
func union(a, b []cluster.Node) []cluster.Node {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(a, b cluster.Node) int { return strings.Compare(a.ID, b.ID) })
	return slices.CompactFunc(all, func(a, b cluster.Node) bool { return a.ID == b.ID })
}

// beat renews the lease until ctx ends. Each failure ends the client, too: the next one
// looks up addresses, Sentinels and slots anew.
func (l *Link) beat(ctx context.Context) {
	var (
		c       *client
		wait    = backoff.New(l.o.Beat/32, l.o.Beat)
		since   = time.Now() // the last beat that came through, or the first failure after it
		told    bool         // the log knows that Redis is away
		ever    bool         // a beat has come through
		renewed bool         // the registry has been told of
		kept    []cluster.Node
		until   time.Time // kept count as peers until then: Redis has forgotten them, and they have not yet said so
		hurry   int       // beats that follow each other fast, so that nodes find each other again
	)
	for {
		h, err := func() (h heard, err error) {
			ctx, cancel := context.WithTimeout(ctx, l.o.Beat)
			defer cancel()
			if c == nil {
				if c, err = l.connect(ctx); err != nil {
					return h, err
				}
			}
			return l.renew(ctx, c)
		}()
		if ctx.Err() != nil && err != nil {
			if c != nil && l.client.Load() != c {
				shut(c) // farewell closes the one that is in use
			}
			return
		}
		l.metrics.beats.WithLabelValues(outcome(err)).Inc()
		if err != nil {
			l.up.Store(false)
			l.metrics.up.Set(0)
			l.client.Store(nil)
			if c != nil {
				shut(c)
				c = nil
			}
			if !told {
				told = true
				signal(l.changed)
				l.log.Warn("Redis is away; messages reach other nodes late (within seconds) until it is back",
					"redis", l.target.String(), "err", explain("redis.beat", err))
			}
			if time.Since(since) > l.o.Lease && len(l.Peers()) > 0 {
				// Whatever leases were heard of have ended, as far as this node can know.
				l.drop(l.setPeers(nil), reasonGone)
				signal(l.changed)
			}
			renewed = false
			if !wait.Sleep(ctx) {
				return
			}
			continue
		}

		wait.Reset()
		if !h.was {
			if ever {
				kept, until = l.Peers(), time.Now().Add(l.o.Lease)
			}
			hurry = 8
		}
		if time.Now().Before(until) {
			h.nodes = union(h.nodes, kept)
		}
		if told {
			hurry = 8
		}
		l.clock.Store(h.clock)
		l.client.Store(c)
		before := l.Peers()
		l.drop(l.setPeers(h.nodes), reasonGone)
		if !l.up.Swap(true) || !slices.Equal(before, l.Peers()) {
			signal(l.changed)
		}
		l.metrics.up.Set(1)
		if told || !ever {
			l.log.Info("Redis is there", "redis", l.target.String(), "cluster", c.sharded, "peers", len(h.nodes),
				"elapsed_ms", time.Since(since).Milliseconds())
		}
		if !h.was && ever {
			l.metrics.flushes.WithLabelValues("lease").Inc()
			if renewed {
				l.log.Warn("Redis was emptied; everything is put there again", "redis", l.target.String())
			}
		}
		if !h.was || !renewed {
			// After an absence the registry may be that of a replica that knows less.
			l.reg.again()
			signal(l.changed)
		}
		ever, renewed, told, since = true, true, false, time.Now()
		signal(l.reg.wake)
		l.sendProbe(ctx, c)
		if hurry > 0 {
			hurry--
			signal(l.beatNow)
		}
		// Somebody's doubt shortens the pause, but cannot make the heart race.
		if !backoff.Sleep(ctx, l.o.Beat/8) || !pauseOr(ctx, l.o.Beat-l.o.Beat/8, l.beatNow) {
			return
		}
	}
}

func outcome(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}
