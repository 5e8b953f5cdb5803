package pgchild_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/programtest"
	"go.uber.org/goleak"
)

// roleEnv makes the test binary play a part in another test instead of running tests.
const roleEnv = "PGCHILD_TEST_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		if err := playParent(role); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	pgchild.SetQuitTimeout(time.Second)
	code := m.Run()
	if template.dir != "" {
		_ = os.RemoveAll(template.dir)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// template is a stopped server's folder, for tests to copy: initdb takes most of a test's time.
var template struct {
	once sync.Once
	dir  string
	err  error
}

func makeTemplate() error {
	dir, err := os.MkdirTemp("", "pgchild-template-")
	if err != nil {
		return err
	}
	template.dir = dir
	s, err := pgchild.New(pgchild.Options{Dir: dir})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(s.Start(ctx), s.Stop(ctx))
}

// newDir returns a folder with a data directory in it; path is below a fresh temporary folder.
func newDir(t *testing.T, path ...string) string {
	t.Helper()
	needPostgres(t)
	if template.once.Do(func() { template.err = makeTemplate() }); template.err != nil {
		t.Fatal(template.err)
	}
	dir := filepath.Join(append([]string{t.TempDir()}, path...)...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(programtest.Path(t, "cp"), "-a", filepath.Join(template.dir, "data"), dir).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return dir
}

func needPostgres(t *testing.T) {
	t.Helper()
	_, err := pgchild.New(pgchild.Options{Dir: t.TempDir()})
	if errors.Is(err, pgchild.ErrNotInstalled) {
		programtest.Missing(t, "postgresql", err.Error())
	}
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func newServer(t *testing.T, o pgchild.Options) *pgchild.Server {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := pgchild.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start starts a server that is stopped with the test.
func start(t *testing.T, o pgchild.Options) *pgchild.Server {
	t.Helper()
	s := newServer(t, o)
	if err := s.Start(testContext(t)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return s
}

func stop(t *testing.T, s *pgchild.Server) {
	t.Helper()
	if err := s.Stop(testContext(t)); err != nil {
		t.Fatalf("Stop() = %v", err)
	}
	if pid := s.PID(); pid != 0 {
		t.Errorf("PID() = %d after Stop, want 0", pid)
	}
}

func query(ctx context.Context, dsn, sql string, args ...any) (string, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return "", err
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return strings.Join(values, " "), err
}

func mustQuery(t *testing.T, s *pgchild.Server, sql string) string {
	t.Helper()
	v, err := query(testContext(t), s.DSN(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// eventually waits until ok, with a deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}
