package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

const (
	presencesNowSQL = `SELECT pg_current_snapshot()::text, (SELECT last_value FROM presence_versions)`

	// What the look before this one has seen is left out, and what comes from another
	// cluster's future; what commits meanwhile comes with the next look at the latest.
	sinceSQL = `changed >= pg_snapshot_xmin(@since::text::pg_snapshot) AND changed < pg_snapshot_xmax(@next::text::pg_snapshot)
  AND NOT pg_visible_in_snapshot(changed, @since::text::pg_snapshot)`

	changedPresencesSQL = `
SELECT user_id, node IS NOT NULL, invisible, last_online_at, coalesce(status, ''), version, changed::text FROM presences
WHERE ` + sinceSQL + ` AND (changed, user_id) > (@changed::text::xid8, @after::uuid)
ORDER BY changed, user_id LIMIT @limit`

	contactChangesSQL = `
SELECT id, a, b, changed::text FROM contact_changes
WHERE ` + sinceSQL + ` AND (changed, id) > (@changed::text::xid8, @after::uuid)
ORDER BY changed, id LIMIT @limit`
)

// ListPresenceChanges implements chat.PlaceStore.
func (s *Store) ListPresenceChanges(ctx context.Context, c chat.PresenceCursor, limit int) (*chat.PresenceChanges, error) {
	const op = "store.ListPresenceChanges"
	out := &chat.PresenceChanges{}
	if c.Next == "" {
		if err := s.pool.QueryRow(ctx, presencesNowSQL).Scan(&c.Next, &c.Version); err != nil {
			return nil, translate(op, err)
		}
		c.Users, c.Contacts = chat.PresencePlace{Changed: "0"}, chat.PresencePlace{Changed: "0"}
	}
	out.Cursor = chat.PresenceCursor{Since: c.Next, Version: c.Version}
	if c.Since == "" {
		return out, nil
	}
	users, contacts := c.Users, c.Contacts
	args := func(p chat.PresencePlace) pgx.NamedArgs {
		return pgx.NamedArgs{"since": c.Since, "next": c.Next, "changed": p.Changed, "after": [16]byte(p.ID), "limit": limit}
	}
	var b pgx.Batch
	b.Queue(changedPresencesSQL, args(users)).Query(func(rows pgx.Rows) (err error) {
		out.States, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (st chat.PresenceState, err error) {
			err = row.Scan(&st.UserID, &st.Online, &st.Invisible, scanTime(&st.LastOnlineAt), &st.Status, &st.Version, &users.Changed)
			users.ID = st.UserID
			return st, err
		})
		return err
	})
	b.Queue(contactChangesSQL, args(contacts)).Query(func(rows pgx.Rows) (err error) {
		out.Contacts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (cc chat.ContactChange, err error) {
			err = row.Scan(&cc.ID, &cc.A, &cc.B, &contacts.Changed)
			contacts.ID = cc.ID
			return cc, err
		})
		return err
	})
	if err := s.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, translate(op, err)
	}
	if out.More = len(out.States) == limit || len(out.Contacts) == limit; out.More {
		c.Users, c.Contacts = users, contacts
		out.Cursor = c
	}
	return out, nil
}

const (
	putContactChangeSQL = `INSERT INTO contact_changes (id, a, b) VALUES (@id, @a, @b) ON CONFLICT (id) DO NOTHING`

	deleteContactChangesSQL = `DELETE FROM contact_changes WHERE created_at < now() - interval '10 minutes'`
)

// PutContactChange implements chat.PlaceStore.
func (s *Store) PutContactChange(ctx context.Context, c chat.ContactChange) error {
	_, err := s.pool.Exec(ctx, putContactChangeSQL, pgx.NamedArgs{"id": c.ID, "a": c.A, "b": c.B})
	return translate("store.PutContactChange", err)
}

// DeleteContactChanges implements chat.PlaceStore.
func (s *Store) DeleteContactChanges(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, deleteContactChangesSQL)
	return translate("store.DeleteContactChanges", err)
}
