package broker_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"go.uber.org/goleak"

	"github.com/parleymq/parley/broker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// accept makes a connection that has had its CONNECT and CONNACK.
func accept(c *broker.Conn, version byte, change func(connect *packets.Packet), writable func()) {
	connect := &packets.Packet{ProtocolVersion: version, Connect: packets.ConnectParams{Keepalive: 10}}
	if change != nil {
		change(connect)
	}
	if writable == nil {
		writable = func() {}
	}
	c.Accepted(connect, "state", writable)
	_ = c.WriteConnack(&packets.Packet{ProtocolVersion: 4}, &packets.Packet{})
}

// peer is the other end of a connection. It reads when it is told to.
type peer struct {
	net.Conn
	mu  sync.Mutex
	got []byte
	end error
}

// readAll reads until the connection ends, in a goroutine that ends then.
func (p *peer) readAll() {
	go func() {
		for {
			var b [4096]byte
			n, err := p.Read(b[:])
			p.mu.Lock()
			p.got = append(p.got, b[:n]...)
			p.end = err
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

// packets returns what was read after CONNACK, packet by packet; rest is what
// follows of one that is not complete.
func (p *peer) packets() (all [][]byte, rest []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return splitAll(slices.Clone(p.got[min(4, len(p.got)):]))
}

func splitAll(b []byte) (all [][]byte, rest []byte) {
	for len(b) > 0 {
		n, digits := 0, 0
		for {
			if 1+digits >= len(b) {
				return all, b
			}
			d := b[1+digits]
			n |= int(d&0x7f) << (7 * digits)
			digits++
			if d < 0x80 {
				break
			}
		}
		if n += 1 + digits; n > len(b) {
			return all, b
		}
		all, b = append(all, b[:n]), b[n:]
	}
	return all, nil
}

// ended returns what the last read said, nil while it goes on.
func (p *peer) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

// pipe returns the two ends of an unbuffered connection: a write waits until the
// other end has read it.
func pipe(l broker.Limits) (*broker.Conn, *peer) {
	server, client := net.Pipe()
	return broker.NewConn(server, l), &peer{Conn: client}
}

// hijacked answers a request on a connection that is given already.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// webSocketPipe is pipe with a WebSocket at the server's end; the peer gets frames.
func webSocketPipe(t *testing.T, l broker.Limits) (*broker.Conn, *peer) {
	t.Helper()
	server, client := net.Pipe()
	r := &http.Request{Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}}
	answered := make(chan error, 1)
	go func() { _, err := http.ReadResponse(bufio.NewReader(client), r); answered <- err }()
	c, err := broker.NewWebSocketConn(hijacked{conn: server}, r, l)
	if err = errors.Join(err, <-answered); err != nil {
		t.Fatal(err)
	}
	return c, &peer{Conn: client}
}

// finish ends a connection as the server does.
func finish(c *broker.Conn, p *peer) {
	go func() { _, _ = io.Copy(io.Discard, p); _ = p.Close() }() // ends when c is closed
	c.Close()
	c.Finish()
}

const second = time.Second
