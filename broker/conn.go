package broker

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// Conn is one network connection, from accept to close. What is written to it goes into a
// buffer that a goroutine of its own empties while there is something in it; reading is in
// reader.go.
//
// Its life: accepted → (CONNECT) → open → closing (nothing more is read, the buffer
// goes out, the peer may read it) → closed. Only the goroutine that reads it closes
// the socket; see finish.
type Conn struct {
	socket   net.Conn
	server   *Server
	listener *Listener

	State  any  // the hooks' own, set by Accepted on the reader's goroutine
	Bridge bool // the hooks' own, set before State: see hooks, bridgeBit

	intake *Intake // set with State, by NewIntake; nil before

	reader    reader        // owned by the reader
	pubrels   atomic.Int64  // PUBRELs written that were not answered by PUBCOMP
	connected atomic.Bool   // CONNECT was accepted; the fields below are set before
	closing   atomic.Bool   // nothing more is read; set under mu
	version   byte          // of MQTT
	noInfo    bool          // Request Problem Information is 0
	maxPacket int           // the client's Maximum Packet Size, or 0
	grace     time.Duration // one and a half times the client's Keep Alive; 0: it may be silent

	mu               sync.Mutex
	out              []byte        // mu guards: to be written
	taken            int64         // mu guards: bytes that the writer has taken out of out
	writing          bool          // mu guards: the writer runs
	full             bool          // mu guards: a publication was refused for lack of room; writable is due
	connackQueued    bool          // mu guards: CONNACK is in the buffer, or written
	disconnectQueued bool          // mu guards: DISCONNECT is in the buffer, or would be in MQTT 5: nothing may follow
	sentAway         bool          // mu guards: the server ends the connection, when the publishes under way have been stored
	finishing        bool          // mu guards: finish has begun, nothing more is queued
	broken           bool          // mu guards: the socket does not take any more
	holding          bool          // mu guards: the writer holds what it has taken out of the buffer
	dropHeld         bool          // mu guards: and is not to write it: the connection was ended while the fence was closed
	giving           atomic.Int64  // bytes that the socket has been given
	wrote            atomic.Int64  // bytes that the socket has taken
	written          chan struct{} // mu guards: made by finish, and closed when the writer ends after it
	writable         func()        // set with State
}

func newConn(c net.Conn, s *Server, on *Listener) *Conn {
	conn := &Conn{socket: c, server: s, listener: on}
	conn.reader.begin(conn)
	return conn
}

// RemoteAddr returns the client's address. For a connection of a trusted load balancer it
// blocks until the PROXY header is there: see Proxies.
func (c *Conn) RemoteAddr() net.Addr { return c.socket.RemoteAddr() }

// Accepted gives the connection what CONNECT said, and the hooks' state: before it, nothing
// but a refusal may be written. writable is called, without locks, when there is room again
// after a publication was refused for lack of it.
func (c *Conn) Accepted(connect *packets.Packet, state any, writable func()) {
	c.mu.Lock()
	c.State, c.writable = state, writable
	c.mu.Unlock()
	c.version = connect.ProtocolVersion
	c.maxPacket = int(connect.Properties.MaximumPacketSize)
	c.noInfo = connect.Properties.RequestProblemInfoFlag && connect.Properties.RequestProblemInfo == 0
	c.grace = time.Duration(connect.Connect.Keepalive) * time.Second * 3 / 2 // [MQTT-3.1.2-22]
	c.connected.Store(true)
}

// Rejected takes Accepted back: CONNECT is refused after all. Ended will not be
// called.
func (c *Conn) Rejected() {
	c.connected.Store(false)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.State, c.intake = nil, nil
}

// Version returns the MQTT protocol version: 3 is 3.1, 4 is 3.1.1, 5 is 5.0.
func (c *Conn) Version() byte { return c.version }

// write queues whole packets. It never blocks. A peer that lets more than the hard limit
// gather is cut off.
func (c *Conn) write(p []byte) error { return c.queue(p, false) }

// queue is write; connack: they are the CONNACK of a client that is accepted.
func (c *Conn) queue(p []byte, connack bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut() {
		return net.ErrClosed
	}
	c.connackQueued = c.connackQueued || connack
	c.out = append(c.buffer(), p...)
	return c.kick()
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
		giving, wrote, held := c.giving.Load(), c.wrote.Load(), unsent(c.socket)
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
	c.broken = true
	c.closing.Store(true)
	_ = c.socket.SetDeadline(time.Unix(1, 0)) // wakes reader and writer; finish closes
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
		wake := c.full && !c.closing.Load()
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
	if _, ok := c.socket.(*wsConn); !ok && c.tls() == nil {
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
		_ = c.socket.SetWriteDeadline(end) // under mu: it must not undo abort's
		c.mu.Unlock()
		piece := b[:min(len(b), writePiece)]
		c.giving.Store(c.wrote.Load() + int64(len(piece)))
		n, err := c.socket.Write(piece)
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

// stop ends the reading: what is in the buffer still goes out; see finish.
func (c *Conn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing.Store(true)
	_ = c.socket.SetReadDeadline(time.Unix(1, 0))
}

// finish closes the socket, after the buffer has gone out and the peer has had
// the time to read it: closing with unread input would make the kernel reset the
// connection and take the last packets back. It blocks for at most twice the
// linger time. The goroutine that accepted the connection calls it, once, when
// the reader has returned.
func (c *Conn) finish() {
	c.stop()
	c.mu.Lock()
	c.finishing, c.written = true, make(chan struct{})
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
	if hc, ok := c.socket.(interface{ CloseWrite() error }); ok && graceful && hc.CloseWrite() == nil {
		if secure, ok := c.socket.(*tls.Conn); ok { // it has sent close_notify, and the kernel no FIN
			if under, ok := secure.NetConn().(interface{ CloseWrite() error }); ok {
				_ = under.CloseWrite()
			}
		}
		_ = c.socket.SetReadDeadline(time.Now().Add(c.server.limits.Linger))
		var rest io.Reader = c.socket
		if ws, ok := c.socket.(*wsConn); ok {
			rest = ws.Conn // a WebSocket whose read was interrupted reads no more frames
		}
		_, _ = io.CopyN(io.Discard, rest, 1<<20)
	}
	_ = c.socket.Close()
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
	c.stop()
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
	c.mu.Unlock()
	c.stop()
}

var _ delivery.Sink = (*Conn)(nil)

// buffers are handed from connection to connection: one that is idle has none. headers are
// what the slices in it were kept in, for the next ones: to make one would be an allocation.
var (
	buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
	headers = sync.Pool{New: func() any { return new([]byte) }}
)

func getBuffer() []byte {
	h := buffers.Get().(*[]byte)
	b := (*h)[:0]
	*h = nil
	headers.Put(h)
	return b
}

func putBuffer(b []byte) {
	if cap(b) > 0 && cap(b) <= 64<<10 {
		h := headers.Get().(*[]byte)
		*h = b
		buffers.Put(h)
	}
}
