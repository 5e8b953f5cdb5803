package broker

import (
	"log/slog"
	"net"
	"time"
)

// What the tests call one by one.
var (
	AppendPublish    = appendPublish
	AppendCached     = appendCached
	AppendAck        = appendAck
	AppendDisconnect = appendDisconnect
	AppendVarint     = appendVarint
	DisconnectReason = disconnectReason
	ErrPacketTooBig  = errPacketTooLarge
	ErrNotConnect    = errNotConnect
	ErrMalformed     = errMalformed
	ErrQoS           = errQoS
	ErrType          = errType
)

// NewConn returns a connection that no server looks after.
func NewConn(c net.Conn, l Limits) *Conn {
	l = l.WithDefaults()
	return newConn(c, &l, slog.New(slog.DiscardHandler))
}

// Finish is finish.
func (c *Conn) Finish() { c.finish() }

// Framing is framing.
type Framing struct{ f framing }

// NewFraming returns a framing at the start of a stream.
func NewFraming(maxFirst, maxOther int) *Framing {
	return &Framing{framing{maxFirst: maxFirst, max: maxOther}}
}

// Feed is feed; within reports whether a packet has begun and not ended.
func (f *Framing) Feed(b []byte) (within bool, err error) {
	err = f.f.feed(b, time.Unix(1, 0))
	return !f.f.since.IsZero(), err
}
