package store_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// alter has each new session of the database begin with the setting.
func alter(t *testing.T, dsn, name, value string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	database := pgx.Identifier{conn.Config().Database}.Sanitize()
	if _, err := conn.Exec(t.Context(), "ALTER DATABASE "+database+" SET "+name+" = '"+value+"'"); err != nil {
		t.Fatal(err)
	}
}

// Whatever a database is set to, our connections have what our statements rely on: those of
// the readers, the writer and the node lease. In databases with repeatable read blocks were
// bypassed, and with synchronous_commit off acknowledged messages were lost.
func TestSettings(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	settings := map[string][2]string{ // in the database, in our sessions
		"default_transaction_isolation":       {"serializable", "read committed"},
		"synchronous_commit":                  {"off", "on"},
		"client_encoding":                     {"LATIN1", "UTF8"},
		"standard_conforming_strings":         {"off", "on"},
		"DateStyle":                           {"German", "ISO, DMY"},
		"IntervalStyle":                       {"iso_8601", "postgres"},
		"TimeZone":                            {"Asia/Tokyo", "UTC"},
		"bytea_output":                        {"escape", "hex"},
		"array_nulls":                         {"off", "on"},
		"row_security":                        {"on", "off"},
		"gin_fuzzy_search_limit":              {"1", "0"},
		"transform_null_equals":               {"on", "off"},
		"exit_on_error":                       {"on", "off"},
		"enable_seqscan":                      {"on", "off"},
		"enable_bitmapscan":                   {"on", "off"},
		"jit":                                 {"on", "off"},
		"plan_cache_mode":                     {"auto", "force_generic_plan"},
		"statement_timeout":                   {"1min", "0"},
		"lock_timeout":                        {"1min", "0"},
		"idle_session_timeout":                {"1min", "0"},
		"idle_in_transaction_session_timeout": {"1min", "5s"},
	}
	for name, v := range settings {
		alter(t, dsn, name, v[0])
	}
	s := storetest.Open(t, dsn)
	writer, err := pgxpool.NewWithConfig(t.Context(), s.WriterConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	lease, err := s.AcquireNodeLease(t.Context(), store.NodeLeaseOptions{Node: "a", ID: "1", Duration: time.Minute}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Close(t.Context())
	type querier interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	}
	for of, q := range map[string]querier{"reader": s.Pool(), "writer": writer, "lease": store.LeaseConn(lease)} {
		for name, v := range settings {
			var got string
			if err := q.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&got); err != nil || got != v[1] {
				t.Errorf("%s of the %s is %q, %v; want %q", name, of, got, err, v[1])
			}
		}
	}
}

// What is stronger stays, and so does what the URL says of the timeouts.
func TestSettingsKept(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	alter(t, dsn, "synchronous_commit", "remote_apply")
	s := storetest.Open(t, dsn+" statement_timeout=7s Idle_In_Transaction_Session_Timeout=8s synchronous_commit=off default_transaction_isolation=serializable")
	for name, want := range map[string]string{
		"statement_timeout": "7s", "idle_in_transaction_session_timeout": "8s", "synchronous_commit": "on", "default_transaction_isolation": "read committed",
	} {
		var got string
		if err := s.Pool().QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	s = storetest.Open(t, dsn)
	var got string
	if err := s.Pool().QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&got); err != nil || got != "remote_apply" {
		t.Errorf("synchronous_commit is %q, %v", got, err)
	}
}

// A setting that a session cannot change, or should not, is refused by its name: at the start,
// on each new connection, and by Ready.
func TestDemands(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, set, value string
		code             chat.Code
	}{
		{"fsync", "parley.accept", "full_page_writes", chat.Invalid}, // the server of the tests has both off
		{"full_page_writes", "parley.accept", "fsync", chat.Invalid},
		{"zero_damaged_pages", "zero_damaged_pages", "on", chat.Invalid},
		{"session_replication_role", "session_replication_role", "replica", chat.Invalid},
		{"default_transaction_read_only", "default_transaction_read_only", "on", chat.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(tt.set, "parley") && os.Getenv(storetest.EnvServer) != "" {
				t.Skip("the server of", storetest.EnvServer, "may be durable")
			}
			dsn := storetest.DSN(t)
			w := runWriter(t, storetest.Open(t, dsn), nil)
			if err := w.Await(t.Context()); err != nil {
				t.Fatal(err)
			}
			alter(t, dsn, tt.set, tt.value)

			_, err := store.Open(t.Context(), store.Options{DSN: dsn, ConnectWait: -1})
			e := wantError(t, err, tt.code, "database")
			if !strings.Contains(e.Msg, "has "+tt.name+" = ") {
				t.Errorf("the message is %q", e.Msg)
			}
			_, _, err = store.Migrate(t.Context(), dsn, nil)
			wantError(t, err, tt.code, "database")

			// It is in the way of the writer's next connection. Until then it works.
			if err := w.Ready(t.Context()); err != nil {
				t.Error(err)
			}
			execOn(t, dsn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
			err = w.Ready(t.Context())
			for err == nil { // by what was known 2 s ago
				time.Sleep(10 * time.Millisecond)
				err = w.Ready(t.Context())
			}
			for !strings.Contains(err.Error(), tt.name) && t.Context().Err() == nil { // the lost connection itself
				time.Sleep(10 * time.Millisecond)
				err = w.Ready(t.Context())
			}
			e = wantError(t, err, chat.Unavailable, "database")
			if !strings.Contains(e.Msg, "has "+tt.name+" = ") {
				t.Errorf("the message of Ready is %q", e.Msg)
			}
		})
	}
}

// A database that is not in UTF-8 changes text, or loses it when it is dumped and restored.
func TestEncoding(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "SQL_ASCII", "WIN1252"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			dsn := storetest.EmptyDSN(t)
			config, err := pgx.ParseConfig(dsn)
			if err != nil {
				t.Fatal(err)
			}
			name := config.Database + "_" + strings.ToLower(encoding)
			execOn(t, dsn, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING '"+encoding+"' LC_COLLATE 'C' LC_CTYPE 'C'")
			t.Cleanup(func() { execOn(t, dsn, "DROP DATABASE "+name+" WITH (FORCE)") })
			_, err = store.Open(t.Context(), store.Options{DSN: strings.Replace(dsn, config.Database, name, 1)})
			if e := wantError(t, err, chat.Invalid, "database"); !strings.Contains(e.Msg, "has server_encoding = "+encoding) {
				t.Errorf("the message is %q", e.Msg)
			}
		})
	}
}

// A standby takes no writes. It may be promoted, so Open waits for that.
func TestStandby(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "postgres")
	start := func() *pgchild.Server {
		child, err := pgchild.New(pgchild.Options{Dir: dir})
		if errors.Is(err, pgchild.ErrNotInstalled) {
			programtest.Missing(t, "postgresql", err.Error())
		} else if err == nil {
			err = child.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return child
	}
	stop := func(child *pgchild.Server) {
		if err := child.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
	stop(start())
	signal := filepath.Join(dir, "data", "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	child := start()
	defer stop(child)
	_, err := store.Open(t.Context(), store.Options{DSN: child.DSN(), ConnectWait: -1})
	if e := wantError(t, err, chat.Unavailable, "database"); !strings.Contains(e.Msg, "has in_hot_standby = on: it is a standby") {
		t.Errorf("the message is %q", e.Msg)
	}
	opened := make(chan error, 1)
	go func() {
		s, err := store.Open(t.Context(), store.Options{DSN: child.DSN()})
		if err == nil {
			s.Close()
		}
		opened <- err
	}()
	execOn(t, child.DSN(), `SELECT pg_promote()`)
	if err := <-opened; err != nil {
		t.Error("after it was promoted:", err)
	}
}

func execOn(t *testing.T, dsn, sql string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

// PgBouncer gives a client a session of its own in one of its modes only. In the others it is
// refused, by name, also if there are many servers that it might choose from.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		mode string
		line string
		ok   bool
	}{
		{"session", "", true},
		{"session", "application_name_add_host = 1", true},
		{"transaction", "", false},
		{"transaction", "min_pool_size = 5\nserver_round_robin = 1", false},
		{"statement", "", false},
	} {
		t.Run(tt.mode+" "+tt.line, func(t *testing.T) {
			t.Parallel()
			direct := storetest.DSN(t)
			dsn := storetest.PgBouncer(t, direct, tt.mode, tt.line)
			s, err := store.OpenMigrated(t.Context(), store.Options{DSN: dsn})
			if !tt.ok {
				if e := wantError(t, err, chat.Invalid, "database"); !strings.Contains(e.Msg, "pool_mode = session") {
					t.Errorf("the message is %q", e.Msg)
				}
				_, _, err = store.Migrate(t.Context(), dsn, nil)
				wantError(t, err, chat.Invalid, "database")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			lease, err := s.AcquireNodeLease(t.Context(), store.NodeLeaseOptions{Node: "a", ID: "1", Exclusive: true, Duration: time.Minute}, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer lease.Close(t.Context())
			w := runWriter(t, s, nil)
			if err := w.Await(t.Context()); err != nil {
				t.Error(err)
			}
			// A connection that was lost is not in the way of the next one.
			old := store.LoseConnection(lease)
			defer old.Close(t.Context())
			for _, err = lease.Heartbeat(t.Context()); chat.CodeOf(err) == chat.Unavailable && t.Context().Err() == nil; {
				_, err = lease.Heartbeat(t.Context())
			}
			if err != nil {
				t.Error("after its connection was lost:", err)
			}
		})
	}
}

// runWriter returns a writer that runs until the test ends.
func runWriter(t *testing.T, s *store.Store, logger *slog.Logger) *store.Writer {
	t.Helper()
	w := store.NewWriter(s.WriterConfig(), store.WriterOptions{Logger: logger})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}
