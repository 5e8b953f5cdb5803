package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Pair is two users with a direct conversation.
type Pair struct {
	Tokens       [2]string
	Conversation string
}

// Options says what load to make.
type Options struct {
	Addr     string                      // of the server's MQTT listener
	AddrOf   func(pair, side int) string // likewise, of one of several; nil: all have Addr
	Pairs    []Pair                      // a connection for each user
	Window   int                         // publishes that each connection has on their way
	Messages int                         // to send, by all together
	Size     int                         // bytes of text in each; at least 24
	Rate     int                         // messages a second by all together; 0: as fast as the windows let
}

// Result is what was measured.
type Result struct {
	Elapsed   time.Duration // from the first publish to the last delivery
	Acked     int
	Delivered int           // to both users of each conversation
	Latencies Latencies     // from publish to its arrival at the other user
	Acks      Latencies     // from publish to its acknowledgement
	Dialed    time.Duration // for all connections
}

// Latencies are sorted.
type Latencies []time.Duration

// Quantile returns the latency that the given part of all stays under.
func (l Latencies) Quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	return l[min(len(l)-1, int(q*float64(len(l))))]
}

// Run connects everybody, lets every connection publish to its conversation until
// all messages are sent, and returns when each is acknowledged and has been
// delivered to both users of its conversation.
func Run(ctx context.Context, o Options) (*Result, error) {
	start := time.Now()
	l := &load{o: o}
	l.left.Store(int64(o.Messages))
	l.due.Store(int64(3 * o.Messages)) // an acknowledgement and two deliveries each
	l.done = make(chan struct{})
	for i, p := range o.Pairs {
		for side, token := range p.Tokens {
			addr := o.Addr
			if o.AddrOf != nil {
				addr = o.AddrOf(i, side)
			}
			c, err := dial(addr, fmt.Sprintf("bench-%d-%d", i, side), token)
			if err == nil {
				err = c.subscribe("conv/+/messages", 1)
			}
			if err != nil {
				l.close()
				return nil, err
			}
			l.conns = append(l.conns, &conn{client: c, load: l, topic: "conv/" + p.Conversation + "/messages", text: text(o.Size), me: byte(side)})
		}
	}
	res := &Result{Dialed: time.Since(start)}
	err := l.run(ctx)
	res.Elapsed = time.Since(l.began)
	for _, c := range l.conns {
		res.Latencies = append(res.Latencies, c.latencies...)
		res.Acks = append(res.Acks, c.acks...)
		res.Delivered += c.delivered
	}
	res.Acked = len(res.Acks)
	slices.Sort(res.Latencies)
	slices.Sort(res.Acks)
	return res, err
}

// text is filler, in words, for a server that looks at them; its first bytes are
// overwritten with who sends and when.
func text(size int) []byte {
	b := make([]byte, max(size, markLen))
	for i := range b {
		if b[i] = 'a' + byte(i%26); i%7 == 6 {
			b[i] = ' '
		}
	}
	return b
}

type load struct {
	o     Options
	conns []*conn
	began time.Time
	left  atomic.Int64 // messages not yet taken by a connection
	due   atomic.Int64 // acknowledgements and deliveries still to come
	done  chan struct{}
}

func (l *load) close() {
	for _, c := range l.conns {
		_ = c.conn.Close()
	}
}

func (l *load) run(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make(chan error, len(l.conns))
	l.began = time.Now()
	for i, c := range l.conns {
		wg.Go(func() {
			if err := c.run(i); err != nil {
				errs <- fmt.Errorf("connection %d: %w", i, err)
			}
		})
	}
	var err error
	select {
	case <-l.done:
	case err = <-errs:
	case <-ctx.Done():
		err = fmt.Errorf("%d acknowledgements and deliveries are missing: %w", l.due.Load(), context.Cause(ctx))
	}
	l.close()
	wg.Wait()
	return err
}

// conn publishes, acknowledges and measures.
type conn struct {
	*client
	load      *load
	topic     string
	text      []byte
	me        byte
	sent      []time.Time // of the publishes on their way, oldest first
	acks      Latencies
	latencies Latencies
	delivered int
}

const markLen = 24 // sender and nanoseconds since the load began, as digits

func (c *conn) run(i int) error {
	interval := time.Duration(0)
	if c.load.o.Rate > 0 {
		interval = time.Duration(len(c.load.conns)) * time.Second / time.Duration(c.load.o.Rate)
	}
	due := c.load.began.Add(interval * time.Duration(i) / time.Duration(len(c.load.conns)))
	for {
		for len(c.sent) < c.load.o.Window && c.load.left.Load() > 0 {
			if wait := time.Until(due); interval > 0 && wait > 0 {
				break
			}
			due = due.Add(interval)
			if c.load.left.Add(-1) < 0 {
				break
			}
			now := time.Now()
			c.mark(now)
			c.publish(c.topic, c.text)
			c.sent = append(c.sent, now)
		}
		if c.r.Buffered() == 0 {
			if err := c.w.Flush(); err != nil {
				return c.ended(err)
			}
			if interval > 0 && c.load.left.Load() > 0 {
				_ = c.conn.SetReadDeadline(due)
				_, err := c.r.Peek(1)
				_ = c.conn.SetReadDeadline(time.Time{})
				if isTimeout(err) {
					continue
				}
				if err != nil {
					return c.ended(err)
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
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// ended tells a connection that was lost from one that was closed at the end.
func (c *conn) ended(err error) error {
	select {
	case <-c.load.done:
		return nil
	default:
		return err
	}
}

func (c *conn) take(header byte, body []byte) error {
	now := time.Now()
	switch header >> 4 {
	case typePuback:
		if len(body) > 2 && body[2] >= 0x80 {
			return fmt.Errorf("publish refused: reason code %#x", body[2])
		}
		c.acks = append(c.acks, now.Sub(c.sent[0]))
		c.sent = append(c.sent[:0], c.sent[1:]...)
	case typePublish:
		n := int(binary.BigEndian.Uint16(body))
		c.puback(binary.BigEndian.Uint16(body[2+n:]))
		c.delivered++
		if sender, at, ok := readMark(body[2+n:]); ok && sender != c.me {
			c.latencies = append(c.latencies, now.Sub(c.load.began.Add(at)))
		} else if !ok {
			return c.counted(false) // an event that is not of this load
		}
	default:
		return nil
	}
	return c.counted(true)
}

func (c *conn) counted(yes bool) error {
	if yes && c.load.due.Add(-1) == 0 {
		_ = c.w.Flush()
		close(c.load.done)
	}
	return nil
}

var stampMark = []byte("T:")

// mark writes "T:", the sender and the time into the text.
func (c *conn) mark(now time.Time) {
	copy(c.text, stampMark)
	c.text[2] = '0' + c.me
	ns := uint64(now.Sub(c.load.began))
	for i := markLen - 1; i > 2; i-- {
		c.text[i] = '0' + byte(ns%10)
		ns /= 10
	}
}

// readMark finds the mark in the content of an event.
func readMark(body []byte) (sender byte, at time.Duration, ok bool) {
	i := behind(body, `"content":"T:`)
	if i < 0 || len(body) < i+markLen {
		return 0, 0, false
	}
	mark := body[i:]
	var ns uint64
	for _, d := range mark[1 : markLen-2] {
		ns = ns*10 + uint64(d-'0')
	}
	return mark[0] - '0', time.Duration(ns), true
}

// behind returns the place behind the mark in body, or -1.
func behind(body []byte, mark string) int {
	for i := 0; i+len(mark) <= len(body); i++ {
		if string(body[i:i+len(mark)]) == mark {
			return i + len(mark)
		}
	}
	return -1
}
