package store

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

var _ identity.Store = (*Store)(nil)

const accountColumns = `id, username, email, display_name, password_hash, admin, created_at, disabled_at, credentials_changed_at`

var scanAccount = fields(func(a *identity.Account) []any {
	return []any{&a.ID, &a.Username, (*zeronull.Text)(&a.Email), &a.DisplayName, &a.PasswordHash, &a.Admin, &a.CreatedAt, scanTime(&a.DisabledAt), scanTime(&a.CredentialsAt)}
})

func scanUser(row pgx.CollectableRow) (chat.User, error) {
	a, err := scanAccount(row)
	return a.User, err
}

const createUserSQL = `
INSERT INTO users (id, username, email, display_name, password_hash, admin, created_at, disabled_at, credentials_changed_at)
VALUES (@id, @username, @email, @display_name, @password_hash, @admin, @created_at, @disabled_at, @credentials_at)`

// CreateUser implements identity.Store. A repeat after Unavailable may be
// answered with Conflict by what the first one stored. Invalid if a text is
// over its limit or holds NUL.
func (s *Store) CreateUser(ctx context.Context, a identity.Account) error {
	_, err := s.pool.Exec(ctx, createUserSQL, pgx.NamedArgs{
		"id": a.ID, "username": a.Username, "email": zeronull.Text(a.Email), "display_name": a.DisplayName, "password_hash": a.PasswordHash,
		"admin": a.Admin, "created_at": a.CreatedAt, "disabled_at": nullTime(a.DisabledAt),
		"credentials_at": nullTime(a.CredentialsAt),
	})
	return translate("store.CreateUser", err)
}

const getUserSQL = `SELECT ` + accountColumns + ` FROM users WHERE id = @id`

// GetUser implements identity.Store.
func (s *Store) GetUser(ctx context.Context, id chat.ID) (*identity.Account, error) {
	return getUser(ctx, s.pool, "store.GetUser", id)
}

func getUser(ctx context.Context, q querier, op string, id chat.ID) (*identity.Account, error) {
	a, err := collectOne(ctx, q, scanAccount, getUserSQL, pgx.NamedArgs{"id": id})
	return found(a, err, op, "userId", "user", id)
}

const (
	findUsernameSQL = `SELECT ` + accountColumns + ` FROM users WHERE username = @login`
	findEmailSQL    = `SELECT ` + accountColumns + ` FROM users WHERE email = @login`
)

// FindUser implements identity.Store. login is compared as it is (both are
// stored in lower case); with an "@" it is an email address, which no user name
// contains.
func (s *Store) FindUser(ctx context.Context, login string) (*identity.Account, error) {
	const op = "store.FindUser"
	none := &chat.Error{Code: chat.NotFound, Op: op, Field: "login", Msg: "there is no such user"}
	if !storable(login) {
		return nil, none
	}
	sql := findUsernameSQL
	if strings.Contains(login, "@") {
		sql = findEmailSQL
	}
	a, err := collectOne(ctx, s.pool, scanAccount, sql, pgx.NamedArgs{"login": login})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, none
	} else if err != nil {
		return nil, translate(op, err)
	}
	return &a, nil
}

const findUsernamesSQL = `SELECT username, id FROM users WHERE username = ANY(@usernames)`

// FindUsernames implements chat.NameStore.
func (s *Store) FindUsernames(ctx context.Context, usernames []string) (map[string]chat.ID, error) {
	ids := make(map[string]chat.ID, len(usernames))
	var name string
	var id chat.ID
	err := forEach(ctx, s.pool, []any{&name, &id}, func() { ids[name] = id }, findUsernamesSQL, pgx.NamedArgs{"usernames": usernames})
	return ids, translate("store.FindUsernames", err)
}

// storable reports whether PostgreSQL can hold s as text.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

const updateUserSQL = `
UPDATE users SET
  display_name  = coalesce(@display_name, display_name),
  profile_xid   = CASE WHEN @display_name <> display_name THEN pg_current_xact_id() ELSE profile_xid END,
  email         = CASE WHEN @set_email::boolean THEN @email ELSE email END,
  password_hash = coalesce(@password_hash, password_hash),
  admin         = coalesce(@admin, admin),
  disabled_at   = CASE WHEN @set_disabled_at::boolean THEN @disabled_at ELSE disabled_at END,
  credentials_changed_at = CASE WHEN @credentials_at::timestamptz IS NULL THEN credentials_changed_at
    ELSE greatest(@credentials_at, credentials_changed_at + interval '1 millisecond') END
WHERE id = @id AND password_hash = coalesce(@if_password_hash, password_hash)
RETURNING ` + accountColumns

// UpdateUser implements identity.Store. It may be repeated. An email address of
// "" takes it away. The time of the credentials only ever moves forward, whatever
// the clocks of those who change them say. Invalid as CreateUser.
func (s *Store) UpdateUser(ctx context.Context, id chat.ID, u identity.UserUpdate) (*identity.Account, error) {
	var email zeronull.Text
	if u.Email != nil {
		email = zeronull.Text(*u.Email)
	}
	var disabledAt time.Time
	if u.DisabledAt != nil {
		disabledAt = *u.DisabledAt
	}
	a, err := collectOne(ctx, s.pool, scanAccount, updateUserSQL, pgx.NamedArgs{
		"id": id, "display_name": u.DisplayName, "set_email": u.Email != nil, "email": email, "password_hash": u.PasswordHash, "if_password_hash": u.IfPasswordHash,
		"admin": u.Admin, "set_disabled_at": u.DisabledAt != nil, "disabled_at": nullTime(disabledAt), "credentials_at": u.CredentialsAt,
	})
	return found(a, err, "store.UpdateUser", "userId", "user", id)
}

// The operators with tildes compare text by its bytes, whatever the database's
// collation; users_username_prefix serves them and the order.
const (
	searchUsersSQL = `
SELECT ` + accountColumns + ` FROM users
WHERE username ~>=~ @prefix AND username ~<~ @prefix_end AND username ~>~ @after AND disabled_at IS NULL
ORDER BY username USING ~<~ LIMIT @limit`
	listUsersSQL = `
SELECT ` + accountColumns + ` FROM users
WHERE username ~>~ @after
ORDER BY username USING ~<~ LIMIT @limit`
)

// afterPrefix, appended to a prefix, is larger than any text with that prefix.
const afterPrefix = "\U0010ffff"

// SearchUsers implements identity.Store. The order is by bytes. A prefix that no
// user name can have matches nobody.
func (s *Store) SearchUsers(ctx context.Context, prefix, after string, limit int) ([]chat.User, error) {
	if !storable(prefix) || !storable(after) {
		return []chat.User{}, nil
	}
	users, err := collect(ctx, s.pool, scanUser, searchUsersSQL, pgx.NamedArgs{
		"prefix": prefix, "prefix_end": prefix + afterPrefix, "after": after, "limit": limit,
	})
	return users, translate("store.SearchUsers", err)
}

// ListUsers implements identity.Store. The order is by bytes.
func (s *Store) ListUsers(ctx context.Context, after string, limit int) ([]chat.User, error) {
	users, err := collect(ctx, s.pool, scanUser, listUsersSQL, pgx.NamedArgs{"after": after, "limit": limit})
	return users, translate("store.ListUsers", err)
}
