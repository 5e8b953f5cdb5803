package app

import (
	"cmp"
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

// NoMQTT is an Options.MQTTAddr for which only Options.Listeners are bound.
const NoMQTT = "none"

// Listener is a further address for MQTT clients, with rules of its own.
type Listener struct {
	Network   string           // "tcp", "tcp4", "tcp6" or "unix"; empty: "tcp"
	Address   string           // host:port, port 0 allowed; the path of a unix socket
	WebSocket bool             // MQTT over WebSocket, whatever the path that is asked for
	TLS       *broker.TLSFiles // nil: not encrypted

	MaxConnections int      // open at once; 0: no limit of its own
	AllowedOrigins []string // of web pages, over WebSocket; empty: Options.AllowedOrigins

	// Authenticator makes the listener's own, in front of Parley's accounts; it may be a
	// chat.GuestBook, too. nil: accounts only.
	Authenticator       func(accounts *identity.Service) chat.Authenticator
	Topics              chat.TopicAccess // who may use which device topics; nil: the process's rule
	NameFromCertificate bool             // the user name is the common name of the client's certificate
	NameIsClientID      bool             // the client id is the user name
	NoEmptyClientID     bool             // a client without client id is refused
	Optional            bool             // not an error if this machine does not have the address: the loopback of IPv6
}

// listening is a Listener that is bound.
type listening struct {
	Listener
	l       net.Listener
	on      *broker.Listener
	further bool // one of Options.Listeners
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

// listenMQTT binds a Listener; what is empty for one of Options.Listeners.
func (a *App) listenMQTT(o Listener, what, hint string) error {
	o.Network = cmp.Or(o.Network, "tcp")
	l := &listening{Listener: o, further: what == "", on: &broker.Listener{
		MaxConnections: o.MaxConnections, Topics: o.Topics,
		NameFromCertificate: o.NameFromCertificate, NameIsClientID: o.NameIsClientID, NoEmptyClientID: o.NoEmptyClientID,
	}}
	if len(o.AllowedOrigins) > 0 {
		origins, err := newOrigins(o.AllowedOrigins, a.logger)
		if err != nil {
			return fmt.Errorf("allowed origins of the listener on %s: %w", o.Address, err)
		}
		l.on.AllowOrigin = origins.allow
	}
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
	var err error
	l.l, err = a.bind(cmp.Or(what, "MQTT"), o.Network, o.Address, hint)
	switch {
	case o.Optional && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)):
		return nil
	case err != nil:
		return err
	}
	l.on.Name = o.Network + " " + l.l.Addr().String()
	a.listeners = append(a.listeners, l)
	return nil
}

// bind listens on an address until the process stops. hint is added to an error.
func (a *App) bind(what, network, address, hint string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w%s", what, err, hint)
	}
	a.onStop("close the listener for "+what+" on "+address, func(context.Context) error { return closeListener(l) })
	return l, nil
}

func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// removeStale removes a unix socket that an earlier process has left.
func removeStale(path string) {
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == fs.ModeSocket {
		_ = os.Remove(path)
	}
}

// serveMQTT accepts connections from a bound listener.
func (a *App) serveMQTT(l *listening, proxies *broker.Proxies) {
	if l.Authenticator != nil {
		l.on.Authenticator = l.Authenticator(a.identity)
	}
	if l.WebSocket {
		ln := proxies.Listen(l.l, true)
		if l.on.TLS != nil {
			ln = tls.NewListener(ln, l.on.TLS)
		}
		a.serveHTTP(l.name(), ln, a.httpRoom, a.broker.WebSocket(l.on), time.Minute)
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
		if l.further {
			list = append(list, l.name())
		}
	}
	return list
}

// Recheck disconnects the clients that their listener's Authenticator has revoked, and
// returns how many: call it after the rules have changed. It does not block.
func (a *App) Recheck() int { return a.hook.Recheck() }
