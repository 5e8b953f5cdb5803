package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
)

// Client is a connection that is kept up, and an API. It is safe for concurrent use.
type Client struct {
	*API
	me      Me
	logger  *slog.Logger
	unnamed bool // the client id was generated: nobody resumes its session

	session *mqttSession
	inbox   *inbox
	signals *signals
	typing  typing

	ctx      context.Context // the client's life
	cancel   context.CancelCauseFunc
	handling context.Context // ends before ctx: no further event is handled
	pause    context.CancelFunc
	wg       sync.WaitGroup // the goroutines below
	idle     chan struct{}  // closed when handle has returned
	done     chan struct{}  // closed when everything has ended

	first chan error // capacity 1: the outcome of the first attempt to connect

	mu     sync.Mutex
	link   *link         // mu guards: the connection that is up, or nil
	up     chan struct{} // mu guards: closed when link is there
	status Status        // mu guards: what SetPresence said last

	// Owned by autopaho's goroutine.
	refused  int // how often in succession the server has refused a token
	flaps    int // connections in succession that ended soon
	connects int
	upSince  time.Time
}

// link is a connection that is up.
type link struct {
	cm        *autopaho.ConnectionManager
	ctx       context.Context // ends as soon as the loss of the connection is known
	down      chan struct{}   // closed once Client.up is the next connection's
	maxPacket int             // the server's; 0: not said
}

// Dial logs in, connects, and subscribes to everything that the options have functions
// for. It tries once, so that mistakes show at once: Invalid names an option,
// Unauthenticated is about the login, Unavailable about the server or the network. ctx
// limits Dial only; the client lives until Close, or until something ends it for good
// (see Err).
func Dial(ctx context.Context, o Options) (*Client, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	if err := o.setConnectDefaults(); err != nil {
		return nil, err
	}
	unnamed := o.ClientID == ""
	if unnamed {
		o.ClientID, o.CleanStart = "go-"+string(newID()), true
	}
	a, err := NewAPI(o)
	if err != nil {
		return nil, err
	}
	c := &Client{
		API: a, logger: a.o.Logger, unnamed: unnamed, session: newMQTTSession(), inbox: newInbox(), signals: newSignals(),
		idle: make(chan struct{}), done: make(chan struct{}), first: make(chan error, 1), up: make(chan struct{}),
	}
	me, err := a.GetMe(ctx)
	if err != nil {
		a.CloseIdle()
		return nil, err
	}
	c.me = *me
	c.ctx, c.cancel = context.WithCancelCause(context.Background()) // the client's life; Close or fail ends it
	c.handling, c.pause = context.WithCancel(c.ctx)
	if err := c.start(); err != nil {
		c.cancel(err)
		a.CloseIdle()
		return nil, err
	}
	select {
	case err = <-c.first:
	case <-ctx.Done():
		err = contextError(ctx, "dial", "")
	}
	if err != nil {
		c.fail(err)
		<-c.done
		return nil, err
	}
	return c, nil
}

// start starts the client's goroutines. Each ends with c.ctx, and done is closed after
// the last of them.
func (c *Client) start() error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	cm, err := autopaho.NewConnection(c.ctx, cfg)
	if err != nil {
		return &Error{Op: "dial", Code: Invalid, Err: err}
	}
	c.wg.Go(func() { c.signals.run(c.ctx) })
	go func() { // ends with c.ctx, once the handler has returned, and closes c.idle
		defer close(c.idle)
		c.handle()
	}()
	go func() { // ends with c.ctx, and closes c.done
		defer close(c.done)
		<-cm.Done()
		c.fail(&Error{Op: "connect", Code: Closed}) // unless there is a reason already
		c.wg.Wait()
		c.CloseIdle()
	}()
	return nil
}

func (c *Client) config() (autopaho.ClientConfig, error) {
	server, err := url.Parse(c.o.MQTTURL)
	if err != nil {
		return autopaho.ClientConfig{}, badOption("MQTTURL", err.Error())
	}
	offline, err := json.Marshal(map[string]Status{"status": Offline})
	if err != nil {
		return autopaho.ClientConfig{}, err
	}
	return autopaho.ClientConfig{
		ServerUrls: []*url.URL{server}, TlsCfg: c.o.TLS.Clone(), KeepAlive: uint16(c.o.KeepAlive / time.Second),
		CleanStartOnInitialConnection: c.o.CleanStart, ConnectTimeout: 20 * time.Second, ReconnectBackoff: c.reconnectPause,
		WillMessage:             &paho.WillMessage{QoS: 1, Topic: c.presenceTopic(), Payload: offline},
		ConnectPacketBuilder:    c.connectPacket,
		DisconnectPacketBuilder: c.disconnectPacket,
		OnConnectionUp:          c.connected, OnConnectionDown: c.disconnected, OnConnectError: c.connectFailed,
		ClientConfig: paho.ClientConfig{
			ClientID: c.o.ClientID, Session: c.session, PacketTimeout: ackTimeout,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){c.received},
		},
	}, nil
}

// connectPacket completes a CONNECT with a valid token.
func (c *Client) connectPacket(p *paho.Connect, _ *url.URL) (*paho.Connect, error) {
	ctx, cancel := context.WithTimeout(c.ctx, requestTimeout)
	defer cancel()
	token, err := c.tokens.fresh(ctx, c.refused > 0)
	if err != nil {
		return nil, err
	}
	p.Password, p.PasswordFlag = []byte(token), true
	expiry, maximum := uint32(c.o.SessionExpiry/time.Second), uint16(receiveMaximum)
	p.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry, ReceiveMaximum: &maximum, RequestProblemInfo: true}
	return p, nil
}

// disconnectPacket is sent when the client ends: DISCONNECT 0x00, after which the user
// is offline at once.
func (c *Client) disconnectPacket() *paho.Disconnect {
	d := &paho.Disconnect{}
	if c.unnamed {
		var none uint32
		d.Properties = &paho.DisconnectProperties{SessionExpiryInterval: &none}
	}
	return d
}

// soon is how long a connection must have lasted to count as a good one.
const soon = 10 * time.Second

// reconnectPause is how long autopaho waits before its nth attempt after a connection.
func (c *Client) reconnectPause(n int) time.Duration {
	switch {
	case c.connects == 0 && n == 0:
		return 0
	case n+c.flaps == 0: // a good connection was lost: others may have lost theirs
		return rand.N(firstBackoff)
	}
	return c.backoff(n + c.flaps - 1)
}

const firstBackoff = 250 * time.Millisecond

// backoff is the nth pause between attempts: it doubles, with up to half of it random.
func (c *Client) backoff(n int) time.Duration {
	d := min(firstBackoff<<min(n, 20), c.o.MaxBackoff)
	return d/2 + rand.N(d/2+1)
}

// connected is called by autopaho when a connection is up.
func (c *Client) connected(cm *autopaho.ConnectionManager, ack *paho.Connack) {
	l := &link{cm: cm, down: make(chan struct{})}
	_, l.ctx = c.session.present()
	if p := ack.Properties; p != nil && p.MaximumPacketSize != nil {
		l.maxPacket = int(*p.MaximumPacketSize)
	}
	conn := Connection{SessionPresent: ack.SessionPresent, Reconnect: c.connects > 0}
	c.connects++
	c.refused, c.upSince = 0, time.Now()
	c.logger.Info("connected", "client_id", c.o.ClientID, "session_present", ack.SessionPresent, "reconnect", conn.Reconnect)
	c.mu.Lock()
	c.link = l
	close(c.up)
	c.mu.Unlock()
	c.wg.Go(func() { c.settle(l, conn) }) // ends with the connection, or before
}

// disconnected is called by autopaho when a connection has ended. It reports whether to
// connect again.
func (c *Client) disconnected() bool {
	c.mu.Lock()
	close(c.link.down)
	c.link, c.up = nil, make(chan struct{})
	c.mu.Unlock()
	var reason error = unavailable("connection", "the connection was lost", nil)
	final := false
	if d := c.session.lost(); d != nil {
		detail := ""
		if d.Properties != nil {
			detail = d.Properties.ReasonString
		}
		reason = reasonError("connection", d.ReasonCode, detail)
		// After a protocol error, or an oversized packet, the next attempt would end the same way.
		final = slices.Contains([]byte{
			reasonMalformed, reasonProtocolError, reasonTakenOver, reasonReceiveExceeded, reasonTooLarge,
		}, d.ReasonCode)
		if d.ReasonCode == reasonNotAuthorized {
			c.refused = 1 // the login was revoked, and its tokens with it
		}
	}
	if time.Since(c.upSince) < soon {
		c.flaps++
	} else {
		c.flaps = 0
	}
	if final {
		c.fail(reason)
		return false
	}
	c.logger.Warn("disconnected", "client_id", c.o.ClientID, "err", reason)
	c.lost(reason)
	return true
}

func (c *Client) lost(reason error) {
	if f := c.o.OnDisconnect; f != nil {
		c.signals.put(signalKey{kind: "disconnect"}, func() { f(reason) })
	}
}

// connectFailed is called by autopaho after each failed attempt, and stops it if
// another one would be pointless.
func (c *Client) connectFailed(err error) {
	var denied *autopaho.ConnackError
	var e *Error
	switch {
	case errors.As(err, &denied):
		e = reasonError("connect", denied.ReasonCode, denied.Reason)
		if e.Code == Unauthenticated {
			c.refused++
		}
	case errors.As(err, &e): // from connectPacket
	default:
		e = unavailable("connect", "", err)
	}
	switch {
	case c.connects == 0 && (e.Code != Unauthenticated || c.refused != 1):
		c.tellFirst(e)
		c.fail(e)
	case e.Code == Unauthenticated && c.refused == 1: // once more, with another token
	case e.Code == Unauthenticated, e.Code == Forbidden, e.Code == Invalid, e.Code == Unsupported, e.Code == TooLarge:
		c.fail(e)
	}
	c.logger.Warn("could not connect", "client_id", c.o.ClientID, "err", e)
}

// settle does what a new connection needs: subscriptions, if the server has forgotten
// them or this is the first connection, and the status that was set.
func (c *Client) settle(l *link, conn Connection) {
	if !conn.SessionPresent || !conn.Reconnect {
		if err := c.subscribe(l); err != nil {
			if l.ctx.Err() == nil {
				c.fail(err)
			}
			if !conn.Reconnect {
				c.tellFirst(err)
			}
			return
		}
	}
	if f := c.o.OnConnect; f != nil {
		c.signals.put(signalKey{kind: "connect"}, func() { f(conn) })
	}
	c.mu.Lock()
	status := c.status
	c.mu.Unlock()
	if status != "" {
		if err := c.publishStatus(l.ctx, status); err != nil && l.ctx.Err() == nil {
			c.logger.Warn("the status could not be set again", "err", err)
		}
	}
	if !conn.Reconnect {
		c.tellFirst(nil)
	}
}

func (c *Client) tellFirst(err error) {
	select {
	case c.first <- err:
	default:
	}
}

// subscribe subscribes to everything that the options have functions for. While the
// connection is up it repeats what may succeed later.
func (c *Client) subscribe(l *link) error {
	filters := c.filters()
	for n := 0; ; n++ {
		s := &paho.Subscribe{}
		for _, f := range filters {
			s.Subscriptions = append(s.Subscriptions, paho.SubscribeOptions{Topic: f, QoS: 1})
		}
		ack, err := l.cm.Subscribe(l.ctx, s)
		if err == nil {
			return nil
		}
		e := unavailable("subscribe", "", err)
		if ack != nil {
			for i, reason := range ack.Reasons {
				if reason >= 0x80 && i < len(filters) {
					e = reasonError("subscribe", reason, "to "+filters[i])
					break
				}
			}
		}
		switch e.Code {
		case Unavailable, Internal, Quota:
		default:
			return e
		}
		if n >= 5 && ack != nil {
			return e
		}
		if sleep(l.ctx, c.backoff(n)) != nil {
			return e
		}
	}
}

func (c *Client) filters() []string {
	filters := []string{"user/" + string(c.me.ID) + "/errors"}
	for _, f := range []struct {
		wanted bool
		filter string
	}{
		{c.o.OnEvent != nil, "conv/+/messages"},
		{c.o.OnTyping != nil, "conv/+/typing"},
		{c.o.OnRead != nil, "conv/+/reads"},
		{c.o.OnDelivered != nil, "conv/+/delivered"},
		{c.o.OnPresence != nil, "user/+/presence"},
	} {
		if f.wanted {
			filters = append(filters, f.filter)
		}
	}
	return filters
}

// online waits for a connection and returns it.
func (c *Client) online(ctx context.Context, op string) (*link, error) {
	for {
		c.mu.Lock()
		l, up := c.link, c.up
		c.mu.Unlock()
		if c.ctx.Err() != nil {
			return nil, c.endError(op)
		}
		if l != nil {
			if l.ctx.Err() == nil {
				return l, nil
			}
			up = l.down
		}
		select {
		case <-up:
		case <-c.ctx.Done():
		case <-ctx.Done():
			return nil, contextError(ctx, op, "there was no connection in time")
		}
	}
}

// endError is what a call returns when the client has ended.
func (c *Client) endError(op string) error {
	cause := context.Cause(c.ctx)
	return &Error{Op: op, Code: codeOr(cause, Closed), Detail: "the client has ended", Err: cause}
}

// fail ends the client; the first reason counts.
func (c *Client) fail(err error) {
	if c.ctx.Err() == nil && CodeOf(err) != Closed {
		c.logger.Error("the client ends", "client_id", c.o.ClientID, "err", err)
	}
	c.cancel(err)
}

// Me returns the user that the client is connected as.
func (c *Client) Me() Me { return c.me }

// ClientID returns the name of the device.
func (c *Client) ClientID() string { return c.o.ClientID }

// Done is closed when the client has ended: by Close, or because of Err.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the client has ended: Closed after Close; TakenOver, Unauthenticated
// and so on if something else ended it for good; nil while it runs.
func (c *Client) Err() error {
	if c.ctx.Err() == nil {
		return nil
	}
	return context.Cause(c.ctx)
}

// Close ends the client. No further event is handled; Close waits until the current one
// is handled and acknowledged, then sends DISCONNECT. If ctx ends first, the handler's
// context ends, nothing more is acknowledged, and the error is ctx's. Events that were
// not acknowledged are delivered again to the next client with the same ClientID. A
// handler must not call Close. It may be repeated.
func (c *Client) Close(ctx context.Context) error {
	c.pause()
	var late error
	select {
	case <-c.idle:
	case <-ctx.Done():
		late = contextError(ctx, "close", "an event was still being handled")
	}
	ended := c.ctx.Err() != nil
	c.cancel(&Error{Op: "close", Code: Closed})
	select {
	case <-c.done:
	case <-ctx.Done():
		return cmp.Or(late, contextError(ctx, "close", "DISCONNECT was not sent in time"))
	}
	if !ended {
		c.tokens.end(ctx)
		c.CloseIdle()
	}
	return late
}
