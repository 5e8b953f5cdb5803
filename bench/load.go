package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Room is a conversation and who is connected in it.
type Room struct {
	Conversation string
	Tokens       []string // a connection for each
	Writers      int      // how many of them publish, beginning with the first; 0: all
}

// Options says what load to make.
type Options struct {
	Addr     string                        // of the server's MQTT listener: host:port, mqtt://host:port or mqtts://host:port
	AddrOf   func(room, member int) string // likewise, of one of several; nil: all have Addr
	Rooms    []Room
	Window   int           // publishes that each connection has on their way at most
	Size     int           // bytes of text in each message, more than MarkLen
	Plain    bool          // publish the text alone, not JSON with a clientMsgId
	Exact    bool          // subscribe to each conversation by its name: for a broker that knows no members
	Rate     int           // messages a second by all together; 0: as fast as the windows let
	Messages int           // to send, by all together; 0: for as long as Duration says
	Duration time.Duration // to send for, after Warmup
	Warmup   time.Duration // what is sent at first, and not measured

	Measuring func()        // called when the measurement begins: after Warmup, or when all are connected; nil: nothing
	Patience  time.Duration // how long nothing may come before the rest counts as missing; 0: 20 s
	Interval  time.Duration // of the time series; 0: a second
	Seen      func(Point)   // called with each point, and during the warm-up, when At is negative; nil: nothing

	tag uint32 // which load it is; 0: a random number
}

// Result is what was measured: the messages that were due after the warm-up.
type Result struct {
	Dialed    time.Duration // for all connections
	Elapsed   time.Duration // from the first publish to the last delivery
	Acked     int64
	Delivered int64    // to all members, the sender too
	Latencies *Latency // from when a message was due to its arrival at another member
	Acks      *Latency // from when it was due to its acknowledgement
	Late      *Latency // from when it was due until it was sent; nil without a rate
	Series    []Point  // Done is acknowledgements, Latency as Latencies
	Faults    Faults   // of the whole load, the warm-up too
}

// Rate is how many messages were acknowledged a second.
func (r *Result) Rate() float64 { return rate(r.Acked, r.Elapsed) }

// stall is how long a load waits for anything to come.
const stall = 20 * time.Second

// Run connects everybody, lets the writers publish until all is sent, and returns when each message is
// acknowledged and has been delivered to every member of its conversation. If something is missing when nothing has
// come for Patience, or came twice or out of order, the error is a *Faults. If ctx ends first, the
// error is its cause. Either way the result has what was measured.
func Run(ctx context.Context, o Options) (*Result, error) {
	if o.Size <= MarkLen {
		return nil, fmt.Errorf("texts of %d bytes: they must be longer than %d", o.Size, MarkLen)
	}
	start := time.Now()
	if o.tag == 0 {
		o.tag = newTag()
	}
	o.Patience = cmp.Or(o.Patience, stall)
	l := &load{o: o, latencies: newRecorder(), acks: newRecorder(), late: newRecorder(), done: make(chan struct{})}
	l.prepare()
	if err := l.dial(ctx); err != nil {
		l.leave()
		return nil, err
	}
	res := &Result{Dialed: time.Since(start)}
	err := l.run(ctx, res)
	l.leave()
	for _, c := range l.conns {
		res.Delivered += c.delivered
		res.Faults.add(c.faults)
	}
	if err == nil || errors.Is(err, errStalled) {
		l.reckon(&res.Faults)
		if res.Faults.Any() {
			err = &res.Faults
		}
	}
	return res, err
}

// newTag tells a load from what others still receive of the load before.
func newTag() uint32 { return 1 + rand.Uint32N(999_999) }

type load struct {
	o       Options
	bodies  []body
	conns   []*conn
	writers int // how many of them publish

	began     time.Time
	measured  int64        // microseconds since began, from which on it is measured
	end       time.Time    // of publishing, if the load has a duration
	left      atomic.Int64 // messages not yet taken by a connection, if their number is given and there is no rate
	pending   atomic.Int64 // writers that may still publish, and acknowledgements and deliveries still to come
	acked     atomic.Int64
	latencies *recorder
	acks      *recorder
	late      *recorder
	done      chan struct{} // closed when nothing is pending
	stopped   atomic.Bool   // the connections' goroutines are to end
}

// body is a payload to be completed.
type body struct {
	bytes    []byte
	mark, id int // where the mark and the end of the clientMsgId go; id 0: there is none
}

const jsonStart, jsonBetween = `{"content":"`, `","clientMsgId":"`

// prepare makes payloads. The clientMsgId of a message is a random one of the load whose end is the number of
// the message: it is to be unique for each sender and conversation.
func (l *load) prepare() {
	for _, text := range texts(64, l.o.Size) {
		if l.o.Plain {
			l.bodies = append(l.bodies, body{bytes: []byte(text)})
			continue
		}
		id := fmt.Sprintf("%08x-%04x-4%03x-8%03x-000000000000", rand.Uint32(), rand.Uint32N(1<<16), rand.Uint32N(1<<12), rand.Uint32N(1<<12))
		b := jsonStart + text + jsonBetween + id + `"}`
		l.bodies = append(l.bodies, body{[]byte(b), len(jsonStart), len(jsonStart) + len(text) + len(jsonBetween) + len(id)})
	}
}

// dial connects and subscribes everybody, some at a time.
func (l *load) dial(ctx context.Context) error {
	for i, room := range l.o.Rooms {
		writers := room.Writers
		if writers == 0 {
			writers = len(room.Tokens)
		}
		first := len(l.conns)
		for member, token := range room.Tokens {
			addr := l.o.Addr
			if l.o.AddrOf != nil {
				addr = l.o.AddrOf(i, member)
			}
			l.conns = append(l.conns, &conn{
				load: l, index: len(l.conns), id: identity{addr: addr, token: token, clientID: fmt.Sprintf("bench-%d-%d", i, member)},
				topic: "conv/" + room.Conversation + "/messages", writing: member < writers, first: first, members: int64(len(room.Tokens)),
				seen: make([]progress, writers),
			})
		}
	}
	return each(ctx, len(l.conns), 32, func(ctx context.Context, i int) (err error) {
		c := l.conns[i]
		if c.client, err = dial(ctx, c.id); err != nil {
			return err
		}
		filter := "conv/+/messages"
		if l.o.Exact {
			filter = c.topic
		}
		return c.subscribe(filter, 1)
	})
}

// each calls f for 0 to n-1, so many at once, and returns the first error, which ends the context of the others.
func each(ctx context.Context, n, atOnce int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(n, atOnce) {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || ctx.Err() != nil {
					return
				}
				if err := f(ctx, i); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// leave disconnects everybody, once their goroutines have ended.
func (l *load) leave() {
	for _, c := range l.conns {
		if c.client != nil {
			c.leave(true)
		}
	}
}

var errStalled = errors.New("nothing comes any more")

func (l *load) run(ctx context.Context, res *Result) error {
	var wg sync.WaitGroup
	errs := make(chan error, len(l.conns))
	for _, c := range l.conns {
		if c.writing {
			c.turn = l.writers
			l.writers++
		}
	}
	l.left.Store(int64(l.o.Messages))
	l.pending.Store(int64(l.writers))
	m := newMeter(l.latencies, l.o.Seen)
	l.began, l.measured = m.began, l.o.Warmup.Microseconds()
	l.end = l.began.Add(l.o.Warmup + l.o.Duration)
	for _, c := range l.conns {
		c.plan()
	}
	if l.o.Warmup == 0 && l.o.Measuring != nil {
		l.o.Measuring()
	}
	for _, c := range l.conns {
		wg.Go(func() {
			if err := c.run(); err != nil {
				c.faults.Disconnected++
				errs <- fmt.Errorf("%s: %w", c.id.clientID, err)
			}
		})
	}
	err := l.watch(ctx, m, errs)
	res.Elapsed = m.last.Sub(m.began)
	l.stopped.Store(true)
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }() // ends with the goroutines of the connections, which are told below
	for running := true; running; {
		for _, c := range l.conns {
			_ = c.conn.SetDeadline(time.Unix(1, 0)) // again and again: who has just set one of their own misses this one
		}
		select {
		case <-ended:
			running = false
		case <-time.After(10 * time.Millisecond):
		}
	}
	res.Latencies, res.Series, res.Acks = m.total, m.series, l.acks.take()
	res.Acked = res.Acks.Count()
	if l.o.Rate > 0 {
		res.Late = l.late.take()
	}
	return err
}

// watch measures until the load is done, or fails.
func (l *load) watch(ctx context.Context, m *meter, errs <-chan error) error {
	every := l.o.Interval
	if every == 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var warm <-chan time.Time
	if l.o.Warmup > 0 {
		warm = time.After(time.Until(l.began.Add(l.o.Warmup)))
	}
	moved, pending, acked := time.Now(), int64(0), int64(0)
	for {
		select {
		case <-l.done:
			m.tick(l.acked.Load())
			return nil
		case err := <-errs:
			m.tick(l.acked.Load())
			return err
		case <-ctx.Done():
			m.tick(l.acked.Load())
			return context.Cause(ctx)
		case <-warm:
			warm = nil
			m.restart(l.acked.Load())
			tick.Reset(every)
			if l.o.Measuring != nil {
				l.o.Measuring()
			}
		case <-tick.C:
			p, a := l.pending.Load(), l.acked.Load()
			if p != pending || a != acked {
				moved, pending, acked = time.Now(), p, a
			} else if time.Since(moved) > l.o.Patience {
				return errStalled
			}
			if warm == nil {
				m.tick(a)
			} else if l.o.Seen != nil {
				l.o.Seen(Point{At: -time.Until(l.began.Add(l.o.Warmup)), Length: every, Latency: newLatency()})
			}
		}
	}
}

// reckon adds what is missing at the end.
func (l *load) reckon(f *Faults) {
	for _, c := range l.conns {
		f.Unacknowledged += int64(len(c.sent))
		for i := range c.seen {
			writer := l.conns[c.first+i]
			f.Lost += max(0, writer.published-int64(len(writer.sent))-c.seen[i].received())
		}
	}
}

// came counts something that was pending.
func (l *load) came() {
	if l.pending.Add(-1) == 0 {
		close(l.done)
	}
}

// conn publishes, acknowledges and checks. Its fields are owned by its goroutine; when that has ended, they may
// be read.
type conn struct {
	*client
	load      *load
	id        identity
	index     int
	topic     string
	members   int64
	first     int        // index of the first connection of the conversation
	seen      []progress // of each writer of the conversation
	seq       int64      // of the last event
	writing   bool
	turn      int           // among the writers
	due       time.Time     // when the next message is, if there is a rate
	interval  time.Duration // between two; 0: there is no rate
	published int64
	sent      []int64 // when the publishes on their way were due, the oldest first
	delivered int64
	faults    Faults
}

// plan decides when the messages of a writer are due: they take turns.
func (c *conn) plan() {
	if l := c.load; l.o.Rate > 0 && c.writing {
		c.interval = time.Duration(l.writers) * time.Second / time.Duration(l.o.Rate)
		c.due = l.began.Add(c.interval * time.Duration(c.turn) / time.Duration(l.writers))
	}
}

func (c *conn) run() error {
	for !c.load.stopped.Load() {
		c.write()
		if c.r.Buffered() == 0 {
			if err := c.w.Flush(); err != nil {
				return c.ended(err)
			}
			if c.writing && c.interval > 0 && len(c.sent) < c.load.o.Window {
				_ = c.conn.SetReadDeadline(c.due)
				_, err := c.r.Peek(1)
				_ = c.conn.SetReadDeadline(time.Time{})
				if isTimeout(err) {
					continue
				}
				if err != nil {
					return err
				}
			}
		}
		header, body, err := c.read()
		if err != nil {
			return c.ended(err)
		}
		if err := c.take(header, body); err != nil {
			return err
		}
	}
	return nil
}

// ended tells a connection that was lost from one that was told to end, by its deadline.
func (c *conn) ended(err error) error {
	if isTimeout(err) {
		return nil
	}
	return err
}

// write publishes what is due, as far as the window has room.
func (c *conn) write() {
	l := c.load
	for c.writing && len(c.sent) < l.o.Window {
		now := time.Now()
		due := now
		if c.interval > 0 {
			due = c.due
		}
		switch {
		case c.interval > 0 && l.o.Messages > 0 && c.turn+int(c.published)*l.writers >= l.o.Messages,
			c.interval == 0 && l.o.Messages > 0 && l.left.Add(-1) < 0,
			l.o.Messages == 0 && !due.Before(l.end):
			c.writing = false
			l.came()
			return
		case now.Before(due):
			return
		case c.interval > 0:
			c.due = due.Add(c.interval)
		}
		l.pending.Add(1 + c.members)
		m := mark{l.o.tag, c.index, c.published, due.Sub(l.began).Microseconds()}
		b := &l.bodies[(c.index+int(c.published))%len(l.bodies)]
		payload := c.publish(c.topic, b.bytes)
		m.write(payload[b.mark:])
		if b.id > 0 {
			digits(payload[b.id-countLen:b.id], uint64(c.published))
		}
		c.send()
		if c.interval > 0 && m.due >= l.measured {
			l.late.record(c.index, now.Sub(due))
		}
		c.published++
		c.sent = append(c.sent, m.due)
	}
}

func (c *conn) take(header byte, body []byte) error {
	l := c.load
	now := time.Since(l.began)
	switch header >> 4 {
	case typePuback:
		if len(body) > 2 && body[2] >= 0x80 {
			return fmt.Errorf("publish: %w", refused(body[2]))
		}
		if len(c.sent) == 0 {
			return errors.New("PUBACK that is not due")
		}
		if due := c.sent[0]; due >= l.measured {
			l.acks.record(c.index, now-micros(due))
		}
		c.sent = append(c.sent[:0], c.sent[1:]...)
		l.acked.Add(1)
		l.came()
	case typePublish:
		p, err := parsePublish(header, body)
		if err != nil {
			return err
		}
		if p.id != 0 {
			c.puback(p.id)
		}
		c.event(now, p)
	case typeDisconnect:
		if len(body) > 0 {
			return fmt.Errorf("the server has disconnected: reason code %#x", body[0])
		}
		return errors.New("the server has disconnected")
	}
	return nil
}

// event checks and measures a delivery. What is not of this load is left alone.
func (c *conn) event(now time.Duration, p publication) {
	if string(p.topic) != c.topic {
		return
	}
	seq := readSeq(p.payload)
	if c.seq != 0 && seq > c.seq+1 {
		c.faults.Gaps++
	}
	c.seq = max(c.seq, seq)
	m, ok := readMark(p.payload)
	writer := m.sender - c.first
	if !ok || m.load != c.load.o.tag || writer < 0 || writer >= len(c.seen) || !c.seen[writer].take(m.n, &c.faults) {
		return
	}
	if m.due >= c.load.measured {
		c.delivered++
		if m.sender != c.index {
			c.load.latencies.record(c.index, now-micros(m.due))
		}
	}
	c.load.came()
}
