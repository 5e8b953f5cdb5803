package store

import (
	"context"
	"io/fs"
	"regexp"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/migrations"
)

// versionTable is where goose keeps one row for each step that is applied, and a row 0. Its
// own name for it, goose_db_version, may be another program's in the same database, whose
// numbers would make us skip our steps.
const versionTable = "parley_schema_version"

const (
	schemaVersionSQL = `SELECT coalesce(max(version_id), 0) FROM ` + versionTable + ` WHERE is_applied`

	// Formerly the table was goose_db_version. It is ours if our first step has been applied.
	formerVersionsSQL = `
SELECT to_regclass('` + versionTable + `') IS NULL AND EXISTS (
  SELECT FROM pg_class g JOIN pg_constraint c ON c.connamespace = g.relnamespace
  WHERE g.oid = to_regclass('goose_db_version') AND g.relkind = 'r' AND c.conrelid = to_regclass('users') AND c.conname = 'users_username_unique')`

	renameVersionsSQL = `ALTER TABLE goose_db_version RENAME TO ` + versionTable

	// Binaries of the release before look here whether the schema is newer than theirs.
	formerViewSQL = `CREATE VIEW goose_db_version AS SELECT id, version_id, is_applied, tstamp FROM ` + versionTable

	// Names that our first steps will need.
	takenNamesSQL = `
SELECT c.relname::text FROM pg_class c
WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = current_schema()) AND c.relname = ANY (@names::text[]) ORDER BY 1`
)

// schemaVersion returns the version of the schema, 0 if there is none of ours.
func schemaVersion(ctx context.Context, q querier) (int64, error) {
	var v int64
	err := q.QueryRow(ctx, schemaVersionSQL).Scan(&v)
	if sqlState(err) == stateUndefinedTable {
		return 0, nil
	}
	return v, err
}

// renameVersions gives the table its name, if it has the former one. Of several callers one
// does it and the others wait.
func renameVersions(ctx context.Context, conn *pgx.Conn) error {
	former, err := collectOne(ctx, conn, pgx.RowTo[bool], formerVersionsSQL)
	if err != nil || !former {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockCompatibilitySQL); err != nil {
			return err
		}
		if former, err = collectOne(ctx, tx, pgx.RowTo[bool], formerVersionsSQL); err != nil || !former {
			return err
		}
		for _, sql := range []string{renameVersionsSQL, formerViewSQL} {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	})
}

// refuseForeign returns Invalid if tables of somebody else have the names of ours. It is asked
// where there is no schema of ours.
func refuseForeign(ctx context.Context, conn *pgx.Conn) error {
	taken, err := collect(ctx, conn, pgx.RowTo[string], takenNamesSQL, pgx.NamedArgs{"names": tableNames()})
	if err != nil || len(taken) == 0 {
		return err
	}
	// Another node may be migrating; then its first step is there by now.
	if v, err := schemaVersion(ctx, conn); err != nil || v > 0 {
		return err
	}
	return &chat.Error{
		Code: chat.Invalid, Op: "store.Migrate", Field: "database",
		Msg: "has a table " + taken[0] + " that is not Parley's: give Parley a database of its own, or a schema by search_path",
	}
}

var createTable = regexp.MustCompile(`(?m)^CREATE TABLE (\w+)`)

// tableNames are those of the tables that our steps create.
func tableNames() (names []string) {
	for _, s := range ours() {
		text, _ := fs.ReadFile(migrations.FS, s.file) // embedded, and read before
		for _, m := range createTable.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

const whereSQL = `SELECT coalesce(current_schema(), ''), current_user::text`

// explainRight makes an error that says what is missing, of a step that was refused for want of
// a right. It returns any other error as it is.
func explainRight(ctx context.Context, conn *pgx.Conn, err error) error {
	if state := sqlState(err); state != statePrivilege && state != stateNoSchema {
		return err
	}
	var schema, role string
	if conn.QueryRow(ctx, whereSQL).Scan(&schema, &role) != nil {
		return err
	}
	msg := "does not let the role " + role + " make tables in the schema " + schema + ", or change those there are (" + reason(err) + "): " +
		"GRANT CREATE ON SCHEMA " + schema + " TO " + role + ", or use the role that owns the tables"
	if schema == "" {
		msg = "has no schema to create tables in: the search_path of the role " + role + " names none that exists"
	}
	return &chat.Error{Code: chat.Invalid, Op: "store.Migrate", Field: "database", Msg: msg, Err: err}
}
