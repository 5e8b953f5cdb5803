package store_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/migrations"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	dsn := storetest.EmptyDSN(t)
	s := storetest.Open(t, dsn)
	want := store.SchemaVersion()
	for _, start := range []int64{0, want} {
		from, to, err := store.Migrate(t.Context(), dsn, nil)
		if from != start || to != want || err != nil {
			t.Errorf("Migrate() = %d, %d, %v, want %d, %d", from, to, err, start, want)
		}
	}
	storetest.Check(t, s)
}

// Several nodes start at once: one migrates, and all find the newest schema.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	dsn := storetest.EmptyDSN(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, to, err := store.Migrate(t.Context(), dsn, nil); to != store.SchemaVersion() || err != nil {
				t.Errorf("Migrate() = %d, %v", to, err)
			}
		})
	}
	wg.Wait()
}

func TestMigrateRefusesNewer(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	s := storetest.Open(t, dsn)
	exec(t, s, `INSERT INTO parley_schema_version (version_id, is_applied) VALUES (4711, true)`)
	_, _, err := store.Migrate(t.Context(), dsn, nil)
	e := wantError(t, err, chat.Invalid, "database")
	if !strings.Contains(e.Msg, "4711") || !strings.Contains(e.Msg, "versions up to") {
		t.Errorf("error %v does not say both versions", e)
	}
}

// A newer schema that says so is good for this binary, and left as it is; one whose
// steps need a newer binary is refused, with what is needed. So a release may be rolled
// out node by node, and back.
func TestMigrateAcceptsNewerThatSaysSo(t *testing.T) {
	t.Parallel()
	want := store.SchemaVersion()
	for _, tt := range []struct {
		oldest int64
		good   bool
	}{{want - 1, true}, {want, true}, {want + 1, false}} {
		dsn := storetest.DSN(t)
		s := storetest.Open(t, dsn)
		// As the newer one would have done it.
		exec(t, s, `INSERT INTO parley_schema_version (version_id, is_applied) VALUES ($1, true)`, want+1)
		exec(t, s, `UPDATE schema_compatibility SET version = $1, oldest = $2`, want+1, tt.oldest)
		from, to, err := store.Migrate(t.Context(), dsn, nil)
		if tt.good {
			if from != want+1 || to != want+1 || err != nil {
				t.Errorf("oldest %d: Migrate() = %d, %d, %v", tt.oldest, from, to, err)
			}
			storetest.Check(t, s)
			continue
		}
		if e := wantError(t, err, chat.Invalid, "database"); !strings.Contains(e.Msg, fmt.Sprint("supports version ", want+1, " or newer")) {
			t.Errorf("error %v does not say which version is needed", e)
		}
	}
	// A dump restored elsewhere: its stamps are for whoever knows all of them to renew.
	dsn := storetest.DSN(t)
	s := storetest.Open(t, dsn)
	exec(t, s, `INSERT INTO parley_schema_version (version_id, is_applied) VALUES ($1, true)`, want+1)
	exec(t, s, `UPDATE schema_compatibility SET version = $1, oldest = 1`, want+1)
	exec(t, s, `UPDATE sync_origin SET system_identifier = 4711`)
	_, _, err := store.Migrate(t.Context(), dsn, nil)
	wantError(t, err, chat.Invalid, "database")
}

// Every step says for whom it is, and nobody says what cannot be. Steps up to first
// are those of the first release, before which there is no binary to think of.
func TestStepsSayTheOldestBinary(t *testing.T) {
	t.Parallel()
	const first = 14
	versions, oldest, err := store.Steps(migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range versions {
		if v > first && oldest[i] == 0 {
			t.Errorf("step %d does not say which binaries work on it: write %q and a number (migrations/README.md)", v, store.OldestMark)
		}
	}
	file := func(text string) fstest.MapFS {
		return fstest.MapFS{"00007_x.sql": {Data: []byte(text)}, "README.md": {}}
	}
	for text, want := range map[string]int64{"-- oldest binary: 5\n": 5, "-- about\n-- oldest binary: 7 \n-- +goose Up": 7, "SELECT": 0} {
		if _, oldest, err := store.Steps(file(text)); err != nil || oldest[0] != want {
			t.Errorf("Steps(%q) = %d, %v, want %d", text, oldest, err, want)
		}
	}
	for _, text := range []string{"-- oldest binary: 8", "-- oldest binary: 0", "-- oldest binary: ", "-- oldest binary: six"} {
		if _, _, err := store.Steps(file(text)); err == nil {
			t.Errorf("Steps(%q) is taken", text)
		}
	}
}

// Every step can be taken back and taken again.
func TestMigrateUpDownUp(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig(storetest.EmptyDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*config)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrations.FS)
	if err != nil {
		t.Fatal(err)
	}
	tables := func() (n int) {
		t.Helper()
		const count = `SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose%'`
		if err := db.QueryRowContext(t.Context(), count).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range 2 {
		before := []int{}
		for {
			before = append(before, tables())
			r, err := p.UpByOne(t.Context())
			if errors.Is(err, goose.ErrNoNextVersion) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			if _, err := p.Down(t.Context()); err != nil {
				t.Fatalf("down from %d: %v", r.Source.Version, err)
			}
			if got := tables(); got != before[len(before)-1] {
				t.Errorf("step %d and back leaves %d relations, want %d", r.Source.Version, got, before[len(before)-1])
			}
			if _, err := p.UpByOne(t.Context()); err != nil {
				t.Fatalf("up to %d again: %v", r.Source.Version, err)
			}
		}
		if v, err := p.GetDBVersion(t.Context()); v != store.SchemaVersion() || err != nil {
			t.Fatalf("version %d, %v, want %d", v, err, store.SchemaVersion())
		}
		if _, err := p.DownTo(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if got := tables(); got != 0 {
			t.Errorf("%d relations are left below the first step", got)
		}
	}
}
