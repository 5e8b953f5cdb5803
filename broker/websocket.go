package broker

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// WebSocket returns the handler for MQTT over WebSocket (MQTT 5.0, 6): binary
// frames, subprotocol "mqtt", or "mqttv3.1" as clients of MQTT 3.1 ask for. A browser must come from the server's own origin or
// an allowed one; clients that send no Origin are not browsers and may connect. on
// is as for Serve, but that TLS is the HTTP server's affair.
func (s *Server) WebSocket(on *Listener) http.Handler {
	if on == nil {
		on = &Listener{}
	}
	allow := s.allowOrigin
	if on.AllowOrigin != nil {
		allow = on.AllowOrigin
	}
	up := websocket.Upgrader{
		Subprotocols: []string{"mqtt", "mqttv3.1"}, CheckOrigin: allow, HandshakeTimeout: 10 * time.Second,
		ReadBufferSize: 256, WriteBufferSize: 2048, WriteBufferPool: &sync.Pool{},
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			text := reason.Error()
			if status == http.StatusForbidden { // CheckOrigin refused; the package's text names its own field
				text = "pages of this origin may not connect: it is not among the allowed ones (--allowed-origins)"
			}
			http.Error(w, text, status)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := websocket.Subprotocols(r)
		if websocket.IsWebSocketUpgrade(r) && !slices.Contains(asked, "mqtt") && !slices.Contains(asked, "mqttv3.1") {
			http.Error(w, `this is MQTT over WebSocket: ask for the subprotocol "mqtt"`, http.StatusBadRequest)
			return
		}
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return // Upgrade has answered
		}
		stream := &wsConn{Conn: ws.UnderlyingConn(), ws: ws, remote: remoteOf(r)}
		if conn := s.admit(stream, on); conn != nil {
			stream.charge = func() { conn.reader.pace.charge(ackUnits); conn.await() }
			ws.SetPingHandler(stream.pong)
			s.start(conn) // what net/http keeps of a request ends with this one
		}
	})
}

// wsConn is a WebSocket as a stream of bytes: packets need not be aligned with
// frames [MQTT-6.0.0-2]. So a message has no limit of its own, only a packet has: it is
// passed on as it arrives, and a browser may send all that it has queued as one.
type wsConn struct {
	net.Conn
	ws     *websocket.Conn
	r      io.Reader // the message being read, or nil
	charge func()    // is called on the reader's goroutine for what costs time and is no packet; nil: nothing
	remote net.Addr  // as the request had it, which a proxy may have named; nil: the connection's
}

func remoteOf(r *http.Request) net.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return nil
	}
	return net.TCPAddrFromAddrPort(ap)
}

// RemoteAddr implements net.Conn.
func (c *wsConn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

var errNotBinary = errors.New("a WebSocket message was not binary") // [MQTT-6.0.0-1]

// Read implements net.Conn. Only the reader calls it.
func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.r == nil {
			kind, r, err := c.ws.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errNotBinary
			}
			c.r = r
		}
		n, err := c.r.Read(p)
		if errors.Is(err, io.EOF) {
			c.r, err = nil, nil
			if n == 0 && c.charge != nil {
				c.charge()
			}
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// pong answers a ping (RFC 6455, 5.5.2). A peer that does not read it is found by its
// keepalive.
func (c *wsConn) pong(data string) error {
	c.charge()
	_ = c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(time.Second))
	return nil
}

// Write implements net.Conn. Only the connection's writer calls it.
func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetWriteDeadline implements net.Conn.
func (c *wsConn) SetWriteDeadline(t time.Time) error { return c.ws.SetWriteDeadline(t) }

// CloseWrite sends the closing frame.
func (c *wsConn) CloseWrite() error {
	return c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
}
