package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
)

// Tokens is what a login gives.
type Tokens struct {
	AccessToken  string `json:"accessToken"`  // for Authorization: Bearer, and as MQTT password
	ExpiresIn    int    `json:"expiresIn"`    // for how many seconds the access token is valid
	RefreshToken string `json:"refreshToken"` // can be used once, for the next pair
	SessionID    ID     `json:"sessionId"`    // what EndSession ends
	User         Me     `json:"user"`
}

// tokens gives out access tokens and gets new ones.
type tokens struct {
	a *API
	o *Options

	turn    chan struct{} // capacity 1: held while using the fields below
	access  string
	until   time.Time // how long to use it; zero: until it is refused
	refresh string
	login   ID // made by the client itself: Close ends it
}

func newTokens(a *API) *tokens {
	return &tokens{a: a, o: &a.o, turn: make(chan struct{}, 1), refresh: a.o.RefreshToken}
}

// useUntil returns until when to use a token that expires then: a little less, so that it
// is still valid when it arrives.
func useUntil(expires time.Time) time.Time {
	if expires.IsZero() {
		return expires
	}
	return expires.Add(-min(20*time.Second, time.Until(expires)/5))
}

// get returns an access token other than the one that the server has refused. Concurrent
// callers share one request. Unauthenticated if no further token can be had.
func (t *tokens) get(ctx context.Context, refused string) (string, error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", contextError(ctx, "get a token", "")
	}
	if t.access != "" && t.access != refused && (t.until.IsZero() || time.Now().Before(t.until)) {
		return t.access, nil
	}
	if err := t.renew(ctx); err != nil {
		return "", err
	}
	return t.access, nil
}

// fresh is get for a connection: it calls Options.Token each time, and with renew it uses
// no earlier token, since all tokens of a login are refused together.
func (t *tokens) fresh(ctx context.Context, renew bool) (string, error) {
	if t.o.Token != nil || renew {
		select {
		case t.turn <- struct{}{}:
			t.access = ""
			<-t.turn
		case <-ctx.Done():
			return "", contextError(ctx, "get a token", "")
		}
	}
	return t.get(ctx, "")
}

// renew gets new tokens. The caller holds turn.
func (t *tokens) renew(ctx context.Context) error {
	switch {
	case t.o.Token != nil:
		token, err := t.o.Token(ctx)
		if err != nil {
			return &Error{Op: "get a token", Code: codeOr(err, Unavailable), Err: err}
		}
		t.access, t.until = token, useUntil(expiryOf(token))
		return nil
	case t.refresh != "":
		var answer Tokens
		err := t.a.request(ctx, call{op: "refresh", method: http.MethodPost, path: "/api/sessions/refresh", in: map[string]string{"refreshToken": t.refresh}, out: &answer}, "")
		if err == nil {
			t.use(answer)
			return nil
		}
		var e *Error
		answered := errors.As(err, &e) && e.Status != 0
		if t.o.Username == "" || answered && e.Code != Unauthenticated {
			return err
		}
		// The password is safer than a refresh token that may have been used up without
		// our learning of it: using it twice would end the login.
		t.refresh = ""
		if ctx.Err() != nil {
			return err
		}
	}
	if t.o.Username == "" {
		return &Error{Op: "log in", Code: Unauthenticated, Detail: "there is neither a password nor a token"}
	}
	answer, err := t.a.LogIn(ctx, t.o.Username, t.o.Password, t.o.ClientID)
	if err != nil {
		return err
	}
	t.login = answer.SessionID
	t.use(*answer)
	return nil
}

func (t *tokens) use(answer Tokens) {
	t.access, t.refresh = answer.AccessToken, answer.RefreshToken
	t.until = useUntil(time.Now().Add(time.Duration(answer.ExpiresIn) * time.Second))
	if t.o.OnTokens != nil {
		t.o.OnTokens(answer)
	}
}

// end gives a login back that the client has made for itself. A failure leaves it to
// expire.
func (t *tokens) end(ctx context.Context) {
	if t.o.OnTokens != nil || t.login == "" {
		return
	}
	if err := t.a.EndSession(ctx, t.login); err != nil {
		t.o.Logger.DebugContext(ctx, "the login could not be ended", "err", err)
	}
}

// expiryOf reads when a JWT expires, without checking anything: zero if it is none.
func expiryOf(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Exp <= 0 || claims.Exp > 1e11 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}

func codeOr(err error, other Code) Code {
	if code := CodeOf(err); code != "" {
		return code
	}
	return other
}
