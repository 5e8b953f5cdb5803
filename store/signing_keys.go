package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/identity"
)

const listSigningKeysSQL = `
SELECT kid, private_key, created_at, retired_at FROM signing_keys ORDER BY created_at DESC, kid DESC`

// ListSigningKeys implements identity.Store.
func (s *Store) ListSigningKeys(ctx context.Context) ([]identity.SigningKey, error) {
	keys, err := collect(ctx, s.pool, fields(func(k *identity.SigningKey) []any {
		return []any{&k.KID, &k.Seed, &k.CreatedAt, scanTime(&k.RetiredAt)}
	}), listSigningKeysSQL)
	return keys, translate("store.ListSigningKeys", err)
}

const (
	// Readers go on; of two that make a key the second waits and then sees the first's.
	lockSigningKeysSQL   = `LOCK TABLE signing_keys IN SHARE ROW EXCLUSIVE MODE`
	haveSigningKeySQL    = `SELECT EXISTS (SELECT FROM signing_keys WHERE retired_at IS NULL)`
	retireSigningKeysSQL = `UPDATE signing_keys SET retired_at = @now WHERE retired_at IS NULL`
	createSigningKeySQL  = `INSERT INTO signing_keys (kid, private_key, created_at) VALUES (@kid, @private_key, @created_at)`
)

// CreateSigningKey implements identity.Store. Conflict if there is a key of that
// KID: after Unavailable that may be the one of the first attempt.
func (s *Store) CreateSigningKey(ctx context.Context, k identity.SigningKey, onlyIfNone bool) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockSigningKeysSQL); err != nil {
			return err
		}
		have, err := collectOne(ctx, tx, pgx.RowTo[bool], haveSigningKeySQL)
		if err != nil || have && onlyIfNone {
			return err
		}
		if _, err := tx.Exec(ctx, retireSigningKeysSQL, pgx.NamedArgs{"now": k.CreatedAt}); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, createSigningKeySQL, pgx.NamedArgs{"kid": k.KID, "private_key": k.Seed, "created_at": k.CreatedAt})
		return err
	})
	return translate("store.CreateSigningKey", err)
}

const deleteSigningKeysSQL = `DELETE FROM signing_keys WHERE retired_at < @retired_before`

// DeleteSigningKeys implements identity.Store. It may be repeated.
func (s *Store) DeleteSigningKeys(ctx context.Context, retiredBefore time.Time) error {
	_, err := s.pool.Exec(ctx, deleteSigningKeysSQL, pgx.NamedArgs{"retired_before": retiredBefore})
	return translate("store.DeleteSigningKeys", err)
}
