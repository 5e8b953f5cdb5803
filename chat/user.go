package chat

import (
	"context"
	"net/netip"
	"regexp"
	"time"
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

// Principal is the user that a connection or request acts as.
type Principal struct {
	UserID   ID
	Username string
	LoginID  ID // the login of the access token; zero for a password, or a token made by an operator
	Admin    bool
	// CredentialsAt is, without a login, when the password behind the credential was
	// set; zero: it is the account's first. A new password revokes p.
	CredentialsAt time.Time
}

// Authenticator verifies credentials, for MQTT and REST alike.
type Authenticator interface {
	// VerifyToken checks an access token's signature, audience and expiry, and that
	// neither its login nor its user is revoked. Unauthenticated if any check fails,
	// Unavailable if one could not be made.
	VerifyToken(ctx context.Context, token string) (Principal, error)
	// VerifyPassword checks the password of a user name or email address. It costs an
	// argon2id hash, of which a bounded number run at once; other calls wait, until ctx
	// ends. Same codes as VerifyToken, and Quota when too many wait.
	VerifyPassword(ctx context.Context, login, password string) (Principal, error)
	// Revoked reports whether p is known to be revoked. It does not block.
	Revoked(p Principal) bool
}

// Limiter limits how often one address may do something, such as show a wrong password.
// MQTT and REST share one.
type Limiter interface {
	// Reserve lets one more caller try, who calls decide once, with whether that counts
	// against the limit: a right password does not. Until then it counts, so that tries at
	// the same time are bounded, too. Where the limit is reached only by tries that are not
	// decided, Reserve waits for them. Quota with RetryAfter: the limit is reached, too many
	// wait, or ctx has ended.
	Reserve(ctx context.Context, from netip.Addr) (decide func(counts bool), err error)
}

var usernamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// ValidateUsername returns Invalid for a user name that is not allowed.
func ValidateUsername(s string) error {
	if len(s) < MinUsernameBytes || len(s) > MaxUsernameBytes || !usernamePattern.MatchString(s) {
		return invalid("username", "must have 2 to 32 of a-z, 0-9, dot, underscore and hyphen, and begin with a letter or digit")
	}
	return nil
}

// ValidateDisplayName returns Invalid for a display name that is not allowed.
func ValidateDisplayName(s string) error {
	return validateName("displayName", s, MaxDisplayRunes)
}

// ValidateTitle returns Invalid for a conversation title that is not allowed.
func ValidateTitle(s string) error { return validateName("title", s, MaxTitleRunes) }
