package app_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/store/storetest"
)

// A server whose own clock is an hour behind writes and reads times by the clock of the database,
// as all other nodes do. It once wrote its own: a revocation was too old for others to look at,
// and tokens ended before they began.
func TestTimesAreTheDatabases(t *testing.T) {
	t.Parallel()
	a := apptest.StartOn(t, storetest.Ahead(t, storetest.DSN(t), time.Hour))
	u := a.User(t, "u")
	before := time.Now()
	var login struct{ AccessToken, SessionID string }
	r := a.REST(t, apptest.User{}, http.MethodPost, "/api/sessions", map[string]string{"username": u.Username, "password": apptest.Password})
	if r.Into(&login); r.Status != http.StatusCreated {
		t.Fatal(r)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(login.AccessToken, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Exp int64 }
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if got := time.Unix(claims.Exp, 0).Sub(before); got < 74*time.Minute || got > 76*time.Minute {
		t.Errorf("the token ends in %v, want an hour and a quarter", got)
	}
	u.Token = login.AccessToken
	if r := a.REST(t, u, http.MethodGet, "/api/users/me", nil); r.Status != http.StatusOK {
		t.Fatal(r)
	}
	if r := a.REST(t, u, http.MethodDelete, "/api/sessions/"+login.SessionID, nil); r.Status != http.StatusNoContent {
		t.Fatal(r)
	}
	revoked, err := a.Store().ListRevocations(t.Context(), before.Add(59*time.Minute), before.Add(24*time.Hour))
	if err != nil || len(revoked) != 1 {
		t.Errorf("revocations by the clock of the database: %+v, %v, want one", revoked, err)
	}
}
