package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
	"github.com/parleymq/parley/store/storetest"
)

// withPassword are options that log in.
func withPassword(a *apptest.App, u apptest.User, clientID string) client.Options {
	o := options(a, u, clientID)
	o.Token, o.Username, o.Password = nil, u.Username, apptest.Password
	return o
}

// logins counts a user's logins.
func logins(t *testing.T, a *apptest.App, u apptest.User) (n int) {
	t.Helper()
	api, err := client.NewAPI(options(a, u, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer api.CloseIdle()
	for _, err := range api.Sessions(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// A client with a password makes one login, goes on with fresh tokens when the old
// ones have expired, logs in again when its login is ended, and ends it in the end.
func TestPassword(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.Identity.AccessTTL = time.Second })
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	l := newLine(t, a.MQTTAddr())
	connects, losses := make(chan client.Connection, 10), make(chan error, 10)
	o := withPassword(a, ann, "laptop")
	o.MQTTURL = "mqtt://" + l.addr()
	o.OnConnect, o.OnDisconnect = func(c client.Connection) { connects <- c }, func(err error) { losses <- err }
	c, err := client.Dial(patient(t), o)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the first connection", connects)
	for range 2 {
		<-time.After(time.Second) // for the token to expire: nothing tells of it
		if _, err := c.GetConversation(patient(t), conv); err != nil {
			t.Error(err)
		}
		l.cut()
		expect(t, "a loss", losses)
		expect(t, "a connection", connects)
	}
	if n := logins(t, a, ann); n != 1 {
		t.Errorf("there are %d logins, want one", n)
	}

	for s, err := range c.Sessions(patient(t)) {
		if err != nil || s.Device != "laptop" {
			t.Fatal(s, err)
		}
		if err := c.EndSession(patient(t), s.ID); err != nil {
			t.Error(err)
		}
	}
	if err := expect(t, "the end of the connection", losses); !errors.Is(err, client.Forbidden) {
		t.Errorf("after its login was ended, the connection was lost: %v", err)
	}
	expect(t, "a connection with another login", connects)
	if _, err := c.Send(patient(t), conv, client.Message{Content: "still here"}); err != nil {
		t.Error(err)
	}
	shut(t, c)
	if n := logins(t, a, ann); n != 0 {
		t.Errorf("after Close there are %d logins", n)
	}

	o.Password = "wrong"
	if _, err := client.Dial(patient(t), o); !errors.Is(err, client.Unauthenticated) {
		t.Errorf("with a wrong password: %v", err)
	}
}

// A client with a refresh token hands out each next one, and ends when there is none.
func TestRefreshToken(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.Identity.AccessTTL = time.Second })
	ann := a.User(t, "ann")
	api, err := client.NewAPI(client.Options{URL: "http://" + a.HTTPAddr()})
	if err != nil {
		t.Fatal(err)
	}
	defer api.CloseIdle()
	first, err := api.LogIn(patient(t), ann.Username, apptest.Password, "")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	last := first.RefreshToken
	o := options(a, ann, "laptop")
	o.Token, o.RefreshToken = nil, last
	o.OnTokens = func(t client.Tokens) {
		mu.Lock()
		defer mu.Unlock()
		last = t.RefreshToken
	}
	for range 2 { // a program, started twice
		c := dial(t, o)
		var wg sync.WaitGroup
		<-time.After(time.Second) // for the token to expire
		for range 10 {            // the token is used once, however many need it
			wg.Go(func() {
				if _, err := c.GetMe(patient(t)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		shut(t, c)
		mu.Lock()
		o.RefreshToken = last
		mu.Unlock()
	}
	storetest.Exec(t, a.DSN(), `UPDATE refresh_tokens SET used_at = used_at - interval '1 minute'`) // beyond identity.RefreshGrace
	o.RefreshToken = first.RefreshToken
	if _, err := client.Dial(patient(t), o); !errors.Is(err, client.Unauthenticated) {
		t.Errorf("with a used token: %v", err)
	}
	o.RefreshToken = last // of the login that this has revoked
	if _, err := client.Dial(patient(t), o); !errors.Is(err, client.Unauthenticated) {
		t.Errorf("with a revoked token: %v", err)
	}
}

// Options.Token is asked for each connection. A token that is refused is asked for once
// more; then the client ends.
func TestTokenFunc(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann := a.User(t, "ann")
	l := newLine(t, a.MQTTAddr())
	var asked, bad atomic.Int64
	connects := make(chan client.Connection, 10)
	o := options(a, ann, "laptop")
	o.MQTTURL = "mqtt://" + l.addr()
	o.OnConnect = func(c client.Connection) { connects <- c }
	o.Token = func(context.Context) (string, error) {
		asked.Add(1)
		if bad.Add(-1) >= 0 {
			return "eyJ.bad.token", nil
		}
		return ann.Token, nil
	}
	bad.Store(1)
	c := dial(t, o)
	expect(t, "a connection", connects)
	before := asked.Load()
	bad.Store(1)
	l.cut()
	expect(t, "a connection", connects)
	if n := asked.Load() - before; n != 2 {
		t.Errorf("for a connection whose first token is bad, Token was asked %d times, want 2", n)
	}
	bad.Store(1000)
	l.cut()
	expect(t, "the end", c.Done())
	if !errors.Is(c.Err(), client.Unauthenticated) {
		t.Errorf("the client ended with %v", c.Err())
	}
}

func TestDialFails(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann := a.User(t, "ann")
	for _, test := range []struct {
		name   string
		change func(*client.Options)
		code   client.Code
		field  string
	}{
		{"no URL", func(o *client.Options) { o.URL = "localhost:8080" }, client.Invalid, "URL"},
		{"no login", func(o *client.Options) { o.Token = nil }, client.Invalid, "Username"},
		{"half a login", func(o *client.Options) { o.Token, o.Username = nil, "ann" }, client.Invalid, "Username"},
		{"two logins", func(o *client.Options) { o.RefreshToken = "x" }, client.Invalid, "Token"},
		{"another scheme", func(o *client.Options) { o.MQTTURL = "http://localhost" }, client.Invalid, "MQTTURL"},
		{"expiry", func(o *client.Options) { o.SessionExpiry = 1 }, client.Invalid, "SessionExpiry"},
		{"keepalive", func(o *client.Options) { o.KeepAlive = 24 * time.Hour }, client.Invalid, "KeepAlive"},
		{"client id", func(o *client.Options) { o.ClientID = string(make([]byte, 257)) }, client.Invalid, "ClientID"},
		{"client id that the server refuses", func(o *client.Options) { o.ClientID = "a\tb" }, client.Invalid, ""},
		{"nobody at URL", func(o *client.Options) { o.URL = "http://127.0.0.1:1" }, client.Unavailable, ""},
		{"nobody at MQTTURL", func(o *client.Options) { o.MQTTURL = "mqtt://127.0.0.1:1" }, client.Unavailable, ""},
		{"no MQTT", func(o *client.Options) { o.MQTTURL = "ws://" + a.HTTPAddr() + "/api" }, client.Unavailable, ""},
		{"token", func(o *client.Options) { o.Token = func(context.Context) (string, error) { return "x", nil } }, client.Unauthenticated, ""},
		{"no token", func(o *client.Options) {
			o.Token = func(context.Context) (string, error) { return "", errors.New("none") }
		}, client.Unavailable, ""},
	} {
		o := options(a, ann, "")
		test.change(&o)
		ctx := patient(t)
		c, err := client.Dial(ctx, o)
		var e *client.Error
		if c != nil || !errors.As(err, &e) || e.Code != test.code || e.Field != test.field {
			t.Errorf("%s: %v, want %s about %q", test.name, err, test.code, test.field)
		}
		if ctx.Err() != nil {
			t.Errorf("%s: it went on trying", test.name)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client.Dial(gone, options(a, ann, "")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}
