package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ID names a user, conversation, message or anything else: a UUID in lower-case text.
type ID string

// User is a user as everybody sees them.
type User struct {
	ID          ID        `json:"id"`
	Username    string    `json:"username"`
	DisplayName string    `json:"displayName"`
	CreatedAt   time.Time `json:"createdAt"`
}

// Me is a user as they see themselves.
type Me struct {
	User
	Email string `json:"email"`
	Admin bool   `json:"admin"` // may do what operators do
}

// NewUser is somebody to register.
type NewUser struct {
	Username    string `json:"username"` // 2 to 32 of a-z, 0-9, dot, underscore and hyphen, beginning with a letter or digit
	Email       string `json:"email"`
	Password    string `json:"password"`              // 8 to 1024 bytes
	DisplayName string `json:"displayName,omitempty"` // at most 100 characters; empty: the user name
}

// ProfileUpdate is what to change of one's own account; nil stays as it is.
type ProfileUpdate struct {
	DisplayName     *string `json:"displayName,omitempty"`
	Email           *string `json:"email,omitempty"`           // needs CurrentPassword
	Password        *string `json:"password,omitempty"`        // needs CurrentPassword, and ends all other logins and their connections
	CurrentPassword string  `json:"currentPassword,omitempty"` // what it is now
}

// Session is a login.
type Session struct {
	ID         ID        `json:"id"`
	Device     string    `json:"device"`
	Current    bool      `json:"current"` // the one that asks
	CreatedAt  time.Time `json:"createdAt"`
	LastUsedAt time.Time `json:"lastUsedAt"`
	ExpiresAt  time.Time `json:"expiresAt"` // unless it is used before
}

// Register makes an account; nobody needs to be logged in. Conflict names the field
// if the user name or the email address is taken.
func (a *API) Register(ctx context.Context, n NewUser) (*User, error) {
	var u User
	err := a.request(ctx, call{op: "register", method: http.MethodPost, path: "/api/users", in: n, out: &u}, "")
	if err != nil {
		return nil, err
	}
	return &u, nil
}

// LogIn makes a login of its own, for a program that keeps tokens: the client logs
// in by itself when it has to. login is a user name or an email address, device what
// the user calls it (what is beyond 100 characters is cut off); it may be empty.
func (a *API) LogIn(ctx context.Context, login, password, device string) (*Tokens, error) {
	in := map[string]string{"username": login, "password": password}
	if strings.Contains(login, "@") {
		delete(in, "username")
		in["email"] = login
	}
	if r := []rune(device); len(r) > 100 {
		device = string(r[:100])
	}
	if device != "" {
		in["device"] = device
	}
	var t Tokens
	if err := a.request(ctx, call{op: "log in", method: http.MethodPost, path: "/api/sessions", in: in, out: &t}, ""); err != nil {
		return nil, err
	}
	return &t, nil
}

// Sessions lists one's logins, the newest first.
func (a *API) Sessions(ctx context.Context) iter.Seq2[*Session, error] {
	return list[Session](ctx, a, call{op: "list sessions", path: "/api/sessions"})
}

// EndSession ends a login of one's own: its tokens are refused, and its connections
// cut. It may be repeated.
func (a *API) EndSession(ctx context.Context, id ID) error {
	return a.do(ctx, call{op: "end session", method: http.MethodDelete, path: at("sessions", string(id))})
}

// GetMe returns one's own account.
func (a *API) GetMe(ctx context.Context) (*Me, error) {
	var m Me
	if err := a.do(ctx, call{op: "get account", method: http.MethodGet, path: "/api/users/me", out: &m}); err != nil {
		return nil, err
	}
	return &m, nil
}

// UpdateMe changes one's own account.
func (a *API) UpdateMe(ctx context.Context, u ProfileUpdate) (*Me, error) {
	var m Me
	if err := a.do(ctx, call{op: "update account", method: http.MethodPatch, path: "/api/users/me", in: u, out: &m}); err != nil {
		return nil, err
	}
	return &m, nil
}

// Users finds users whose user names begin with prefix (1 to 32 bytes), in their order.
func (a *API) Users(ctx context.Context, prefix string) iter.Seq2[*User, error] {
	return list[User](ctx, a, call{op: "find users", path: "/api/users", query: url.Values{"q": {prefix}}})
}
