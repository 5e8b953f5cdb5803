package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"
)

// Device is a connection to be made.
type Device struct {
	Token    string
	ClientID string
}

// small are the buffers of a connection that receives little.
const small = 512

// IdleOptions says which connections to make and keep.
type IdleOptions struct {
	Addr    string
	AddrOf  func(device int) string // as in Options; nil: all have Addr
	Devices []Device
	Dialing int           // connections made at once
	Hold    time.Duration // how long they stay, a few minutes at most

	Connected func()           // called when all have connected and subscribed
	Seen      func(done int64) // called now and then with how many have connected; nil: nothing
}

// IdleResult is what was measured.
type IdleResult struct {
	Elapsed time.Duration // from the first connection to the last SUBACK
	Connect *Latency      // of one connection, to its SUBACK
	Faults  Faults        // Disconnected: connections that were gone at the end
}

// Idle connects all devices, subscribes each to the messages of its user, and keeps them for a while without
// sending anything. It returns while they are still connected: disconnect ends that. A connection that the
// server has ended is an error (*Faults).
func Idle(ctx context.Context, o IdleOptions) (res *IdleResult, disconnect func(), err error) {
	res = &IdleResult{}
	clients := make([]*client, len(o.Devices))
	disconnect = func() { leaveAll(clients) }
	times := newRecorder()
	var connected atomic.Int64
	stop := every(200*time.Millisecond, func() {
		if o.Seen != nil {
			o.Seen(connected.Load())
		}
	})
	start := time.Now()
	err = each(ctx, len(o.Devices), o.Dialing, func(ctx context.Context, i int) (err error) {
		begin := time.Now()
		addr := o.Addr
		if o.AddrOf != nil {
			addr = o.AddrOf(i)
		}
		d := o.Devices[i]
		if clients[i], err = dial(ctx, identity{addr: addr, clientID: d.ClientID, token: d.Token, buffers: small}); err != nil {
			return err
		}
		if err := clients[i].subscribe("conv/+/messages", 1); err != nil {
			return err
		}
		times.record(i, time.Since(begin))
		connected.Add(1)
		return nil
	})
	res.Elapsed = time.Since(start)
	stop()
	res.Connect = times.take()
	if err != nil {
		return res, disconnect, err
	}
	if o.Connected != nil {
		o.Connected()
	}
	select {
	case <-ctx.Done():
		return res, disconnect, context.Cause(ctx)
	case <-time.After(o.Hold):
	}
	var gone atomic.Int64
	_ = each(ctx, len(clients), 64, func(_ context.Context, i int) error {
		if clients[i].ping() != nil {
			gone.Add(1)
		}
		return nil
	})
	if res.Faults.Disconnected = gone.Load(); res.Faults.Any() {
		return res, disconnect, &res.Faults
	}
	return res, disconnect, nil
}

// leaveAll disconnects everybody, and their sessions end. Nil is nobody.
func leaveAll(clients []*client) {
	_ = each(context.Background(), len(clients), 64, func(_ context.Context, i int) error {
		if clients[i] != nil {
			clients[i].leave(true)
		}
		return nil
	})
}

// every calls f again and again in a goroutine, which ends before stop returns.
func every(d time.Duration, f func()) (stop func()) {
	t := time.NewTicker(d)
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-t.C:
				f()
			case <-over:
				return
			}
		}
	}()
	return func() { t.Stop(); close(over); <-ended }
}

// Connect makes a connection, to CONNACK, and ends it with DISCONNECT: what Repeat measures the rate of
// connections with. It waits until the server has closed, so that it is the server that keeps the port for a
// while, and not the client.
func Connect(ctx context.Context, addr string, d Device) error {
	c, err := dial(ctx, identity{addr: addr, clientID: d.ClientID, token: d.Token, buffers: small})
	if err != nil {
		return err
	}
	defer c.conn.Close()
	c.packet(typeDisconnect<<4, nil)
	if err := c.w.Flush(); err != nil {
		return err
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := c.read(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		return err
	}
	return nil
}

// ReconnectOptions says who is away, and what they miss.
type ReconnectOptions struct {
	Addr         string
	AddrOf       func(device int) string // as in Options; nil: all have Addr
	Devices      []Device                // of members of the conversation
	Conversation string
	Writer       string // token of the member who writes meanwhile
	Missed       int    // messages that each device misses
	Size         int    // bytes of text in each, more than MarkLen
	Dialing      int    // connections made at once before; in the end all come back together

	Returning func()           // called when all are away and have missed everything, before they come back; nil: nothing
	Seen      func(back int64) // called now and then with how many have caught up; nil: nothing
}

// ReconnectResult is what was measured.
type ReconnectResult struct {
	Elapsed  time.Duration // from the first CONNECT until every device has received all it has missed
	CaughtUp *Latency      // of one device, from the moment when all begin to come back
	Retries  int64         // connections that were refused or lost, and made again
	Faults   Faults
}

const sessionExpiry = time.Hour

// Reconnect gives every device a session that is kept, disconnects it, writes to the conversation, and has all come
// back at once. It returns when each has received everything that it has missed. What is lost, comes twice or out of
// order is an error (*Faults).
func Reconnect(ctx context.Context, o ReconnectOptions) (*ReconnectResult, error) {
	identities := make([]identity, len(o.Devices))
	for i, d := range o.Devices {
		identities[i] = identity{addr: o.Addr, clientID: d.ClientID, token: d.Token, expiry: sessionExpiry, buffers: 2 << 10}
		if o.AddrOf != nil {
			identities[i].addr = o.AddrOf(i)
		}
	}
	if err := each(ctx, len(identities), o.Dialing, func(ctx context.Context, i int) error {
		c, err := dial(ctx, identities[i])
		if err != nil {
			return err
		}
		defer c.leave(false)
		return c.subscribe("conv/+/messages", 1)
	}); err != nil {
		return nil, err
	}
	tag, err := o.write(ctx)
	if err != nil {
		return nil, err
	}
	res := &ReconnectResult{CaughtUp: newLatency()}
	times := newRecorder()
	clients := make([]*client, len(identities))
	defer leaveAll(clients)
	faults := make([]Faults, len(identities))
	var retries, back atomic.Int64
	stop := every(200*time.Millisecond, func() {
		if o.Seen != nil {
			o.Seen(back.Load())
		}
	})
	if o.Returning != nil {
		o.Returning()
	}
	start := time.Now()
	err = each(ctx, len(identities), len(identities), func(ctx context.Context, i int) (err error) {
		clients[i], err = comeBack(ctx, identities[i], tag, o.Missed, &retries, &faults[i])
		times.record(i, time.Since(start))
		back.Add(1)
		return err
	})
	res.Elapsed, res.Retries = time.Since(start), retries.Load()
	stop()
	res.CaughtUp = times.take()
	for _, f := range faults {
		res.Faults.add(f)
	}
	if err == nil && res.Faults.Any() {
		err = &res.Faults
	}
	return res, err
}

// write publishes what the devices miss, and returns how it is marked.
func (o *ReconnectOptions) write(ctx context.Context) (tag uint32, err error) {
	load := Options{
		Addr: o.Addr, Rooms: []Room{{Conversation: o.Conversation, Tokens: []string{o.Writer}}},
		Window: 64, Size: o.Size, Messages: o.Missed, tag: newTag(),
	}
	if o.AddrOf != nil {
		load.Addr = o.AddrOf(0)
	}
	_, err = Run(ctx, load)
	return load.tag, err
}

// comeBack connects again and again until the session has received everything, in order.
func comeBack(ctx context.Context, id identity, tag uint32, missed int, retries *atomic.Int64, f *Faults) (*client, error) {
	var p progress
	resent := false // what came before the connection was lost may come again
	pause := 50 * time.Millisecond
	for {
		c, err := dial(ctx, id)
		if err == nil && !c.present {
			c.leave(true)
			return nil, fmt.Errorf("%s: its session is gone", id.clientID)
		}
		if err == nil {
			var moved bool
			duplicates := f.Duplicates
			moved, err = c.receive(ctx, &p, tag, int64(missed), f)
			if resent {
				f.Duplicates = duplicates
			}
			resent = resent || moved
			if err == nil {
				return c, nil
			}
			c.leave(false)
			if isTimeout(err) && !moved {
				f.Lost += int64(missed) - p.received()
				return nil, nil
			}
		}
		var no refused
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !errors.As(err, &no) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !isTimeout(err) {
			return nil, err
		}
		retries.Add(1)
		select { // as clients do
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// receive reads until the session has received so many messages. moved reports whether anything has come.
func (c *client) receive(ctx context.Context, p *progress, tag uint32, want int64, f *Faults) (moved bool, err error) {
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })()
	for p.received() < want {
		if c.r.Buffered() == 0 {
			if err := c.w.Flush(); err != nil {
				return moved, err
			}
			_ = c.conn.SetReadDeadline(time.Now().Add(stall))
			if ctx.Err() != nil {
				return moved, context.Cause(ctx)
			}
		}
		header, body, err := c.read()
		if err != nil {
			return moved, err
		}
		if header>>4 == typeDisconnect {
			return moved, io.EOF
		}
		if header>>4 != typePublish {
			continue
		}
		got, err := parsePublish(header, body)
		if err != nil {
			return moved, err
		}
		if got.id != 0 {
			c.puback(got.id)
		}
		if m, ok := readMark(got.payload); ok && m.load == tag {
			p.take(m.n, f)
			moved = true
		}
	}
	return moved, c.w.Flush()
}
