package store

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
)

const (
	deadPlacesSQL = `SELECT user_id FROM presence_places WHERE node = @node AND node_id = @node_id LIMIT @limit`

	// IS TRUE keeps the planner from looking through all places of the node.
	deletePlacesSQL = `DELETE FROM presence_places WHERE user_id = ANY (@users::uuid[]) AND (node = @node AND node_id = @node_id) IS TRUE`

	// For users stored as online by an older Parley, which did not write presence_places.
	releaseOlderSQL = `
UPDATE presences SET node = NULL, last_online_at = greatest(last_online_at, @seen::timestamptz) WHERE node = @node AND status IS NULL`
)

// ReleaseNode implements presence.Store.
func (s *Store) ReleaseNode(ctx context.Context, dead presence.DeadNode, limit int) (changed []presence.State, done bool, err error) {
	const op = "store.ReleaseNode"
	seen := dead.SeenAt.Truncate(time.Millisecond)
	args := pgx.NamedArgs{"node": dead.Name, "node_id": dead.ID, "limit": limit, "seen": seen}
	users, err := collect(ctx, s.pool, pgx.RowTo[chat.ID], deadPlacesSQL, args)
	if err != nil {
		return nil, false, translate(op, err)
	}
	if len(users) == 0 {
		_, err := s.pool.Exec(ctx, releaseOlderSQL, args)
		return nil, true, translate(op, err)
	}
	slices.SortFunc(users, chat.ID.Compare)
	args["users"] = users
	outcomes, err := s.changePresences(ctx, users, make([]*bool, len(users)), slices.Repeat([]*time.Time{&seen}, len(users)), deletePlacesSQL, args)
	for _, o := range outcomes {
		if o.Changed {
			changed = append(changed, o.State)
		}
	}
	return changed, false, translate(op, err)
}

const (
	deleteAllPlacesSQL = `DELETE FROM presence_places`

	releaseAllPresencesSQL = `
UPDATE presences p SET node = NULL, status = NULL,
  last_online_at = greatest(p.last_online_at, (SELECT date_trunc('milliseconds', n.seen_at) FROM nodes n WHERE n.name = p.node))
WHERE p.node IS NOT NULL`
)

// ReleaseAllPresences is for a lone node that starts: users who are stored as online were so
// until their node's last heartbeat. It may be repeated.
func (s *Store) ReleaseAllPresences(ctx context.Context) error {
	var b pgx.Batch
	b.Queue(deleteAllPlacesSQL)
	b.Queue(releaseAllPresencesSQL)
	return translate("store.ReleaseAllPresences", s.pool.SendBatch(ctx, &b).Close())
}

const nodeSeenSQL = `SELECT (SELECT greatest(seen_at, beat_at) FROM nodes WHERE name = @node), now()`

// NodeSeen implements presence.Store.
func (s *Store) NodeSeen(ctx context.Context, node string) (seen, now time.Time, err error) {
	err = s.pool.QueryRow(ctx, nodeSeenSQL, pgx.NamedArgs{"node": node}).Scan(scanTime(&seen), &now)
	return seen, now, translate("store.NodeSeen", err)
}

// The lives of nodes that have places are found by stepping from one to the next in the
// index, however many places each has.
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

// ListDeadNodes implements presence.Store.
func (s *Store) ListDeadNodes(ctx context.Context, own presence.NodeID, silent time.Duration) ([]presence.DeadNode, error) {
	list, err := collect(ctx, s.pool, fields(func(d *presence.DeadNode) []any {
		return []any{&d.Name, &d.ID, &d.SeenAt}
	}), listDeadNodesSQL, pgx.NamedArgs{"own_name": own.Name, "own_id": own.ID, "silent": silent})
	return list, translate("store.ListDeadNodes", err)
}
