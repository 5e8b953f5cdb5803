package chat

import (
	"context"
	"net/netip"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// User is a person or bot.
type User struct {
	ID          ID
	Username    string // 2–32 of a–z 0–9 . _ -, unique
	Email       string // lower case, unique; never shown to other users
	DisplayName string
	Admin       bool
	CreatedAt   time.Time
	DisabledAt  time.Time // zero: may log in
}

// Principal is who a connection or request acts as.
type Principal struct {
	UserID   ID
	Username string
	LoginID  ID // the login whose access token was used; zero when a password was, or a token that an operator made
	Admin    bool
	// CredentialsAt is, without a login, when the password behind the credential had
	// been set; zero: it was the account's first. Another one ends what p may do.
	CredentialsAt time.Time
}

// Authenticator tells who presents a credential. Both doors use it.
type Authenticator interface {
	// VerifyToken checks an access token's signature, audience, expiry and that
	// neither its login nor its user has been revoked. Unauthenticated if any
	// fails, Unavailable if it could not be checked.
	VerifyToken(ctx context.Context, token string) (Principal, error)
	// VerifyPassword checks a user name or email address with its password. It
	// costs an argon2id hash; at most a bounded number run at once and the
	// others wait for their turn or for ctx. Same codes as VerifyToken, and
	// Quota when too many are waiting.
	VerifyPassword(ctx context.Context, login, password string) (Principal, error)
	// Revoked reports whether it is known that p is no longer good. It does not block.
	Revoked(p Principal) bool
}

// Limiter limits how often one address may do something, such as show a password:
// the doors share one. It does not block.
type Limiter interface {
	// Allow counts once more, and returns nil; or Quota with when to come back.
	Allow(from netip.Addr) error
}

var usernamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// ValidateUsername reports what is wrong with a user name as Invalid, or nil.
func ValidateUsername(s string) error {
	if len(s) < MinUsernameBytes || len(s) > MaxUsernameBytes || !usernamePattern.MatchString(s) {
		return invalid("username", "must have 2 to 32 of a-z, 0-9, dot, underscore and hyphen, and begin with a letter or digit")
	}
	return nil
}

// ValidateDisplayName reports what is wrong with a display name as Invalid, or nil.
func ValidateDisplayName(s string) error {
	return validateText("displayName", s, MaxDisplayRunes)
}

// ValidateTitle reports what is wrong with a conversation's title as Invalid, or nil.
func ValidateTitle(s string) error { return validateText("title", s, MaxTitleRunes) }

func validateText(field, s string, maxRunes int) error {
	switch {
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return invalid(field, "must be valid UTF-8 without NUL")
	case utf8.RuneCountInString(s) > maxRunes:
		return invalid(field, "is too long: "+itoa(utf8.RuneCountInString(s))+" characters, limit "+itoa(maxRunes))
	}
	return nil
}
