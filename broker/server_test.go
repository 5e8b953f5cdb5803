package broker_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// stubHook lets everybody in and acknowledges every publish when it is told to.
type stubHook struct {
	mu     sync.Mutex
	conns  []*broker.Conn
	taken  chan *broker.Publish
	pause  chan struct{} // closed: the reader goes on after a publish
	ended  chan error
	answer bool // publishes at once
}

func newStubHook() *stubHook {
	return &stubHook{taken: make(chan *broker.Publish, 100), ended: make(chan error, 100), answer: true}
}

func (h *stubHook) Connect(c *broker.Conn, pk *packets.Packet) error {
	in := broker.NewIntake(c, func(*broker.Publish, bool) {})
	c.Accepted(pk, in, func() {})
	h.mu.Lock()
	h.conns = append(h.conns, c)
	h.mu.Unlock()
	return c.WriteConnack(pk, &packets.Packet{})
}

func (h *stubHook) Packet(c *broker.Conn, pk *packets.Packet) error {
	in := c.State.(*broker.Intake)
	switch pk.FixedHeader.Type {
	case packets.Pingreq:
		c.WritePingresp()
		return nil
	case packets.Publish:
	default:
		return nil
	}
	if string(pk.Payload) == "panic" {
		panic("as was asked for")
	}
	p, ok := in.Begin(chat.Topic{}, pk.PacketID, pk.FixedHeader.Qos, pk.FixedHeader.Dup)
	if !ok {
		return packets.ErrRejectPacket
	}
	if h.answer {
		p.Settle(nil)
	}
	h.taken <- p
	if h.pause != nil {
		<-h.pause
	}
	return nil
}

func (h *stubHook) Ended(_ *broker.Conn, err error) { h.ended <- err }

// serve starts a server on a TCP port and returns its address.
func serve(t *testing.T, h *stubHook, l broker.Limits) (*broker.Server, string) {
	t.Helper()
	s, err := broker.New(broker.Options{Hook: h, Limits: l})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Serve(&flaky{Listener: ln}, nil) }()
	t.Cleanup(func() {
		_ = ln.Close()
		if err := <-done; err != nil {
			t.Error("Serve:", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error("Shutdown:", err)
		}
	})
	return s, ln.Addr().String()
}

// flaky is a listener whose first two calls of Accept fail.
type flaky struct {
	net.Listener
	calls int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.calls++; f.calls <= 2 {
		return nil, errors.New("too many open files")
	}
	return f.Listener.Accept()
}

func TestServerServesAfterAcceptHasFailed(t *testing.T) {
	t.Parallel()
	h := newStubHook()
	_, addr := serve(t, h, broker.Limits{})
	for _, version := range []byte{4, 5} {
		c := brokertest.Open(t, addr, brokertest.Connect{Version: version, ClientID: "a"})
		c.Publish(1, "x", "hello")
		c.Ping()
		c.Disconnect()
		if err := <-h.ended; err != nil {
			t.Errorf("the connection ended with %v", err)
		}
	}
}

func TestFirstPacketMustBeConnect(t *testing.T) {
	t.Parallel()
	h := newStubHook()
	_, addr := serve(t, h, broker.Limits{MaxConnectPacket: 100})
	for _, b := range [][]byte{
		{0xC0, 0},
		{0x10, 0xff, 0xff, 0xff, 0x7f},
		{0x10, 0xff, 0xff, 0xff, 0xff},
		{0x10, 99},
		[]byte("GET / HTTP/1.1\r\n\r\n"),
		{0x11, 0},
		{0x20, 2, 0, 0},
	} {
		c := brokertest.Dial(t, addr)
		c.SendBytes(b)
		if len(b) == 2 && b[1] == 99 {
			c.Close() // within its first packet
			continue
		}
		c.ExpectClosed()
	}
	if len(h.ended) != 0 {
		t.Error("Ended was called for a connection that was never accepted")
	}
}

func TestAPanicEndsItsConnectionAlone(t *testing.T) {
	t.Parallel()
	h := newStubHook()
	_, addr := serve(t, h, broker.Limits{})
	neighbour := brokertest.Open(t, addr, brokertest.Connect{ClientID: "b"})
	c := brokertest.Open(t, addr, brokertest.Connect{ClientID: "a"})
	c.PublishAsync(1, "x", "panic")
	c.ExpectClosed()
	if err := <-h.ended; !errors.Is(err, packets.ErrMalformedPacket) {
		t.Errorf("the connection ended with %v", err)
	}
	c = brokertest.Open(t, addr, brokertest.Connect{ClientID: "a"})
	c.SendBytes([]byte{0x82, 6, 0, 1, 0, 0, 1, 0x61}) // mochi panics: SUBSCRIBE without options
	if _, err := c.Recv(brokertest.Patience); err == nil {
		c.ExpectClosed()
	}
	neighbour.Ping()
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	h := newStubHook()
	_, addr := serve(t, h, broker.Limits{MaxConnections: 2})
	a := brokertest.Open(t, addr, brokertest.Connect{ClientID: "a"})
	brokertest.Open(t, addr, brokertest.Connect{ClientID: "b"})
	brokertest.Dial(t, addr).ExpectClosed()
	a.Disconnect()
	a.Close()
	<-h.ended
	for range 1000 { // the place is free a moment after the end is seen
		c := brokertest.Dial(t, addr)
		if c.Write(c.Encode(brokertest.Connect{ClientID: "c"}.Packet())) == nil {
			if _, err := c.Recv(brokertest.Patience); err == nil {
				return
			}
		}
	}
	t.Error("no place was freed")
}

// The last packet must reach a peer that is still sending: closing a socket with
// unread input resets the connection, and takes what was written back.
func TestFarewellReachesAPeerThatSends(t *testing.T) {
	t.Parallel()
	for name, dial := range map[string]func(t *testing.T, s *broker.Server, addr string) *brokertest.Client{
		"TCP": func(t *testing.T, _ *broker.Server, addr string) *brokertest.Client { return brokertest.Dial(t, addr) },
		"WebSocket": func(t *testing.T, s *broker.Server, _ string) *brokertest.Client {
			ts := httptest.NewServer(s.WebSocket(nil))
			t.Cleanup(ts.Close)
			return brokertest.DialWebSocket(t, strings.Replace(ts.URL, "http", "ws", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 10 {
				h := newStubHook()
				h.pause = make(chan struct{})
				s, addr := serve(t, h, broker.Limits{})
				c := dial(t, s, addr)
				c.MustConnect(brokertest.Connect{ClientID: "a"})
				c.PublishAsync(1, "x", "the reader is held up by this one")
				<-h.taken
				for range 200 { // and these stay in the socket
					c.PublishAsync(1, "x", strings.Repeat("y", 500))
				}
				h.mu.Lock()
				conn := h.conns[0]
				h.mu.Unlock()
				conn.Disconnect(&chat.Error{Code: chat.Quota})
				close(h.pause)
				c.Expect(packets.Puback)
				c.ExpectDisconnect(0x97)
			}
		})
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	h := newStubHook()
	h.answer = false
	s, addr := serve(t, h, broker.Limits{})
	idle := brokertest.Open(t, addr, brokertest.Connect{ClientID: "idle"})
	busy := brokertest.Open(t, addr, brokertest.Connect{ClientID: "busy"})
	half := brokertest.Dial(t, addr) // never says CONNECT
	old := brokertest.Open(t, addr, brokertest.Connect{Version: 4, ClientID: "old"})
	busy.PublishAsync(1, "x", "y")
	p := <-h.taken
	done := make(chan error)
	go func() { done <- s.Shutdown(t.Context()) }()
	idle.ExpectDisconnect(0x8B)
	old.ExpectClosed()
	half.ExpectClosed()
	p.Settle(nil) // committed meanwhile: still acknowledged
	busy.Expect(packets.Puback)
	busy.ExpectDisconnect(0x8B)
	if err := <-done; err != nil {
		t.Error("Shutdown:", err)
	}
	brokertest.Dial(t, addr).ExpectClosed()
}

func TestShutdownCutsOffWhatStays(t *testing.T) {
	t.Parallel()
	h := newStubHook()
	h.answer = false
	s, addr := serve(t, h, broker.Limits{Drain: 200 * time.Millisecond, Linger: 200 * time.Millisecond})
	c := brokertest.Open(t, addr, brokertest.Connect{ClientID: "busy"})
	c.PublishAsync(1, "x", "never stored")
	<-h.taken
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want one that says how many were cut off", err)
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	h := newStubHook()
	s, _ := serve(t, h, broker.Limits{})
	ts := httptest.NewServer(s.WebSocket(nil))
	t.Cleanup(ts.Close)
	url := strings.Replace(ts.URL, "http", "ws", 1)
	for _, test := range []struct {
		origin string
		proto  string
		want   int
	}{
		{"", "mqtt", http.StatusSwitchingProtocols},
		{ts.URL, "mqtt", http.StatusSwitchingProtocols},
		{"https://evil.example", "mqtt", http.StatusForbidden},
		{"null", "mqtt", http.StatusForbidden},
		{"", "mqttv3.1", http.StatusSwitchingProtocols},
		{"", "", http.StatusBadRequest},
	} {
		d := websocket.Dialer{HandshakeTimeout: brokertest.Patience}
		if test.proto != "" {
			d.Subprotocols = []string{test.proto}
		}
		header := http.Header{}
		if test.origin != "" {
			header.Set("Origin", test.origin)
		}
		ws, resp, err := d.Dial(url, header)
		if resp == nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if test.want == http.StatusForbidden && !strings.Contains(string(body), "--allowed-origins") {
			t.Errorf("origin %q is refused with %q", test.origin, body)
		}
		if resp.StatusCode != test.want {
			t.Errorf("origin %q, subprotocol %q: %d, want %d", test.origin, test.proto, resp.StatusCode, test.want)
		}
		if ws != nil {
			_ = ws.Close()
		}
	}

	c := brokertest.DialWebSocket(t, url)
	connect := c.Encode(brokertest.Connect{ClientID: "a"}.Packet())
	for i := range connect { // packets need not be aligned with frames
		c.SendBytes(connect[i : i+1])
	}
	c.Expect(packets.Connack)
	c.SendBytes(append(c.Encode(brokertest.Publish("x", 1, 1, "one")), c.Encode(brokertest.Publish("x", 1, 2, "two"))...))
	c.AwaitAck(packets.Puback, 1)
	c.AwaitAck(packets.Puback, 2)
	c.Ping()
	c.Disconnect()

	d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
	ws, resp, err := d.Dial(url, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if err := ws.WriteMessage(websocket.TextMessage, connect); err != nil {
		t.Fatal(err)
	}
	_ = ws.SetReadDeadline(time.Now().Add(brokertest.Patience))
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("after a text message: %v, want the connection closed", err)
	}
	_ = ws.Close()
}
