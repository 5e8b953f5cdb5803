package broker

import (
	"bytes"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/rawio"
)

// reader is what the reader of a connection owns. While it waits for the beginning of a
// packet it has no buffer, and a stack of the smallest size: most connections are idle most
// of the time.
type reader struct {
	begun  bool // the connection's address is known, and TLS has begun
	grown  bool // the packet that was handled last makes the stack grow
	more   bool // held may begin with whole packets
	eager  bool // a read that has run into its deadline cannot be repeated
	fired  bool // the deadline that is set has passed
	one    [1]byte
	strict strict
	pace   pace

	raw  syscall.RawConn       // of the socket; nil: there is something between (TLS, a WebSocket)
	fill func(fd uintptr) bool // fillRaw

	held  []byte        // what was read and is not handled yet; nil: nothing
	given int           // how many bytes of held are the packets that next has returned
	err   error         // of the last fillRaw
	bad   error         // what is wrong with the packet after those that were checked
	idle  time.Duration // end of the keepalive, or of the time for CONNECT, since epoch; 0: none
	armed time.Duration // the read deadline that is set, since epoch; 0: none

	waited time.Duration // for the rest of the packet that held ends with
}

// sinceEpoch is now, as reader's times are.
func sinceEpoch() time.Duration { return time.Since(epoch) }

// begin gives the client until Limits.ConnectTimeout for its CONNECT.
func (r *reader) begin(c *Conn) {
	l := &c.server.limits
	r.strict = strict{maxFirst: l.MaxConnectPacket, max: l.MaxPacket}
	r.pace.own.every = c.server.paces.every
	r.fill = c.fillRaw
	_, r.eager = c.socket.(*wsConn)
	r.idle = sinceEpoch() + l.ConnectTimeout
	r.armed = r.idle
	_ = c.socket.SetReadDeadline(epoch.Add(r.armed))
}

// next waits for packets, and returns those that are there: whole, checked, and not more than
// a turn, nor than the connection's budgets allow. They are good until the next call.
func (c *Conn) next() ([]byte, error) {
	r := &c.reader
	if r.held = r.held[:copy(r.held, r.held[r.given:])]; len(r.held) == 0 {
		putBuffer(r.held)
		r.held = nil
	}
	r.given = 0
	r.keepalive(c)
	for {
		c.await()
		switch {
		case c.closing.Load():
			return nil, net.ErrClosed
		case r.bad != nil:
			return nil, c.refuse(r.bad)
		case r.more && len(r.held) > 0:
			runtime.Gosched() // others first: this connection has just had its turn
		default:
			if err := c.receive(); err != nil {
				return nil, err
			}
		}
		if r.given, r.bad = r.strict.whole(r.held); r.given > 0 { // what came before a packet that is wrong is still served
			r.more = r.strict.packets == turn
			r.waited = 0
			answers := min(int64(r.strict.comps), c.pubrels.Load())
			c.pubrels.Add(-answers)
			r.pace.charge(r.strict.cost - int(answers))
			return r.held[:r.given], nil
		}
		r.more = false
	}
}

// keepalive has the keepalive begin anew. Only silence of the client counts, not what the
// server does meanwhile.
func (r *reader) keepalive(c *Conn) {
	switch {
	case !c.connected.Load():
	case c.grace > 0:
		r.idle = sinceEpoch() + c.grace
	default:
		r.idle = 0
	}
}

// receive appends something to held, and waits until there is any. For the rest of a packet
// the client has PacketTimeout, and as much again for each 256 KiB that have come.
func (c *Conn) receive() error {
	r := &c.reader
	for {
		due, start := r.idle, time.Duration(0)
		if len(r.held) > 0 && c.connected.Load() {
			start = sinceEpoch()
			due = start + c.server.limits.PacketTimeout*time.Duration(1+len(r.held)>>18) - r.waited
			if r.idle != 0 {
				due = min(due, r.idle)
			}
		}
		c.arm(due)
		n, err := c.read()
		if start != 0 {
			r.waited += sinceEpoch() - start
		}
		switch {
		case n > 0:
			return nil
		case c.closing.Load(): // the deadline that woke us was stop's
			return net.ErrClosed
		case !r.eager && errors.Is(err, os.ErrDeadlineExceeded) && (due == 0 || sinceEpoch() < due):
			r.fired = true
		default:
			return err
		}
	}
}

// arm sees to it that reading ends when it is due; 0: never. A deadline that is set and comes
// before that is left as it is, and receive goes on when it has passed: to move it for every
// packet would cost more than the packet's decoding.
func (c *Conn) arm(due time.Duration) {
	r := &c.reader
	if !r.fired && (r.armed == due || !r.eager && r.armed != 0 && (due == 0 || r.armed < due)) {
		return
	}
	r.fired, r.armed = false, due
	var t time.Time
	if due != 0 {
		t = epoch.Add(due)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closing.Load() { // its deadline is now
		_ = c.socket.SetReadDeadline(t)
	}
}

// read appends to held what can be read at once, and waits if that is nothing. It takes a
// buffer only when there is something: through TLS or a WebSocket it waits for one byte.
func (c *Conn) read() (n int, err error) {
	r := &c.reader
	switch {
	case r.raw != nil:
		before := len(r.held)
		if err = r.raw.Read(r.fill); err == nil {
			err = r.err
		}
		return len(r.held) - before, err
	case len(r.held) == 0:
		if n, err = c.socket.Read(r.one[:]); n > 0 {
			r.held = append(getBuffer(), r.one[0])
		}
		return n, err
	}
	r.held = slices.Grow(r.held, 1)
	n, err = c.socket.Read(r.held[len(r.held):cap(r.held)])
	r.held = r.held[:len(r.held)+n]
	return n, err
}

// fillRaw reads from the socket's descriptor into held; false: there is nothing to be read.
func (c *Conn) fillRaw(fd uintptr) bool {
	r := &c.reader
	b := r.held
	if b == nil {
		b = getBuffer()
	}
	b = slices.Grow(b, 1)
	n, err := rawio.Read(fd, b[len(b):cap(b)])
	if n <= 0 && len(b) == 0 {
		putBuffer(b)
		b = nil
	}
	r.held, r.err = b[:len(b)+max(n, 0)], err
	return !errors.Is(err, rawio.ErrWouldBlock)
}

// rawOf returns what fillRaw reads from; nil: c is not a socket, or not only.
func rawOf(c net.Conn) syscall.RawConn {
	if p, ok := c.(*proxiedConn); ok && p.passedOn() {
		c = p.Conn
	}
	if s, ok := c.(syscall.Conn); ok && rawio.CanRead { // of package net, or rawio
		if raw, err := s.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// refuse says why the bytes of the peer end the connection, where it may be said,
// and returns the reason.
func (c *Conn) refuse(err error) error {
	strict := &c.reader.strict
	var v *violation
	isViolation := errors.As(err, &v)
	switch {
	case !c.connected.Load():
		if isViolation {
			_ = c.write(appendRefusal(nil, strict.version, v, strict.maxPacket))
		}
	case isViolation:
		c.DisconnectCode(v.code, v.reason)
	case errors.Is(err, errPacketTooLarge):
		c.DisconnectCode(packets.ErrPacketTooLarge.Code, "packet over "+itoa(c.server.limits.MaxPacket)+" bytes")
	}
	return err
}

// DisconnectReceived returns the reason code of the client's DISCONNECT, for the reader
// that has been given it: mochi takes the short form, of a code without properties, for 0.
func (c *Conn) DisconnectReceived() byte { return c.reader.strict.disconnect }

// handle decodes whole packets and hands them to the hook, one after the other. It reports
// whether the last of them ends the connection.
//
//go:noinline
func (c *Conn) handle(b []byte) (end bool, err error) {
	s := c.server
	pk := decoded.Get().(*packets.Packet)
	defer decoded.Put(pk)
	s.counts.bytesReceived.Add(int64(len(b)))
	s.counts.received.Add(int64(c.reader.strict.packets))
	for len(b) > 0 && err == nil && !end {
		if c.closing.Load() {
			return true, nil
		}
		*pk = packets.Packet{ProtocolVersion: c.version}
		length, header := 0, 1
		for more := true; more; header++ {
			length |= int(b[header]&0x7f) << (7 * (header - 1))
			more = b[header] >= 0x80
		}
		err = decode(pk, b[0], b[header:header+length])
		b = b[header+length:]
		switch kind := pk.FixedHeader.Type; {
		case err != nil:
		case kind == packets.Connect:
			c.reader.grown = true
			err = s.hook.Connect(c, pk)
		default:
			switch kind {
			case packets.Publish:
				s.counts.publishReceived.Add(1)
			case packets.Subscribe, packets.Unsubscribe:
				c.reader.grown = true
			}
			err = s.hook.Packet(c, pk)
			end = kind == packets.Disconnect
		}
	}
	return end, err
}

// decoded are handed from reader to reader.
var decoded = sync.Pool{New: func() any { return new(packets.Packet) }}

// decode decodes a packet. What it makes of a packet that has more than numbers is good for
// ever: strings and payload are parts of a copy of body.
func decode(pk *packets.Packet, first byte, body []byte) error {
	if err := pk.FixedHeader.Decode(first); err != nil {
		return err
	}
	pk.FixedHeader.Remaining = len(body)
	switch pk.FixedHeader.Type {
	case packets.Connect:
		return pk.ConnectDecode(bytes.Clone(body))
	case packets.Publish:
		return pk.PublishDecode(bytes.Clone(body))
	case packets.Puback:
		return pk.PubackDecode(body)
	case packets.Pubrec:
		return pk.PubrecDecode(body)
	case packets.Pubrel:
		return pk.PubrelDecode(body)
	case packets.Pubcomp:
		return pk.PubcompDecode(body)
	case packets.Subscribe:
		return pk.SubscribeDecode(bytes.Clone(body))
	case packets.Unsubscribe:
		return pk.UnsubscribeDecode(bytes.Clone(body))
	case packets.Disconnect:
		return pk.DisconnectDecode(bytes.Clone(body))
	}
	return nil // PINGREQ: strict lets no other pass
}
