package campaign

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// A fault is one of the server or of its database, which everybody feels. strike
// returns when it is over and the server can work again, perhaps after a pause.
type fault struct {
	name   string
	strike func(c *campaign, ctx context.Context, random *rand.Rand) error
}

// faults is the deck that a campaign of one server goes through, in an order of its own.
var faults = []fault{
	{"kill -9 of the server", (*campaign).killServer},
	{"SIGTERM to the server", (*campaign).stopServer},
	{"kill -9 of PostgreSQL", (*campaign).killPostgres},
	{"PostgreSQL stopped for a while", (*campaign).stopPostgres},
	{"server and PostgreSQL killed at once", (*campaign).killBoth},
	{"server killed twice", (*campaign).killTwice},
	{"database link cut", (*campaign).cutDatabase},
	{"database link stalled", (*campaign).stallDatabase},
	{"answers of the database swallowed", (*campaign).swallowAnswers},
	{"answers of the database swallowed for long", (*campaign).swallowLong},
	{"database link slow", (*campaign).slowDatabase},
	{"a crowd of stuck readers", (*campaign).stickReaders},
}

type deck struct {
	random *rand.Rand
	all    []fault
	left   []fault
}

func newDeck(random *rand.Rand, all []fault) *deck { return &deck{random: random, all: all} }

func (d *deck) draw() fault {
	if len(d.left) == 0 {
		for _, i := range d.random.Perm(len(d.all)) {
			d.left = append(d.left, d.all[i])
		}
	}
	f := d.left[0]
	d.left = d.left[1:]
	return f
}

// round is load and faults, and then a checkpoint.
func (c *campaign) round(ctx context.Context, n int, deck *deck) error {
	end := c.now() + c.o.Round
	c.quiet.Store(false)
	striking, heal := context.WithCancel(ctx)
	defer heal()
	lines := rand.New(rand.NewPCG(c.o.Seed, 1<<32+uint64(n)))
	done := make(chan struct{})
	go func() { // ends with the round
		defer close(done)
		c.strikeLines(striking, lines)
	}()
	for i := range 2 {
		random := rand.New(rand.NewPCG(c.o.Seed, 2<<32+uint64(2*n+i)))
		f := deck.draw()
		pause := time.Duration(float64(c.o.Round) * (0.15 + 0.15*random.Float64()))
		if !sleep(ctx, pause) {
			return context.Cause(ctx)
		}
		c.say("round %d: %s", n, f.name)
		c.count("fault: "+f.name, 1)
		early := time.Duration(random.IntN(30)) * time.Millisecond
		c.after(ctx, time.Duration(random.IntN(60))*time.Millisecond, func() { c.writeSeldom(random, c.seldom[i]) })
		sleep(ctx, early)
		over := c.struck.begin(f.name, c.now())
		err := f.strike(c, ctx, rand.New(rand.NewPCG(c.o.Seed, 3<<32+uint64(2*n+i))))
		over(c.now())
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if rest := end - c.now(); rest > 0 && !sleep(ctx, rest) {
		return context.Cause(ctx)
	}
	heal()
	<-done
	for _, s := range c.nodes {
		for _, p := range s.lines() {
			p.heal()
		}
	}
	return c.checkpoint(ctx, n)
}

// strikeLines cuts, stalls and slows devices' connections, and makes groups, until
// ctx ends.
func (c *campaign) strikeLines(ctx context.Context, random *rand.Rand) {
	for {
		pause := time.Duration(50+random.IntN(250)) * time.Millisecond * 24 / time.Duration(max(8, c.o.Clients))
		victim := c.clients[undisturbed+random.IntN(len(c.clients)-undisturbed)]
		kind, bytes := random.IntN(100), random.Int64N(3000)
		long := time.Duration(500+random.IntN(2500)) * time.Millisecond
		if !sleep(ctx, pause) {
			return
		}
		if kind >= 90 && kind < 94 {
			c.group(random)
			continue
		}
		victim.mu.Lock()
		var l *link
		if victim.conn != nil {
			line := victim.conn.node.mqtt
			if victim.web {
				line = victim.conn.node.http
			}
			l = line.find(victim.conn.conn.LocalAddr().String())
		}
		victim.mu.Unlock()
		if l == nil {
			continue
		}
		switch {
		case kind < 30:
			c.count("fault: line reset", 1)
			l.cut()
		case kind < 55:
			c.count("fault: line reset within a packet", 1)
			l.cutAfter.Store(bytes)
		case kind < 68:
			c.count("fault: line stalled, then resumed", 1)
			l.stallIn.Store(true)
			l.stallOut.Store(true)
			c.after(ctx, long, func() { l.stallIn.Store(false); l.stallOut.Store(false) })
		case kind < 80:
			c.count("fault: line stalled, then reset", 1)
			l.stallIn.Store(kind%2 == 0)
			l.stallOut.Store(true)
			c.after(ctx, long, l.cut)
		case kind < 90:
			c.count("fault: line slowed", 1)
			l.delay.Store(int64(time.Duration(20+random.IntN(200)) * time.Millisecond))
			c.after(ctx, 2*long, func() { l.delay.Store(0) })
		default:
			c.count("fault: all lines reset", 1)
			for _, s := range c.nodes {
				for _, other := range append(s.mqtt.each(), s.http.each()...) {
					if !c.isSteady(other) {
						other.cut()
					}
				}
			}
		}
	}
}

// after does f when d has passed; if ctx ends before, at once.
func (c *campaign) after(ctx context.Context, d time.Duration, f func()) {
	c.wg.Go(func() { sleep(ctx, d); f() })
}

func (c *campaign) isSteady(l *link) bool {
	for _, cl := range c.clients[:undisturbed] {
		cl.mu.Lock()
		same := cl.conn != nil && cl.conn.conn.LocalAddr().String() == l.near.RemoteAddr().String()
		cl.mu.Unlock()
		if same {
			return true
		}
	}
	return false
}

// outage marks what happens in f as one: of the database, or of the server alone.
func (c *campaign) outage(database bool, f func() error) error {
	over := c.down.begin(c.now())
	overDB := func(time.Duration) {}
	if database {
		overDB = c.db.begin(c.now())
	}
	err := f()
	overDB(c.now() + time.Second) // connections are made anew
	over(c.now() + 3*time.Second) // and devices come back
	return err
}

func (c *campaign) killServer(ctx context.Context, _ *rand.Rand) error {
	return c.outage(false, func() error {
		c.stopAll(syscall.SIGKILL, false)
		return c.startAll(ctx)
	})
}

// stopAll ends all servers at once.
func (c *campaign) stopAll(sig syscall.Signal, saved bool) {
	var wg sync.WaitGroup
	for _, s := range c.nodes {
		wg.Go(func() { s.stop(sig, saved) })
	}
	wg.Wait()
}

func (c *campaign) startAll(ctx context.Context) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, s := range c.nodes {
		wg.Go(func() { errs[i] = s.start(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *campaign) killTwice(ctx context.Context, random *rand.Rand) error {
	return c.outage(false, func() error {
		for range 2 {
			c.stopAll(syscall.SIGKILL, false)
			if err := c.startAll(ctx); err != nil {
				return err
			}
			sleep(ctx, time.Duration(random.IntN(1000))*time.Millisecond)
		}
		return nil
	})
}

func (c *campaign) stopServer(ctx context.Context, _ *rand.Rand) error {
	return c.outage(false, func() error {
		c.stopAll(syscall.SIGTERM, true)
		return c.startAll(ctx)
	})
}

func (c *campaign) killPostgres(ctx context.Context, _ *rand.Rand) error {
	return c.outage(true, func() error {
		c.pg.kill()
		return c.awaitDatabase(ctx)
	})
}

func (c *campaign) stopPostgres(ctx context.Context, random *rand.Rand) error {
	return c.outage(true, func() error {
		if err := c.pg.stop(ctx); err != nil {
			return err
		}
		sleep(ctx, time.Duration(500+random.IntN(2500))*time.Millisecond)
		if err := c.pg.start(ctx); err != nil {
			return err
		}
		return c.awaitDatabase(ctx)
	})
}

func (c *campaign) killBoth(ctx context.Context, _ *rand.Rand) error {
	return c.outage(true, func() error {
		c.pg.kill()
		c.stopAll(syscall.SIGKILL, false)
		return c.startAll(ctx)
	})
}

func (c *campaign) cutDatabase(_ context.Context, _ *rand.Rand) error {
	return c.outage(true, func() error {
		c.eachDatabaseLine((*proxy).reset)
		return nil
	})
}

// eachDatabaseLine does something to the line of every server to PostgreSQL.
func (c *campaign) eachDatabaseLine(f func(*proxy)) {
	for _, s := range c.nodes {
		f(s.toDB)
	}
}

func (c *campaign) stallDatabase(ctx context.Context, random *rand.Rand) error {
	return c.outage(true, func() error {
		c.stallAll(true)
		sleep(ctx, time.Duration(500+random.IntN(4000))*time.Millisecond)
		if random.IntN(2) == 0 {
			c.eachDatabaseLine((*proxy).reset)
		}
		c.eachDatabaseLine((*proxy).heal)
		return nil
	})
}

// swallowAnswers lets the database do what it is asked, and its answers be lost.
func (c *campaign) swallowAnswers(ctx context.Context, random *rand.Rand) error {
	return c.swallow(ctx, time.Duration(500+random.IntN(2000))*time.Millisecond)
}

// swallowLong is the same for longer than the server is patient: it gives up what
// it has stored.
func (c *campaign) swallowLong(ctx context.Context, _ *rand.Rand) error {
	return c.swallow(ctx, 12*time.Second)
}

// swallow does that while a message is being stored whose conversation the server
// knows, so that storing it is all that is asked of the database.
func (c *campaign) swallow(ctx context.Context, d time.Duration) error {
	for range 2 { // the second finds the first one's connections
		m := c.newMessage(c.users[0], c.seldom[2], "seldom-"+uuid.NewString(), true, 10)
		select {
		case <-c.post(m):
		case <-ctx.Done():
		}
	}
	return c.outage(true, func() error {
		c.stallAll(false)
		c.post(c.newMessage(c.users[0], c.seldom[2], "seldom-"+uuid.NewString(), true, 10))
		sleep(ctx, d)
		c.eachDatabaseLine((*proxy).reset)
		c.eachDatabaseLine((*proxy).heal)
		return nil
	})
}

func (c *campaign) stallAll(both bool) {
	c.eachDatabaseLine(func(p *proxy) {
		for _, l := range p.each() {
			l.stallOut.Store(true)
			if both {
				l.stallIn.Store(true)
			}
		}
	})
}

func (c *campaign) slowDatabase(ctx context.Context, random *rand.Rand) error {
	return c.outage(true, func() error {
		delay := time.Duration(10+random.IntN(60)) * time.Millisecond
		c.eachDatabaseLine(func(p *proxy) { p.setSlow(delay) })
		sleep(ctx, 3*time.Second)
		c.eachDatabaseLine(func(p *proxy) { p.setSlow(0) })
		return nil
	})
}

// stickReaders has most devices stop reading, while the steady pair and the others
// go on.
func (c *campaign) stickReaders(ctx context.Context, _ *rand.Rand) error {
	c.crowd.Store(true)
	sleep(ctx, 4*time.Second)
	c.crowd.Store(false)
	return nil
}

// awaitDatabase waits until PostgreSQL answers again.
func (c *campaign) awaitDatabase(ctx context.Context) error {
	for deadline := time.Now().Add(60 * time.Second); ; {
		try, cancel := context.WithTimeout(ctx, time.Second)
		err := c.store.Ping(try)
		cancel()
		if err == nil || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not come back: %w", err)
		}
		sleep(ctx, 20*time.Millisecond)
	}
}
