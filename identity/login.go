package identity

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

const (
	refreshPrefix = "plr_" // lets secret scanners know one when they see it
	refreshBytes  = 32
)

// RefreshGrace is how long after its first use a refresh token may be repeated. It is
// answered with the successor that it had the first time.
const RefreshGrace = 30 * time.Second

// LoginRequest asks for a new login.
type LoginRequest struct {
	Login    string // user name or email address
	Password string
	Device   string // the user's name for it; may be empty, at most chat.MaxDeviceNameRune characters
}

// Session is what a client gets for logging in or refreshing.
type Session struct {
	AccessToken  string
	ExpiresIn    time.Duration // of the access token
	RefreshToken string        // see Refresh; its successor comes with the next Session
	Login        Login
	User         chat.User
}

// LogIn checks a password and makes a login for the device. Every reason not to
// is the same Unauthenticated, and takes the same time; Invalid is for a device
// name that is too long; else as VerifyPassword.
func (s *Service) LogIn(ctx context.Context, r LoginRequest) (*Session, error) {
	if !utf8.ValidString(r.Device) || strings.ContainsRune(r.Device, 0) || utf8.RuneCountInString(r.Device) > chat.MaxDeviceNameRune {
		return nil, invalid("device", fmt.Sprintf("must have at most %d characters of UTF-8 without NUL", chat.MaxDeviceNameRune))
	}
	a, err := s.verifyPassword(ctx, r.Login, r.Password)
	if err != nil {
		return nil, err
	}
	now := s.now()
	l := Login{ID: chat.NewID(), UserID: a.ID, Device: r.Device, CreatedAt: now, LastUsedAt: now, ExpiresAt: now.Add(s.loginTTL)}
	refresh := randomBytes(refreshBytes)
	switch err := s.store.CreateLogin(ctx, l, hashOf(refresh), a.CredentialsAt); {
	case chat.CodeOf(err) == chat.NotFound:
		return nil, badLogin(errors.New("user disabled or password changed during the login"))
	case err != nil:
		return nil, fmt.Errorf("create login: %w", err)
	}
	s.metrics.logins.WithLabelValues("password", "ok").Inc()
	return s.session(ctx, &a.User, &l, encodeRefreshToken(refresh))
}

// Refresh exchanges a refresh token for a new session of the same login. Each token works
// once, and for RefreshGrace longer for those who have not got the answer, or have the token
// in two places: they get the same successor, so that nobody is left with a token that is no
// longer good. Using a token after that revokes its login, because one of the two who used
// it has stolen it. Unauthenticated.
func (s *Service) Refresh(ctx context.Context, token string) (*Session, error) {
	raw, ok := decodeRefreshToken(token)
	if !ok {
		return nil, badRefresh(errors.New("malformed"))
	}
	now, salt := s.now(), randomBytes(refreshBytes)
	next := successorOf(raw, salt)
	newest := raw
	l, a, reused, err := s.store.RotateRefresh(ctx, Rotation{
		Hash: hashOf(raw), Salt: salt, Successor: hashOf(next), Now: now, Expires: now.Add(s.loginTTL), Grace: RefreshGrace,
		Follow: func(salt []byte) []byte {
			newest = successorOf(newest, salt)
			return hashOf(newest)
		},
	})
	result := "ok"
	switch {
	case reused:
		s.metrics.logins.WithLabelValues("refresh", "reused").Inc()
		if l != nil {
			s.logger.WarnContext(ctx, "refresh token used twice: login revoked", "login", l.ID, "user", l.UserID)
			s.revoked.add(now, []Revocation{{LoginID: l.ID, UserID: l.UserID, At: now}}, true)
		}
		return nil, badRefresh(errors.New("used before"))
	case chat.CodeOf(err) == chat.Unauthenticated:
		s.metrics.logins.WithLabelValues("refresh", "refused").Inc()
		return nil, badRefresh(err)
	case err != nil:
		return nil, err
	case !bytes.Equal(newest, raw):
		next, result = newest, "repeated"
	}
	s.metrics.logins.WithLabelValues("refresh", result).Inc()
	return s.session(ctx, &a.User, l, encodeRefreshToken(next))
}

func (s *Service) session(ctx context.Context, u *chat.User, l *Login, refresh string) (*Session, error) {
	access, err := s.issue(ctx, u, l.ID, time.Time{}, s.accessTTL)
	if err != nil {
		return nil, err
	}
	return &Session{AccessToken: access, ExpiresIn: s.accessTTL, RefreshToken: refresh, Login: *l, User: *u}, nil
}

// ListLogins returns the user's valid logins, newest first.
func (s *Service) ListLogins(ctx context.Context, user chat.ID) ([]Login, error) {
	return s.store.ListLogins(ctx, user, s.clock.Now())
}

// RevokeLogin ends a login of the user's: its tokens are refused and its device's
// connection is cut, here at once, on other nodes within a second. It may be
// repeated; NotFound if the user has no such login.
func (s *Service) RevokeLogin(ctx context.Context, user, login chat.ID) error {
	now := s.now()
	if err := s.store.RevokeLogin(ctx, user, login, now); err != nil {
		return err
	}
	s.revoked.add(now, []Revocation{{LoginID: login, UserID: user, At: now}}, true)
	return nil
}

// successorOf returns the refresh token that follows one. It takes both to make it: the token,
// which only the client has, and the salt, which only the database has.
func successorOf(raw, salt []byte) []byte {
	mac := hmac.New(sha256.New, raw)
	mac.Write(salt)
	return mac.Sum(nil)
}

func hashOf(raw []byte) []byte {
	sum := sha256.Sum256(raw)
	return sum[:]
}

func encodeRefreshToken(raw []byte) string {
	return refreshPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func decodeRefreshToken(token string) (raw []byte, ok bool) {
	text, ok := strings.CutPrefix(token, refreshPrefix)
	if !ok || len(text) != base64.RawURLEncoding.EncodedLen(refreshBytes) {
		return nil, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return raw, err == nil && len(raw) == refreshBytes
}

// badLogin is the answer to every failed login; the reason is for the log only.
func badLogin(err error) error {
	return &chat.Error{Code: chat.Unauthenticated, Op: "identity.LogIn", Msg: "user name or password is wrong", Err: err}
}

func badRefresh(err error) error {
	return &chat.Error{Code: chat.Unauthenticated, Op: "identity.Refresh", Msg: "the refresh token is not valid, or no longer; log in again", Err: err}
}
