package store

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/migrations"
)

// SchemaVersion returns the version of the schema that this binary was built for.
func SchemaVersion() int64 {
	var newest int64
	for _, s := range ours() {
		newest = max(newest, s.version)
	}
	return newest
}

// Migrate brings the database's schema to SchemaVersion and returns the versions
// before and after. When there is nothing to do it costs one connection and three
// queries. Of several nodes that start at once, one migrates and the others wait
// for it; a step that fails leaves the database at the step before, and Migrate
// may be repeated.
//
// A schema that is newer than this binary is left as it is, which is no error if its
// steps declare this binary compatible (migrations/README.md), and otherwise Invalid with
// Field "database". Errors of the connection are those of Open, but it does not wait for
// a server that is not there.
func Migrate(ctx context.Context, dsn string, logger *slog.Logger) (from, to int64, err error) {
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	config, err := poolConfig(dsn)
	if err != nil {
		return 0, 0, err
	}
	return migrate(ctx, config.ConnConfig, -1, logger.With("component", "store"))
}

// migrate is Migrate, which waits for a connection like Open.
func migrate(ctx context.Context, config *pgx.ConnConfig, wait time.Duration, logger *slog.Logger) (from, to int64, err error) {
	const op = "store.Migrate"
	var conn *pgx.Conn
	err = waitFor(ctx, wait, logger, func(ctx context.Context) error {
		err := refusePooler(ctx, config)
		if err == nil {
			conn, err = pgx.ConnectConfig(ctx, config)
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	from, to, err = migrateOn(ctx, conn, config, logger)
	return from, to, translate(op, explainRight(ctx, conn, err))
}

func migrateOn(ctx context.Context, conn *pgx.Conn, config *pgx.ConnConfig, logger *slog.Logger) (from, to int64, err error) {
	to = SchemaVersion()
	if err := renameVersions(ctx, conn); err != nil {
		return 0, 0, err
	}
	st, err := stateOf(ctx, conn, to)
	from = st.version
	switch {
	case err != nil:
		return 0, 0, err
	case from > to && !st.usable:
		return from, from, newerSchema("store.Migrate", st, to)
	case from > to:
		logger.Info("the schema is newer than this parley, but declares it compatible", "schema", from, "knows", to)
		if !st.settled {
			err = settleOrigin(ctx, conn, logger, settling{})
		}
		return from, from, err
	case from == to && st.settled:
		return from, to, nil
	case from == to:
		return from, to, settleOrigin(ctx, conn, logger, settling{})
	case from == 0:
		if err := refuseForeign(ctx, conn); err != nil {
			return 0, 0, err
		}
	}
	logger.Info("migrating the database", "from", from, "to", to)
	start := time.Now()
	if err := raiseOldest(ctx, conn, to, oldestOf(ours(), from)); err != nil {
		return from, from, err
	}
	if err := up(ctx, config); err != nil {
		return from, from, err
	}
	if err := settleOrigin(ctx, conn, logger, settling{}); err != nil {
		return from, to, err
	}
	logger.Info("migrated the database", "from", from, "to", to, "elapsed_ms", time.Since(start).Milliseconds())
	return from, to, nil
}

// OpenMigrated is Open and then Migrate.
func OpenMigrated(ctx context.Context, o Options) (*Store, error) {
	s, err := Open(ctx, o)
	if err != nil {
		return nil, err
	}
	if _, _, err := migrate(ctx, s.pool.Config().ConnConfig, o.ConnectWait, s.log); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func newerSchema(op string, have schemaState, want int64) error {
	msg := fmt.Sprintf("has schema version %d, made by a newer parley; this one supports versions up to %d: start the newer one", have.version, want)
	if have.oldest > want {
		msg = fmt.Sprintf("has schema version %d, which needs a parley that supports version %d or newer; this one supports versions up to %d: start a newer one", have.version, have.oldest, want)
	}
	return &chat.Error{Code: chat.Invalid, Op: op, Field: "database", Msg: msg}
}

// schemaState is how Migrate finds a database.
type schemaState struct {
	version int64
	oldest  int64 // the oldest compatible binary, if version is newer than this one's; 0: not known
	usable  bool  // this binary is not too old
	settled bool  // its id and transaction ids (sync_origin.go) are those of this database
}

func stateOf(ctx context.Context, conn *pgx.Conn, wanted int64) (st schemaState, err error) {
	if st.version, err = schemaVersion(ctx, conn); err != nil || st.version < wanted {
		return st, err
	}
	var foreign bool
	if st.settled, foreign, err = settled(ctx, conn); err != nil || st.version == wanted {
		return st, err
	}
	// Transaction ids of another cluster are replaced by a binary that knows all columns
	// with them.
	st.oldest, err = oldestBinary(ctx, conn, st.version)
	st.usable = st.oldest > 0 && st.oldest <= wanted && !foreign
	return st, err
}

// migrationWait is how long one node waits, in seconds, while another migrates.
const migrationWait = 300

func up(ctx context.Context, config *pgx.ConnConfig) error {
	db := stdlib.OpenDB(*config)
	defer db.Close()
	// It is a session lock: PostgreSQL releases it if this process dies.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, migrationWait))
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithTableName(versionTable), goose.WithSessionLocker(locker), goose.WithVerbose(false))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}
