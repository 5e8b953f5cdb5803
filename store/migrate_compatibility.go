package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/migrations"
)

// In a rolling upgrade the newer binary has migrated the database while older ones keep
// running and may be restarted. So each step declares the oldest binary that works after
// it, by the newest step that binary knows (migrations/README.md), and the database keeps
// the highest of these declarations. A binary that finds a newer schema reads it.

// A step is a file of migrations.
type step struct {
	file    string
	version int64
	oldest  int64 // SchemaVersion of the oldest binary that works when the step has been applied
}

// steps reads the files, in their order.
func steps(files fs.ReadDirFS) ([]step, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, err
	}
	var all []step
	for _, e := range entries {
		if path.Ext(e.Name()) != ".sql" {
			continue
		}
		number, _, _ := strings.Cut(e.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("step %s has no number", e.Name())
		}
		text, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return nil, err
		}
		s := step{file: e.Name(), version: version, oldest: version}
		if text, ok := declared(string(text)); ok {
			if s.oldest, err = strconv.ParseInt(text, 10, 64); err != nil || s.oldest < 1 || s.oldest > version {
				return nil, fmt.Errorf("step %s: %s%s must name a step from 1 to its own", e.Name(), oldestMark, text)
			}
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b step) int { return int(a.version - b.version) })
	return all, nil
}

// oldestMark begins the line in which a step names the oldest binary.
const oldestMark = "-- oldest binary: "

// declared returns a step's declaration. A step without one is for binaries that know it.
func declared(sql string) (oldest string, ok bool) {
	for line := range strings.Lines(sql) {
		if oldest, ok = strings.CutPrefix(line, oldestMark); ok {
			return strings.TrimSpace(oldest), true
		}
	}
	return "", false
}

// ours are the steps in this binary.
func ours() []step {
	all, err := steps(migrations.FS)
	if err != nil {
		panic("store: migrations: " + err.Error()) // embedded, and read by a test
	}
	return all
}

// oldestOf is the oldest binary that works when steps after from have been applied.
func oldestOf(all []step, from int64) (oldest int64) {
	for _, s := range all {
		if s.version > from {
			oldest = max(oldest, s.oldest)
		}
	}
	return oldest
}

const (
	lockCompatibilitySQL = `SELECT pg_advisory_xact_lock(hashtext('parley schema_compatibility'))`

	createCompatibilitySQL = `
CREATE TABLE IF NOT EXISTS schema_compatibility (
	one     boolean PRIMARY KEY DEFAULT true CONSTRAINT schema_compatibility_one CHECK (one),
	version bigint  NOT NULL, -- of the schema up to which this is known
	oldest  bigint  NOT NULL  -- a binary that knows the steps up to this one works on it
)`

	raiseOldestSQL = `
INSERT INTO schema_compatibility AS c (version, oldest) VALUES (@version, @oldest)
ON CONFLICT (one) DO UPDATE SET version = greatest(c.version, excluded.version), oldest = greatest(c.oldest, excluded.oldest)`

	oldestSQL = `SELECT oldest FROM schema_compatibility WHERE version >= @version`
)

// raiseOldest stores the oldest binary before the steps are applied, not after, so that
// an older binary that starts in between is refused. If the steps are never applied,
// nothing reads it.
func raiseOldest(ctx context.Context, conn *pgx.Conn, version, oldest int64) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range []string{lockCompatibilitySQL, createCompatibilitySQL} { // of several at once, one creates it
			if _, err := tx.Exec(ctx, sql); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, raiseOldestSQL, pgx.NamedArgs{"version": version, "oldest": oldest})
		return err
	})
}

// oldestBinary returns the stored oldest binary for that version of the schema; 0 if there
// is none.
func oldestBinary(ctx context.Context, q querier, version int64) (oldest int64, err error) {
	err = q.QueryRow(ctx, oldestSQL, pgx.NamedArgs{"version": version}).Scan(&oldest)
	if sqlState(err) == stateUndefinedTable || errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return oldest, err
}
