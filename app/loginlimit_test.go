package app_test

import (
	"fmt"
	"net/http"
	"sync"
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
	const burst = 5
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

	// Right passwords do not count, however many: a script that runs mosquitto_pub once for each
	// line, or all lamps behind one router. They once did.
	for range 60 {
		if code, reason := connect(5, apptest.Password); code != 0 {
			t.Fatalf("a right password: %#x %q", code, reason)
		}
	}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			c := a.Dial(t)
			if ack := c.Connect(brokertest.Connect{ClientID: fmt.Sprint("lamp ", i), Username: u.Username, Password: apptest.Password}); ack.ReasonCode != 0 {
				t.Errorf("lamp %d: %s", i, brokertest.Describe(ack))
			}
			c.Close()
		})
	}
	wg.Wait()
	for range burst + 1 {
		if r := logIn(); r.Status != http.StatusCreated {
			t.Fatal("a right password:", r)
		}
	}
	// The limit is reached through all doors together.
	for i := range burst {
		var code byte
		switch i {
		case 0:
			if r := a.REST(t, apptest.User{}, http.MethodPost, "/api/sessions", map[string]string{"username": u.Username, "password": "a guess of eve's"}); r.Status != http.StatusUnauthorized {
				t.Fatal("within the limit:", r)
			}
			continue
		case 1:
			change := map[string]string{"displayName": "eve", "email": "eve@example.org", "currentPassword": "a guess of eve's"}
			if r := a.REST(t, u, http.MethodPatch, "/api/users/me", change); r.Status != http.StatusForbidden {
				t.Fatal("within the limit:", r)
			}
			continue
		}
		if code, _ = connect(5, "a guess of eve's"); code != 0x86 {
			t.Fatalf("guess %d within the limit: %#x, want 0x86", i, code)
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
	change := map[string]string{"email": "eve@example.org", "currentPassword": apptest.Password}
	if r := a.REST(t, u, http.MethodPatch, "/api/users/me", change); r.Status != http.StatusTooManyRequests || r.Header.Get("Retry-After") == "" {
		t.Errorf("a change that needs the password, beyond the limit: %s, want 429 with Retry-After", r)
	}
	a.Device(t, u, brokertest.Connect{ClientID: "token"}).Ping() // tokens are not limited
	if r := a.REST(t, u, http.MethodPatch, "/api/users/me", map[string]string{"displayName": "u"}); r.Status != http.StatusOK {
		t.Errorf("a change that needs no password: %s", r)
	}
}
