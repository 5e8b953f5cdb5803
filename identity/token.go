package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/parleymq/parley/chat"
)

const (
	tokenType     = "at+jwt" // RFC 9068, 2.1
	maxTokenBytes = 4 << 10
	tokenLeeway   = 30 * time.Second // for exp and nbf; iat is no validity time (RFC 7519, 4.1.6)
)

// claims is the payload of an access token (RFC 9068, 2.2).
type claims struct {
	jwt.RegisteredClaims
	LoginID chat.ID `json:"sid,omitzero"` // absent: made by an operator
	Name    string  `json:"name"`
	Admin   bool    `json:"admin,omitempty"`
	// CredentialsAt is chat.Principal's, in milliseconds since 1970. iat cannot take its
	// place: it is in seconds, and by the clock of another node. Absent: zero.
	CredentialsAt int64 `json:"cred,omitempty"`
}

// issue signs an access token for the user that is valid for ttl, for as long as the
// login is, or without one, the password that was set at the time of credentials.
func (s *Service) issue(ctx context.Context, u *chat.User, login chat.ID, credentials time.Time, ttl time.Duration) (string, error) {
	keys, err := s.keys.get(ctx)
	if err != nil {
		return "", err
	}
	now := s.clock.Now()
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: s.issuer, Audience: jwt.ClaimStrings{s.audience}, Subject: u.ID.String(), ID: chat.NewID().String(),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(ttl)),
		},
		LoginID: login, Name: u.Username, Admin: u.Admin,
	}
	if !credentials.IsZero() {
		c.CredentialsAt = credentials.UnixMilli()
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["typ"], t.Header["kid"] = tokenType, keys.signKID
	text, err := t.SignedString(keys.sign)
	if err != nil {
		return "", &chat.Error{Code: chat.Internal, Op: "identity.issue", Err: err}
	}
	return text, nil
}

// VerifyToken implements chat.Authenticator. It costs an Ed25519 verification the first time,
// and, as a rule, no query.
func (s *Service) VerifyToken(ctx context.Context, token string) (chat.Principal, error) {
	if len(token) > maxTokenBytes {
		return chat.Principal{}, badToken(errors.New("token too long"))
	}
	id := sha256.Sum256([]byte(token))
	t, ok := s.verified.get(id)
	if ok && !(s.clock.Now().Before(t.expires) && s.keys.has(t.kid)) {
		s.verified.forget(id)
		ok = false
	}
	if !ok {
		var err error
		if t, err = s.parseToken(ctx, token); err != nil {
			return chat.Principal{}, err
		}
		s.verified.put(id, t)
	}
	if err := s.revoked.check(ctx, t.principal); err != nil {
		return chat.Principal{}, err
	}
	return t.principal, nil
}

// parseToken checks a token's signature and claims, but not whether it was revoked.
func (s *Service) parseToken(ctx context.Context, token string) (verified, error) {
	var c claims
	var keyErr error // why the token could not be checked, if it could not
	var kid string
	_, err := s.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		if typ, _ := t.Header["typ"].(string); typ != tokenType {
			return nil, fmt.Errorf("typ %q", typ)
		}
		kid, _ = t.Header["kid"].(string)
		var key any
		key, keyErr = s.keys.public(ctx, kid)
		return key, keyErr
	})
	if keyErr != nil && chat.CodeOf(keyErr) != chat.NotFound {
		return verified{}, keyErr
	}
	if err != nil {
		return verified{}, badToken(err)
	}
	user, err := chat.ParseID(c.Subject)
	if err != nil {
		return verified{}, badToken(err)
	}
	p := chat.Principal{UserID: user, Username: c.Name, LoginID: c.LoginID, Admin: c.Admin}
	if c.CredentialsAt != 0 {
		p.CredentialsAt = time.UnixMilli(c.CredentialsAt).UTC()
	}
	return verified{principal: p, kid: kid, expires: c.ExpiresAt.Add(tokenLeeway)}, nil
}

// badToken is the answer to every invalid token. What is wrong with it is for the log
// only: err never holds the token.
func badToken(err error) error {
	return &chat.Error{Code: chat.Unauthenticated, Op: "identity.VerifyToken", Msg: "the access token is not valid, or no longer", Err: err}
}

// IssueToken makes an access token without a login, for operators: it cannot be
// refreshed, is valid for ttl, and is revoked only by disabling the user or changing
// their password. user is a user name or email address; ttl is a second to
// MaxTokenTTL. NotFound; Conflict if the user is disabled.
func (s *Service) IssueToken(ctx context.Context, user string, ttl time.Duration) (token string, expires time.Time, err error) {
	if ttl < time.Second || ttl > MaxTokenTTL {
		return "", time.Time{}, invalid("ttl", fmt.Sprintf("must be 1s to %v", MaxTokenTTL))
	}
	a, err := s.find(ctx, user)
	if err != nil {
		return "", time.Time{}, err
	}
	if !a.DisabledAt.IsZero() {
		return "", time.Time{}, &chat.Error{Code: chat.Conflict, Op: "identity.IssueToken", Field: "user", Msg: a.Username + " is disabled"}
	}
	token, err = s.issue(ctx, &a.User, chat.ID{}, a.CredentialsAt, ttl)
	return token, s.clock.Now().Add(ttl).UTC().Truncate(time.Second), err
}
