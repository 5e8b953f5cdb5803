package broker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
)

// ProxyOptions configures Proxies.
type ProxyOptions struct {
	From       []netip.Prefix // addresses of load balancers, which are believed; none: nobody is
	Timeout    time.Duration  // from accept to the end of the header [5 s]
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Proxies reads what trusted load balancers say about their clients in front of a
// connection: the PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt). From then on
// RemoteAddr of the connection is the client's.
//
// Whoever is not trusted has no header to send: its bytes are the protocol's own,
// and a header among them is nonsense that ends the connection there.
type Proxies struct {
	from    []netip.Prefix
	timeout time.Duration
	logger  *slog.Logger
	metrics *proxyMetrics
	warned  atomic.Int64 // Unix seconds of the last warning
}

// NewProxies returns what Listen needs.
func NewProxies(o ProxyOptions) *Proxies {
	p := &Proxies{from: o.From, timeout: o.Timeout, logger: o.Logger, metrics: newProxyMetrics(o.Registerer)}
	def(&p.timeout, 5*time.Second)
	if p.logger == nil {
		p.logger = slog.New(slog.DiscardHandler)
	}
	return p
}

// Listen returns the listener whose connections carry their clients' addresses. It
// is put below TLS: the header comes before the handshake. Accept does not wait for
// the header; the first Read or RemoteAddr of the connection does, for at most
// Timeout.
//
// A trusted address must send a header, since the specification forbids to guess
// whether there is one (section 2), and a connection without it, or with one that is
// malformed, cut or too long, fails its reads. optional takes connections without
// one as they are: it is for HTTP, where the same balancer may speak for a client
// in X-Forwarded-For instead, which is believed for the same reason. Without
// trusted addresses l is returned.
func (p *Proxies) Listen(l net.Listener, optional bool) net.Listener {
	if len(p.from) == 0 {
		return l
	}
	return &proxyListener{Listener: l, proxies: p, optional: optional}
}

func (p *Proxies) trusts(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return false
	}
	for _, prefix := range p.from {
		if prefix.Contains(ap.Addr().Unmap().WithZone("")) {
			return true
		}
	}
	return false
}

// refuse counts a connection whose header could not be taken, and warns of it, once
// in ten seconds: only trusted ones get here, so it is a balancer's configuration.
func (p *Proxies) refuse(remote net.Addr, err error) {
	p.metrics.refused.Inc()
	now := time.Now().Unix()
	if last := p.warned.Load(); now-last >= 10 && p.warned.CompareAndSwap(last, now) {
		p.logger.Warn("a connection from a trusted load balancer has no usable PROXY header, and is closed", "remote", remote.String(), "err", err)
	}
}

type proxyListener struct {
	net.Listener
	proxies  *Proxies
	optional bool
}

// Accept implements net.Listener.
func (l *proxyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || !l.proxies.trusts(c.RemoteAddr()) {
		return c, err
	}
	return &proxiedConn{Conn: c, proxies: l.proxies, optional: l.optional, until: time.Now().Add(l.proxies.timeout)}, nil
}

// proxiedConn is a connection of a trusted balancer. The header is read by whoever
// first reads, or asks for the address: in net/http and in Server that is the
// connection's own goroutine.
type proxiedConn struct {
	net.Conn
	proxies  *Proxies
	optional bool
	until    time.Time // for the header

	once   sync.Once
	client net.Addr // set by once; nil: the connection's own
	err    error    // set by once
	rest   []byte   // set by once; what came after the header; owned by the reader then

	mu     sync.Mutex
	read   time.Time // mu guards: the read deadline that was asked for
	inside bool      // mu guards: the header is being read
}

// Read implements net.Conn.
func (c *proxiedConn) Read(p []byte) (int, error) {
	c.once.Do(c.header)
	if c.err != nil {
		return 0, c.err
	}
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		if c.rest = c.rest[n:]; len(c.rest) == 0 {
			c.rest = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// RemoteAddr implements net.Conn: it is the client's address, or the balancer's own
// where it connects in its own name (LOCAL, UNKNOWN) or its header could not be read.
func (c *proxiedConn) RemoteAddr() net.Addr {
	c.once.Do(c.header)
	if c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// CloseWrite shuts the writing side down, as that of *net.TCPConn does.
func (c *proxiedConn) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetDeadline implements net.Conn.
func (c *proxiedConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.Conn.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn. While the header is read, the sooner of the
// two deadlines holds.
func (c *proxiedConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = t
	return c.arm()
}

// arm is called with mu held.
func (c *proxiedConn) arm() error {
	t := c.read
	if c.inside && (t.IsZero() || c.until.Before(t)) {
		t = c.until
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *proxiedConn) within(header bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inside = header
	_ = c.arm() // if the connection is closed, the read says so
}

// header reads the header, whoever asks for it first.
func (c *proxiedConn) header() {
	c.within(true)
	defer c.within(false)
	head, rest, err := cutProxyHeader(c.Conn)
	if errors.Is(err, errNoProxyHeader) && c.optional {
		c.rest = rest
		return
	}
	if err == nil {
		c.client, err = clientOf(head)
	}
	if err != nil {
		c.err = fmt.Errorf("PROXY header: %w", err)
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) { // a health check that only connects
			c.proxies.refuse(c.Conn.RemoteAddr(), err)
		}
		return
	}
	c.rest = rest
}

// Of a header in version 2, address and TLVs together: a client's certificate has
// room. Version 1 is a line of at most 107 bytes.
const (
	maxProxyV2 = 4096
	maxProxyV1 = 107
	proxyFixed = 16 // of version 2: signature, command, family, length
)

var (
	errNoProxyHeader   = errors.New("there is none")
	errProxyHeaderLong = errors.New("it is over its limit (107 bytes in version 1, 4096 in version 2)")
)

// cutProxyHeader reads as far as the header's end, and returns the header and what
// was read beyond it. errNoProxyHeader, with all that was read as rest, as soon as it
// can be none.
func cutProxyHeader(r io.Reader) (head, rest []byte, err error) {
	b := make([]byte, 0, 256)
	for {
		switch v1, v2 := begins(b, []byte("PROXY ")), begins(b, proxyproto.SIGV2); {
		case !v1 && !v2:
			return nil, b, errNoProxyHeader
		case v2 && len(b) >= proxyFixed:
			length := int(binary.BigEndian.Uint16(b[proxyFixed-2:]))
			if length > maxProxyV2 {
				return nil, nil, errProxyHeaderLong
			}
			if end := proxyFixed + length; len(b) >= end {
				return b[:end], b[end:], nil
			}
		case v1:
			if end := bytes.IndexByte(b, '\n') + 1; end > 0 && end <= maxProxyV1 {
				return b[:end], b[end:], nil
			} else if end > 0 || len(b) >= maxProxyV1 {
				return nil, nil, errProxyHeaderLong
			}
		}
		if len(b) == cap(b) {
			b = append(make([]byte, 0, proxyFixed+maxProxyV2), b...)
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, b, err
		}
	}
}

// begins reports whether b may be the beginning of what starts with mark.
func begins(b, mark []byte) bool {
	n := min(len(b), len(mark))
	return bytes.Equal(b[:n], mark[:n])
}

// clientOf returns the address that a header names, nil if it names none.
func clientOf(head []byte) (net.Addr, error) {
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(head), 256))
	if err != nil {
		return nil, err
	}
	source, _, isTCP := h.TCPAddrs()
	switch {
	case h.Command.IsLocal() || h.TransportProtocol.IsUnspec() || h.TransportProtocol == proxyproto.UnixStream:
		return nil, nil
	case !isTCP:
		return nil, errors.New("it speaks of another transport than TCP")
	}
	return source, nil
}
