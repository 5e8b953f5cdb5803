package broker

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
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

// NewWebSocketConn is NewConn over the WebSocket that the request asks for.
func NewWebSocketConn(w http.ResponseWriter, r *http.Request, l Limits) (*Conn, error) {
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	return NewConn(&wsConn{Conn: ws.UnderlyingConn(), ws: ws}, l), nil
}

// AppendElsewhere is appendParting.
func AppendElsewhere(b []byte, code byte, reason, reference string, limit int) []byte {
	return appendParting(b, parting{code, reason, reference}, limit)
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

// CutProxyHeader is cutProxyHeader.
func CutProxyHeader(r io.Reader) (head, rest []byte, none bool, err error) {
	head, rest, err = cutProxyHeader(r)
	return head, rest, errors.Is(err, errNoProxyHeader), err
}
