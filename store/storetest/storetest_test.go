package storetest_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// Tests see their own database only, and it goes with them.
func TestDatabases(t *testing.T) {
	t.Parallel()
	var first, second string
	t.Run("own", func(t *testing.T) {
		first, second = storetest.DSN(t), storetest.DSN(t)
		if first == second {
			t.Fatal("two tests got one database")
		}
		storetest.Check(t, storetest.Open(t, first))
		storetest.Check(t, storetest.New(t))
	})
	for _, dsn := range []string{first, second} {
		if conn, err := pgx.Connect(t.Context(), dsn); err == nil {
			t.Error("the database of a test that ended is still there")
			conn.Close(t.Context())
		}
	}
}

// What killed test runs have left is removed; what is in use, or new, is not.
func TestSweep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"x-left", "x-used", "y-other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := os.Create(filepath.Join(dir, "x-used", "parley.lock"))
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	left := func() (names []string) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	if storetest.Sweep(filepath.Join(dir, "x-*"), time.Hour); len(left()) != 3 {
		t.Errorf("left are %v after a sweep of what is old, want all", left())
	}
	if storetest.Sweep(filepath.Join(dir, "x-*"), 0); !slices.Equal(left(), []string{"x-used", "y-other"}) {
		t.Errorf("left are %v after a sweep, want what is in use and what is another's", left())
	}
}

// envChild makes TestServerDiesWithProcess play the process that is killed.
const envChild = "STORETEST_CHILD"

// A killed test process takes its server along: nobody is left to stop it.
func TestServerDiesWithProcess(t *testing.T) {
	if os.Getenv(envChild) != "" {
		fmt.Println("DSN", storetest.DSN(t))
		time.Sleep(timeout)
		return
	}
	t.Parallel()
	if os.Getenv(storetest.EnvServer) != "" {
		t.Skip("the server of", storetest.EnvServer, "is not ours")
	}
	storetest.DSN(t) // skips where there is no PostgreSQL
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), envChild+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dsn, found := "", false
	for lines := bufio.NewScanner(out); !found && lines.Scan(); {
		dsn, found = strings.CutPrefix(lines.Text(), "DSN ")
	}
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Errorf("connect to the child's %q: %v", dsn, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	if conn == nil {
		return
	}
	for err == nil { // ends when the server has closed the connection, or with ctx
		_, err = conn.Exec(ctx, "SELECT pg_sleep(0.01)")
	}
	if ctx.Err() != nil {
		t.Error("the server outlives its process")
	}
	_ = conn.Close(t.Context()) // it is closed already
	if conn, err := pgx.Connect(ctx, dsn); err == nil {
		t.Error("the server still lets us in")
		conn.Close(ctx)
	}
}

const timeout = time.Minute
