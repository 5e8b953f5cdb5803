package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

// NoMQTT is an MQTTAddr that says that only Options.Listeners are listened on.
const NoMQTT = "none"

// Listener is an address where MQTT clients connect, beside MQTTAddr and the HTTP
// address, with rules of its own.
type Listener struct {
	Network   string           // "tcp", "tcp4", "tcp6" or "unix"; empty: "tcp"
	Address   string           // host:port, port 0 allowed; the path of a unix socket
	WebSocket bool             // MQTT over WebSocket, whatever the path that is asked for
	TLS       *broker.TLSFiles // nil: not encrypted

	MaxConnections int      // open at once; 0: no limit of its own
	AllowedOrigins []string // of web pages, over WebSocket; empty: Options.AllowedOrigins

	// Authenticator makes the listener's own from that of Parley's accounts; what it
	// makes may be a chat.GuestBook, too. nil: accounts, and nobody else.
	Authenticator       func(accounts *identity.Service) chat.Authenticator
	Topics              chat.TopicAccess // who may use which device topics; nil: the process's rule
	NameFromCertificate bool             // the user name is the common name of the client's certificate
	NameIsClientID      bool             // the client id is the user name
	NoEmptyClientID     bool             // a client without client id is refused
	Optional            bool             // an address that this machine does not have is skipped: the loopback of IPv6
}

// listening is a Listener that is bound.
type listening struct {
	Listener
	l  net.Listener
	on *broker.Listener
}

func (l *listening) name() string {
	s := "mqtt"
	if l.WebSocket {
		s = "ws"
	}
	if l.TLS != nil {
		s += "s"
	}
	return s + "://" + l.l.Addr().String()
}

// listenFor binds one of Options.Listeners.
func (a *App) listenFor(o Listener) error {
	setDefault(&o.Network, "tcp")
	l := &listening{Listener: o, on: &broker.Listener{
		MaxConnections: o.MaxConnections, AllowedOrigins: o.AllowedOrigins, Topics: o.Topics,
		NameFromCertificate: o.NameFromCertificate, NameIsClientID: o.NameIsClientID, NoEmptyClientID: o.NoEmptyClientID,
	}}
	if o.TLS != nil {
		c, err := o.TLS.Config(a.logger)
		if err != nil {
			return fmt.Errorf("TLS on %s: %w", o.Address, err)
		}
		l.on.TLS = c
	}
	if o.Network == "unix" {
		removeStale(o.Address)
	}
	ln, err := net.Listen(o.Network, o.Address)
	switch {
	case o.Optional && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
		return nil
	case err != nil:
		return fmt.Errorf("listen for MQTT: %w", err)
	}
	l.l, l.on.Name = ln, o.Network+" "+ln.Addr().String()
	a.listeners = append(a.listeners, l)
	a.onStop("close the listener "+l.name(), func(context.Context) error { return closeListener(ln) })
	return nil
}

// removeStale removes a unix socket that an earlier process has left.
func removeStale(path string) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == fs.ModeSocket {
		_ = os.Remove(path)
	}
}

// serveListener accepts connections from a bound listener.
func (a *App) serveListener(l *listening, proxies *broker.Proxies) {
	if l.Authenticator != nil {
		l.on.Authenticator = l.Authenticator(a.identity)
	}
	if l.WebSocket {
		ln := proxies.Listen(l.l, true)
		if l.on.TLS != nil {
			ln = tls.NewListener(ln, l.on.TLS)
		}
		a.serveHTTP(l.name(), ln, a.broker.WebSocket(l.on), time.Minute)
		return
	}
	a.run("listener "+l.name(), func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { _ = closeListener(l.l) })()
		return a.broker.Serve(proxies.Listen(l.l, false), l.on)
	})
}

// Addrs returns the addresses bound for Options.Listeners, such as
// "mqtts://127.0.0.1:8883", in their order.
func (a *App) Addrs() []string {
	list := []string{}
	for _, l := range a.listeners {
		list = append(list, l.name())
	}
	return list
}

// Recheck disconnects the clients that their listener's Authenticator would refuse now,
// and returns how many. It is to be called after what the Authenticator goes by has
// changed. It does not block.
func (a *App) Recheck() int { return a.hook.Recheck() }
