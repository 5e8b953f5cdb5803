package broker_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

func TestSlowPeerIsTurnedAwayAndToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := pipe(broker.Limits{HighWater: 1000})
		var writable atomic.Int32
		accept(c, 5, nil, func() { writable.Add(1) })
		synctest.Wait() // the writer has taken CONNACK, and waits for the peer
		f := frame(strings.Repeat("x", 300))
		sent := 0
		for c.Publish(f, delivery.Packet{QoS: 1, ID: uint16(sent + 1)}) == delivery.Written {
			if sent++; sent > 10 {
				t.Fatal("nothing was turned away")
			}
		}
		if sent != 3 { // up to the mark, and the one that passes it
			t.Errorf("%d publications were taken", sent)
		}
		for range 5 {
			if c.Publish(f, delivery.Packet{QoS: 1, ID: 99}) != delivery.NoRoom {
				t.Error("there is room at once")
			}
		}
		synctest.Wait()
		if n := writable.Load(); n != 0 {
			t.Errorf("Writable was called %d times before there was room", n)
		}
		p.readAll()
		synctest.Wait()
		if n := writable.Load(); n != 1 {
			t.Errorf("Writable was called %d times, want once", n)
		}
		all, rest := p.packets()
		if len(all) != sent || len(rest) > 0 {
			t.Fatalf("the peer got %d packets and % x", len(all), rest)
		}
		for i, b := range all {
			if pk := decodeAck(t, b, 5); pk.PacketID != uint16(i+1) {
				t.Errorf("packet %d has identifier %d", i, pk.PacketID)
			}
		}
		for range 20 { // nobody is turned away, nobody is told
			c.Publish(f, delivery.Packet{})
			synctest.Wait()
		}
		if n := writable.Load(); n != 1 {
			t.Errorf("Writable was called %d times, want once", n)
		}
		finish(c, p)
	})
}

// What is refused while the writer is busy with the very bytes that free the room
// is told too: no wake-up is lost.
func TestWritableIsNeverLost(t *testing.T) {
	t.Parallel()
	server, client := net.Pipe()
	c := broker.NewConn(server, broker.Limits{HighWater: 64, MaxBuffer: 1 << 20})
	room := make(chan struct{}, 1)
	accept(c, 4, nil, func() {
		select {
		case room <- struct{}{}:
		default:
		}
	})
	p := &peer{Conn: client}
	p.readAll()
	f := frame("hello")
	for range 3000 {
		for c.Publish(f, delivery.Packet{}) == delivery.NoRoom {
			select {
			case <-room:
			case <-time.After(10 * second):
				t.Fatal("Writable was not called")
			}
		}
	}
	finish(c, p)
}

func TestHardLimitCutsOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := pipe(broker.Limits{HighWater: 1000, MaxBuffer: 5000})
		accept(c, 5, nil, nil)
		synctest.Wait()
		reader := make(chan error)
		go func() { _, err := c.Next(); reader <- err }()
		for range 3000 {
			c.WriteAck(packets.Puback, 1, 0) // of a peer that sends and does not read
		}
		if err := <-reader; err == nil {
			t.Error("the reader goes on")
		}
		if err := c.Write([]byte{0xD0, 0}); err == nil {
			t.Error("Write takes more")
		}
		if c.Publish(frame("x"), delivery.Packet{}) != delivery.Written {
			t.Error("a closed connection takes everything, and this one does not")
		}
		start := time.Now()
		c.Finish()
		if d := time.Since(start); d > 3*second {
			t.Errorf("finish took %v", d)
		}
		_ = p.Close()
	})
}

func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := pipe(broker.Limits{WriteTimeout: 7 * second})
		accept(c, 5, nil, nil)
		start := time.Now()
		if _, err := c.Next(); err == nil || time.Since(start) != 7*second {
			t.Errorf("the reader ended after %v with %v, want after 7 s", time.Since(start), err)
		}
		c.Finish()
		_ = p.Close()
	})
}

// Everything in the buffer, up to 384 KiB, used to be written under one deadline: a
// peer that read all the time, at the pace of a bad mobile line, was cut off after
// 30 s, came back, and got the same again. What counts is that it takes something.
func TestSlowPeerThatReadsIsKept(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, broker.Limits) (*broker.Conn, *peer){
		"TCP":       func(_ *testing.T, l broker.Limits) (*broker.Conn, *peer) { return pipe(l) },
		"WebSocket": webSocketPipe,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, p := open(t, broker.Limits{WriteTimeout: 7 * second})
				accept(c, 5, func(connect *packets.Packet) { connect.Connect.Keepalive = 0 }, nil)
				f := frame(strings.Repeat("x", 60_000))
				for range 3 {
					if c.Publish(f, delivery.Packet{}) != delivery.Written {
						t.Fatal("not taken")
					}
				}
				buf := make([]byte, 4<<10)
				start, got := time.Now(), 0
				for got < 150_000 { // 4 KiB a second
					time.Sleep(second)
					n, err := p.Read(buf)
					if err != nil {
						t.Fatalf("cut off after %v with %d bytes read: %v", time.Since(start), got, err)
					}
					got += n
				}
				start = time.Now() // and now it stops
				least := 6 * second
				if name == "WebSocket" { // the piece of 16 KiB on its way is what it had 7 s for, and it took 4 KiB of that a second
					least = 7*second - 4*second
				}
				if _, err := c.Next(); err == nil || time.Since(start) < least || time.Since(start) > 9*second {
					t.Errorf("the reader ended %v after the peer had stopped, with %v; want %v to 9 s", time.Since(start), err, least)
				}
				c.Finish()
				_ = p.Close()
			})
		})
	}
}

// socket is a connection with a large send buffer, as the kernel has them: a write that
// has filled it goes on when a third of it is free, but a new write puts in what fits.
type socket struct {
	net.Conn
	mu       sync.Mutex
	used     int           // mu guards: bytes of socketBuffer
	deadline time.Time     // mu guards: for writes
	changed  chan struct{} // mu guards: closed when one of them changes
}

const socketBuffer = 900 << 10

func (s *socket) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *socket) Write(b []byte) (n int, err error) {
	for {
		s.mu.Lock()
		took := min(len(b)-n, socketBuffer-s.used)
		n, s.used = n+took, s.used+took
		for n < len(b) && socketBuffer-s.used < socketBuffer/3 {
			left, changed := time.Until(s.deadline), s.changed
			s.mu.Unlock()
			if left <= 0 {
				return n, os.ErrDeadlineExceeded
			}
			select {
			case <-changed:
			case <-time.After(left):
			}
			s.mu.Lock()
		}
		s.mu.Unlock()
		if n == len(b) {
			return n, nil
		}
	}
}

func (s *socket) SetWriteDeadline(t time.Time) error {
	s.change(func() { s.deadline = t })
	return nil
}

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetWriteDeadline(t), s.Conn.SetReadDeadline(t))
}

// The kernel calls a socket writable when a third of its buffer is free. A peer that
// is too slow for that within the limit takes something all the same.
func TestSlowPeerBehindALargeSocketBuffer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		s := &socket{Conn: server, changed: make(chan struct{})}
		c := broker.NewConn(s, broker.Limits{WriteTimeout: 8 * second, HighWater: 16 << 20, MaxBuffer: 32 << 20})
		accept(c, 5, func(connect *packets.Packet) { connect.Connect.Keepalive = 0 }, nil)
		f := frame(strings.Repeat("x", 60_000))
		for range 150 { // 9 MB: more than the socket holds
			c.Publish(f, delivery.Packet{})
		}
		reader := make(chan error, 1)
		go func() { _, err := c.Next(); reader <- err }() // ends with the connection
		for range 60 {                                    // 32 KiB a second: in 8 s less than a third
			time.Sleep(second)
			s.change(func() { s.used -= 32 << 10 })
			select {
			case err := <-reader:
				t.Fatalf("cut off: %v", err)
			default:
			}
		}
		start := time.Now() // and now it stops
		if err := <-reader; err == nil || time.Since(start) > 9*second {
			t.Errorf("the reader ended %v after the peer had stopped, with %v", time.Since(start), err)
		}
		_ = client.Close()
		c.Finish()
	})
}

func TestFarewellIsLast(t *testing.T) {
	t.Parallel()
	for _, version := range []byte{4, 5} {
		synctest.Test(t, func(t *testing.T) {
			c, p := pipe(broker.Limits{})
			accept(c, version, nil, nil)
			c.WriteAck(packets.Puback, 1, 0)
			c.Disconnect(delivery.ErrTakenOver)
			c.Disconnect(delivery.ErrRevoked) // the first reason counts
			c.WriteAck(packets.Puback, 2, 0)
			c.WriteSubAck(packets.Suback, 3, []byte{0})
			c.Pubrel(4)
			if c.Publish(frame("x"), delivery.Packet{}) != delivery.Written {
				t.Error("a closing connection takes everything, and this one does not")
			}
			if err := c.Write([]byte{0xD0, 0}); err == nil {
				t.Error("Write takes more")
			}
			if _, err := c.Next(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Read: %v, want closed", err)
			}
			p.readAll()
			c.Finish()
			synctest.Wait()
			all, rest := p.packets()
			want := int(version) - 3 // PUBACK, and in MQTT 5 DISCONNECT
			if len(all) != want || len(rest) > 0 || !bytes.Equal(all[0], []byte{0x40, 2, 0, 1}) {
				t.Fatalf("version %d: the peer got % x and % x", version, all, rest)
			}
			if version == 5 {
				if pk := decodeAck(t, all[1], 5); pk.ReasonCode != 0x8E || pk.Properties.ReasonString == "" {
					t.Errorf("DISCONNECT says %#x %q", pk.ReasonCode, pk.Properties.ReasonString)
				}
			}
			if !errors.Is(p.ended(), io.EOF) {
				t.Errorf("the peer's connection ended with %v", p.ended())
			}
			_ = p.Close()
		})
	}
}

func TestFinishWaitsForThePeer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := pipe(broker.Limits{Linger: 3 * second})
		accept(c, 5, nil, nil)
		c.WriteAck(packets.Puback, 1, 0)
		time.AfterFunc(2*second, p.readAll)
		start := time.Now()
		c.Finish()
		if d := time.Since(start); d != 2*second {
			t.Errorf("finish took %v, want 2 s", d)
		}
		synctest.Wait()
		if all, _ := p.packets(); len(all) != 1 {
			t.Errorf("the peer got % x", all)
		}
		_ = p.Close()
	})
}

func TestFinishDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := pipe(broker.Limits{Linger: 3 * second})
		accept(c, 5, nil, nil)
		start := time.Now()
		c.Finish()
		if d := time.Since(start); d != 3*second {
			t.Errorf("finish took %v, want 3 s", d)
		}
		_ = p.Close()
	})
}

func TestFinishWithNothingWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, p := pipe(broker.Limits{})
		c.Disconnect(delivery.ErrRevoked) // before CONNECT: says nothing
		start := time.Now()
		c.Finish()
		if d := time.Since(start); d != 0 {
			t.Errorf("finish took %v", d)
		}
		p.readAll()
		synctest.Wait()
		if len(p.got) > 0 {
			t.Errorf("the peer got % x", p.got)
		}
		_ = p.Close()
	})
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		keepalive uint16 // 0 and connected: none
		connected bool
		send      []byte
		want      time.Duration
	}{
		"no CONNECT":                      {send: []byte{0x10}, want: 10 * second},
		"keepalive":                       {connected: true, keepalive: 20, want: 30 * second},
		"longest keepalive":               {connected: true, keepalive: 65535, want: 98302*second + second/2},
		"half a packet":                   {connected: true, keepalive: 1000, send: []byte{0x30, 5, 'x'}, want: 30 * second},
		"half a packet without keepalive": {connected: true, send: []byte{0x30, 5, 'x'}, want: 30 * second},
		"half a packet, short keepalive":  {connected: true, keepalive: 10, send: []byte{0x30}, want: 15 * second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, p := pipe(broker.Limits{})
				start := time.Now()
				if test.connected {
					p.readAll()
					go func() { _, _ = p.Write(validPackets(5)["CONNECT"]) }()
					if _, err := c.Next(); err != nil {
						t.Fatal(err)
					}
					accept(c, 5, func(connect *packets.Packet) { connect.Connect.Keepalive = test.keepalive }, nil)
				}
				go func() { _, _ = p.Write(test.send) }()
				var err error
				for err == nil {
					_, err = c.Next()
				}
				if d := time.Since(start); d != test.want || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the reader ended after %v with %v, want after %v", d, err, test.want)
				}
				c.Finish()
				_ = p.Close()
			})
		})
	}
}

func TestFramingErrorsAreTold(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		send []byte
		code byte
	}{
		"too large": {[]byte{0x30, 0xff, 0xff, 0x7f}, 0x95},
		"malformed": {[]byte{0x30, 0xff, 0xff, 0xff, 0xff}, 0x81},
		"QoS 3":     {[]byte{0x36}, 0x81},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, p := pipe(broker.Limits{})
				go func() { _, _ = p.Write(validPackets(5)["CONNECT"]) }()
				_, _ = c.Next()
				accept(c, 5, nil, nil)
				p.readAll()
				go func() { _, _ = p.Write(test.send) }()
				if _, err := c.Next(); err == nil {
					t.Error("Read: no error")
				}
				c.Finish()
				synctest.Wait()
				if all, _ := p.packets(); len(all) != 1 || decodeAck(t, all[0], 5).ReasonCode != test.code {
					t.Errorf("the peer got % x, want DISCONNECT %#x", all, test.code)
				}
				_ = p.Close()
			})
		})
	}
}

func TestMaximumPacketSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := frame(strings.Repeat("x", 50))
		size := len(broker.AppendPublish(nil, f, 5, delivery.Packet{QoS: 1}))
		for _, limit := range []int{size - 1, size} {
			c, p := pipe(broker.Limits{})
			accept(c, 5, func(connect *packets.Packet) { connect.Properties.MaximumPacketSize = uint32(limit) }, nil)
			p.readAll()
			want := delivery.Written
			if limit < size {
				want = delivery.TooLarge
			}
			if got := c.Publish(f, delivery.Packet{QoS: 1, ID: 1}); got != want {
				t.Errorf("limit %d of %d: outcome %v, want %v", limit, size, got, want)
			}
			c.WriteAck(packets.Puback, 1, 0)
			c.Finish()
			synctest.Wait()
			_ = p.Close()
			all, rest := p.packets()
			if len(rest) > 0 || len(all) != map[bool]int{true: 2, false: 1}[limit >= size] {
				t.Errorf("limit %d of %d: the peer got % x and % x", limit, size, all, rest)
			}
		}
	})
}

// Many write, one reads: every packet arrives whole, and those of one writer in order.
func TestConnRaces(t *testing.T) {
	t.Parallel()
	server, client := net.Pipe()
	c := broker.NewConn(server, broker.Limits{HighWater: 4000, MaxBuffer: 10 << 20})
	accept(c, 5, nil, nil)
	p := &peer{Conn: client}
	p.readAll()
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for i := range 300 {
				id := uint16(w<<12 | i + 1)
				switch w % 3 {
				case 0:
					c.WriteAck(packets.Puback, id, 0)
				case 1:
					for c.Publish(frame("x"), delivery.Packet{QoS: 1, ID: id}) != delivery.Written {
						time.Sleep(time.Microsecond)
					}
				default:
					c.WriteSubAck(packets.Suback, id, []byte{1, 2, 0x80})
				}
			}
		})
	}
	wg.Wait()
	c.Disconnect(&chat.Error{Code: chat.Quota})
	c.Finish()
	for p.ended() == nil {
		time.Sleep(time.Millisecond)
	}
	all, rest := p.packets()
	if len(all) != 6*300+1 || len(rest) > 0 {
		t.Fatalf("%d packets came, and %d bytes", len(all), len(rest))
	}
	last := map[uint16]uint16{}
	for _, b := range all[:len(all)-1] {
		id := decodeAck(t, b, 5).PacketID
		if w := id >> 12; id&0xfff != last[w]+1 {
			t.Fatalf("writer %d: %d came after %d", w, id&0xfff, last[w])
		}
		last[id>>12] = id & 0xfff
	}
	if pk := decodeAck(t, all[len(all)-1], 5); pk.FixedHeader.Type != packets.Disconnect || pk.ReasonCode != 0x97 {
		t.Errorf("the last packet is %+v", pk)
	}
	_ = p.Close()
}

// The read deadline is moved when it has passed, not for every packet: the keepalive counts
// from the last one all the same, and a read that was interrupted goes on.
func TestKeepaliveCountsFromTheLastPacket(t *testing.T) {
	t.Parallel()
	ts := httptest.NewTLSServer(nil) // for its certificate
	config := ts.TLS.Clone()
	config.NextProtos = nil
	ts.Close()
	for name, open := range map[string]func(*testing.T) (*broker.Conn, net.Conn, func([]byte) []byte){
		"TCP": func(*testing.T) (*broker.Conn, net.Conn, func([]byte) []byte) {
			c, p := pipe(broker.Limits{})
			return c, p, nil
		},
		"TLS": func(*testing.T) (*broker.Conn, net.Conn, func([]byte) []byte) {
			server, client := net.Pipe()
			return broker.NewConn(tls.Server(server, config), broker.Limits{}), tls.Client(client, &tls.Config{InsecureSkipVerify: true}), nil
		},
		"WebSocket": func(t *testing.T) (*broker.Conn, net.Conn, func([]byte) []byte) {
			t.Helper()
			c, p := webSocketPipe(t, broker.Limits{})
			return c, p, func(b []byte) []byte { return append([]byte{0x82, 0x80 | byte(len(b)), 0, 0, 0, 0}, b...) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, p, frame := open(t)
				send := func(b []byte) {
					if frame != nil {
						b = frame(b)
					}
					if _, err := p.Write(b); err != nil {
						t.Error(err)
					}
				}
				go func() { send(validPackets(5)["CONNECT"]) }()
				if _, err := c.Next(); err != nil {
					t.Fatal(err)
				}
				accept(c, 5, func(connect *packets.Packet) { connect.Connect.Keepalive = 20 }, nil)
				go func() { _, _ = io.Copy(io.Discard, p) }() // ends with the connection
				start := time.Now()
				go func() {
					for range 5 {
						time.Sleep(25 * second)
						send([]byte{0xc0, 0})
					}
					time.Sleep(20 * second)
					send([]byte{0x30}) // half a packet does not count
				}()
				got := 0
				var err error
				for err == nil {
					var b []byte
					b, err = c.Next()
					got += len(b)
				}
				var timeout net.Error
				if d := time.Since(start); got != 5*2 || d != (5*25+30)*second || !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("%d bytes came, and the reader ended after %v with %v", got, d, err)
				}
				c.Close()
				go func() { _ = p.Close() }()
				c.Finish()
			})
		})
	}
}
