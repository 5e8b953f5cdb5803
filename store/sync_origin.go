package store

import (
	"context"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// The transaction ids in rows (xid and similar columns) are those of one PostgreSQL cluster.
// In another cluster, into which a dump is restored, they may lie in the future, where no
// snapshot sees them. So the database records its cluster, and settleOrigin, at every start,
// renews the ids if the cluster is another one.

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

	hasOriginSQL = `SELECT EXISTS (SELECT FROM sync_origin)`

	// If the cluster's identifier cannot be read, it is assumed to be the same cluster.
	settledSQL = `SELECT EXISTS (SELECT FROM sync_origin WHERE @system::bigint = 0 OR system_identifier IN (0, @system))`

	putOriginSQL = `
INSERT INTO sync_origin (id, system_identifier) VALUES (@id, @system)
ON CONFLICT ON CONSTRAINT sync_origin_pkey DO UPDATE SET id = excluded.id, system_identifier = excluded.system_identifier`

	lockOriginSQL = `LOCK TABLE sync_origin IN EXCLUSIVE MODE`
)

// systemIdentifier returns the identifier of the cluster; 0 if we may not read it.
func systemIdentifier(ctx context.Context, q querier) (int64, error) {
	id, err := collectOne(ctx, q, pgx.RowTo[int64], systemIdentifierSQL)
	switch sqlState(err) {
	case statePrivilege, stateUndefinedFunction:
		return 0, nil
	}
	return id, err
}

// settled reports whether the transaction ids in rows are those of this cluster.
func settled(ctx context.Context, q querier, system int64) (bool, error) {
	return collectOne(ctx, q, pgx.RowTo[bool], settledSQL, pgx.NamedArgs{"system": system})
}

// settleOrigin records the cluster of the transaction ids, and renews them if that was
// another one: by new columns with a default, which does not rewrite rows, and so is quick
// however many there are. Cursors from before are refused from then on. Of several callers
// one does it and the others wait.
func settleOrigin(ctx context.Context, conn *pgx.Conn, logger *slog.Logger) error {
	system, err := systemIdentifier(ctx, conn)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockOriginSQL); err != nil {
			return err
		}
		if ok, err := settled(ctx, tx, system); ok || err != nil {
			return err
		}
		foreign, err := collectOne(ctx, tx, pgx.RowTo[bool], hasOriginSQL)
		if err != nil {
			return err
		}
		if foreign {
			logger.Warn("this database comes from another PostgreSQL cluster: clients sync from the beginning", "component", "store")
			if err := renewXIDs(ctx, tx); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, putOriginSQL, pgx.NamedArgs{"id": chat.NewID(), "system": system})
		return err
	})
}

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
