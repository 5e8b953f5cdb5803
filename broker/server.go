package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/rawio"
)

// Options configures a Server.
type Options struct {
	Limits     Limits
	Hook       Hook        // the one hook; see package hooks
	Fence      *chat.Fence // everything that is written to a client waits for it; nil: none
	Reference  string      // Server Reference for clients that are sent away (MQTT 5.0, 3.2.2.3.16), such as "b.example.com:1883"; empty: none
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics

	// AllowOrigin reports whether a WebSocket may be opened by the page that asks for it; nil:
	// only by pages of the server's own host.
	AllowOrigin func(*http.Request) bool
}

// Hook says what the packets of clients mean. Its methods are called by the connection's
// reader, for one packet after the other. An error ends the connection.
type Hook interface {
	// Connect is given the CONNECT that a connection begins with, and answers it: with
	// Accepted and WriteConnack, or WriteConnack and an error.
	Connect(c *Conn, pk *packets.Packet) error
	// Packet is given every later packet, and answers it: PUBLISH, PUBACK, PUBREC, PUBREL,
	// PUBCOMP, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, and DISCONNECT, which ends the connection. pk
	// itself is used for the next packet again; what it refers to may be kept, but of an
	// acknowledgement.
	Packet(c *Conn, pk *packets.Packet) error
	// Ended is called once for each connection for which Accepted was called, when
	// its reader has returned, for any reason (err may be nil). A DISCONNECT may
	// still be written; after it, the socket is closed.
	Ended(c *Conn, err error)
}

// Server is the MQTT server: it accepts connections, keeps track of them, and
// ends them. What their packets mean is up to the hook.
type Server struct {
	limits      Limits
	hook        Hook
	away        disconnection            // for clients that are sent away
	allowOrigin func(*http.Request) bool // nil: gorilla's own
	fence       *chat.Fence
	logger      *slog.Logger
	metrics     *metrics
	counts      counts
	paces       paces
	slowed      rate.Sometimes // limits log lines about clients that are held back
	next        chan *Conn     // to a goroutine that waits in another
	spare       atomic.Int32   // goroutines that wait there

	mu      sync.Mutex
	conns   map[*Conn]struct{} // mu guards
	leaving bool               // mu guards: CONNECT is refused; connections are still accepted
	closing bool               // mu guards: no connection is accepted any more
	wg      sync.WaitGroup     // one for each connection
}

// New returns a server with the hook attached. It listens on nothing; see Serve
// and WebSocket.
func New(o Options) (*Server, error) {
	logger := o.Logger
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	l := o.Limits.WithDefaults()
	if l.MaxPacket > chat.MaxPacketBytes {
		return nil, &chat.Error{Code: chat.Invalid, Op: "broker.New", Field: "MaxPacket", Msg: "is " + itoa(l.MaxPacket) + ", limit " + itoa(chat.MaxPacketBytes)}
	}
	s := &Server{
		limits: l, hook: o.Hook, allowOrigin: o.AllowOrigin, fence: o.Fence, conns: map[*Conn]struct{}{}, next: make(chan *Conn),
		logger: logger.With("component", "broker"), metrics: newMetrics(o.Registerer),
		paces: paces{by: map[paceKey]*shared{}}, slowed: rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	if l.PacketRate > 0 {
		s.paces.every = time.Second / time.Duration(l.PacketRate)
	}
	s.away = disconnection{packets.ErrServerShuttingDown.Code, "the server is stopping; connect again in a moment", ""}
	if o.Reference != "" {
		s.away = disconnection{packets.ErrUseAnotherServer.Code, "the server is stopping; connect to another one", o.Reference}
	}
	return s, nil
}

// Limits returns the limits in force.
func (s *Server) Limits() Limits { return s.limits }

// Serve accepts connections until the listener is closed. Errors of accept (no file
// descriptors left, a connection reset before it was accepted) are logged and tried
// again: a listener that ends by itself is an outage that nobody notices. on says how
// they are accepted; nil: by the server's own rules.
func (s *Server) Serve(l net.Listener, on *Listener) error {
	on = cmp.Or(on, &Listener{})
	wait := backoff.New(5*time.Millisecond, time.Second)
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.metrics.acceptErrors.Inc()
			s.logger.Warn("accepting a connection failed; trying again", "err", err)
			time.Sleep(wait.Next())
			continue
		}
		wait.Reset()
		c = rawio.New(c)
		if on.TLS != nil {
			c = tls.Server(c, on.TLS)
		}
		conn := s.admit(c, on)
		if conn == nil {
			continue
		}
		s.start(conn)
	}
}

// admit registers a connection, or closes it if there are too many.
func (s *Server) admit(c net.Conn, on *Listener) *Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || len(s.conns) >= s.limits.MaxConnections || on.MaxConnections > 0 && on.open >= on.MaxConnections {
		s.metrics.turnedAway.Inc()
		_ = c.Close()
		return nil
	}
	conn := newConn(c, s, on)
	s.conns[conn] = struct{}{}
	on.open++
	s.wg.Add(1)
	s.metrics.connections.Inc()
	return conn
}

// A goroutine whose stack has grown for the beginning of a connection serves the beginning of
// another, if one comes within spareWait: to grow a stack is a tenth of what a CONNECT costs.
const (
	maxSpare  = 64 // goroutines that wait for one
	spareWait = 100 * time.Millisecond
)

// start has a connection served.
func (s *Server) start(conn *Conn) {
	select {
	case s.next <- conn:
	default:
		go s.serve(conn) // ends with the connection, which Shutdown waits for, and spareWait
	}
}

// serve reads the connection until it ends. A packet that has made the stack grow is the last
// that its goroutine handles: the next one has a small stack again, which the garbage
// collector would not quite make of the old.
func (s *Server) serve(conn *Conn) {
	for conn != nil {
		again, err := s.read(conn)
		if !again {
			s.end(conn, err)
			return
		}
		go s.serve(conn) // as start's
		conn = s.another()
	}
}

// another waits for a connection to begin; nil: none came.
//
//go:noinline
func (s *Server) another() *Conn {
	defer s.spare.Add(-1)
	if s.spare.Add(1) > maxSpare {
		return nil
	}
	select {
	case conn := <-s.next:
		return conn
	case <-time.After(spareWait):
		return nil
	}
}

// read begins TLS, where there is any, within Limits.ConnectTimeout, and reads until the
// connection ends, or is to be read by another goroutine. A packet that makes mochi or the
// hook panic ends this connection and no other.
func (s *Server) read(conn *Conn) (again bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			again, err = false, s.panicked(conn, p)
		}
	}()
	if !conn.reader.begun {
		if err := s.begin(conn); err != nil {
			return false, err
		}
	}
	for {
		b, err := conn.next()
		if err != nil {
			return false, err
		}
		if end, err := conn.handle(b); end || err != nil {
			return false, err
		}
		if conn.reader.grown {
			conn.reader.grown = false
			return true, nil
		}
	}
}

func (s *Server) panicked(conn *Conn, p any) error {
	s.metrics.panics.Inc()
	s.logger.Error("a packet caused a panic; its connection is closed", "remote", conn.RemoteAddr().String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return packets.ErrMalformedPacket
}

// begin finds out where the connection comes from, and begins TLS.
//
//go:noinline
func (s *Server) begin(conn *Conn) error {
	r := &conn.reader
	r.begun = true
	if address := addressKey(conn.RemoteAddr()); address != (paceKey{}) {
		r.pace.address = s.paces.take(address, addressRate)
	}
	r.raw = rawOf(conn.socket)
	if t := conn.tls(); t != nil {
		_ = t.SetWriteDeadline(epoch.Add(r.idle)) // as for reading; writeAll sets its own
		if err := t.Handshake(); err != nil {
			s.metrics.handshakeErrors.Inc()
			return fmt.Errorf("TLS handshake: %w", err)
		}
	}
	return nil
}

// end closes a connection whose reader has returned with err.
func (s *Server) end(conn *Conn, err error) {
	defer s.wg.Done()
	if conn.State != nil {
		if s.Closing() {
			conn.sendAway()
		}
		if conn.SentAway() {
			conn.intake.Drain(s.limits.Drain) // what was accepted is still acknowledged
			conn.disconnect(s.away)
		}
		s.hook.Ended(conn, err)
	}
	conn.finish()
	s.paces.drop(conn.reader.pace.address)
	s.paces.drop(conn.reader.pace.user)
	s.mu.Lock()
	conn.listener.open--
	delete(s.conns, conn)
	s.mu.Unlock()
	s.metrics.connections.Dec()
	s.logger.Debug("connection ended", "remote", conn.RemoteAddr().String(), "err", err)
}

// Closing reports whether Shutdown was called.
func (s *Server) Closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// Shutdown stops reading, waits for the publishes under way to be stored and
// acknowledged (Limits.Drain), sends every client DISCONNECT (0x8B, or 0x9C with
// Options.Reference), and returns when all connections are closed. Those that are not
// when ctx ends are cut off. The listeners must be closed before. It may be repeated.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	for _, c := range s.open() {
		c.sendAway() // nothing more is read; serve does the rest
	}
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }() // ends with the last connection
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	cut := s.open()
	for _, c := range cut {
		_ = c.socket.Close()
	}
	<-done
	return fmt.Errorf("%d connections were cut off: %w", len(cut), context.Cause(ctx))
}

// Counts are the open connections of a server, and what it has read and written since it
// started.
type Counts struct {
	Connections                            int64
	Received, PublishReceived, PublishSent int64 // packets; Received: of any type
	BytesReceived                          int64
}

// counts are those of Counts that are counted up.
type counts struct {
	received, publishReceived, publishSent, bytesReceived atomic.Int64
}

// Counts returns the counts of now.
func (s *Server) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Counts{
		Connections: int64(len(s.conns)),
		Received:    s.counts.received.Load(), PublishReceived: s.counts.publishReceived.Load(),
		PublishSent: s.counts.publishSent.Load(), BytesReceived: s.counts.bytesReceived.Load(),
	}
}
