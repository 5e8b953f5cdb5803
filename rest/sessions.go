package rest

import (
	"context"
	"net/http"
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
	Device   string   `json:"device,omitempty" doc:"What the user calls it, at most 100 characters." example:"Alice's phone"`
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
	ExpiresIn    int    `json:"expiresIn" doc:"Seconds that the access token is good." example:"900"`
	RefreshToken string `json:"refreshToken" doc:"Good once, for POST /api/sessions/refresh." example:"plr_…"`
	SessionID    ID     `json:"sessionId" doc:"What DELETE /api/sessions/{id} ends."`
	User         Me     `json:"user"`
}

// Session is one of the caller's logins.
type Session struct {
	ID         ID     `json:"id"`
	Device     string `json:"device,omitempty" example:"Alice's phone"`
	Current    bool   `json:"current" doc:"The one that asks."`
	CreatedAt  Time   `json:"createdAt"`
	LastUsedAt Time   `json:"lastUsedAt" doc:"When it was made or last refreshed."`
	ExpiresAt  Time   `json:"expiresAt" doc:"Unless it is refreshed before."`
}

func (s *server) sessions(login chat.Limiter) {
	tags := []string{"sessions"}
	register(s, huma.Operation{
		OperationID: "logIn", Method: http.MethodPost, Path: "/api/sessions", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Log in", Middlewares: huma.Middlewares{s.limited(login)},
	}, s.logIn, chat.Unauthenticated, chat.Quota)
	register(s, huma.Operation{
		OperationID: "refresh", Method: http.MethodPost, Path: "/api/sessions/refresh", Tags: tags,
		Summary: "Exchange a refresh token for new tokens", Description: "A refresh token is good once; using it again ends its session.",
	}, s.refresh, chat.Unauthenticated)
	register(s, s.secured(huma.Operation{
		OperationID: "listSessions", Method: http.MethodGet, Path: "/api/sessions", Tags: tags, Summary: "List one's own sessions, newest first",
	}), s.listSessions)
	register(s, s.secured(huma.Operation{
		OperationID: "endSession", Method: http.MethodDelete, Path: "/api/sessions/{id}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "End a session", Description: "Its tokens are refused and its device's MQTT connection is cut, within a second. It may be repeated.",
	}), s.endSession, chat.NotFound)
}

func (s *server) logIn(ctx context.Context, in *struct{ Body NewSession }) (*body[Tokens], error) {
	b := &in.Body
	if (b.Username == "") == (b.Email == "") {
		return nil, &chat.Error{Code: chat.Invalid, Field: "username", Msg: "is required, or email instead, not both"}
	}
	session, err := s.identity.LogIn(ctx, identity.LoginRequest{Login: b.Username + b.Email, Password: b.Password, Device: b.Device})
	if err != nil {
		return nil, err
	}
	return &body[Tokens]{tokensOf(session)}, nil
}

func (s *server) refresh(ctx context.Context, in *struct{ Body RefreshRequest }) (*body[Tokens], error) {
	session, err := s.identity.Refresh(ctx, in.Body.RefreshToken)
	if err != nil {
		return nil, err
	}
	return &body[Tokens]{tokensOf(session)}, nil
}

func tokensOf(s *identity.Session) Tokens {
	return Tokens{
		AccessToken: s.AccessToken, ExpiresIn: int(s.ExpiresIn.Seconds()), RefreshToken: s.RefreshToken, SessionID: idOf(s.Login.ID), User: meOf(&s.User),
	}
}

func (s *server) listSessions(ctx context.Context, in *struct{ Paging }) (*body[Page[Session]], error) {
	me := principal(ctx)
	logins, err := s.identity.ListLogins(ctx, me.UserID)
	if err != nil {
		return nil, err
	}
	// A user has a handful: all are read, and cut here.
	slices.SortFunc(logins, func(a, b identity.Login) int { return b.ID.Compare(a.ID) })
	if in.Cursor != "" {
		_, key, err := decodeCursor(in.Cursor, me.UserID, "", sessionsCursor)
		if err != nil {
			return nil, err
		}
		last, ok := parseIDKey(key)
		if !ok {
			return nil, badCursor()
		}
		logins = slices.DeleteFunc(logins, func(l identity.Login) bool { return l.ID.Compare(last) >= 0 })
	}
	var next string
	if len(logins) > in.Limit {
		logins = logins[:in.Limit]
		next = encodeCursor(sessionsCursor, me.UserID, "", logins[in.Limit-1].ID[:])
	}
	out := make([]Session, 0, len(logins))
	for i := range logins {
		l := &logins[i]
		out = append(out, Session{
			ID: idOf(l.ID), Device: l.Device, Current: l.ID == me.LoginID,
			CreatedAt: Time(l.CreatedAt), LastUsedAt: Time(l.LastUsedAt), ExpiresAt: Time(l.ExpiresAt),
		})
	}
	return &body[Page[Session]]{newPage(out, next)}, nil
}

func (s *server) endSession(ctx context.Context, in *byID) (*struct{}, error) {
	return nil, s.identity.RevokeLogin(ctx, principal(ctx).UserID, in.ID.chatID())
}

type byID struct {
	ID ID `path:"id"`
}
