package broker

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
)

// ProxyOptions configures Proxies.
type ProxyOptions struct {
	From       []netip.Prefix // addresses of trusted load balancers; empty: none
	Timeout    time.Duration  // from accept to the end of the header [5 s]
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Proxies reads the headers of the PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt), that trusted load
// balancers send in front of a connection. From then on RemoteAddr of the connection is
// the client's.
//
// From other addresses a header is not recognized: it is garbage, which ends the connection.
type Proxies struct {
	from    []netip.Prefix
	timeout time.Duration
	logger  *slog.Logger
	refused interface{ Inc() } // a counter
	warned  atomic.Int64       // Unix seconds of the last warning
}

// NewProxies returns what Listen needs.
func NewProxies(o ProxyOptions) *Proxies {
	p := &Proxies{from: o.From, timeout: o.Timeout, logger: o.Logger, refused: newProxyRefused(o.Registerer)}
	p.timeout = cmp.Or(p.timeout, 5*time.Second)
	p.logger = cmp.Or(p.logger, slog.New(slog.DiscardHandler))
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
	p.refused.Inc()
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

// proxiedConn is a connection of a trusted balancer. The first call of Read or RemoteAddr
// reads the header: in net/http and in Server it comes from the connection's own goroutine.
type proxiedConn struct {
	net.Conn
	proxies  *Proxies
	optional bool
	until    time.Time // for the header

	once     sync.Once
	client   net.Addr      // set by once; nil: the connection's own
	err      error         // set by once
	buffered *bufio.Reader // set by once; owned by the reader then; nil: everything in it has been read
}

// Read implements net.Conn.
func (c *proxiedConn) Read(p []byte) (int, error) {
	c.once.Do(c.readHeader)
	if c.err != nil {
		return 0, c.err
	}
	if c.buffered != nil && c.buffered.Buffered() > 0 {
		return c.buffered.Read(p)
	}
	c.buffered = nil
	return c.Conn.Read(p)
}

// RemoteAddr implements net.Conn: it is the client's address, or the balancer's own
// where it connects in its own name (LOCAL, UNKNOWN) or its header could not be read.
func (c *proxiedConn) RemoteAddr() net.Addr {
	c.once.Do(c.readHeader)
	if c.client != nil {
		return c.client
	}
	return c.Conn.RemoteAddr()
}

// passedOn reports whether the header has come, and nothing after it was read with it: the
// rest may be read from Conn itself.
func (c *proxiedConn) passedOn() bool {
	c.once.Do(c.readHeader)
	return c.err == nil && (c.buffered == nil || c.buffered.Buffered() == 0)
}

// CloseWrite shuts the writing side down, as that of *net.TCPConn does.
func (c *proxiedConn) CloseWrite() error {
	if hc, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return hc.CloseWrite()
	}
	return errors.ErrUnsupported
}

// readHeader is called once, by once.
func (c *proxiedConn) readHeader() {
	timeout := time.AfterFunc(time.Until(c.until), func() { _ = c.Conn.Close() }) // deadlines are the reader's own
	c.buffered = bufio.NewReaderSize(c.Conn, 256)
	_, err := c.buffered.Peek(1)
	healthCheck := errors.Is(err, io.EOF) // it only connects
	h, err := readProxyHeader(c.buffered)
	if !timeout.Stop() {
		err = os.ErrDeadlineExceeded
	}
	if errors.Is(err, proxyproto.ErrNoProxyProtocol) && c.optional {
		return
	}
	if err == nil {
		c.client, err = clientOf(h)
	}
	if err != nil {
		c.err = fmt.Errorf("PROXY header: %w", err)
		if !healthCheck && !errors.Is(err, net.ErrClosed) {
			c.proxies.refuse(c.Conn.RemoteAddr(), err)
		}
	}
}

// maxProxyV1 is the longest header in version 1, a line. One in version 2 has at most
// 4,096 bytes beside its first 16 (proxyproto.MaxV2HeaderSize), so that a client's
// certificate has room.
const maxProxyV1 = 107

// readProxyHeader reads a header, and no byte beyond it: ErrNoProxyProtocol, with
// nothing taken off, as soon as it can be none. In version 1 proxyproto wants the line
// to arrive at once, which no sender can promise, so it is waited for here.
func readProxyHeader(r *bufio.Reader) (*proxyproto.Header, error) {
	for n := 1; n <= maxProxyV1; n++ {
		b, err := r.Peek(n)
		if err != nil {
			return nil, err
		}
		if mark := min(n, len(proxyproto.SIGV1)); !bytes.Equal(b[:mark], proxyproto.SIGV1[:mark]) || b[n-1] == '\n' {
			break
		}
	}
	return proxyproto.Read(r)
}

// clientOf returns the address that a header names, nil if it names none.
func clientOf(h *proxyproto.Header) (net.Addr, error) {
	source, _, isTCP := h.TCPAddrs()
	switch {
	case h.Command.IsLocal() || h.TransportProtocol.IsUnspec() || h.TransportProtocol == proxyproto.UnixStream:
		return nil, nil
	case !isTCP:
		return nil, errors.New("it is for another transport than TCP")
	}
	return source, nil
}
