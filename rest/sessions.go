package rest

import (
	"context"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

// NewSession is the body of POST /api/sessions: a user name or an email address, and
// the password.
type NewSession struct {
	_        struct{} `additionalProperties:"false"`
	Username string   `json:"username,omitempty" doc:"Or email." example:"alice"`
	Email    string   `json:"email,omitempty" doc:"Or username." example:"alice@example.org"`
	Password string   `json:"password" example:"correct horse battery staple"`
	Device   string   `json:"device,omitempty" doc:"The user's name for the device, at most 100 characters." example:"Alice's phone"`
}

func (NewSession) example() any {
	return NewSession{Username: "alice", Password: "correct horse battery staple", Device: "Alice's phone"}
}

// RefreshRequest is the body of POST /api/sessions/refresh.
type RefreshRequest struct {
	_            struct{} `additionalProperties:"false"`
	RefreshToken string   `json:"refreshToken" example:"plr_…"`
}

// Tokens is what a client gets for logging in or refreshing.
type Tokens struct {
	AccessToken  string `json:"accessToken" doc:"For Authorization: Bearer, and as MQTT password." example:"eyJ…"`
	ExpiresIn    int    `json:"expiresIn" doc:"For how many seconds the access token is valid." example:"900"`
	RefreshToken string `json:"refreshToken" doc:"For POST /api/sessions/refresh, which answers with its successor." example:"plr_…"`
	SessionID    ID     `json:"sessionId" doc:"For DELETE /api/sessions/{id}."`
	User         Me     `json:"user"`
}

// Session is one of the caller's logins.
type Session struct {
	ID         ID     `json:"id"`
	Device     string `json:"device,omitempty" example:"Alice's phone"`
	Current    bool   `json:"current" doc:"Whether this request uses it."`
	CreatedAt  Time   `json:"createdAt"`
	LastUsedAt Time   `json:"lastUsedAt" doc:"When it was created or last refreshed."`
	ExpiresAt  Time   `json:"expiresAt" doc:"Unless it is refreshed before then."`
}

func (s *server) sessions() {
	const tag = "sessions"
	logIn := created(op(tag, "POST /api/sessions", "logIn", "Log in", ""))
	logIn.Middlewares = huma.Middlewares{byAddress}
	register(s, logIn, s.logIn, chat.Unauthenticated, chat.Quota)
	register(s, op(tag, "POST /api/sessions/refresh", "refresh", "Exchange a refresh token for new tokens",
		"A refresh token can be used once. If the answer is lost, or another tab was faster, ask again within 30 seconds: "+
			"the answer has the same new refresh token. Using it again later ends its session."), s.refresh, chat.Unauthenticated)
	register(s, s.secured(op(tag, "GET /api/sessions", "listSessions", "List your sessions, newest first", "")), s.listSessions)
	register(s, s.secured(op(tag, "DELETE /api/sessions/{id}", "endSession", "End a session",
		"Within a second its tokens are refused and its device's MQTT connection is closed. May be repeated.")), s.endSession, chat.NotFound)
}

func (s *server) logIn(ctx context.Context, in *with[NewSession]) (*body[Tokens], error) {
	b := &in.Body
	if (b.Username == "") == (b.Email == "") {
		return nil, &chat.Error{Code: chat.Invalid, Field: "username", Msg: "is required, or email instead, but not both"}
	}
	wrong := func(err error) bool { return chat.CodeOf(err) == chat.Unauthenticated }
	return reply(tokensOf)(limited(ctx, s, s.logins, wrong, func() (*identity.Session, error) {
		return s.identity.LogIn(ctx, identity.LoginRequest{Login: b.Username + b.Email, Password: b.Password, Device: b.Device})
	}))
}

func (s *server) refresh(ctx context.Context, in *with[RefreshRequest]) (*body[Tokens], error) {
	return reply(tokensOf)(s.identity.Refresh(ctx, in.Body.RefreshToken))
}

func tokensOf(s *identity.Session) Tokens {
	return Tokens{
		AccessToken: s.AccessToken, ExpiresIn: int(s.ExpiresIn.Seconds()), RefreshToken: s.RefreshToken, SessionID: idOf(s.Login.ID), User: meOf(&s.User),
	}
}

var sessionList = list[identity.Login, chat.ID, Session]{kind: sessionsCursor, parse: parseIDKey, key: func(l *identity.Login) []byte { return l.ID[:] }}

func (s *server) listSessions(ctx context.Context, in *struct{ Paging }) (*body[Page[Session]], error) {
	l := sessionList
	l.show = func(l *identity.Login) Session {
		return Session{
			ID: idOf(l.ID), Device: l.Device, Current: l.ID == principal(ctx).LoginID,
			CreatedAt: Time(l.CreatedAt), LastUsedAt: Time(l.LastUsedAt), ExpiresAt: Time(l.ExpiresAt),
		}
	}
	return l.page(ctx, &in.Paging, "", func(ctx context.Context, me, after chat.ID, limit int) ([]identity.Login, error) {
		logins, err := s.identity.ListLogins(ctx, me)
		// A user has a handful: all are read, and cut here.
		slices.SortFunc(logins, func(a, b identity.Login) int { return b.ID.Compare(a.ID) })
		logins = slices.DeleteFunc(logins, func(l identity.Login) bool { return !after.IsZero() && l.ID.Compare(after) >= 0 })
		return logins[:min(limit, len(logins))], err
	})
}

func (s *server) endSession(ctx context.Context, in *byID) (*struct{}, error) {
	return nil, s.identity.RevokeLogin(ctx, principal(ctx).UserID, in.ID.chatID())
}
