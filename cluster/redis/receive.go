package redis

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/cluster"
)

// probes counts the messages that this node sends to itself.
type probes struct {
	mu       sync.Mutex
	seq      uint64
	returned atomic.Int64 // when the last one came back; ns of the monotonic clock, since start
}

var start = time.Now()

func (l *Link) probe() []byte {
	l.probes.mu.Lock()
	defer l.probes.mu.Unlock()
	l.probes.seq++
	return appendHead(nil, l.o.Node.ID, l.probes.seq)
}

// sendProbe sends a message to this node itself, by the way on which others send. That it
// cannot be sent is no trouble of its own: the receiver misses it. When nobody was there
// to receive it, the subscription is at another server than the one that others publish
// at, such as a former master, and is cut. Not so in a Cluster: all servers of a shard take
// sharded messages and pass them on to each other, and count their own receivers only.
func (l *Link) sendProbe(ctx context.Context, c *client) {
	ctx, cancel := context.WithTimeout(ctx, l.o.Beat)
	defer cancel()
	sub := l.sub.Load()
	n, err := c.publish(ctx, c, l.channel(l.o.Node.ID), l.probe()).Result()
	if err == nil && n == 0 && !c.sharded && sub != nil && sub == l.sub.Load() {
		shut(sub)
	}
}

var (
	errSilent      = errors.New("the subscription is confirmed, but messages do not arrive")
	errMoved       = errors.New("the channel has moved to another server of the Cluster")
	errUnconfirmed = errors.New("the subscription was not confirmed")
)

// subscribe keeps a subscription until ctx ends. Each one is made from nothing, on a new
// client: go-redis' own way of coming back neither reads the answer to the new
// subscription nor notices one at the wrong server.
func (l *Link) subscribe(ctx context.Context) {
	wait := backoff.New(l.o.Beat/32, l.o.Beat)
	from := senders{}
	told := false
	var lost time.Time // when the last one that worked ended
	for ctx.Err() == nil {
		err := l.subscription(ctx, from, func() {
			wait.Reset()
			if told {
				told = false
				l.log.Info("this node receives what other nodes send again", "elapsed_ms", time.Since(lost).Milliseconds())
			}
			signal(l.changed)
		})
		if ctx.Err() != nil {
			return
		}
		l.metrics.subscriptions.Inc()
		if l.receives.Swap(false) || lost.IsZero() {
			lost = time.Now()
			signal(l.changed)
		}
		// heartbeat logs that Redis is unavailable; this is for when only the subscription fails.
		if !told && l.up.Load() && wait.Waiting() {
			told = true
			l.log.Warn("this node does not receive what other nodes send; it finds it in the database, within seconds",
				"redis", l.target.String(), "err", explain("redis.subscribe", err))
		}
		if !wait.Sleep(ctx) {
			return
		}
	}
}

// subscription has one subscription until it fails. proven is called once, when a
// message of our own has come back.
func (l *Link) subscription(ctx context.Context, from senders, proven func()) error {
	patience := 3 * l.o.Beat
	c, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer shut(c)
	sub := c.subscribe(ctx, l.channel(l.o.Node.ID))
	defer shut(sub)
	defer context.AfterFunc(ctx, func() { shut(sub) })() // reading does not end with ctx
	first, err := sub.ReceiveTimeout(ctx, l.o.Beat)
	if err != nil {
		return err
	}
	if s, ok := first.(*redis.Subscription); !ok || s.Kind != "subscribe" && s.Kind != "ssubscribe" {
		return errUnconfirmed
	}
	l.probes.returned.Store(int64(time.Since(start)))
	l.sub.Store(sub)
	defer l.sub.Store(nil)
	if c := l.client.Load(); c != nil { // or else the next heartbeat sends it
		l.sendProbe(ctx, c)
	}
	for known := false; ; {
		got, err := sub.ReceiveTimeout(ctx, patience)
		if err != nil {
			return err
		}
		switch got := got.(type) {
		case *redis.Message:
			if own := l.deliver([]byte(got.Payload), from); own && !known {
				known = true
				l.receives.Store(true)
				proven()
			}
		case *redis.Subscription:
			return errMoved // nobody here unsubscribes: it is the server that sends us away
		}
		// Others may still publish where nobody else does any more.
		if time.Since(start)-time.Duration(l.probes.returned.Load()) > patience && l.up.Load() {
			return errSilent
		}
	}
}

// senders knows the last message of each sender. It is bounded: whoever writes rubbish
// into Redis can make it forget, which lets repeated messages through.
type senders map[string]uint64

const maxSenders = 2000

// deliver hands out the frames of a message, and reports whether it was our own probe.
func (l *Link) deliver(b []byte, from senders) (own bool) {
	l.metrics.receivedBytes.Add(float64(len(b)))
	m, v := readMessage(b)
	if v == good && m.sender != l.o.Node.ID {
		v = l.count(m, from)
	}
	if v != good {
		l.metrics.ignored.WithLabelValues(string(v)).Inc()
		return false
	}
	if m.sender == l.o.Node.ID {
		l.probes.returned.Store(int64(time.Since(start)))
		return true
	}
	n := 0
	for frame := range m.all() {
		l.receive(m.sender, frame)
		n++
	}
	l.metrics.received.Add(float64(n))
	return false
}

// count keeps the count of a sender's messages: an old one is dropped, so that order
// holds; missing ones are counted.
func (l *Link) count(m message, from senders) verdict {
	last, known := from[m.sender]
	switch {
	case known && m.seq <= last:
		return repeated
	case known:
		l.metrics.missed.Add(float64(min(m.seq-last-1, 1<<20)))
	case len(from) >= maxSenders:
		nodes := l.Peers()
		for id := range from {
			if !slices.ContainsFunc(nodes, func(n cluster.Node) bool { return n.ID == id }) {
				delete(from, id)
			}
		}
	}
	from[m.sender] = m.seq
	return good
}
