package broker

import (
	"errors"
	"net"
	"net/http"

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

// Next is next, Write is write, and Close is stop.
func (c *Conn) Next() ([]byte, error) { return c.next() }

func (c *Conn) Write(p []byte) error { return c.write(p) }

func (c *Conn) Close() { c.stop() }

// Finish is finish.
func (c *Conn) Finish() { c.finish() }

// ReadProxyHeader is readProxyHeader.
var ReadProxyHeader = readProxyHeader

// Strict is strict.
type Strict struct{ s strict }

// NewStrict returns a checker of what follows a CONNECT of the version; 0: of a whole
// connection.
func NewStrict(version byte) *Strict {
	return &Strict{strict{version: version, seen: version > 0, maxFirst: 1000, max: 1000}}
}

// Version is what CONNECT said.
func (s *Strict) Version() byte { return s.s.version }

// Packet checks one packet.
func (s *Strict) Packet(header byte, body []byte) error {
	if err := s.s.typeAndFlags(header); err != nil {
		return err
	}
	return s.s.packet(header, body)
}

// Whole is whole.
func (s *Strict) Whole(b []byte) (int, error) { return s.s.whole(b) }

// Frame returns the length of the first packet of a connection, or of a later one, whatever
// it says; 0: it is not whole.
func Frame(b []byte, first bool, limit int) (int, error) {
	s := strict{seen: !first, maxFirst: limit, max: limit}
	_, size, err := s.frame(b)
	return size, err
}

// ViolationCode returns the reason code of a violation, 0 for what is none.
func ViolationCode(err error) byte {
	var v *violation
	if errors.As(err, &v) {
		return v.code
	}
	return 0
}
