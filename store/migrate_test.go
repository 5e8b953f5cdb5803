package store_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

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
	if v, err := s.Version(t.Context()); v != 0 || err != nil {
		t.Errorf("Version of an empty database = %d, %v", v, err)
	}
	wantError(t, s.CheckVersion(t.Context()), chat.Invalid, "database")
	for _, start := range []int64{0, want} {
		from, to, err := store.Migrate(t.Context(), dsn, nil)
		if from != start || to != want || err != nil {
			t.Errorf("Migrate() = %d, %d, %v, want %d, %d", from, to, err, start, want)
		}
	}
	if v, err := s.Version(t.Context()); v != want || err != nil {
		t.Errorf("Version() = %d, %v, want %d", v, err, want)
	}
	if err := s.CheckVersion(t.Context()); err != nil {
		t.Error(err)
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
	exec(t, s, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (4711, true)`)
	_, _, err := store.Migrate(t.Context(), dsn, nil)
	for _, err := range []error{err, s.CheckVersion(t.Context())} {
		e := wantError(t, err, chat.Invalid, "database")
		if !strings.Contains(e.Msg, "4711") || !strings.Contains(e.Msg, "versions up to") {
			t.Errorf("error %v does not say both versions", e)
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
