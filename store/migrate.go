package store

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"strconv"
	"strings"
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
	entries, err := migrations.FS.ReadDir(".")
	if err != nil {
		panic("store: migrations: " + err.Error()) // embedded: cannot happen
	}
	var newest int64
	for _, e := range entries {
		number, _, _ := strings.Cut(path.Base(e.Name()), "_")
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic("store: migration without a number: " + e.Name())
		}
		newest = max(newest, v)
	}
	return newest
}

// Migrate brings the database's schema to SchemaVersion and returns the versions
// before and after. When there is nothing to do it costs one connection and three
// queries. Of several nodes that start at once, one migrates and the others wait
// for it; a step that fails leaves the database at the step before, and Migrate
// may be repeated.
//
// Invalid with Field "database" if the schema is newer than this binary: a newer
// Parley has been here, and an older one would not know what it sees. Errors of
// the connection are as those of Open, which it does not wait for.
func Migrate(ctx context.Context, dsn string, logger *slog.Logger) (from, to int64, err error) {
	const op = "store.Migrate"
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	config, err := poolConfig(dsn)
	if err != nil {
		return 0, 0, err
	}
	to = SchemaVersion()
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return 0, 0, translate(op, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	from, current, err := stateOf(ctx, conn, to)
	switch {
	case err != nil:
		return 0, 0, translate(op, err)
	case current:
		return from, to, nil
	case from > to:
		return from, from, newerSchema(op, from, to)
	case from == to:
		return from, to, translate(op, settleOrigin(ctx, conn, logger))
	}
	logger.Info("migrating the database", "component", "store", "from", from, "to", to)
	start := time.Now()
	if err := up(ctx, config.ConnConfig); err != nil {
		return from, from, translate(op, err)
	}
	if err := settleOrigin(ctx, conn, logger); err != nil {
		return from, to, translate(op, err)
	}
	logger.Info("migrated the database", "component", "store", "from", from, "to", to, "elapsed_ms", time.Since(start).Milliseconds())
	return from, to, nil
}

// Version returns the version of the database's schema, 0 for an empty database.
// Internal errors aside it fails only as Ping does.
func (s *Store) Version(ctx context.Context) (int64, error) {
	v, err := schemaVersion(ctx, s.pool)
	return v, translate("store.Version", err)
}

// CheckVersion reports whether the schema is the one this binary was built for:
// Invalid with both versions if it is not.
func (s *Store) CheckVersion(ctx context.Context) error {
	const op = "store.CheckVersion"
	have, err := s.Version(ctx)
	want := SchemaVersion()
	switch {
	case err != nil:
		return err
	case have > want:
		return newerSchema(op, have, want)
	case have < want:
		return &chat.Error{
			Code: chat.Invalid, Op: op, Field: "database",
			Msg: fmt.Sprintf("has schema version %d and this parley needs %d; run parley migrate", have, want),
		}
	}
	return nil
}

func newerSchema(op string, have, want int64) error {
	return &chat.Error{
		Code: chat.Invalid, Op: op, Field: "database",
		Msg: fmt.Sprintf("has schema version %d, made by a newer parley; this one knows versions up to %d: start the newer one", have, want),
	}
}

// stateOf returns the version of the schema, and whether there is nothing to do to
// make it wanted's.
func stateOf(ctx context.Context, conn *pgx.Conn, wanted int64) (version int64, current bool, err error) {
	if err := checkServer(conn); err != nil {
		return 0, false, err
	}
	version, err = schemaVersion(ctx, conn)
	if err != nil || version != wanted {
		return version, false, err
	}
	system, err := systemIdentifier(ctx, conn)
	if err != nil {
		return version, false, err
	}
	current, err = settled(ctx, conn, system)
	return version, current, err
}

// goose keeps one row for each step that is applied, and a row 0.
const schemaVersionSQL = `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`

func schemaVersion(ctx context.Context, q querier) (int64, error) {
	var v int64
	err := q.QueryRow(ctx, schemaVersionSQL).Scan(&v)
	if sqlState(err) == stateUndefinedTable {
		return 0, nil
	}
	return v, err
}

// migrationWait is how long one node waits, in seconds, while another migrates.
const migrationWait = 300

func up(ctx context.Context, config *pgx.ConnConfig) error {
	db := stdlib.OpenDB(*config)
	defer db.Close()
	// The lock is the session's: were we to die, it would be free at once.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, migrationWait))
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS, goose.WithSessionLocker(locker), goose.WithVerbose(false))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}
