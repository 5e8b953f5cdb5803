package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/presence"
)

// Rows are found by the transaction that has changed them, those that the snapshot before
// (since) did not see: what the look before this one has seen is left out, and what comes from
// another cluster's future; what commits meanwhile comes with the next look at the latest.
const (
	snapshotNowSQL = `SELECT pg_current_snapshot()::text, (SELECT last_value FROM presence_versions)`

	changedPresencesSQL = `
SELECT user_id, coalesce(status, 'offline'), invisible, last_online_at, version, changed::text FROM presences
WHERE changed >= pg_snapshot_xmin(@since::text::pg_snapshot) AND changed < pg_snapshot_xmax(@next::text::pg_snapshot)
  AND NOT pg_visible_in_snapshot(changed, @since::text::pg_snapshot) AND (changed, user_id) > (@changed::text::xid8, @after::uuid)
ORDER BY changed, user_id LIMIT @limit`

	contactChangesSQL = `
SELECT id, a, b, changed::text FROM contact_changes
WHERE changed >= pg_snapshot_xmin(@since::text::pg_snapshot) AND changed < pg_snapshot_xmax(@next::text::pg_snapshot)
  AND NOT pg_visible_in_snapshot(changed, @since::text::pg_snapshot) AND (changed, id) > (@changed::text::xid8, @after::uuid)
ORDER BY changed, id LIMIT @limit`
)

// ListPresenceChanges implements presence.Store.
func (s *Store) ListPresenceChanges(ctx context.Context, c presence.Cursor, limit int) (*presence.Changes, error) {
	const op = "store.ListPresenceChanges"
	out := &presence.Changes{}
	if c.Next == "" {
		if err := s.pool.QueryRow(ctx, snapshotNowSQL).Scan(&c.Next, &c.Version); err != nil {
			return nil, translate(op, err)
		}
		c.Users, c.Contacts = presence.PageKey{Changed: "0"}, presence.PageKey{Changed: "0"}
	}
	out.Cursor = presence.Cursor{Since: c.Next, Version: c.Version}
	if c.Since == "" {
		return out, nil
	}
	args := func(k presence.PageKey) pgx.NamedArgs {
		return pgx.NamedArgs{"since": c.Since, "next": c.Next, "changed": k.Changed, "after": [16]byte(k.ID), "limit": limit}
	}
	users, contacts := c.Users, c.Contacts
	st := presence.State{UserID: users.ID}
	var b pgx.Batch
	queue(&b, &out.States, scanState(&st, &users.Changed), changedPresencesSQL, args(users))
	queue(&b, &out.Contacts, fields(func(cc *presence.ContactChange) []any {
		return []any{&cc.ID, &cc.A, &cc.B, &contacts.Changed}
	}), contactChangesSQL, args(contacts))
	if err := s.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, translate(op, err)
	}
	if out.More = len(out.States) == limit || len(out.Contacts) == limit; out.More {
		users.ID = st.UserID
		if n := len(out.Contacts); n > 0 {
			contacts.ID = out.Contacts[n-1].ID
		}
		c.Users, c.Contacts = users, contacts
		out.Cursor = c
	}
	return out, nil
}

const (
	putContactChangeSQL = `INSERT INTO contact_changes (id, a, b) VALUES (@id, @a, @b) ON CONFLICT (id) DO NOTHING`

	deleteContactChangesSQL = `DELETE FROM contact_changes WHERE created_at < now() - interval '10 minutes'`
)

// PutContactChange implements presence.Store.
func (s *Store) PutContactChange(ctx context.Context, c presence.ContactChange) error {
	_, err := s.pool.Exec(ctx, putContactChangeSQL, pgx.NamedArgs{"id": c.ID, "a": c.A, "b": c.B})
	return translate("store.PutContactChange", err)
}

// DeleteContactChanges implements presence.Store.
func (s *Store) DeleteContactChanges(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, deleteContactChangesSQL)
	return translate("store.DeleteContactChanges", err)
}
