package store

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// What becomes of a user is computed under the lock on the user's row, by a statement
// that begins after it was taken: the places that other nodes have put are seen then.
// Whoever changes places takes that lock first, in order of id.
const (
	// The plans of an empty table would be kept, and read all of it when it has grown.
	freshPlansSQL = `SELECT set_config('plan_cache_mode', 'force_custom_plan', true)`

	// It makes the rows that are missing, and locks the others without writing to them.
	lockPresencesSQL = `
INSERT INTO presences AS p (user_id) SELECT u.id FROM unnest(@users::uuid[]) AS u (id) ORDER BY u.id
ON CONFLICT (user_id) DO UPDATE SET invisible = p.invisible WHERE false`

	// Of a user who was invisible and stays so nobody has seen that they were here.
	putPlacesSQL = `
WITH wanted AS (
  SELECT * FROM unnest(@users::uuid[], @places::text[], @says::boolean[], @last::timestamptz[]) AS w (user_id, place, says, last)
), ended AS (
  DELETE FROM presence_places pp USING wanted w WHERE pp.user_id = w.user_id AND pp.node = @node AND w.place IS NULL
), put AS (
  INSERT INTO presence_places AS pp (user_id, node, node_id, status)
  SELECT user_id, @node, @node_id, place FROM wanted WHERE place IS NOT NULL
  ON CONFLICT ON CONSTRAINT presence_places_key DO UPDATE SET node_id = excluded.node_id, status = excluded.status
  WHERE (pp.node_id, pp.status) IS DISTINCT FROM (excluded.node_id, excluded.status)
), become AS (
  SELECT w.user_id, p.version, coalesce(w.says, p.invisible) AS invisible,
    CASE WHEN NOT coalesce(w.says, p.invisible) THEN greatest(w.place, o.status) END AS status,
    CASE WHEN NOT coalesce(w.says, p.invisible) THEN CASE WHEN w.place IS NULL THEN o.node ELSE @node END END AS node,
    CASE
      WHEN p.invisible AND coalesce(w.says, true) THEN p.last_online_at
      WHEN w.says AND p.status IS NOT NULL THEN greatest(p.last_online_at, w.last, date_trunc('milliseconds', now()))
      ELSE greatest(p.last_online_at, w.last)
    END AS last_online_at
  FROM wanted w JOIN presences p ON p.user_id = w.user_id LEFT JOIN LATERAL (
    SELECT max(pp.status) AS status, min(pp.node) AS node FROM presence_places pp WHERE pp.user_id = w.user_id AND pp.node <> @node
  ) o ON true
), ` + becomeSQL

	// The better of two statuses is the greater word. What is returned is how the users
	// are now, and whether this statement has changed how they are shown.
	becomeSQL = `changed AS (
  UPDATE presences p SET status = b.status, invisible = b.invisible, node = b.node, last_online_at = b.last_online_at,
    version = CASE WHEN (p.status, p.invisible) IS DISTINCT FROM (b.status, b.invisible) THEN nextval('presence_versions') ELSE p.version END,
    changed = CASE WHEN (p.status, p.invisible) IS DISTINCT FROM (b.status, b.invisible) THEN pg_current_xact_id() ELSE p.changed END
  FROM become b
  WHERE p.user_id = b.user_id AND (p.status, p.invisible, p.node, p.last_online_at) IS DISTINCT FROM (b.status, b.invisible, b.node, b.last_online_at)
  RETURNING p.user_id, p.version
)
SELECT b.user_id, b.status IS NOT NULL, b.invisible, b.last_online_at, coalesce(b.status, ''), coalesce(c.version, b.version), coalesce(c.version <> b.version, false)
FROM become b LEFT JOIN changed c ON c.user_id = b.user_id`
)

// PutPlaces implements chat.PlaceStore. No user may be named twice.
func (s *Store) PutPlaces(ctx context.Context, node chat.NodeID, list []chat.Place) ([]chat.PlaceOutcome, error) {
	users, places, says := make([]chat.ID, len(list)), make([]*string, len(list)), make([]*bool, len(list))
	last := make([]*time.Time, len(list))
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
	outcomes, err := s.become(ctx, users, putPlacesSQL, pgx.NamedArgs{
		"node": node.Name, "node_id": node.ID, "users": users, "places": places, "says": says, "last": last,
	})
	return outcomes, translate("store.PutPlaces", err)
}

// become runs a statement that ends with becomeSQL, under the locks of the users, as
// one transaction and in one round trip.
func (s *Store) become(ctx context.Context, users []chat.ID, sql string, args pgx.NamedArgs) (outcomes []chat.PlaceOutcome, err error) {
	var b pgx.Batch
	b.Queue(freshPlansSQL)
	b.Queue(lockPresencesSQL, pgx.NamedArgs{"users": users})
	b.Queue(sql, args).Query(func(rows pgx.Rows) error {
		outcomes, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (o chat.PlaceOutcome, err error) {
			err = row.Scan(&o.UserID, &o.Online, &o.Invisible, scanTime(&o.LastOnlineAt), &o.Status, &o.Version, &o.Changed)
			return o, err
		})
		return err
	})
	err = s.pool.SendBatch(ctx, &b).Close()
	return outcomes, err
}

const (
	// A node does not release what it has put in this life.
	deadPlace = `pp.node = @node AND (pp.node_id = @dead_id OR @dead_id = '' AND NOT (pp.node = @own_name AND pp.node_id = @own_id))`

	deadPlacesSQL = `SELECT pp.user_id FROM presence_places pp WHERE ` + deadPlace + ` LIMIT @limit`

	releasePlacesSQL = `
WITH gone AS (
  DELETE FROM presence_places pp WHERE pp.user_id = ANY (@users::uuid[]) AND ` + deadPlace + ` RETURNING pp.user_id
), become AS (
  SELECT p.user_id, p.version, p.invisible,
    CASE WHEN NOT p.invisible THEN o.status END AS status,
    CASE WHEN NOT p.invisible THEN o.node END AS node,
    CASE WHEN p.status IS NOT NULL AND o.status IS NULL THEN greatest(p.last_online_at, @seen::timestamptz) ELSE p.last_online_at END AS last_online_at
  FROM gone g JOIN presences p ON p.user_id = g.user_id LEFT JOIN LATERAL (
    SELECT max(pp.status) AS status, min(pp.node) AS node FROM presence_places pp WHERE pp.user_id = g.user_id AND pp.node <> @node
  ) o ON true
), ` + becomeSQL

	// Who was here by the word of a node that was alone, or by that of an older Parley.
	releaseAloneSQL = `
UPDATE presences p SET node = NULL, last_online_at = greatest(p.last_online_at, @seen::timestamptz)
WHERE p.node = @node AND p.status IS NULL`
)

// ReleasePlaces implements chat.PlaceStore.
func (s *Store) ReleasePlaces(ctx context.Context, dead chat.DeadNode, own chat.NodeID, limit int) ([]chat.PlaceOutcome, bool, error) {
	const op = "store.ReleasePlaces"
	args := pgx.NamedArgs{
		"node": dead.Name, "dead_id": dead.ID, "own_name": own.Name, "own_id": own.ID, "limit": limit, "seen": dead.SeenAt.Truncate(time.Millisecond),
	}
	users, err := collect(ctx, s.pool, pgx.RowTo[chat.ID], deadPlacesSQL, args)
	if err != nil {
		return nil, false, translate(op, err)
	}
	if len(users) == 0 {
		_, err := s.pool.Exec(ctx, releaseAloneSQL, args)
		return nil, false, translate(op, err)
	}
	slices.SortFunc(users, chat.ID.Compare)
	args["users"] = users
	outcomes, err := s.become(ctx, users, releasePlacesSQL, args)
	if err != nil {
		return nil, false, translate(op, err)
	}
	return slices.DeleteFunc(outcomes, func(o chat.PlaceOutcome) bool { return !o.Changed }), true, nil
}

// A node whose heart beats is in its next life: then it is what was noted from time to time.
const nodeSeenSQL = `
SELECT (SELECT CASE WHEN beat_at > now() - interval '8 seconds' THEN seen_at ELSE greatest(seen_at, beat_at) END FROM nodes WHERE name = @node), now()`

// NodeSeen implements chat.PlaceStore.
func (s *Store) NodeSeen(ctx context.Context, node string) (seen, now time.Time, err error) {
	err = s.pool.QueryRow(ctx, nodeSeenSQL, pgx.NamedArgs{"node": node}).Scan(scanTime(&seen), &now)
	return seen, now, translate("store.NodeSeen", err)
}

// The lives of nodes that have places are found by stepping from one to the next in
// the index, however many places each has.
const listDeadNodesSQL = `
WITH RECURSIVE lives AS (
  (SELECT node, node_id FROM presence_places ORDER BY node, node_id LIMIT 1)
  UNION ALL
  SELECT n.node, n.node_id FROM lives l CROSS JOIN LATERAL (
    SELECT pp.node, pp.node_id FROM presence_places pp WHERE (pp.node, pp.node_id) > (l.node, l.node_id) ORDER BY pp.node, pp.node_id LIMIT 1
  ) n
)
SELECT l.node, l.node_id, coalesce(greatest(n.seen_at, n.beat_at), now()) FROM lives l LEFT JOIN nodes n ON n.name = l.node
WHERE CASE WHEN l.node = @own_name THEN l.node_id <> @own_id ELSE n.name IS NULL OR greatest(n.seen_at, n.beat_at) < now() - @silent::interval END
ORDER BY l.node, l.node_id LIMIT 100`

// ListDeadNodes implements chat.PlaceStore.
func (s *Store) ListDeadNodes(ctx context.Context, own chat.NodeID, silent time.Duration) ([]chat.DeadNode, error) {
	list, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (d chat.DeadNode, err error) {
		err = row.Scan(&d.Name, &d.ID, &d.SeenAt)
		return d, err
	}, listDeadNodesSQL, pgx.NamedArgs{"own_name": own.Name, "own_id": own.ID, "silent": silent})
	return list, translate("store.ListDeadNodes", err)
}
