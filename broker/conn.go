package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// Conn is one network connection, from accept to close. It stands between mochi
// and the socket: reads pass through a framing check, writes go into a buffer
// that a goroutine of its own empties while there is something in it.
//
// Its life: accepted → (CONNECT) → open → closing (the reader is turned away,
// the buffer goes out, the peer may read it) → closed. Only the goroutine that
// accepted it closes the socket; see finish.
type Conn struct {
	net.Conn
	limits   *Limits
	logger   *slog.Logger
	listener *Listener     // set before it serves
	fence    *chat.Fence   // set before the connection is used
	sent     *atomic.Int64 // the server's count of PUBLISH packets written

	Client *mqtt.Client // set once, in OnConnect, on the reader's goroutine
	State  any          // the hooks' own, set with Client
	Bridge bool         // the hooks' own, set before Client: see hooks, bridgeBit

	intake *Intake // set with Client, by NewIntake; nil before

	framing   framing      // owned by the reader
	strict    strict       // framing's
	bad       error        // owned by the reader: what is wrong with the packet after those that mochi has
	idle      atomic.Int64 // read deadline that mochi asked for, in Unix nanoseconds; 0: none
	connected atomic.Bool  // CONNECT was accepted
	version   byte         // of MQTT; set before connected
	maxPacket int          // the client's Maximum Packet Size, or 0; set before connected
	noInfo    bool         // Request Problem Information is 0; set before connected

	grace time.Duration // one and a half times the client's Keep Alive; set before connected

	mu       sync.Mutex
	out      []byte        // mu guards: to be written
	flushing bool          // mu guards: the writer runs
	full     bool          // mu guards: a publication was turned away; Writable is due
	welcomed bool          // mu guards: CONNACK is in the buffer, or gone out
	farewell bool          // mu guards: DISCONNECT is in the buffer, nothing may follow
	closing  bool          // mu guards: the reader is turned away
	away     *parting      // mu guards: what the server says when what is on its way has been stored; nil: it does not send the client away
	final    bool          // mu guards: finish has begun, nothing more is written
	broken   bool          // mu guards: the socket does not take any more
	popped   bool          // mu guards: the writer holds what it has taken out of the buffer
	passed   bool          // mu guards: what it holds is not to be written: the connection was ended while the fence was closed
	flushed  chan struct{} // closed when the writer ends after final
	writable func()        // set with State
}

func newConn(c net.Conn, l *Limits, logger *slog.Logger) *Conn {
	conn := &Conn{Conn: c, limits: l, logger: logger, listener: &Listener{}, sent: new(atomic.Int64), flushed: make(chan struct{})}
	conn.framing.maxFirst, conn.framing.max = l.MaxConnectPacket, l.MaxPacket
	end := time.Now().Add(l.ConnectTimeout)
	_ = c.SetReadDeadline(end)
	_ = c.SetWriteDeadline(end) // of a TLS handshake; writeAll sets its own
	conn.framing.strict = &conn.strict
	return conn
}

// Accepted tells the connection what CONNECT said: before it, nothing else may be
// written. writable is called, without locks, when a buffer that had turned a
// publication away has room again.
func (c *Conn) Accepted(cl *mqtt.Client, state any, writable func()) {
	c.mu.Lock()
	c.Client, c.State, c.writable = cl, state, writable
	c.mu.Unlock()
	c.version = cl.Properties.ProtocolVersion
	c.maxPacket = int(cl.Properties.Props.MaximumPacketSize)
	c.noInfo = cl.Properties.Props.RequestProblemInfoFlag && cl.Properties.Props.RequestProblemInfo == 0
	c.grace = time.Duration(cl.State.Keepalive) * time.Second * 3 / 2
	c.connected.Store(true)
}

// Rejected takes Accepted back: CONNECT is refused after all. Ended will not be
// called.
func (c *Conn) Rejected() {
	c.connected.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Client, c.State, c.intake = nil, nil, nil
}

// Version returns the MQTT protocol version: 4 is 3.1.1, 5 is 5.0.
func (c *Conn) Version() byte { return c.version }

// DisconnectReceived returns the reason code of the client's DISCONNECT, for the reader
// that has been given it: mochi takes the short form, of a code without properties, for 0.
func (c *Conn) DisconnectReceived() byte { return c.framing.disconnect }

// Read implements net.Conn for mochi's reader.
func (c *Conn) Read(p []byte) (int, error) {
	if c.isClosing() {
		return 0, net.ErrClosed
	}
	if c.bad != nil {
		return 0, c.refuse(c.bad)
	}
	partial := !c.framing.since.IsZero() && c.connected.Load()
	start := time.Now()
	if partial { // only the time spent waiting for it counts: the reader may have been busy
		c.setReadDeadline(start.Add(c.limits.PacketTimeout - c.framing.waited))
	}
	n, err := c.Conn.Read(p)
	if partial {
		c.framing.waited += time.Since(start)
	}
	if n > 0 {
		var bad error
		if n, bad = c.framing.feed(p[:n], time.Now()); bad != nil {
			if c.bad = bad; n > 0 { // what came before it is still served
				return n, nil
			}
			return 0, c.refuse(bad)
		}
	}
	if c.isClosing() { // the deadline that woke us was Close's
		return 0, net.ErrClosed
	}
	return n, err
}

// refuse says why the bytes of the peer end the connection, where it may be said,
// and returns the reason.
func (c *Conn) refuse(err error) error {
	var v *violation
	isViolation := errors.As(err, &v)
	switch {
	case !c.connected.Load():
		if isViolation {
			_, _ = c.Write(appendRefusal(nil, c.strict.version, v, c.strict.maxPacket))
		}
	case isViolation:
		c.DisconnectCode(v.code, v.reason)
	case errors.Is(err, errPacketTooLarge):
		c.DisconnectCode(packets.ErrPacketTooLarge.Code, "packet over "+itoa(c.limits.MaxPacket)+" bytes")
	}
	return err
}

// SetDeadline implements net.Conn: mochi calls it with the keepalive's end before
// it reads a packet. Writes have a deadline of their own. The end is computed
// again [MQTT-3.1.2-22], because mochi's own sum is rounded down, and overflows
// above 43,690 s: such a client would be cut off early, or at once.
func (c *Conn) SetDeadline(t time.Time) error {
	if c.connected.Load() && c.grace > 0 {
		t = time.Now().Add(c.grace)
	}
	if t.IsZero() {
		c.idle.Store(0)
	} else {
		c.idle.Store(t.UnixNano())
	}
	c.setReadDeadline(time.Time{})
	return nil
}

// setReadDeadline arms the sooner of limit (if there is one) and the keepalive's
// end, unless the connection is closing, whose deadline is now.
func (c *Conn) setReadDeadline(limit time.Time) {
	if ns := c.idle.Load(); ns != 0 {
		if idle := time.Unix(0, ns); limit.IsZero() || idle.Before(limit) {
			limit = idle
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing {
		_ = c.Conn.SetReadDeadline(limit)
	}
}

func (c *Conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// Write implements net.Conn for the packets that mochi writes, whole ones each.
// It never blocks. A peer that lets more than the hard limit gather is cut off.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut() {
		return 0, net.ErrClosed
	}
	c.welcomed = c.welcomed || c.connected.Load() // the first packet after Accepted is CONNACK
	c.out = append(c.buffer(), p...)
	return len(p), c.kick()
}

// shut reports whether nothing may be written any more. mu is held.
func (c *Conn) shut() bool { return c.broken || c.farewell || c.final }

// buffer returns the pending bytes, in a buffer from the pool if there are none.
func (c *Conn) buffer() []byte {
	if c.out == nil {
		c.out = getBuffer()
	}
	return c.out
}

// kick starts the writer, and ends a connection whose buffer is over the hard limit.
func (c *Conn) kick() error {
	if len(c.out) > c.limits.MaxBuffer {
		c.breakOff()
		return errSlowReader
	}
	if !c.flushing {
		c.flushing = true
		go c.flush() // ends when the buffer is empty or the socket broken; finish waits for it
	}
	return nil
}

var errSlowReader = errors.New("the client reads too slowly")

// breakOff gives the socket up at once. mu is held.
func (c *Conn) breakOff() {
	c.broken, c.closing = true, true
	_ = c.Conn.SetDeadline(time.Unix(1, 0)) // wakes reader and writer; finish closes
}

// flush writes until the buffer is empty.
func (c *Conn) flush() {
	for {
		c.mu.Lock()
		b := c.out
		c.out = nil
		if len(b) == 0 || c.broken {
			c.flushing = false
			putBuffer(b)
			if c.final {
				close(c.flushed)
			}
			c.mu.Unlock()
			return
		}
		wake := c.full && !c.closing
		c.full, c.popped = false, true
		c.mu.Unlock()

		var err error
		if c.pass() {
			err = c.writeAll(b)
		}
		putBuffer(b)
		if err != nil {
			c.mu.Lock()
			c.breakOff()
			c.mu.Unlock()
		}
		if wake && err == nil {
			c.writable()
		}
	}
}

// fencePoll is how often a connection looks whether the fence has opened.
const fencePoll = 20 * time.Millisecond

// pass waits at the fence. It reports whether what the writer holds may still be
// written: a session that has moved meanwhile gets and acknowledges nothing here any
// more.
func (c *Conn) pass() bool {
	for {
		open := c.fence.Open()
		c.mu.Lock()
		if open || c.broken {
			may := !c.passed && !c.broken
			c.popped, c.passed = false, false
			c.mu.Unlock()
			return may
		}
		c.mu.Unlock()
		time.Sleep(fencePoll)
	}
}

// writePiece is what the peer has WriteTimeout for, where it cannot be seen that it
// has taken a part. It divides a large buffer, not single packets.
const writePiece = 16 << 10

// writeAll writes b, until the peer takes nothing for WriteTimeout: one that reads
// slowly, and reads all the time, may take as long as it likes.
//
// A write that runs into its deadline is tried again meanwhile: the kernel calls a
// socket writable only when a third of its buffer is free, which may be a megabyte,
// but a new write puts in whatever there is room for. A WebSocket and TLS do not
// recover from a write that ended early; their peer has to take a piece in time.
func (c *Conn) writeAll(b []byte) error {
	try := c.limits.WriteTimeout
	if _, ok := c.Conn.(*wsConn); !ok && c.tls() == nil {
		try /= 8
	}
	for taken := time.Now(); len(b) > 0; {
		now := time.Now()
		end := taken.Add(c.limits.WriteTimeout)
		if soon := now.Add(try); soon.Before(end) {
			end = soon
		}
		c.mu.Lock()
		if c.broken {
			c.mu.Unlock()
			return net.ErrClosed
		}
		_ = c.Conn.SetWriteDeadline(end) // under mu: it must not undo breakOff's
		c.mu.Unlock()
		n, err := c.Conn.Write(b[:min(len(b), writePiece)])
		b = b[n:]
		if n > 0 {
			taken = time.Now()
		}
		if err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || time.Since(taken) >= c.limits.WriteTimeout) {
			return err
		}
	}
	return nil
}

// Close implements net.Conn for mochi, which calls it to end the connection: the
// reader is turned away, and what is in the buffer still goes out; see finish.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
	return nil
}

// finish closes the socket, after the buffer has gone out and the peer has had
// the time to read it: closing with unread input would make the kernel reset the
// connection and take the last packets back. It blocks for at most twice the
// linger time. The goroutine that accepted the connection calls it, once, when
// the reader has returned.
func (c *Conn) finish() {
	_ = c.Close()
	c.mu.Lock()
	c.final = true
	if !c.flushing {
		c.flushing = true
		go c.flush() // closes flushed
	}
	c.mu.Unlock()
	stuck := false
	select {
	case <-c.flushed:
	case <-time.After(c.limits.Linger):
		stuck = true
	}
	c.mu.Lock()
	graceful := !c.broken
	c.broken = true
	c.mu.Unlock()
	if secure := c.tls(); secure != nil && (stuck || !graceful) { // to say goodbye it would write, to somebody who does not read
		graceful = false
		_ = secure.NetConn().Close()
	}
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok && graceful && hc.CloseWrite() == nil {
		if secure, ok := c.Conn.(*tls.Conn); ok { // it has said that nothing follows, and the kernel has not
			if tcp, ok := secure.NetConn().(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
		}
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.limits.Linger))
		var rest io.Reader = c.Conn
		if ws, ok := c.Conn.(*wsConn); ok {
			rest = ws.Conn // a WebSocket whose read was interrupted reads no more frames
		}
		_, _ = io.CopyN(io.Discard, rest, 1<<20)
	}
	_ = c.Conn.Close()
	<-c.flushed // a writer that was stuck has been woken by the close
}

// Disconnect implements delivery.Sink: it tells the client why and closes.
func (c *Conn) Disconnect(err error) {
	c.DisconnectCode(disconnectReason(err), chat.PublicMessage(err))
}

// DisconnectCode writes DISCONNECT with the reason, in MQTT 5, and closes. The
// first reason given is the one that counts. Before CONNACK nothing is written,
// and no CONNACK any more [MQTT-3.14.0-1].
func (c *Conn) DisconnectCode(code byte, reason string) {
	c.disconnect(parting{code: code, reason: reason})
}

// parting is what a DISCONNECT says.
type parting struct {
	code      byte
	reason    string
	reference string // to other servers; empty: none
}

// sendAway has the reader turned away; whoever serves the connection says goodbye when
// what is on its way has been stored. The first reason counts.
func (c *Conn) sendAway(g parting) {
	c.mu.Lock()
	if c.away == nil {
		c.away = &g
	}
	c.mu.Unlock()
	_ = c.Close()
}

// SentAway reports whether the connection ends because the server wants it to: it
// drains, or stops.
func (c *Conn) SentAway() bool { return c.sentAwayWith() != nil }

func (c *Conn) sentAwayWith() *parting {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away
}

func (c *Conn) disconnect(g parting) {
	c.mu.Lock()
	if !c.shut() {
		if !c.fence.Open() {
			c.passed = c.popped
			c.out = c.out[:0]
		}
		if c.version == 5 && c.welcomed {
			c.out = appendParting(c.buffer(), g, c.maxPacket)
			_ = c.kick()
		}
		c.farewell = true
	}
	cl := c.Client
	c.mu.Unlock()
	if cl != nil {
		cl.Stop(nil) // calls Close
	} else {
		_ = c.Close()
	}
}

var _ delivery.Sink = (*Conn)(nil)

// buffers are handed from connection to connection: one that is idle has none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func getBuffer() []byte { return (*buffers.Get().(*[]byte))[:0] }

func putBuffer(b []byte) {
	if cap(b) > 0 && cap(b) <= 64<<10 {
		buffers.Put(&b)
	}
}
