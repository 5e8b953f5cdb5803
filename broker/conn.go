package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// Conn is one network connection, from accept to close. It stands between mochi
// and the socket: reads pass through a check of the packets, writes go into a buffer
// that a goroutine of its own empties while there is something in it.
//
// Its life: accepted → (CONNECT) → open → closing (nothing more is read, the buffer
// goes out, the peer may read it) → closed. Only the goroutine that accepted it closes
// the socket; see finish.
type Conn struct {
	net.Conn
	server   *Server
	listener *Listener

	Client *mqtt.Client // set once, in OnConnect, on the reader's goroutine
	State  any          // the hooks' own, set with Client
	Bridge bool         // the hooks' own, set before Client: see hooks, bridgeBit

	intake *Intake // set with Client, by NewIntake; nil before

	strict    strict        // owned by the reader
	held      []byte        // owned by the reader: what was read and mochi does not have yet; nil: nothing
	checked   int           // owned by the reader: how many bytes of held are whole packets
	waited    time.Duration // owned by the reader: for the rest of the packet that held ends with
	bad       error         // owned by the reader: what is wrong with the packet after those that were checked
	more      bool          // owned by the reader: held may begin with whole packets
	pace      pace          // owned by the reader
	userKey   paceKey       // of pace.user; owned by the reader
	idle      atomic.Int64  // read deadline that mochi asked for, in Unix nanoseconds; 0: none
	pubrels   atomic.Int64  // PUBRELs written that were not answered by PUBCOMP
	connected atomic.Bool   // CONNECT was accepted; the fields below are set before
	version   byte          // of MQTT
	maxPacket int           // the client's Maximum Packet Size, or 0
	noInfo    bool          // Request Problem Information is 0
	grace     time.Duration // one and a half times the client's Keep Alive

	mu               sync.Mutex
	out              []byte        // mu guards: to be written
	taken            int64         // mu guards: bytes that the writer has taken out of out
	writing          bool          // mu guards: the writer runs
	full             bool          // mu guards: a publication was refused for lack of room; writable is due
	connackQueued    bool          // mu guards: CONNACK is in the buffer, or written
	disconnectQueued bool          // mu guards: DISCONNECT is in the buffer, or would be in MQTT 5: nothing may follow
	closing          bool          // mu guards: nothing more is read
	sentAway         bool          // mu guards: the server ends the connection, when the publishes under way have been stored
	finishing        bool          // mu guards: finish has begun, nothing more is queued
	broken           bool          // mu guards: the socket does not take any more
	giving           atomic.Int64  // bytes that the socket has been given
	wrote            atomic.Int64  // bytes that the socket has taken
	holding          bool          // mu guards: the writer holds what it has taken out of the buffer
	dropHeld         bool          // mu guards: and is not to write it: the connection was ended while the fence was closed
	written          chan struct{} // closed when the writer ends after finishing
	writable         func()        // set with State
}

func newConn(c net.Conn, s *Server, on *Listener) *Conn {
	conn := &Conn{
		Conn: c, server: s, listener: on, written: make(chan struct{}),
		strict: strict{maxFirst: s.limits.MaxConnectPacket, max: s.limits.MaxPacket},
	}
	conn.pace.own.every = s.paces.every
	end := time.Now().Add(s.limits.ConnectTimeout)
	_ = c.SetReadDeadline(end)
	_ = c.SetWriteDeadline(end) // of a TLS handshake; writeAll sets its own
	return conn
}

// Accepted gives the connection what CONNECT said: before it, nothing else may be
// written. writable is called, without locks, when there is room again after a
// publication was refused for lack of it.
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

// Version returns the MQTT protocol version: 3 is 3.1, 4 is 3.1.1, 5 is 5.0.
func (c *Conn) Version() byte { return c.version }

// DisconnectReceived returns the reason code of the client's DISCONNECT, for the reader
// that has been given it: mochi takes the short form, of a code without properties, for 0.
func (c *Conn) DisconnectReceived() byte { return c.strict.disconnect }

// Read implements net.Conn for mochi's reader, which gets whole packets that have been
// checked, a few at a time and not more than the connection's budgets allow. The beginning
// of a packet is held until its rest has come.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		if c.checked > 0 {
			n := copy(p, c.held[:c.checked])
			c.checked -= n
			c.hold(c.held[:0], c.held[n:])
			return n, nil
		}
		c.await()
		if c.isClosing() {
			return 0, net.ErrClosed
		}
		if c.bad != nil {
			return 0, c.refuse(c.bad)
		}
		var n, whole int
		var err error
		if len(c.held) == 0 {
			n, err = c.Conn.Read(p)
			whole = c.takeTurn(p[:n])
			if c.waited = 0; whole < n {
				c.hold(getBuffer(), p[whole:n])
			}
		} else {
			if c.more {
				runtime.Gosched() // others first: this connection has just had its turn
			} else {
				c.held = slices.Grow(c.held, 1)
				n, err = c.readRest(c.held[len(c.held):cap(c.held)])
				c.held = c.held[:len(c.held)+n]
			}
			if c.checked = c.takeTurn(c.held); c.checked > 0 {
				c.waited = 0
			}
		}
		if whole > 0 { // what came before a packet that is wrong is still served
			return whole, nil
		}
		if err != nil && c.checked == 0 && c.bad == nil {
			if c.isClosing() { // the deadline that woke us was Close's
				return 0, net.ErrClosed
			}
			return 0, err
		}
	}
}

// takeTurn returns how many bytes of b are whole packets, of which there are at most turn, and
// charges for them.
func (c *Conn) takeTurn(b []byte) (whole int) {
	whole, c.bad = c.strict.whole(b)
	c.more = c.strict.packets == turn
	if whole > 0 {
		answers := min(int64(c.strict.comps), c.pubrels.Load())
		c.pubrels.Add(-answers)
		c.pace.charge(c.strict.cost - int(answers))
	}
	return whole
}

// hold holds b, in the given buffer, which may overlap with it.
func (c *Conn) hold(buffer, b []byte) {
	c.held = append(buffer, b...)
	if len(c.held) == 0 {
		putBuffer(c.held)
		c.held = nil
	}
}

// readRest reads the rest of a packet, for which the client has PacketTimeout, and as much
// again for each 256 KiB that have come. Only the time spent waiting for it counts: the
// reader may have been busy.
func (c *Conn) readRest(p []byte) (int, error) {
	start := time.Now()
	if c.connected.Load() {
		c.setReadDeadline(start.Add(c.server.limits.PacketTimeout*time.Duration(1+len(c.held)>>18) - c.waited))
	}
	n, err := c.Conn.Read(p)
	c.waited += time.Since(start)
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
		c.DisconnectCode(packets.ErrPacketTooLarge.Code, "packet over "+itoa(c.server.limits.MaxPacket)+" bytes")
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
	c.connackQueued = c.connackQueued || c.connected.Load() // the first packet after Accepted is CONNACK
	c.out = append(c.buffer(), p...)
	return len(p), c.kick()
}

// shut reports whether nothing may be queued any more. mu is held.
func (c *Conn) shut() bool { return c.broken || c.disconnectQueued || c.finishing }

// buffer returns the pending bytes, in a buffer from the pool if there are none.
func (c *Conn) buffer() []byte {
	if c.out == nil {
		c.out = getBuffer()
	}
	return c.out
}

// position is the end of what has been queued, in bytes since the connection began. mu is
// held.
func (c *Conn) position() int64 { return c.taken + int64(len(c.out)) }

// received returns the position up to which the peer's host has received what was queued,
// or a lower one: TLS and WebSocket frames count for bytes of ours. It waits for a writer
// that has given the socket something, and has not come to note it: the socket, which holds
// nothing, does not block it.
func (c *Conn) received() int64 {
	for wait := time.Microsecond; ; wait *= 2 {
		giving, wrote, held := c.giving.Load(), c.wrote.Load(), unsent(c.Conn)
		if held > 0 || giving == wrote || wait > 100*time.Millisecond {
			return wrote - int64(held)
		}
		time.Sleep(wait)
	}
}

// kick starts the writer, and ends a connection whose buffer is over the hard limit.
func (c *Conn) kick() error {
	if len(c.out) > c.server.limits.MaxBuffer {
		c.abort()
		return errSlowReader
	}
	if !c.writing {
		c.writing = true
		go c.flush() // ends when the buffer is empty or the socket broken; finish waits for it
	}
	return nil
}

var errSlowReader = errors.New("the client reads too slowly")

// abort ends reading and writing at once. mu is held.
func (c *Conn) abort() {
	c.broken, c.closing = true, true
	_ = c.Conn.SetDeadline(time.Unix(1, 0)) // wakes reader and writer; finish closes
}

// flush writes until the buffer is empty.
func (c *Conn) flush() {
	for {
		c.mu.Lock()
		b := c.out
		c.out = nil
		c.taken += int64(len(b))
		if len(b) == 0 || c.broken {
			c.writing = false
			putBuffer(b)
			if c.finishing {
				close(c.written)
			}
			c.mu.Unlock()
			return
		}
		wake := c.full && !c.closing
		c.full, c.holding = false, true
		c.mu.Unlock()

		var err error
		if c.awaitFence() {
			err = c.writeAll(b)
		}
		putBuffer(b)
		if err != nil {
			c.mu.Lock()
			c.abort()
			c.mu.Unlock()
		}
		if wake && err == nil {
			c.writable()
		}
	}
}

// fencePoll is how often a connection looks whether the fence has opened.
const fencePoll = 20 * time.Millisecond

// awaitFence waits until the fence is open. It reports whether what the writer holds may still be
// written: a session that another node has taken over meanwhile gets and acknowledges
// nothing here any more.
func (c *Conn) awaitFence() bool {
	for {
		open := c.server.fence.Open()
		c.mu.Lock()
		if open || c.broken {
			may := !c.dropHeld && !c.broken
			c.holding, c.dropHeld = false, false
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
	try := c.server.limits.WriteTimeout
	if _, ok := c.Conn.(*wsConn); !ok && c.tls() == nil {
		try /= 8
	}
	for taken := time.Now(); len(b) > 0; {
		now := time.Now()
		end := taken.Add(c.server.limits.WriteTimeout)
		if soon := now.Add(try); soon.Before(end) {
			end = soon
		}
		c.mu.Lock()
		if c.broken {
			c.mu.Unlock()
			return net.ErrClosed
		}
		_ = c.Conn.SetWriteDeadline(end) // under mu: it must not undo abort's
		c.mu.Unlock()
		piece := b[:min(len(b), writePiece)]
		c.giving.Store(c.wrote.Load() + int64(len(piece)))
		n, err := c.Conn.Write(piece)
		b = b[n:]
		c.giving.Store(c.wrote.Add(int64(n)))
		if n > 0 {
			taken = time.Now()
		}
		if err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || time.Since(taken) >= c.server.limits.WriteTimeout) {
			return err
		}
	}
	return nil
}

// Close implements net.Conn for mochi, which calls it to end the connection: nothing
// more is read, and what is in the buffer still goes out; see finish.
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
	c.finishing = true
	if !c.writing {
		c.writing = true
		go c.flush() // closes written
	}
	c.mu.Unlock()
	stuck := false
	select {
	case <-c.written:
	case <-time.After(c.server.limits.Linger):
		stuck = true
	}
	c.mu.Lock()
	graceful := !c.broken
	c.broken = true
	c.mu.Unlock()
	if secure := c.tls(); secure != nil && (stuck || !graceful) { // its close_notify would be written to a peer that does not read
		graceful = false
		_ = secure.NetConn().Close()
	}
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok && graceful && hc.CloseWrite() == nil {
		if secure, ok := c.Conn.(*tls.Conn); ok { // it has sent close_notify, and the kernel no FIN
			if tcp, ok := secure.NetConn().(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
		}
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.server.limits.Linger))
		var rest io.Reader = c.Conn
		if ws, ok := c.Conn.(*wsConn); ok {
			rest = ws.Conn // a WebSocket whose read was interrupted reads no more frames
		}
		_, _ = io.CopyN(io.Discard, rest, 1<<20)
	}
	_ = c.Conn.Close()
	<-c.written // a writer that was stuck has been woken by the close
}

// Disconnect implements delivery.Sink.
func (c *Conn) Disconnect(err error) {
	c.DisconnectCode(disconnectReason(err), chat.PublicMessage(err))
}

// DisconnectCode writes DISCONNECT with the reason, in MQTT 5, and closes. The
// first reason given is the one that counts. Before CONNACK nothing is written,
// and no CONNACK any more [MQTT-3.14.0-1].
func (c *Conn) DisconnectCode(code byte, reason string) {
	c.disconnect(disconnection{code: code, reason: reason})
}

// disconnection is what a DISCONNECT says.
type disconnection struct {
	code      byte
	reason    string
	reference string // to other servers; empty: none
}

// sendAway stops reading; Server.serve sends the DISCONNECT when the publishes under way
// have been stored.
func (c *Conn) sendAway() {
	c.mu.Lock()
	c.sentAway = true
	c.mu.Unlock()
	_ = c.Close()
}

// SentAway reports whether the server ends the connection, because it drains or stops.
func (c *Conn) SentAway() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sentAway
}

func (c *Conn) disconnect(d disconnection) {
	c.mu.Lock()
	if !c.shut() {
		if !c.server.fence.Open() {
			c.dropHeld = c.holding
			c.out = c.out[:0]
		}
		if c.version == 5 && c.connackQueued {
			c.out = appendDisconnect(c.buffer(), d, c.maxPacket)
			_ = c.kick()
		}
		c.disconnectQueued = true
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
