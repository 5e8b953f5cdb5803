package app_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/identity"
)

// Guessing passwords over MQTT was once limited by nothing: some 200 connections
// kept the queue for password hashes full, and the owner of the account out.
// Both doors now ask one limiter, before anything is hashed.
func TestPasswordsAreLimitedAtBothDoors(t *testing.T) {
	t.Parallel()
	const burst = 4
	a := apptest.Start(t, func(o *app.Options) { o.LoginRate = identity.Rate{Every: time.Hour, Burst: burst} })
	u := a.User(t, "u")
	logIn := func() *apptest.Response {
		return a.REST(t, apptest.User{}, http.MethodPost, "/api/sessions", map[string]string{"username": u.Username, "password": apptest.Password})
	}
	connect := func(v byte, password string) (code byte, reason string) {
		c := a.Dial(t)
		ack := c.Connect(brokertest.Connect{Version: v, ClientID: "a", Username: u.Username, Password: password})
		if ack.ReasonCode != 0 {
			c.ExpectClosed()
		} else {
			c.Disconnect()
		}
		return ack.ReasonCode, ack.Properties.ReasonString
	}

	if r := logIn(); r.Status != http.StatusCreated {
		t.Fatal("within the limit:", r)
	}
	for i, want := range []byte{0x86, 0, 0x86} {
		password := apptest.Password
		if want != 0 {
			password = "a guess of eve's"
		}
		if code, reason := connect(5, password); code != want {
			t.Fatalf("CONNECT %d within the limit: %#x %q, want %#x", i, code, reason, want)
		}
	}

	for range 3 {
		if code, reason := connect(5, apptest.Password); code != 0x97 || reason == "" {
			t.Errorf("MQTT 5 beyond the limit: %#x %q, want 0x97 and why", code, reason)
		}
		if code, _ := connect(4, "a guess of eve's"); code != 3 {
			t.Errorf("MQTT 3.1.1 beyond the limit: %#x, want 3", code)
		}
	}
	ws := a.DialWebSocket(t)
	if ack := ws.Connect(brokertest.Connect{ClientID: "a", Username: u.Username, Password: apptest.Password}); ack.ReasonCode != 0x97 {
		t.Errorf("WebSocket beyond the limit: %#x, want 0x97", ack.ReasonCode)
	}
	if r := logIn(); r.Status != http.StatusTooManyRequests || r.Header.Get("Retry-After") == "" {
		t.Errorf("REST beyond the limit: %s, want 429 with Retry-After", r)
	}
	a.Device(t, u, brokertest.Connect{ClientID: "token"}).Ping() // tokens are not limited
}
