package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// One statement for many users: the contacts of each are looked up by themselves.
var listContactsSQL = `
SELECT wanted.user_id, array_agg(c.user_id)
FROM unnest(@users::uuid[]) AS wanted (user_id) CROSS JOIN LATERAL (` + contactsSQL + `) c
WHERE @among::uuid[] IS NULL OR c.user_id = ANY (@among)
GROUP BY wanted.user_id`

// ListContacts implements chat.PresenceStore.
func (s *Store) ListContacts(ctx context.Context, users, among []chat.ID) (map[chat.ID][]chat.ID, error) {
	const op = "store.ListContacts"
	rows, err := s.pool.Query(ctx, listContactsSQL, pgx.NamedArgs{"users": users, "among": among})
	if err != nil {
		return nil, translate(op, err)
	}
	contacts := make(map[chat.ID][]chat.ID, len(users))
	var user chat.ID
	var list []chat.ID
	_, err = pgx.ForEachRow(rows, []any{&user, &list}, func() error {
		contacts[user], list = list, nil
		return nil
	})
	return contacts, translate(op, err)
}

var acquaintedPairSQL = `
SELECT EXISTS (SELECT FROM (VALUES (@a::uuid)) AS wanted (user_id) CROSS JOIN LATERAL (` + acquaintedSQL + `) c WHERE c.user_id = @b)`

// Acquainted implements chat.PresenceStore.
func (s *Store) Acquainted(ctx context.Context, a, b chat.ID) (bool, error) {
	yes, err := collectOne(ctx, s.pool, pgx.RowTo[bool], acquaintedPairSQL, pgx.NamedArgs{"a": a, "b": b})
	return yes, translate("store.Acquainted", err)
}

const listBlockedSQL = `SELECT user_id, blocked_id FROM blocks WHERE user_id = ANY (@users::uuid[]) AND blocked_id = ANY (@users)`

// ListBlocked implements chat.PresenceStore.
func (s *Store) ListBlocked(ctx context.Context, users []chat.ID) ([][2]chat.ID, error) {
	list, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (pair [2]chat.ID, err error) {
		err = row.Scan(&pair[0], &pair[1])
		return pair, err
	}, listBlockedSQL, pgx.NamedArgs{"users": users})
	return list, translate("store.ListBlocked", err)
}

// A look-up for each contact, not a join: a plan made while the table was empty may
// read all of it, and is kept while 10,000 users come for the first time.
var listContactPresencesSQL = `
SELECT c.user_id, p.last_online_at, coalesce(p.status, ''), coalesce(p.version, 0)
FROM (VALUES (@user_id::uuid)) AS wanted (user_id) CROSS JOIN LATERAL (` + contactsSQL + `) c
LEFT JOIN LATERAL (SELECT * FROM presences p WHERE p.user_id = c.user_id OFFSET 0) p ON true
WHERE c.user_id > @after::uuid AND (@of::uuid[] IS NULL OR c.user_id = ANY (@of))
ORDER BY c.user_id LIMIT @limit`

// ListContactPresences implements chat.PresenceStore.
func (s *Store) ListContactPresences(ctx context.Context, user chat.ID, of []chat.ID, after chat.ID, limit int) ([]chat.PresenceState, error) {
	list, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (st chat.PresenceState, err error) {
		err = row.Scan(&st.UserID, scanTime(&st.LastOnlineAt), &st.Status, &st.Version)
		return st, err
	}, listContactPresencesSQL, pgx.NamedArgs{"user_id": user, "of": of, "after": [16]byte(after), "limit": limit})
	return list, translate("store.ListContactPresences", err)
}

const getPresencesSQL = `
SELECT user_id, node IS NOT NULL, invisible, last_online_at, coalesce(status, ''), version FROM presences WHERE user_id = ANY (@users::uuid[])`

// GetPresences implements chat.PresenceStore.
func (s *Store) GetPresences(ctx context.Context, users []chat.ID) (map[chat.ID]chat.PresenceState, error) {
	list, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (st chat.PresenceState, err error) {
		err = row.Scan(&st.UserID, &st.Online, &st.Invisible, scanTime(&st.LastOnlineAt), &st.Status, &st.Version)
		return st, err
	}, getPresencesSQL, pgx.NamedArgs{"users": users})
	states := make(map[chat.ID]chat.PresenceState, len(list))
	for _, st := range list {
		states[st.UserID] = st
	}
	return states, translate("store.GetPresences", err)
}

// In order of id, so that two nodes never wait for each other in a circle.
const putPresencesSQL = `
INSERT INTO presences AS p (user_id, node, invisible, last_online_at)
SELECT u.user_id, CASE WHEN u.online THEN @node END, u.invisible, u.last_online_at
FROM unnest(@users::uuid[], @online::boolean[], @invisible::boolean[], @last::timestamptz[]) AS u (user_id, online, invisible, last_online_at)
ORDER BY u.user_id
ON CONFLICT (user_id) DO UPDATE
SET node = excluded.node, invisible = excluded.invisible, last_online_at = greatest(p.last_online_at, excluded.last_online_at)
WHERE (p.node, p.invisible, p.last_online_at) IS DISTINCT FROM (excluded.node, excluded.invisible, greatest(p.last_online_at, excluded.last_online_at))`

// PutPresences implements chat.PresenceStore. No user may be named twice.
func (s *Store) PutPresences(ctx context.Context, node string, list []chat.PresenceState) error {
	users, online, invisible := make([]chat.ID, len(list)), make([]bool, len(list)), make([]bool, len(list))
	last := make([]*time.Time, len(list))
	for i, st := range list {
		users[i], online[i], invisible[i] = st.UserID, st.Online, st.Invisible
		if !st.LastOnlineAt.IsZero() {
			last[i] = &st.LastOnlineAt
		}
	}
	_, err := s.pool.Exec(ctx, putPresencesSQL, pgx.NamedArgs{"node": node, "users": users, "online": online, "invisible": invisible, "last": last})
	return translate("store.PutPresences", err)
}

const seeNodeSQL = `
INSERT INTO nodes (name, seen_at) VALUES (@node, @now)
ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at`

// SeeNode implements chat.PresenceStore.
func (s *Store) SeeNode(ctx context.Context, node string, now time.Time) error {
	_, err := s.pool.Exec(ctx, seeNodeSQL, pgx.NamedArgs{"node": node, "now": now})
	return translate("store.SeeNode", err)
}

// Every node: what several nodes have left goes with it.
const releasePresencesSQL = `
WITH places AS (DELETE FROM presence_places WHERE @node = '')
UPDATE presences p SET node = NULL, status = NULL, last_online_at = greatest(p.last_online_at, (SELECT date_trunc('milliseconds', n.seen_at) FROM nodes n WHERE n.name = p.node))
WHERE p.node IS NOT NULL AND (p.node = @node OR @node = '')`

// ReleasePresences implements chat.PresenceStore.
func (s *Store) ReleasePresences(ctx context.Context, node string) (int64, error) {
	tag, err := s.pool.Exec(ctx, releasePresencesSQL, pgx.NamedArgs{"node": node})
	return tag.RowsAffected(), translate("store.ReleasePresences", err)
}
