package identity

import (
	"context"
	"time"

	"github.com/parleymq/parley/chat"
)

// Login is one device's permission to act as a user, until it expires or is revoked.
type Login struct {
	ID         chat.ID
	UserID     chat.ID
	Device     string // as the client named it; may be empty
	CreatedAt  time.Time
	LastUsedAt time.Time // when it was made or last refreshed
	ExpiresAt  time.Time
	RevokedAt  time.Time // zero: good
}

// SigningKey signs access tokens, or did.
type SigningKey struct {
	KID       string
	Seed      []byte // 32 bytes: Ed25519 (RFC 8032)
	CreatedAt time.Time
	RetiredAt time.Time // zero: may sign
}

// Account is a user with what only this package may see.
type Account struct {
	chat.User
	PasswordHash  string    // PHC string format
	CredentialsAt time.Time // when the password was last changed; zero: never
}

// UserUpdate is a partial change; nil leaves a field as it is.
type UserUpdate struct {
	DisplayName    *string
	Email          *string
	PasswordHash   *string
	IfPasswordHash *string // change nothing, and answer NotFound, if the stored hash is another
	Admin          *bool
	DisabledAt     *time.Time // pointer to the zero time: enable
	// CredentialsAt says that PasswordHash is another password. What is stored is
	// later than what was, even if this is not.
	CredentialsAt *time.Time
}

// Revocation says that a login, or (LoginID zero) every connection of a user,
// is no longer good; or, with Credentials, those that stand on a password of
// before At and on no login: the logins that end with a password are revoked
// one by one.
type Revocation struct {
	LoginID     chat.ID
	UserID      chat.ID
	At          time.Time
	Credentials bool
}

// Concerns reports whether p is good no longer.
func (v Revocation) Concerns(p chat.Principal) bool {
	switch {
	case p.UserID != v.UserID:
		return false
	case v.Credentials:
		return p.LoginID.IsZero() && p.CredentialsAt.Before(v.At)
	}
	return v.LoginID.IsZero() || p.LoginID == v.LoginID
}

// Store keeps accounts. All methods block for a round trip and return chat
// errors; Unavailable may be repeated.
type Store interface {
	// CreateUser stores a new account. Conflict with Field "username" or "email"
	// if that is taken.
	CreateUser(ctx context.Context, a Account) error
	// GetUser returns an account by id, or NotFound.
	GetUser(ctx context.Context, id chat.ID) (*Account, error)
	// FindUser returns an account by user name or email address, or NotFound.
	FindUser(ctx context.Context, login string) (*Account, error)
	// UpdateUser changes an account. NotFound; Conflict as CreateUser.
	UpdateUser(ctx context.Context, id chat.ID, u UserUpdate) (*Account, error)
	// SearchUsers returns up to limit enabled users whose user name begins with
	// prefix, after the user name given, in order of user name.
	SearchUsers(ctx context.Context, prefix, after string, limit int) ([]chat.User, error)
	// ListUsers returns up to limit users after the user name given, disabled ones too.
	ListUsers(ctx context.Context, after string, limit int) ([]chat.User, error)

	// CreateLogin stores a login with the hash of its first refresh token.
	CreateLogin(ctx context.Context, l Login, refreshHash []byte) error
	// GetLogin returns a login, or NotFound.
	GetLogin(ctx context.Context, id chat.ID) (*Login, error)
	// ListLogins returns the user's good logins, newest first.
	ListLogins(ctx context.Context, user chat.ID, now time.Time) ([]Login, error)
	// RevokeLogin marks a login of the user as revoked, and forgets its refresh
	// tokens. It may be repeated; NotFound if the user has no such login.
	RevokeLogin(ctx context.Context, user, login chat.ID, now time.Time) error
	// RevokeUser marks all logins of the user as revoked.
	RevokeUser(ctx context.Context, user chat.ID, now time.Time) error
	// RotateRefresh replaces a refresh token by its successor, in one transaction:
	// of two callers with the same token one wins. Unauthenticated if the token is
	// not known, its login expired or revoked, or its user disabled. If the token was
	// used before, its login is revoked, the transaction committed, and the answer is
	// Unauthenticated with reused true.
	RotateRefresh(ctx context.Context, hash, successor []byte, now, expires time.Time) (l *Login, a *Account, reused bool, err error)
	// ListRevocations returns logins revoked and users disabled at or after since, and
	// users whose password was changed at or after credentialsSince.
	ListRevocations(ctx context.Context, since, credentialsSince time.Time) ([]Revocation, error)
	// DeleteExpired removes logins that expired or were revoked before the given time, with their refresh tokens.
	DeleteExpired(ctx context.Context, before time.Time) error

	// ListSigningKeys returns all keys, newest first.
	ListSigningKeys(ctx context.Context) ([]SigningKey, error)
	// CreateSigningKey stores k as the key that signs from now on and retires the
	// others at k.CreatedAt. With onlyIfNone, it does nothing if there is a key
	// that may sign (of several nodes starting at once, one makes the key).
	CreateSigningKey(ctx context.Context, k SigningKey, onlyIfNone bool) error
	// DeleteSigningKeys removes keys retired before the given time.
	DeleteSigningKeys(ctx context.Context, retiredBefore time.Time) error
}
