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
	RevokedAt  time.Time // zero: valid
}

// Rotation is the use of a refresh token. The Store sees hashes only; a successor is made
// from its predecessor and a salt, which the Store keeps with the predecessor.
//
// A token that was used less than Grace ago is not reused but repeated: an answer was lost,
// or two tabs refresh at once. Then the Store changes nothing and calls Follow with the
// salt of this token, of its successor, and so on, until it has found one that is not used:
// Follow has made the token to answer with. After Grace the token is reused, and its login
// is revoked; so it is where that search does not end within a few steps, and where a token
// has no salt, since a binary of before has rotated it.
type Rotation struct {
	Hash      []byte // of the token; SHA-256
	Salt      []byte // of its successor
	Successor []byte // the successor's hash
	Follow    func(salt []byte) (hash []byte)

	Now, Expires time.Time     // of the login: when it is used, and until when it is valid then
	Grace        time.Duration // by the clock of the database
}

// SigningKey signs access tokens, or has signed some.
type SigningKey struct {
	KID       string
	Seed      []byte // 32 bytes: Ed25519 (RFC 8032)
	CreatedAt time.Time
	RetiredAt time.Time // zero: may sign
}

// Account is a user with what only this package and its Store see.
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
	// CredentialsAt goes with the hash of a new password. The stored time always moves
	// forward, even if this one is not later.
	CredentialsAt *time.Time
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

	// CreateLogin stores a login with the hash of its first refresh token. NotFound if
	// there is no such user, or if it is disabled or has other credentials by now than
	// those of credentialsAt: it either sees such a change, or is there for the revocation
	// that follows it.
	CreateLogin(ctx context.Context, l Login, refreshHash []byte, credentialsAt time.Time) error
	// ListLogins returns the user's valid logins, newest first.
	ListLogins(ctx context.Context, user chat.ID, now time.Time) ([]Login, error)
	// RevokeLogin marks a login of the user as revoked, and forgets its refresh
	// tokens. It may be repeated; NotFound if the user has no such login.
	RevokeLogin(ctx context.Context, user, login chat.ID, now time.Time) error
	// RevokeUser does the same to all valid logins of the user but except (zero: all),
	// and returns which these were.
	RevokeUser(ctx context.Context, user, except chat.ID, now time.Time) ([]chat.ID, error)
	// RotateRefresh replaces a refresh token by its successor, in one transaction: of two
	// callers with the same token one is the first. Unauthenticated if the token is not
	// known, its login expired or revoked, or its user disabled. What a token that was used
	// before comes to, see Rotation: if that is its login's end, the transaction is
	// committed, and the answer is Unauthenticated with reused true.
	RotateRefresh(ctx context.Context, r Rotation) (l *Login, a *Account, reused bool, err error)
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
