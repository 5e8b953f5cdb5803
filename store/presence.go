package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
)

// One statement for many users: the contacts of each are looked up by themselves.
var listContactsSQL = `
SELECT wanted.user_id, array_agg(c.user_id)
FROM unnest(@users::uuid[]) AS wanted (user_id) CROSS JOIN LATERAL (` + contactsSQL + `) c
WHERE @among::uuid[] IS NULL OR c.user_id = ANY (@among)
GROUP BY wanted.user_id`

// ListContacts implements presence.Store.
func (s *Store) ListContacts(ctx context.Context, users, among []chat.ID) (map[chat.ID][]chat.ID, error) {
	contacts := make(map[chat.ID][]chat.ID, len(users))
	var user chat.ID
	var list []chat.ID
	err := forEach(ctx, s.pool, []any{&user, &list}, func() {
		contacts[user], list = list, nil
	}, listContactsSQL, pgx.NamedArgs{"users": users, "among": among})
	return contacts, translate("store.ListContacts", err)
}

var acquaintedPairSQL = `
SELECT @a::uuid <> @b AND EXISTS (
  SELECT FROM participants me WHERE me.user_id = @a AND ` + countsSQL + `
    AND EXISTS (SELECT FROM participants WHERE conversation_id = me.conversation_id AND user_id = @b OFFSET 0)
)`

// Acquainted implements presence.Store.
func (s *Store) Acquainted(ctx context.Context, a, b chat.ID) (bool, error) {
	yes, err := collectOne(ctx, s.pool, pgx.RowTo[bool], acquaintedPairSQL, pgx.NamedArgs{"a": a, "b": b})
	return yes, translate("store.Acquainted", err)
}

const listBlockedSQL = `SELECT user_id, blocked_id FROM blocks WHERE user_id = ANY (@users::uuid[]) AND blocked_id = ANY (@users)`

// ListBlocked implements presence.Store.
func (s *Store) ListBlocked(ctx context.Context, users []chat.ID) ([][2]chat.ID, error) {
	list, err := collect(ctx, s.pool, fields(func(pair *[2]chat.ID) []any {
		return []any{&pair[0], &pair[1]}
	}), listBlockedSQL, pgx.NamedArgs{"users": users})
	return list, translate("store.ListBlocked", err)
}

// scanState scans a presence.State, and what follows it in the row into more.
func scanState(st *presence.State, more ...any) pgx.RowToFunc[presence.State] {
	return func(row pgx.CollectableRow) (presence.State, error) {
		*st = presence.State{}
		err := row.Scan(append([]any{&st.UserID, &st.Status, &st.Invisible, scanTime(&st.LastOnlineAt), &st.Version}, more...)...)
		return *st, err
	}
}

// A look-up for each contact, not a join: a plan made while the table was empty may
// read all of it, and is kept while 10,000 users come for the first time.
var listContactPresencesSQL = `
SELECT c.user_id, coalesce(p.status, 'offline'), false, p.last_online_at, coalesce(p.version, 0)
FROM (VALUES (@user_id::uuid)) AS wanted (user_id) CROSS JOIN LATERAL (` + contactsSQL + `) c
LEFT JOIN LATERAL (SELECT * FROM presences p WHERE p.user_id = c.user_id OFFSET 0) p ON true
WHERE c.user_id > @after::uuid AND (@of::uuid[] IS NULL OR c.user_id = ANY (@of))
ORDER BY c.user_id LIMIT @limit`

// ListContactPresences implements presence.Store.
func (s *Store) ListContactPresences(ctx context.Context, user chat.ID, of []chat.ID, after chat.ID, limit int) ([]presence.State, error) {
	list, err := collect(ctx, s.pool, scanState(&presence.State{}), listContactPresencesSQL,
		pgx.NamedArgs{"user_id": user, "of": of, "after": [16]byte(after), "limit": limit})
	return list, translate("store.ListContactPresences", err)
}

const getPresencesSQL = `
SELECT user_id, coalesce(status, 'offline'), invisible, last_online_at, version FROM presences WHERE user_id = ANY (@users::uuid[])`

// GetPresences implements presence.Store.
func (s *Store) GetPresences(ctx context.Context, users []chat.ID) (map[chat.ID]presence.State, error) {
	list, err := collect(ctx, s.pool, scanState(&presence.State{}), getPresencesSQL, pgx.NamedArgs{"users": users})
	states := make(map[chat.ID]presence.State, len(list))
	for _, st := range list {
		states[st.UserID] = st
	}
	return states, translate("store.GetPresences", err)
}

const (
	// It makes the rows that are missing, and locks the others without writing to them.
	lockPresencesSQL = `
INSERT INTO presences AS p (user_id) SELECT u.id FROM unnest(@users::uuid[]) AS u (id) ORDER BY u.id
ON CONFLICT (user_id) DO UPDATE SET invisible = p.invisible WHERE false`

	// An array and IS TRUE, not a join: with statistics of a moment when nobody was online, the
	// planner would compare all places of the node with all users.
	putPlacesSQL = `
WITH wanted AS (
  SELECT * FROM unnest(@users::uuid[], @places::text[]) AS w (user_id, place)
), ended AS (
  DELETE FROM presence_places WHERE user_id = ANY (ARRAY(SELECT user_id FROM wanted WHERE place IS NULL)) AND (node = @node) IS TRUE
)
INSERT INTO presence_places AS pp (user_id, node, node_id, status)
SELECT user_id, @node, @node_id, place FROM wanted WHERE place IS NOT NULL
ON CONFLICT ON CONSTRAINT presence_places_key DO UPDATE SET node_id = excluded.node_id, status = excluded.status
WHERE (pp.node_id, pp.status) IS DISTINCT FROM (excluded.node_id, excluded.status)`

	// The rows are locked, and so where they were found. The better of two statuses is the greater word. When a user was online last is not changed
	// while they are invisible: nobody has seen them. What is returned is how the users are now,
	// whether this statement has changed that, and how they were shown before.
	computePresencesSQL = `
WITH become AS (
  SELECT w.user_id, p.row, p.version, p.status AS was, coalesce(w.says, p.invisible) AS invisible,
    CASE WHEN NOT coalesce(w.says, p.invisible) THEN o.status END AS status,
    CASE WHEN NOT coalesce(w.says, p.invisible) THEN o.node END AS node,
    CASE
      WHEN p.invisible AND coalesce(w.says, true) THEN p.last_online_at
      WHEN w.says AND p.status IS NOT NULL THEN greatest(p.last_online_at, w.last, date_trunc('milliseconds', now()))
      ELSE greatest(p.last_online_at, w.last)
    END AS last_online_at
  FROM unnest(@users::uuid[], @says::boolean[], @last::timestamptz[]) AS w (user_id, says, last)
  CROSS JOIN LATERAL (SELECT ctid AS row, version, status, invisible, last_online_at FROM presences WHERE user_id = w.user_id OFFSET 0) p LEFT JOIN LATERAL (
    SELECT max(pp.status) AS status, min(pp.node) AS node FROM presence_places pp WHERE pp.user_id = w.user_id
  ) o ON true
), changed AS (
  UPDATE presences p SET status = b.status, invisible = b.invisible, node = b.node, last_online_at = b.last_online_at,
    version = CASE WHEN (p.status, p.invisible) IS DISTINCT FROM (b.status, b.invisible) THEN nextval('presence_versions') ELSE p.version END,
    changed = CASE WHEN (p.status, p.invisible) IS DISTINCT FROM (b.status, b.invisible) THEN pg_current_xact_id() ELSE p.changed END
  FROM become b
  WHERE p.ctid = b.row AND (p.user_id = b.user_id) IS TRUE AND (p.status, p.invisible, p.node, p.last_online_at) IS DISTINCT FROM (b.status, b.invisible, b.node, b.last_online_at)
  RETURNING p.user_id, p.version
)
SELECT b.user_id, coalesce(b.status, 'offline'), b.invisible, b.last_online_at, coalesce(c.version, b.version),
  coalesce(c.version <> b.version, false), coalesce(b.was, 'offline')
FROM become b LEFT JOIN changed c ON c.user_id = b.user_id`
)

// PutNodePresences implements presence.Store.
func (s *Store) PutNodePresences(ctx context.Context, node presence.NodeID, list []presence.NodePresence) ([]presence.Outcome, error) {
	users, places, says, last := make([]chat.ID, len(list)), make([]*string, len(list)), make([]*bool, len(list)), make([]*time.Time, len(list))
	for i := range list {
		p := &list[i]
		users[i], says[i] = p.UserID, p.Invisible
		if p.Status != chat.Offline {
			places[i] = (*string)(&p.Status)
		}
		if !p.LastOnlineAt.IsZero() {
			last[i] = &p.LastOnlineAt
		}
	}
	outcomes, err := s.changePresences(ctx, users, says, last, putPlacesSQL,
		pgx.NamedArgs{"users": users, "places": places, "node": node.Name, "node_id": node.ID})
	return outcomes, translate("store.PutNodePresences", err)
}

// changePresences runs a statement that changes the places of users, and computes what becomes
// of them, in one transaction and one round trip. It does so under the locks of the users'
// rows, taken in order of id, by a statement that begins after that, so that the places that
// other nodes have put are seen.
func (s *Store) changePresences(ctx context.Context, users []chat.ID, says []*bool, last []*time.Time, sql string, args pgx.NamedArgs) (outcomes []presence.Outcome, err error) {
	var b pgx.Batch
	b.Queue(lockPresencesSQL, pgx.NamedArgs{"users": users})
	b.Queue(sql, args)
	queue(&b, &outcomes, func(row pgx.CollectableRow) (o presence.Outcome, err error) {
		_, err = scanState(&o.State, &o.Changed, &o.Was)(row)
		return o, err
	}, computePresencesSQL, pgx.NamedArgs{"users": users, "says": says, "last": last})
	err = s.pool.SendBatch(ctx, &b).Close()
	return outcomes, err
}
