package broker_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/broker/brokertest"
)

const patience = brokertest.Patience

// v2 is a PROXY header in version 2: command and family as the specification
// numbers them, then an address block and TLVs.
func v2(command, family byte, length int, block ...byte) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x20|command, family)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	return string(append(b, block...))
}

var (
	block4 = []byte{203, 0, 113, 7, 10, 0, 0, 1, 0x12, 0x34, 0x07, 0x5b} // 203.0.113.7:4660 to 10.0.0.1:1883
	block6 = slices.Concat(netip.MustParseAddr("2001:db8::7").AsSlice(), netip.MustParseAddr("2001:db8::1").AsSlice(), block4[8:])
	tlvs   = append([]byte{0x04, 0x0b, 0xb8}, make([]byte, 3000)...) // a NOOP of 3,000 bytes
	line6  = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff1 65535 65535\r\n"
	junk   = strings.Repeat("PROXY TCP4 ", 20)
)

// The header is taken off, whoever is behind it is the connection's other end, and
// what follows is read as it was sent: also when both come byte by byte, or at once.
// Anything else from a trusted address ends the connection; what others send is
// their own affair.
func TestProxyHeader(t *testing.T) {
	t.Parallel()
	const own = "127.0.0.1"
	for _, tt := range []struct {
		name, sent string
		from       string // the connection's own address; "": the trusted one
		optional   bool
		remote     string // "": own
		got        string
		wrong      bool // the read fails
	}{
		{name: "version 1", sent: "PROXY TCP4 203.0.113.7 10.0.0.1 4660 1883\r\nhello", remote: "203.0.113.7:4660", got: "hello"},
		{name: "version 1, IPv6, the longest", sent: line6 + "hello", remote: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", got: "hello"},
		{name: "version 1, unknown", sent: "PROXY UNKNOWN\r\nhello", got: "hello"},
		{name: "version 2", sent: v2(1, 0x11, 12, block4...) + "hello", remote: "203.0.113.7:4660", got: "hello"},
		{name: "version 2, IPv6", sent: v2(1, 0x21, 36, block6...) + "hello", remote: "[2001:db8::7]:4660", got: "hello"},
		{name: "version 2, TLVs", sent: v2(1, 0x11, 12+len(tlvs), append(bytes.Clone(block4), tlvs...)...) + "hello", remote: "203.0.113.7:4660", got: "hello"},
		{name: "version 2, a long stream behind", sent: v2(1, 0x11, 12, block4...) + junk, remote: "203.0.113.7:4660", got: junk},
		{name: "version 2, the balancer itself", sent: v2(0, 0x11, 12, block4...) + "hello", got: "hello"},
		{name: "version 2, the balancer itself, no block", sent: v2(0, 0, 0) + "hello", got: "hello"},
		{name: "none, where it may be left out", sent: "POST / HTTP/1.1\r\n", optional: true, got: "POST / HTTP/1.1\r\n"},
		{name: "one, where it may be left out", sent: v2(1, 0x11, 12, block4...) + "GET", optional: true, remote: "203.0.113.7:4660", got: "GET"},
		{name: "untrusted", sent: "PROXY TCP4 203.0.113.7 10.0.0.1 4660 1883\r\n", from: "127.0.0.2", remote: "127.0.0.2", got: "PROXY TCP4 203.0.113.7 10.0.0.1 4660 1883\r\n"},

		{name: "none", sent: "\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02me", wrong: true},
		{name: "version 1, over its limit", sent: junk, wrong: true},
		{name: "version 1, a line over its limit", sent: strings.TrimSuffix(line6, "\r\n") + "      \r\n", wrong: true},
		{name: "version 1, no address", sent: "PROXY TCP4 203.0.113.999 10.0.0.1 4660 1883\r\n", wrong: true},
		{name: "version 1, where it may be left out", sent: "PROXY TCP9 1\r\n", optional: true, wrong: true},
		{name: "version 2, over its limit", sent: v2(1, 0x11, 4097), wrong: true},
		{name: "version 2, cut", sent: v2(1, 0x11, 12, block4[:5]...), wrong: true},
		{name: "version 2, UDP", sent: v2(1, 0x12, 12, block4...), wrong: true},
		{name: "version 2, no such family", sent: v2(1, 0x13, 12, block4...), wrong: true},
		{name: "version 3", sent: "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00", wrong: true},
	} {
		for _, bytewise := range []bool{false, true} {
			name := tt.name
			if bytewise {
				name += ", byte by byte"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				refused := prometheus.NewRegistry()
				c, peer := proxied(t, broker.ProxyOptions{Registerer: refused}, tt.optional, tt.from)
				go func() { // ends when all is sent, or nobody reads any more
					defer func() { _ = peer.(*net.TCPConn).CloseWrite() }()
					if !bytewise {
						_, _ = io.WriteString(peer, tt.sent)
						return
					}
					for _, b := range []byte(tt.sent) {
						if _, err := peer.Write([]byte{b}); err != nil {
							return
						}
					}
				}()
				remote := tt.remote
				if remote == "" {
					remote = own
				}
				if got := c.RemoteAddr().String(); got != remote && !strings.HasPrefix(got, remote+":") {
					t.Errorf("the remote address is %s, want %s", got, remote)
				}
				got, err := io.ReadAll(c)
				if tt.wrong != (err != nil) || string(got) != tt.got {
					t.Errorf("read %.100q, %v; want %.100q, an error %v", got, err, tt.got, tt.wrong)
				}
				if n := counter(t, refused, "parley_proxy_refused_total"); (n == 1) != tt.wrong {
					t.Errorf("%v connections are counted as refused", n)
				}
			})
		}
	}
}

// A trusted peer that sends no header in time, and one that is stopped before: the
// wait ends, with the sooner of the two deadlines, and the reader's own deadline is
// in force afterwards.
func TestProxyHeaderIsBounded(t *testing.T) {
	t.Parallel()
	for _, optional := range []bool{false, true} {
		c, peer := proxied(t, broker.ProxyOptions{Timeout: 50 * time.Millisecond}, optional, "")
		if _, err := io.WriteString(peer, "PROXY "); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 10)); !os.IsTimeout(err) && !strings.Contains(err.Error(), "timeout") {
			t.Errorf("optional %v: half a header: %v, want a timeout", optional, err)
		}
	}
	c, _ := proxied(t, broker.ProxyOptions{Timeout: time.Hour}, false, "")
	done := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 10)); done <- err }()
	if err := c.SetDeadline(time.Unix(1, 0)); err != nil { // as Conn.breakOff does
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("a read past its deadline succeeded")
		}
	case <-time.After(patience):
		t.Fatal("a deadline does not end the wait for the header")
	}
	c, peer := proxied(t, broker.ProxyOptions{Timeout: time.Hour}, false, "")
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(peer, "PROXY UNKNOWN\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 10)); !os.IsTimeout(err) {
		t.Errorf("after the header: %v, want the reader's own timeout", err)
	}
}

// proxied returns the accepted end of a connection, from an address that is trusted
// (127.0.0.1) or another one, and the peer.
func proxied(t *testing.T, o broker.ProxyOptions, optional bool, from string) (accepted, peer net.Conn) {
	t.Helper()
	o.From = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := net.Dialer{Timeout: patience}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	peer, err = d.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Skipf("no connection from %s: %v", from, err) // only Linux has all of 127.0.0.0/8
	}
	accepted, err = broker.NewProxies(o).Listen(ln, optional).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = accepted.Close(), peer.Close() })
	return accepted, peer
}

func counter(t *testing.T, r *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// Whatever comes, in whatever pieces: what was taken off and what is left are what was
// sent, and no more is taken than a header may have.
func FuzzProxyHeader(f *testing.F) {
	f.Add("PROXY UNKNOWN\r\nhello", byte(3))
	f.Add(v2(1, 0x11, 12, block4...)+"hello", byte(1))
	f.Add(v2(1, 0x11, 12+len(tlvs), append(bytes.Clone(block4), tlvs...)...), byte(255))
	f.Add(junk, byte(40))
	f.Fuzz(func(t *testing.T, sent string, piece byte) {
		r := bufio.NewReaderSize(&pieces{strings.NewReader(sent), 1 + int(piece)}, 256)
		h, err := broker.ReadProxyHeader(r)
		left, _ := io.ReadAll(r)
		head, isEnd := strings.CutSuffix(sent, string(left))
		switch {
		case !isEnd:
			t.Errorf("%q became %q", sent, left)
		case err == nil:
			if n := len(head); h.Version == 1 && (n > 107 || head[n-1] != '\n') || h.Version == 2 && n != 16+int(binary.BigEndian.Uint16([]byte(head[14:]))) || n > 16+4096 {
				t.Errorf("of %q the header is %q", sent, head)
			}
		case errors.Is(err, proxyproto.ErrNoProxyProtocol) && head != "":
			t.Errorf("%q, without a header, became %q", sent, left)
		}
	})
}

// pieces is a reader that gives a few bytes at a time.
type pieces struct {
	io.Reader
	n int
}

func (p *pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), p.n)]) }
