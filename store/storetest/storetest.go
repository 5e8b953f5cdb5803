// Package storetest gives each test a PostgreSQL database of its own, and checks
// afterwards that what is in it keeps Parley's promises. For tests only.
//
// There is one server for each test process: that of PARLEY_TEST_POSTGRES, or a
// private one from the installed binaries, without fsync, that ends with the
// process. A database is copied from a migrated template in some 50 ms and
// dropped with its test; tests may run in parallel. Where there is neither, tests
// skip, and fail when CI is set.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store"
)

// Main is for TestMain: it runs the tests, stops the private server, and fails if
// a goroutine is left. It exits. Without it the server is stopped by the end of
// the process, and leaves its folder in the temp directory to the next run.
func Main(m goleak.TestingM, options ...goleak.Option) {
	goleak.VerifyTestMain(stopAfter{m}, options...)
}

type stopAfter struct{ m goleak.TestingM }

// Run implements goleak.TestingM.
func (s stopAfter) Run() int {
	code := s.m.Run()
	if !started {
		return code
	}
	if server, err := theServer(); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := server.stop(ctx); err != nil {
			println("storetest: stop the server:", err.Error())
			return max(code, 1)
		}
	}
	return code
}

// DSN returns how to connect to a new database with the newest schema, which is
// dropped when the test ends, whoever is still connected to it.
func DSN(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func(s *server) string { return s.template })
}

// EmptyDSN is DSN for a database without a schema, to be migrated by the test.
func EmptyDSN(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func(*server) string { return "template0" })
}

func newDatabase(t testing.TB, template func(*server) string) string {
	t.Helper()
	s, err := theServer()
	switch {
	case errors.Is(err, errNone):
		programtest.Missing(t, "postgresql", err.Error())
	case err != nil:
		t.Fatal("no PostgreSQL:", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	name := newName("parley_test_")
	if err := s.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template(s)); err != nil {
		t.Fatal("create a database:", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			t.Error("drop the database:", err)
		}
	})
	return s.dsn(name)
}

// New returns an open store over a new database with the newest schema. Both go
// when the test ends.
func New(t testing.TB) *store.Store {
	t.Helper()
	return Open(t, DSN(t))
}

// Open returns an open store over dsn, which is closed when the test ends.
func Open(t testing.TB, dsn string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{DSN: dsn})
	if err != nil {
		t.Fatal("open the store:", err)
	}
	t.Cleanup(s.Close)
	return s
}

// Heartbeat has a node join and leave: it was alive just now, as the database knows.
func Heartbeat(t testing.TB, s *store.Store, node string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	lease, err := s.AcquireNodeLease(ctx, store.NodeLeaseOptions{Node: node, ID: "test", Duration: time.Minute}, time.Minute) // the server may not have ended the last one's connection yet
	if err == nil {
		err = lease.Close(ctx)
	}
	if err != nil {
		t.Error("heartbeat:", err)
	}
}

// Ahead returns dsn for connections to which the clock of the database seems to be ahead by d,
// as it is for a node whose own is behind.
func Ahead(t testing.TB, dsn string, d time.Duration) string {
	t.Helper()
	Exec(t, dsn, fmt.Sprintf(`CREATE SCHEMA ahead;
CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
AS $$ SELECT pg_catalog.clock_timestamp() + interval '%d milliseconds' $$`, d.Milliseconds()))
	return dsn + " search_path=ahead,pg_catalog,public"
}

// Exec runs a statement behind the back of whoever uses the database at dsn.
func Exec(t testing.TB, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err == nil {
		_, err = conn.Exec(t.Context(), sql)
		err = errors.Join(err, conn.Close(t.Context()))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TakeNodeLease takes the lease of the node "parley", which is alone on the database at dsn, from it.
// giveUp lets others have it.
func TakeNodeLease(t testing.TB, dsn string) (giveUp func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s := Open(t, dsn)
	for {
		// Repeated, because the node may be faster to take it again.
		Exec(t, dsn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'parley node %' AND datname = current_database()`)
		lease, err := s.AcquireNodeLease(ctx, store.NodeLeaseOptions{Node: "parley", ID: "test", Exclusive: true, Duration: timeout}, 0)
		if err == nil {
			return func() {
				if err := lease.Close(context.WithoutCancel(ctx)); err != nil {
					t.Error("give up the lease:", err)
				}
			}
		}
		if chat.CodeOf(err) != chat.Conflict {
			t.Fatal("take the lease:", err)
		}
	}
}

// Check is the oracle: it reads everything in the database and reports, as an
// error of the test, whatever contradicts Parley's promises (see store.Verify).
func Check(t testing.TB, s *store.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	violations, err := s.Verify(ctx)
	if err != nil {
		t.Error("verify the database:", err)
	}
	for _, v := range violations {
		t.Error("the database breaks a promise:", v)
	}
}

// Dump writes a dump of the database at dsn to a file and returns its path.
func Dump(t testing.TB, dsn string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dump")
	runProgram(t, "pg_dump", "--format=custom", "--file="+file, "--dbname="+dsn)
	return file
}

// Restore restores a dump into the database at dsn, which has no schema yet or whose tables
// are replaced.
func Restore(t testing.TB, dsn, file string) {
	t.Helper()
	runProgram(t, "pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", "--dbname="+dsn, file)
}

func runProgram(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), programtest.Path(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
