package app_test

import (
	"net/http"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/identity"
)

// A new password cuts the connections made with the old one, and those made with
// an operator's token, within a second. They once stayed for as long as they
// liked, since they have no login that could be revoked. The login that asked stays.
func TestPasswordChangeCutsConnections(t *testing.T) {
	t.Parallel()
	const next = "a quite different one"
	a := apptest.Start(t)
	for _, v := range versions {
		for _, how := range []string{"over REST", "by another process"} {
			t.Run(how+"/"+versionName(v), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				login, err := a.Identity.LogIn(t.Context(), identity.LoginRequest{Login: r.eve.Username, Password: apptest.Password})
				if err != nil {
					t.Fatal(err)
				}
				me := r.eve
				me.Token = login.AccessToken
				withPassword := func(id, password string) *brokertest.Client {
					c := a.Dial(t)
					c.MustConnect(brokertest.Connect{Version: v, ClientID: id, Username: r.eve.Username, Password: password})
					return c
				}
				old := withPassword("a", apptest.Password)
				script := a.Device(t, r.eve, brokertest.Connect{ClientID: "b", Version: v}) // an operator's token
				mine := a.Device(t, me, brokertest.Connect{ClientID: "c", Version: v})

				switch how {
				case "over REST":
					if resp := a.REST(t, me, http.MethodPatch, "/api/users/me", map[string]string{"password": next, "currentPassword": apptest.Password}); resp.Status != http.StatusOK {
						t.Fatal(resp)
					}
				default: // as parley user passwd does: the server hears of it from the database
					if _, err := a.Identity.SetPassword(t.Context(), r.eve.Username, next); err != nil {
						t.Fatal(err)
					}
				}
				old.ExpectDisconnect(packets.ErrNotAuthorized.Code)
				script.ExpectDisconnect(packets.ErrNotAuthorized.Code)
				if how == "over REST" {
					mine.Ping()
				} else {
					mine.ExpectDisconnect(packets.ErrNotAuthorized.Code)
				}

				again := a.Dial(t)
				if ack := again.Connect(r.eve.As(brokertest.Connect{Version: v, ClientID: "b"})); ack.ReasonCode == 0 {
					t.Error("the operator's token of before connects again")
				}
				withPassword("a", next).Ping()
				young := r.eve
				young.Token = a.Token(t, r.eve.Username)
				a.Device(t, young, brokertest.Connect{ClientID: "b", Version: v}).Ping()
				r.undisturbed(t)
			})
		}
	}
}

// A password with an accent, typed on a phone that composes it and on a computer that does not, at
// each door.
func TestPasswordInAnotherSpelling(t *testing.T) {
	t.Parallel()
	const nfc, nfd = "zoé a dormi", "zoe\u0301 a dormi"
	a := apptest.Start(t)
	if r := a.REST(t, apptest.User{}, http.MethodPost, "/api/users", map[string]string{"username": "zoe", "email": "zoe@example.org", "password": nfc}); r.Status != http.StatusCreated {
		t.Fatal(r)
	}
	for _, password := range []string{nfc, nfd} {
		if r := a.REST(t, apptest.User{}, http.MethodPost, "/api/sessions", map[string]string{"username": "zoe", "password": password}); r.Status != http.StatusCreated {
			t.Errorf("%+q: %s", password, r)
		}
		for _, v := range versions {
			c := a.Dial(t)
			if ack := c.Connect(brokertest.Connect{Version: v, ClientID: "phone", Username: "zoe", Password: password}); ack.ReasonCode != 0 {
				t.Errorf("MQTT %d, %+q: %s", v, password, brokertest.Describe(ack))
			}
			c.Close()
		}
	}
}
