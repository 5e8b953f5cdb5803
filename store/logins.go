package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

const loginColumns = `id, user_id, device, created_at, last_used_at, expires_at, revoked_at`

var scanLogin = fields(func(l *identity.Login) []any {
	return []any{&l.ID, &l.UserID, &l.Device, &l.CreatedAt, &l.LastUsedAt, &l.ExpiresAt, scanTime(&l.RevokedAt)}
})

// The user is locked against UpdateUser: a change of password or a disabling either is
// seen here, or waits and then finds this login to revoke.
const createLoginSQL = `
WITH owner AS (
  SELECT id FROM users
  WHERE id = @user_id AND disabled_at IS NULL AND credentials_changed_at IS NOT DISTINCT FROM @credentials_at
  FOR SHARE
), login AS (
  INSERT INTO logins (id, user_id, device, created_at, last_used_at, expires_at, revoked_at)
  SELECT @id, id, @device, @created_at, @last_used_at, @expires_at, @revoked_at FROM owner
  RETURNING id
)
INSERT INTO refresh_tokens (hash, login_id, created_at) SELECT @hash, id, @created_at FROM login`

// CreateLogin implements identity.Store. Conflict if the login's id or the token's hash
// is there already.
func (s *Store) CreateLogin(ctx context.Context, l identity.Login, refreshHash []byte, credentialsAt time.Time) error {
	const op = "store.CreateLogin"
	tag, err := s.pool.Exec(ctx, createLoginSQL, pgx.NamedArgs{
		"id": l.ID, "user_id": l.UserID, "device": l.Device, "created_at": l.CreatedAt, "last_used_at": l.LastUsedAt,
		"expires_at": l.ExpiresAt, "revoked_at": nullTime(l.RevokedAt), "hash": refreshHash, "credentials_at": nullTime(credentialsAt),
	})
	if err == nil && tag.RowsAffected() == 0 {
		return notFound(op, "userId", "user with these credentials", l.UserID)
	}
	return translate(op, err)
}

const listLoginsSQL = `
SELECT ` + loginColumns + ` FROM logins
WHERE user_id = @user_id AND revoked_at IS NULL AND expires_at > @now
ORDER BY created_at DESC, id DESC`

// ListLogins implements identity.Store.
func (s *Store) ListLogins(ctx context.Context, user chat.ID, now time.Time) ([]identity.Login, error) {
	logins, err := collect(ctx, s.pool, scanLogin, listLoginsSQL, pgx.NamedArgs{"user_id": user, "now": now})
	return logins, translate("store.ListLogins", err)
}

// Logins are locked before their tokens, here as in RotateRefresh. A successor
// that RotateRefresh commits while we wait for the login stays, and is of no use:
// its login is revoked.
const (
	revokeLoginSQL = `
WITH revoked AS (
  UPDATE logins SET revoked_at = coalesce(revoked_at, @now) WHERE id = @id AND user_id = @user_id RETURNING id
), forgotten AS (
  DELETE FROM refresh_tokens t USING revoked r WHERE t.login_id = r.id
)
SELECT count(*) FROM revoked`
	revokeUserSQL = `
WITH revoked AS (
  UPDATE logins SET revoked_at = @now WHERE user_id = @user_id AND id IS DISTINCT FROM @except AND revoked_at IS NULL RETURNING id
), forgotten AS (
  DELETE FROM refresh_tokens t USING revoked r WHERE t.login_id = r.id
)
SELECT id FROM revoked`
)

// RevokeLogin implements identity.Store. The first revocation's time stays.
func (s *Store) RevokeLogin(ctx context.Context, user, login chat.ID, now time.Time) error {
	const op = "store.RevokeLogin"
	n, err := collectOne(ctx, s.pool, pgx.RowTo[int64], revokeLoginSQL, pgx.NamedArgs{"id": login, "user_id": user, "now": now})
	if err == nil && n == 0 {
		return notFound(op, "sessionId", "session", login)
	}
	return translate(op, err)
}

// RevokeUser implements identity.Store. It may be repeated.
func (s *Store) RevokeUser(ctx context.Context, user, except chat.ID, now time.Time) ([]chat.ID, error) {
	revoked, err := collect(ctx, s.pool, pgx.RowTo[chat.ID], revokeUserSQL, pgx.NamedArgs{"user_id": user, "except": except, "now": now})
	return revoked, translate("store.RevokeUser", err)
}

const (
	lockLoginSQL = `
SELECT ` + loginColumns + ` FROM logins
WHERE id = (SELECT login_id FROM refresh_tokens WHERE hash = @hash)
FOR UPDATE`
	// By the clock of the database: those of the nodes may differ.
	getTokenSQL = `
SELECT used_at IS NOT NULL, coalesce(used_at > clock_timestamp() - @grace::interval AND salt IS NOT NULL, false), salt
FROM refresh_tokens WHERE hash = @hash`
	reusedSQL      = `UPDATE logins SET revoked_at = coalesce(revoked_at, @now) WHERE id = @id RETURNING ` + loginColumns
	useTokenSQL    = `UPDATE refresh_tokens SET used_at = clock_timestamp(), salt = @salt WHERE hash = @hash`
	createTokenSQL = `INSERT INTO refresh_tokens (hash, login_id, created_at) VALUES (@hash, @login_id, @now)`
	useLoginSQL    = `UPDATE logins SET last_used_at = @now, expires_at = @expires WHERE id = @id RETURNING ` + loginColumns
)

// maxFollowed is how many successors of a repeated token are looked at to find the newest.
const maxFollowed = 10

// RotateRefresh implements identity.Store. It locks the login first, so that of several
// callers with one token the first rotates it and the others find it used. Used tokens are
// kept as long as their login, and so is the memory of reuse. After Unavailable the rotation
// may have happened: a repeat with the same token is answered as any other within the grace.
func (s *Store) RotateRefresh(ctx context.Context, r identity.Rotation) (l *identity.Login, a *identity.Account, reused bool, err error) {
	const op = "store.RotateRefresh"
	var refused error // the answer, with a transaction that is committed all the same
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		login, err := collectOne(ctx, tx, scanLogin, lockLoginSQL, pgx.NamedArgs{"hash": r.Hash})
		if err != nil {
			return err
		}
		// Statements of their own, that see what was committed while we waited for the lock.
		newest, followed, err := newestToken(ctx, tx, &r)
		if err != nil {
			return err
		}
		if newest.used {
			reused = true
			refused = badRefresh(op, "this refresh token was used before; its session is ended")
			login, err = collectOne(ctx, tx, scanLogin, reusedSQL, pgx.NamedArgs{"id": login.ID, "now": r.Now})
			l = &login
			return err
		}
		if a, err = getUser(ctx, tx, op, login.UserID); err != nil {
			return err
		}
		if !login.RevokedAt.IsZero() || !login.ExpiresAt.After(r.Now) || !a.DisabledAt.IsZero() {
			return badRefresh(op, "this session has ended; log in again")
		}
		if followed {
			l = &login
			return nil
		}
		l, err = rotate(ctx, tx, login.ID, &r)
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil, false, badRefresh(op, "this refresh token is not known; log in again")
	case err != nil:
		return nil, nil, false, translate(op, err)
	case refused != nil:
		return l, nil, reused, refused
	}
	return l, a, false, nil
}

type refreshToken struct {
	used     bool
	repeated bool // used, but its successor may be had once more
	salt     []byte
}

var scanToken = fields(func(t *refreshToken) []any { return []any{&t.used, &t.repeated, &t.salt} })

// newestToken returns the token that is shown, or while that is repeated its newest
// successor, as far as one may follow.
func newestToken(ctx context.Context, tx pgx.Tx, r *identity.Rotation) (t refreshToken, followed bool, err error) {
	hash := r.Hash
	for i := 0; ; i++ {
		t, err = collectOne(ctx, tx, scanToken, getTokenSQL, pgx.NamedArgs{"hash": hash, "grace": r.Grace})
		if err != nil || !t.repeated || i == maxFollowed {
			return t, i > 0, err
		}
		hash = r.Follow(t.salt)
	}
}

func rotate(ctx context.Context, tx pgx.Tx, login chat.ID, r *identity.Rotation) (*identity.Login, error) {
	if _, err := tx.Exec(ctx, useTokenSQL, pgx.NamedArgs{"hash": r.Hash, "salt": r.Salt}); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, createTokenSQL, pgx.NamedArgs{"hash": r.Successor, "login_id": login, "now": r.Now}); err != nil {
		return nil, err
	}
	l, err := collectOne(ctx, tx, scanLogin, useLoginSQL, pgx.NamedArgs{"id": login, "now": r.Now, "expires": r.Expires})
	return &l, err
}

func badRefresh(op, msg string) error {
	return &chat.Error{Code: chat.Unauthenticated, Op: op, Field: "refreshToken", Msg: msg}
}

const listRevocationsSQL = `
SELECT id, user_id, revoked_at AS at, false FROM logins WHERE revoked_at >= @since
UNION ALL
SELECT NULL, id, disabled_at, false FROM users WHERE disabled_at >= @since
UNION ALL
SELECT NULL, id, credentials_changed_at, true FROM users WHERE credentials_changed_at >= @credentials_since
ORDER BY at`

// ListRevocations implements identity.Store, in order of time. The times are
// those that the revoking node wrote down, and a row shows when its transaction
// commits: a poller asks again for the last few seconds.
func (s *Store) ListRevocations(ctx context.Context, since, credentialsSince time.Time) ([]identity.Revocation, error) {
	all, err := collect(ctx, s.pool,
		fields(func(r *identity.Revocation) []any { return []any{&r.LoginID, &r.UserID, &r.At, &r.Credentials} }),
		listRevocationsSQL, pgx.NamedArgs{"since": since, "credentials_since": credentialsSince},
	)
	return all, translate("store.ListRevocations", err)
}

const deleteExpiredSQL = `DELETE FROM logins WHERE expires_at < @before OR revoked_at < @before`

// DeleteExpired implements identity.Store. It may be repeated.
func (s *Store) DeleteExpired(ctx context.Context, before time.Time) error {
	_, err := s.pool.Exec(ctx, deleteExpiredSQL, pgx.NamedArgs{"before": before})
	return translate("store.DeleteExpired", err)
}
