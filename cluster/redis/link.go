package redis

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
)

// Link implements cluster.Link by way of Redis. New makes one.
type Link struct {
	o       Options
	target  *target
	logger  *slog.Logger
	metrics *metrics
	receive func(from string, frame []byte) // set by Run

	client   atomic.Pointer[client]       // nil while Redis is unavailable: the last heartbeat failed; set by heartbeat
	receives atomic.Bool                  // a probe has come back on this subscription; set by subscribe
	sub      atomic.Pointer[redis.PubSub] // the subscription, once confirmed; set by subscribe
	changed  chan struct{}                // of one value: more would say the same
	beatNow  chan struct{}                // of one value: brings the next heartbeat forward
	gather   chan struct{}                // of one value: frames wait for send
	peers    peers
	full     rate.Sometimes // limits log lines about queues that are full
	foreign  atomic.Int64   // strangers that were logged; set by heartbeat
	reg      registry
}

var _ cluster.Link = (*Link)(nil)

// New checks the options and reads the files that the URL names. It neither connects nor
// starts anything: see Check and Run. Its errors are Invalid, and name no password.
func New(o Options) (*Link, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	t, err := parseURL(o.URL)
	if err != nil {
		return nil, err
	}
	if err := t.loadFiles(); err != nil {
		return nil, err
	}
	quiet()
	l := &Link{
		o: o, target: t, logger: o.Logger.With("component", "redis"),
		changed: make(chan struct{}, 1), beatNow: make(chan struct{}, 1), gather: make(chan struct{}, 1),
		full: rate.Sometimes{First: 1, Interval: time.Minute},
	}
	l.reg.init()
	l.metrics = newMetrics(o.Registerer, l)
	return l, nil
}

// Check connects, and tries once what the link needs: it writes the lease of this node
// and sends it a message. It is for the start of a process: an error with the code
// Invalid, Unauthenticated, Forbidden or Unsupported needs an operator, while
// Unavailable may pass by itself, and Run deals with it. It blocks for a few heartbeat
// intervals at most, and may be repeated.
func (l *Link) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*l.o.HeartbeatInterval)
	defer cancel()
	c, err := l.connect(ctx)
	if err != nil {
		return explain("redis.Check", err)
	}
	defer shut(c)
	if _, err := l.renew(ctx, c); err != nil {
		return explain("redis.Check", err)
	}
	sub := c.subscribe(ctx, l.channel(l.o.Node.ID))
	defer shut(sub)
	if _, err := sub.ReceiveTimeout(ctx, l.o.HeartbeatInterval); err != nil {
		return explain("redis.Check", err)
	}
	return explain("redis.Check", l.probe(ctx, c).Err())
}

// Run implements cluster.Link. At its end it sends what is queued and gives up the
// lease, within two heartbeat intervals. The registry is left as it is: its entries lead to
// a node that is nobody's peer any more, and expire.
func (l *Link) Run(ctx context.Context, receive func(from string, frame []byte)) error {
	l.receive = receive
	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){l.heartbeat, l.subscribe, l.send, l.register} {
		loops.Go(func() { loop(ctx) })
	}
	loops.Wait()

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*l.o.HeartbeatInterval)
	defer cancel()
	for l.publish(ctx) {
	}
	c := l.client.Load()
	l.setClient(nil)
	l.receives.Store(false)
	l.SetPeers(nil)
	if c != nil {
		_ = c.ZRem(ctx, l.nodesKey(), l.member()).Err() // it expires otherwise
		shut(c)
	}
	return nil
}

// Peers implements cluster.Link.
func (l *Link) Peers() []cluster.Node {
	if l.client.Load() == nil {
		return nil
	}
	l.peers.mu.Lock()
	defer l.peers.mu.Unlock()
	return l.peers.nodes
}

// Changed implements cluster.Link.
func (l *Link) Changed() <-chan struct{} { return l.changed }

// Healthy implements cluster.Link.
func (l *Link) Healthy() bool { return l.client.Load() != nil && l.receives.Load() }

func (l *Link) connect(ctx context.Context) (*client, error) {
	return l.target.connect(ctx, "parley-"+l.o.Node.ID, l.o.HeartbeatInterval)
}

// name returns the name of a key or channel. Names belong to one installation: others may
// use the same Redis.
func (l *Link) name(of string) string { return "parley:" + l.o.Installation + ":" + of }

func (l *Link) nodesKey() string            { return l.name("nodes") }
func (l *Link) channel(node string) string  { return l.name("node:{" + node + "}") }
func (l *Link) userKey(user chat.ID) string { return l.name("user:{" + user.String() + "}") }

// signal puts a value into a channel of one value, unless it holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
