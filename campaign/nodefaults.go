package campaign

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Where there are several nodes, a fault strikes one of them, a line of one, or what is
// between them; the others have to go on.

// nodeFaults is the deck of a campaign over several nodes.
var nodeFaults = []fault{
	{"kill -9 of a node", (*campaign).killNode},
	{"kill -9 of a node, which stays down", (*campaign).loseNode},
	{"kill -9 of all nodes", (*campaign).killServer},
	{"SIGTERM to one node after the other", (*campaign).rollNodes},
	{"a node stopped for a moment", (*campaign).pauseNode},
	{"a node stopped until it is evicted", (*campaign).pauseNodeLong},
	{"a node's link to PostgreSQL cut", (*campaign).cutNodeDatabase},
	{"a node's link to PostgreSQL frozen", (*campaign).freezeNodeDatabase},
	{"a node's link to PostgreSQL frozen until it is evicted", (*campaign).freezeNodeDatabaseLong},
	{"a node's link to PostgreSQL slow", (*campaign).slowNodeDatabase},
	{"answers of PostgreSQL to a node swallowed", (*campaign).swallowNodeAnswers},
	{"a node's link to Redis cut", (*campaign).cutNodeRedis},
	{"a node's link to Redis frozen", (*campaign).freezeNodeRedis},
	{"a node's links to PostgreSQL and Redis frozen", (*campaign).isolateNode},
	{"a node's lines to devices frozen", (*campaign).freezeNodeDevices},
	{"links to Redis slow by seconds", (*campaign).slowRedis},
	{"frames lost, doubled and swapped", (*campaign).mangleFrames},
	{"FLUSHALL, again and again", (*campaign).flushRedis},
	{"kill -9 of Redis", (*campaign).killRedis},
	{"Redis stopped for a while", (*campaign).pauseRedis},
	{"subscriptions killed by Redis", (*campaign).killSubscriptions},
	{"Redis asleep", (*campaign).sleepRedis},
	{"a node stopped while Redis is down", (*campaign).pauseWithoutRedis},
	{"a node killed while Redis is down", (*campaign).killWithoutRedis},
	{"kill -9 of PostgreSQL", (*campaign).killPostgres},
	{"PostgreSQL stopped for a while", (*campaign).stopPostgres},
	{"a crowd of stuck readers", (*campaign).stickReaders},
}

// faults are those that the campaign has.
func (c *campaign) faults() []fault {
	all := faults
	switch {
	case c.redis == nil:
	case c.redis.sharded:
		all = append(slices.Clone(nodeFaults), fault{"kill -9 of one server of Redis, and of another", (*campaign).killShards})
	default:
		all = append(slices.Clone(nodeFaults), fault{"Redis read-only", (*campaign).readOnlyRedis})
	}
	return slices.DeleteFunc(slices.Clone(all), func(b fault) bool { return !strings.Contains(b.name, c.o.Only) })
}

func seconds(random *rand.Rand, from, to float64) time.Duration {
	return time.Duration((from + (to-from)*random.Float64()) * float64(time.Second))
}

func (c *campaign) killNode(ctx context.Context, random *rand.Rand) error {
	s := c.draw(random)
	return c.outage(false, func() error {
		s.stop(syscall.SIGKILL, false)
		return s.start(ctx)
	})
}

// loseNode has a node stay down until the others have evicted it.
func (c *campaign) loseNode(ctx context.Context, random *rand.Rand) error {
	s := c.draw(random)
	return c.outage(false, func() error {
		s.stop(syscall.SIGKILL, false)
		sleep(ctx, seconds(random, 9, 12))
		return s.start(ctx)
	})
}

// rollNodes is a rolling restart.
func (c *campaign) rollNodes(ctx context.Context, _ *rand.Rand) error {
	return c.outage(false, func() error {
		for _, s := range c.nodes {
			s.stop(syscall.SIGTERM, true)
			if err := s.start(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *campaign) pauseNode(ctx context.Context, random *rand.Rand) error {
	return c.pause(ctx, c.draw(random), seconds(random, 1, 7))
}

func (c *campaign) pauseNodeLong(ctx context.Context, random *rand.Rand) error {
	return c.pause(ctx, c.draw(random), seconds(random, 9, 12))
}

// pause stops a node and lets it go on. Its database is out of its reach meanwhile, and
// what it is told by the others is lost in part, as when it does not read in time.
func (c *campaign) pause(ctx context.Context, s *server, d time.Duration) error {
	return c.outage(true, func() error {
		s.toRedis[0].resp.set(0.5, 0, 0)
		defer s.toRedis[0].resp.set(0, 0, 0)
		s.signal(syscall.SIGSTOP)
		sleep(ctx, 50*time.Millisecond) // until all of it stands still
		over := s.pauses.begin(c.now())
		sleep(ctx, d)
		over(c.now())
		s.signal(syscall.SIGCONT)
		return nil
	})
}

// line strikes lines for a while.
func (c *campaign) line(ctx context.Context, database bool, d time.Duration, lines []*proxy, strike func(*proxy)) error {
	return c.outage(database, func() error {
		for _, p := range lines {
			strike(p)
		}
		sleep(ctx, d)
		for _, p := range lines {
			p.heal()
		}
		return nil
	})
}

func (c *campaign) cutNodeDatabase(ctx context.Context, random *rand.Rand) error {
	return c.line(ctx, true, seconds(random, 0, 4), []*proxy{c.draw(random).toDB}, (*proxy).refuse)
}

func (c *campaign) freezeNodeDatabase(ctx context.Context, random *rand.Rand) error {
	return c.line(ctx, true, seconds(random, 1, 6), []*proxy{c.draw(random).toDB}, (*proxy).freeze)
}

func (c *campaign) freezeNodeDatabaseLong(ctx context.Context, random *rand.Rand) error {
	return c.line(ctx, true, seconds(random, 10, 13), []*proxy{c.draw(random).toDB}, (*proxy).freeze)
}

func (c *campaign) slowNodeDatabase(ctx context.Context, random *rand.Rand) error {
	delay := time.Duration(10+random.IntN(60)) * time.Millisecond
	return c.line(ctx, true, 4*time.Second, []*proxy{c.draw(random).toDB}, func(p *proxy) { p.setSlow(delay) })
}

func (c *campaign) swallowNodeAnswers(ctx context.Context, random *rand.Rand) error {
	p := c.draw(random).toDB
	return c.line(ctx, true, seconds(random, 0.5, 3), []*proxy{p}, func(p *proxy) {
		for _, l := range p.each() {
			l.stallOut.Store(true)
			c.after(ctx, 500*time.Millisecond, l.cut) // what was answered is lost
		}
	})
}

func (c *campaign) cutNodeRedis(ctx context.Context, random *rand.Rand) error {
	return c.line(ctx, false, seconds(random, 0, 6), c.draw(random).toRedis, (*proxy).refuse)
}

func (c *campaign) freezeNodeRedis(ctx context.Context, random *rand.Rand) error {
	return c.line(ctx, false, seconds(random, 2, 10), c.draw(random).toRedis, (*proxy).freeze)
}

// isolateNode cuts a node off from both, for a moment or until it is evicted, while
// devices reach it.
func (c *campaign) isolateNode(ctx context.Context, random *rand.Rand) error {
	s := c.draw(random)
	return c.line(ctx, true, seconds(random, 3, 13), append([]*proxy{s.toDB}, s.toRedis...), (*proxy).freeze)
}

func (c *campaign) freezeNodeDevices(ctx context.Context, random *rand.Rand) error {
	s := c.draw(random)
	return c.line(ctx, false, seconds(random, 2, 6), []*proxy{s.mqtt, s.http}, (*proxy).freeze)
}

func (c *campaign) redisLines() (list []*proxy) {
	for _, s := range c.nodes {
		list = append(list, s.toRedis...)
	}
	return list
}

func (c *campaign) slowRedis(ctx context.Context, random *rand.Rand) error {
	delay := seconds(random, 0.2, 2)
	return c.line(ctx, false, 6*time.Second, c.redisLines(), func(p *proxy) { p.setSlow(delay) })
}

func (c *campaign) mangleFrames(ctx context.Context, random *rand.Rand) error {
	lose, repeat, reorder := random.Float64()/2, random.Float64()/2, random.Float64()/2
	return c.outage(false, func() error {
		for _, s := range c.nodes {
			s.toRedis[0].resp.set(lose, repeat, reorder)
		}
		sleep(ctx, 6*time.Second)
		for _, s := range c.nodes {
			s.toRedis[0].resp.set(0, 0, 0)
		}
		return nil
	})
}

func (c *campaign) flushRedis(ctx context.Context, random *rand.Rand) error {
	return c.outage(false, func() error {
		for range 4 {
			c.redis.all(ctx, "FLUSHALL")
			sleep(ctx, seconds(random, 0, 2))
		}
		return nil
	})
}

// killRedis kills all of it; what comes back is empty.
func (c *campaign) killRedis(ctx context.Context, random *rand.Rand) error {
	return c.outage(false, func() error { return c.restartRedis(ctx, seconds(random, 0, 6), c.redis.servers...) })
}

func (c *campaign) restartRedis(ctx context.Context, away time.Duration, servers ...*redisServer) error {
	for _, s := range servers {
		s.kill()
	}
	sleep(ctx, away)
	for _, s := range servers {
		if err := s.start(ctx); err != nil {
			return err
		}
	}
	return c.redis.whole(ctx)
}

// pauseWithoutRedis has a node find out by the outbox alone what it has missed.
func (c *campaign) pauseWithoutRedis(ctx context.Context, random *rand.Rand) error {
	return c.withoutRedis(ctx, func() error { return c.pause(ctx, c.draw(random), seconds(random, 3, 7)) })
}

func (c *campaign) killWithoutRedis(ctx context.Context, random *rand.Rand) error {
	return c.withoutRedis(ctx, func() error { return c.killNode(ctx, random) })
}

func (c *campaign) withoutRedis(ctx context.Context, f func() error) error {
	return c.outage(false, func() error {
		for _, s := range c.redis.servers {
			s.kill()
		}
		err := f()
		return errors.Join(err, c.restartRedis(ctx, 0, c.redis.servers...))
	})
}

// killShards kills one server of a Cluster after the other, each for so long that it is
// missed.
func (c *campaign) killShards(ctx context.Context, random *rand.Rand) error {
	return c.outage(false, func() error {
		for _, i := range random.Perm(len(c.redis.servers))[:2] {
			if err := c.restartRedis(ctx, seconds(random, 1, 6), c.redis.servers[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *campaign) pauseRedis(ctx context.Context, random *rand.Rand) error {
	s := c.redis.servers[random.IntN(len(c.redis.servers))]
	return c.outage(false, func() error {
		s.signal(syscall.SIGSTOP)
		sleep(ctx, seconds(random, 1, 9))
		s.signal(syscall.SIGCONT)
		return nil
	})
}

func (c *campaign) killSubscriptions(ctx context.Context, random *rand.Rand) error {
	return c.outage(false, func() error {
		for range 3 {
			c.redis.all(ctx, "CLIENT KILL TYPE pubsub")
			sleep(ctx, seconds(random, 0, 1))
		}
		return nil
	})
}

// sleepRedis has it answer nobody for a moment, again and again.
func (c *campaign) sleepRedis(ctx context.Context, random *rand.Rand) error {
	return c.outage(false, func() error {
		for range 3 {
			c.redis.all(ctx, fmt.Sprintf("DEBUG SLEEP %.2f", 0.2+2*random.Float64()))
			sleep(ctx, seconds(random, 0, 0.5))
		}
		return nil
	})
}

// readOnlyRedis makes it a replica of nobody, as after a failover that the nodes have
// not followed.
func (c *campaign) readOnlyRedis(ctx context.Context, random *rand.Rand) error {
	return c.outage(false, func() error {
		c.redis.all(ctx, "REPLICAOF 127.0.0.1 1")
		sleep(ctx, seconds(random, 2, 8))
		c.redis.all(ctx, "REPLICAOF NO ONE")
		return nil
	})
}
