package broker

import (
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// What the tests call one by one.
var (
	AppendPublish    = appendFrame
	AppendCached     = appendCached
	AppendAck        = appendAck
	AppendVarint     = appendVarint
	DisconnectReason = disconnectReason
	ErrPacketTooBig  = errPacketTooLarge
	ErrNotConnect    = errNotConnect
	ErrMalformed     = errMalformed
)

// NewConn returns a connection that no server looks after.
func NewConn(c net.Conn, l Limits) *Conn {
	return newConn(c, &Server{limits: l.WithDefaults()}, &Listener{})
}

// NewWebSocketConn is NewConn over the WebSocket that the request asks for.
func NewWebSocketConn(w http.ResponseWriter, r *http.Request, l Limits) (*Conn, error) {
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	return NewConn(&wsConn{Conn: ws.UnderlyingConn(), ws: ws}, l), nil
}

// AppendDisconnect is appendDisconnect.
func AppendDisconnect(b []byte, code byte, reason, reference string, limit int) []byte {
	return appendDisconnect(b, disconnection{code, reason, reference}, limit)
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
	_, err = f.f.feed(b, time.Unix(1, 0))
	return !f.f.since.IsZero(), err
}

// ReadProxyHeader is readProxyHeader.
var ReadProxyHeader = readProxyHeader

// Strict is strict.
type Strict struct{ s strict }

// NewStrict returns a checker of what follows a CONNECT of the version; 0: of a whole
// connection.
func NewStrict(version byte) *Strict { return &Strict{strict{version: version}} }

// Version is what CONNECT said.
func (s *Strict) Version() byte { return s.s.version }

// Packet checks one packet, whose body comes in the given pieces.
func (s *Strict) Packet(header byte, first bool, length int, pieces ...[]byte) error {
	if err := s.s.header(header, first); err != nil {
		return err
	}
	if err := s.s.begin(length); err != nil {
		return err
	}
	for _, p := range pieces {
		if err := s.s.feed(p); err != nil {
			return err
		}
	}
	return nil
}

// ViolationCode returns the reason code of a violation, 0 for what is none.
func ViolationCode(err error) byte {
	var v *violation
	if errors.As(err, &v) {
		return v.code
	}
	return 0
}

// NewStrictFraming is NewFraming with a look at the packets.
func NewStrictFraming(maxFirst, maxOther int) *Framing {
	return &Framing{framing{maxFirst: maxFirst, max: maxOther, strict: &strict{}}}
}

// Whole is Feed that says how many bytes may be passed on.
func (f *Framing) Whole(b []byte) (int, error) { return f.f.feed(b, time.Unix(1, 0)) }
