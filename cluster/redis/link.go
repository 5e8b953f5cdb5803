package redis

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/cluster"
)

// Link implements cluster.Link by way of Redis. New makes one.
type Link struct {
	o       Options
	target  *target
	log     *slog.Logger
	metrics *metrics
	receive func(from string, frame []byte) // set by Run

	client   atomic.Pointer[client]       // nil unless up; set by heartbeat
	clock    atomic.Pointer[clock]        // set by heartbeat
	up       atomic.Bool                  // the last heartbeat succeeded; set by heartbeat
	receives atomic.Bool                  // a message to itself has come back on this subscription; set by subscribe
	peers    atomic.Pointer[peers]        // set by SetPeers
	sub      atomic.Pointer[redis.PubSub] // the subscription, once confirmed; set by subscribe
	changed  chan struct{}                // one place: full means that there is news already
	beatNow  chan struct{}                // one place: full means that the next heartbeat comes early anyway
	gather   chan struct{}                // one place: full means that the sender will look anyway
	probes   probes
	reg      registry
}

var _ cluster.Link = (*Link)(nil)

// clock is the time of Redis, in ms since 1970, at an instant of ours.
type clock struct {
	ms int64
	at time.Time
}

func (c *clock) now() int64 { return c.ms + time.Since(c.at).Milliseconds() }

// New checks the options and reads the files that the URL names. It neither connects nor
// starts anything: see Check and Run. What is wrong is Invalid, and names no password.
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
		o: o, target: t, log: o.Logger.With("component", "redis", "node", o.Node.Name), metrics: newMetrics(o.Registerer),
		changed: make(chan struct{}, 1), beatNow: make(chan struct{}, 1), gather: make(chan struct{}, 1),
	}
	l.peers.Store(&peers{})
	l.reg.init()
	return l, nil
}

// Check connects, and tries once what the link needs: it writes the lease of this node
// and sends it a message. It is for the start of a process: an error with the code
// Invalid, Unauthenticated, Forbidden or Unsupported wants an operator, while
// Unavailable passes by itself and Run deals with it. It takes a few beats at most.
func (l *Link) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*l.o.Beat)
	defer cancel()
	c, err := l.connect(ctx)
	if err != nil {
		return explain("redis.Check", err)
	}
	defer shut(c)
	if _, _, err := l.renew(ctx, c); err != nil {
		return explain("redis.Check", err)
	}
	sub := c.subscribe(ctx, l.channel(l.o.Node.ID))
	defer shut(sub)
	if _, err := sub.ReceiveTimeout(ctx, l.o.Beat); err != nil {
		return explain("redis.Check", err)
	}
	return explain("redis.Check", c.publish(ctx, c, l.channel(l.o.Node.ID), l.probe()).Err())
}

// Run implements cluster.Link. At its end it sends what is queued and gives up the
// lease, within two beats. The registry is left as it is: its entries lead to a node
// that is not among anybody's peers.
func (l *Link) Run(ctx context.Context, receive func(from string, frame []byte)) error {
	l.receive = receive
	// The sender and the client outlive ctx by the farewell.
	rest, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var tail sync.WaitGroup
	tail.Go(func() { l.send(rest) })

	var loops sync.WaitGroup
	loops.Go(func() { l.heartbeat(ctx) })
	loops.Go(func() { l.subscribe(ctx) })
	loops.Go(func() { l.register(ctx) })
	loops.Wait()

	l.farewell(rest)
	stop()
	tail.Wait()
	return nil
}

// farewell lets the sender finish, and gives up the lease.
func (l *Link) farewell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*l.o.Beat)
	defer cancel()
	c := l.client.Load()
	for c != nil && l.peers.Load().queued() {
		signal(l.gather)
		if !backoff.Sleep(ctx, 2*time.Millisecond) {
			break
		}
	}
	l.setUp(false)
	l.receives.Store(false)
	l.client.Store(nil)
	l.SetPeers(nil)
	if c != nil {
		_ = c.ZRem(ctx, l.o.Prefix+"nodes", l.member()).Err() // it ends by itself otherwise
		shut(c)
	}
}

// Peers implements cluster.Link.
func (l *Link) Peers() []cluster.Node {
	if !l.up.Load() {
		return nil
	}
	return l.peers.Load().nodes
}

// Changed implements cluster.Link.
func (l *Link) Changed() <-chan struct{} { return l.changed }

// Healthy implements cluster.Link.
func (l *Link) Healthy() bool { return l.up.Load() && l.receives.Load() }

func (l *Link) connect(ctx context.Context) (*client, error) {
	return l.target.connect(ctx, "parley-"+l.o.Node.ID, l.o.Beat)
}

func (l *Link) channel(id string) string { return l.o.Prefix + "node:{" + id + "}" }

// signal puts a value into a channel of one place, if there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
