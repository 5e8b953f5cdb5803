package store

import (
	"cmp"
	"context"
	"errors"
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/chat"
)

// The one row of sync_origin has an id, and what it is bound to. The id stands for everything
// that is true of this database and of no other, and of no earlier moment of it: sync cursors
// name it, the epoch of the log is made from it (chat.EpochOf), and names in Redis begin with
// that. Every start compares what the id is bound to with what is there, and draws a new one
// where they differ: the database is a copy, or was set back. So does SetBack, for what
// nothing shows, and a running node that misses what it has stored (NodeLease).
//
// The transaction ids in rows (xid and similar columns) are those of one PostgreSQL cluster.
// In another one they may lie in the future, where no snapshot sees them, and are renewed.

// xidColumns are the columns with transaction ids. When they are renewed, nullable ones
// become NULL, and the others get the id of the renewing transaction.
var xidColumns = []struct{ table, column, definition, index string }{
	{"events", "xid", alwaysSet, ""},
	{"conversations", "last_xid", alwaysSet, ""},
	{"participants", "joined_xid", alwaysSet, ""},
	{"participants", "xid", alwaysSet, ""},
	{"participants", "read_xid", "", ""},
	{"users", "profile_xid", alwaysSet, "CREATE INDEX users_profile_xid ON users (profile_xid)"},
	{"departures", "xid", alwaysSet, ""},
	{"presences", "changed", "", "CREATE INDEX presences_changed ON presences (changed, user_id) WHERE changed IS NOT NULL"},
	{"contact_changes", "changed", alwaysSet, "CREATE INDEX contact_changes_changed ON contact_changes (changed, id)"},
}

const alwaysSet = ` NOT NULL DEFAULT pg_current_xact_id()`

const (
	systemIdentifierSQL = `SELECT system_identifier FROM pg_control_system()`

	timelineSQL = `SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint`

	oidsSQL = `SELECT (SELECT oid::bigint FROM pg_database WHERE datname = current_database()), 'sync_origin'::regclass::oid::bigint`

	originSQL = `SELECT id, system_identifier, database_oid, table_oid, timeline FROM sync_origin`

	originIDSQL = `SELECT id FROM sync_origin`

	lockOriginSQL = `LOCK TABLE sync_origin IN EXCLUSIVE MODE`

	putOriginSQL = `
INSERT INTO sync_origin (id, system_identifier, database_oid, table_oid, timeline) VALUES (@id, @system, @database, @table, @timeline)
ON CONFLICT ON CONSTRAINT sync_origin_pkey DO UPDATE SET id = excluded.id, system_identifier = excluded.system_identifier,
  database_oid = excluded.database_oid, table_oid = excluded.table_oid, timeline = excluded.timeline`

	// The nodes are those of the database that this one was copied from, or will join again.
	forgetNodesSQL = `UPDATE nodes SET id = NULL, released = false WHERE id IS NOT NULL`

	// Numbers that were given out after the moment to which the database was set back are not
	// given out again: a node that still runs may hold them.
	skipSessionEpochsSQL = `SELECT setval('session_epochs', nextval('session_epochs') + 1000000)`

	// A node that has not noticed yet saves cursors of sessions that are connected there; the new
	// epoch ends that.
	renewSessionsSQL = `
UPDATE sessions s SET epoch = nextval('session_epochs'), inflight = CASE WHEN EXISTS (
  SELECT FROM jsonb_array_elements(s.inflight) i JOIN conversations c ON c.id = (i ->> 'conversationId')::uuid
  WHERE (i ->> 'seq')::int8 > c.last_seq
) THEN '[]' ELSE inflight END
WHERE ` + recentSession

	limitCursorsSQL = `
UPDATE session_cursors k SET seq = c.last_seq FROM conversations c, sessions s
WHERE s.id = k.session_id AND c.id = k.conversation_id AND k.seq > c.last_seq AND ` + recentSession

	limitDeliveredSQL = `
UPDATE participants p SET delivered_seq = c.last_seq FROM conversations c
WHERE c.id = p.conversation_id AND p.delivered_seq > c.last_seq AND p.user_id IN (SELECT s.user_id FROM sessions s WHERE ` + recentSession + `)`
)

// recentSession is the condition that a node which ran when the database was set back may
// have written to the session s since. All others are as they were at that moment.
const recentSession = `(s.expires_at IS NULL OR s.parted_at > clock_timestamp() - interval '1 day')`

// origin is the row of sync_origin.
type origin struct {
	id chat.ID
	at binding
}

// binding is what the id of an origin is bound to. 0: not known, and not compared.
type binding struct{ system, database, table, timeline int64 }

var scanOrigin = fields(func(o *origin) []any {
	return []any{&o.id, &o.at.system, &o.at.database, &o.at.table, &o.at.timeline}
})

// differs reports whether the two cannot be the same database.
func (b binding) differs(other binding) bool {
	return differ(b.system, other.system) || differ(b.database, other.database) || differ(b.table, other.table) || differ(b.timeline, other.timeline)
}

func differ(a, b int64) bool { return a != b && a != 0 && b != 0 }

// with returns b with what other knows.
func (b binding) with(other binding) binding {
	return binding{cmp.Or(other.system, b.system), cmp.Or(other.database, b.database), cmp.Or(other.table, b.table), cmp.Or(other.timeline, b.timeline)}
}

// readBinding returns what the id of this database is bound to now.
func readBinding(ctx context.Context, q querier) (b binding, err error) {
	if err := q.QueryRow(ctx, oidsSQL).Scan(&b.database, &b.table); err != nil {
		return b, err
	}
	if b.system, err = readIfAllowed(ctx, q, systemIdentifierSQL); err != nil {
		return b, err
	}
	b.timeline, err = readIfAllowed(ctx, q, timelineSQL)
	return b, err
}

// readIfAllowed returns a number that a server may not tell us, or not have: 0 then.
func readIfAllowed(ctx context.Context, q querier, sql string) (int64, error) {
	n, err := collectOne(ctx, q, pgx.RowTo[int64], sql)
	switch sqlState(err) {
	case statePrivilege, stateUndefinedFunction, stateNotSupported, stateNotInState:
		return 0, nil
	}
	return n, err
}

// readOrigin returns the row, and the zero origin if there is none.
func readOrigin(ctx context.Context, q querier) (origin, error) {
	o, err := collectOne(ctx, q, scanOrigin, originSQL)
	if errors.Is(err, pgx.ErrNoRows) {
		return origin{}, nil
	}
	return o, err
}

// settled reports whether the id is that of this database, and all that is known of it is
// recorded, and whether the transaction ids are foreign: those of another cluster.
func settled(ctx context.Context, q querier) (ok, foreign bool, err error) {
	now, err := readBinding(ctx, q)
	if err != nil {
		return false, false, err
	}
	was, err := readOrigin(ctx, q)
	return !was.id.IsZero() && was.at.with(now) == was.at, differ(was.at.system, now.system), err
}

// settling is what settleOrigin is told beside what it finds.
type settling struct {
	setBack      bool // the database was set back, whatever it is bound to
	sameTimeline bool // another timeline does not mean that it was
}

// settleOrigin records what the database's id is bound to, and draws a new one if there is
// none or it belongs to another database: then sessions do not reach beyond the ends of their
// logs, and transaction ids of another cluster are renewed. Of several callers one does it
// and the others wait.
func settleOrigin(ctx context.Context, conn *pgx.Conn, logger *slog.Logger, how settling) error {
	now, err := readBinding(ctx, conn)
	if err != nil {
		return err
	}
	for range 3 {
		err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return settleIn(ctx, tx, logger, now, how) })
		if !isCollision(err) {
			break
		}
	}
	return err
}

func settleIn(ctx context.Context, tx pgx.Tx, logger *slog.Logger, now binding, how settling) error {
	if _, err := tx.Exec(ctx, lockOriginSQL); err != nil {
		return err
	}
	was, err := readOrigin(ctx, tx)
	if err != nil {
		return err
	}
	put := func(id chat.ID) error {
		b := was.at.with(now)
		_, err := tx.Exec(ctx, putOriginSQL, pgx.NamedArgs{"id": id, "system": b.system, "database": b.database, "table": b.table, "timeline": b.timeline})
		return err
	}
	compared := now
	if how.sameTimeline {
		compared.timeline = 0
	}
	if !was.id.IsZero() && !how.setBack && !was.at.differs(compared) {
		return put(was.id)
	}
	id := chat.NewID()
	if !was.id.IsZero() {
		logger.Warn("this database is a copy, or was set back to an earlier moment: clients start over, and what is in Redis is not used",
			"epoch", chat.EpochOf(id), "former", chat.EpochOf(was.id))
	}
	if differ(was.at.system, now.system) {
		if err := renewXIDs(ctx, tx); err != nil {
			return err
		}
	}
	for _, sql := range []string{forgetNodesSQL, skipSessionEpochsSQL, renewSessionsSQL, limitCursorsSQL, limitDeliveredSQL} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return put(id)
}

// Epoch returns the epoch of the log.
func (s *Store) Epoch(ctx context.Context) (chat.LogEpoch, error) {
	id, err := collectOne(ctx, s.pool, pgx.RowTo[chat.ID], originIDSQL)
	return chat.EpochOf(id), translate("store.Epoch", err)
}

// SetBack says that the database was set back to an earlier moment, and begins a new epoch
// of the log; a nil logger logs nothing. Nodes that run notice at their next heartbeat (chat.ErrSetBack).
func (s *Store) SetBack(ctx context.Context, logger *slog.Logger) error {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return translate("store.SetBack", s.pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		return settleOrigin(ctx, c.Conn(), logger, settling{setBack: true})
	}))
}

// renewXIDs replaces the transaction ids by new columns with a default, which does not
// rewrite rows, and so is quick however many there are.
func renewXIDs(ctx context.Context, tx pgx.Tx) error {
	for _, s := range xidColumns {
		column := "ALTER TABLE " + s.table + " DROP COLUMN " + s.column + ", ADD COLUMN " + s.column + " xid8" + s.definition
		for _, sql := range []string{column, s.index} { // the index went with the column
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
	}
	return nil
}
