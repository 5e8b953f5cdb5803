package redis

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/cluster"
)

// probe sends a message without frames to this node itself, in the way that other nodes
// send. The reply is the number of receivers.
func (l *Link) probe(ctx context.Context, c *client) *redis.IntCmd {
	return c.publish(ctx, c, l.channel(l.o.Node.ID), appendHead(nil, l.o.Node.ID, 1))
}

// probeOrCut sends a probe. If it has no receiver, the subscription is at another server
// than the one that nodes publish at, such as a former master, and is closed. That does not
// hold in a Cluster, whose servers pass sharded messages on within a shard and count only
// their own receivers. An error is ignored: the subscription will miss the probe.
func (l *Link) probeOrCut(ctx context.Context, c *client) {
	ctx, cancel := context.WithTimeout(ctx, l.o.HeartbeatInterval)
	defer cancel()
	sub := l.sub.Load()
	n, err := l.probe(ctx, c).Result()
	if err == nil && n == 0 && !c.sharded && sub != nil && sub == l.sub.Load() {
		shut(sub)
	}
}

var (
	errSilent      = errors.New("the subscription is confirmed, but messages do not arrive")
	errMoved       = errors.New("the channel has moved to another server of the Cluster")
	errUnconfirmed = errors.New("the subscription was not confirmed")
)

// subscribe keeps a subscription until ctx ends. Each one has a new client: when go-redis
// subscribes again by itself, it neither reads the reply nor notices a wrong server.
func (l *Link) subscribe(ctx context.Context) {
	wait := backoff.New(l.o.HeartbeatInterval/32, l.o.HeartbeatInterval)
	from := senders{}
	logged := false
	var lost time.Time // when the last one that worked ended
	for ctx.Err() == nil {
		err := l.subscription(ctx, from, func() {
			wait.Reset()
			if logged {
				logged = false
				l.logger.Info("this node receives messages from other nodes again", "elapsed_ms", time.Since(lost).Milliseconds())
			}
			l.receives.Store(true)
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
		if !logged && l.client.Load() != nil && wait.Waiting() {
			logged = true
			l.logger.Warn("this node does not receive messages from other nodes; it reads them from the database, within seconds",
				"redis", l.target.String(), "err", explain("redis.subscribe", err))
		}
		if !wait.Sleep(ctx) {
			return
		}
	}
}

// subscription keeps one subscription until it fails. It calls proven once, when a probe
// has come back.
func (l *Link) subscription(ctx context.Context, from senders, proven func()) error {
	patience := 3 * l.o.HeartbeatInterval
	c, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer shut(c)
	sub := c.subscribe(ctx, l.channel(l.o.Node.ID))
	defer shut(sub)
	defer context.AfterFunc(ctx, func() { shut(sub) })() // reading does not end with ctx
	first, err := sub.ReceiveTimeout(ctx, l.o.HeartbeatInterval)
	if err != nil {
		return err
	}
	if s, ok := first.(*redis.Subscription); !ok || s.Kind != "subscribe" && s.Kind != "ssubscribe" {
		return errUnconfirmed
	}
	l.sub.Store(sub)
	defer l.sub.Store(nil)
	if c := l.client.Load(); c != nil { // or else the next heartbeat sends it
		l.probeOrCut(ctx, c)
	}
	returned := time.Now() // the last probe
	for known := false; ; {
		got, err := sub.ReceiveTimeout(ctx, patience)
		if err != nil {
			return err
		}
		switch got := got.(type) {
		case *redis.Message:
			if !l.deliver([]byte(got.Payload), from) {
				break
			}
			returned = time.Now()
			if !known {
				known = true
				proven()
			}
		case *redis.Subscription:
			return errMoved // nothing here unsubscribes: the server has ended the subscription
		}
		// Some nodes may still publish here while the others, and this one, do not any more.
		if time.Since(returned) > patience && l.client.Load() != nil {
			return errSilent
		}
	}
}

// senders holds the number of each sender's last message. It is bounded: somebody who
// writes rubbish into Redis can make it forget, which lets repeated messages through.
type senders map[string]uint64

const maxSenders = 2000

// deliver passes on the frames of a message, and reports whether it was a probe.
func (l *Link) deliver(b []byte, from senders) (probe bool) {
	l.metrics.receivedBytes.Add(float64(len(b)))
	m, v := readMessage(b)
	if v == good && m.sender == l.o.Node.ID {
		return true
	}
	if v == good {
		v = l.count(m, from)
	}
	if v != good {
		l.metrics.ignored.WithLabelValues(string(v)).Inc()
		return false
	}
	n := 0
	for frame := range m.all() {
		l.receive(m.sender, frame)
		n++
	}
	l.metrics.received.Add(float64(n))
	return false
}

// count counts a sender's messages: an old one is dropped, so that order holds; missing
// ones are counted.
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
