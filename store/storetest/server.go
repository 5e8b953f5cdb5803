package storetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/migrations"
	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/store"
)

// EnvServer names the environment variable with the DSN of a server to test
// against: its role must be allowed to create databases.
const EnvServer = "PARLEY_TEST_POSTGRES"

// timeout bounds everything this package does by itself.
const timeout = time.Minute

// errNone says that there is no server and nothing to start one from.
var errNone = errors.New("set " + EnvServer + " or install PostgreSQL")

// server is a PostgreSQL with a migrated template database in it.
type server struct {
	dsn      func(database string) string
	template string
	stop     func(context.Context) error
}

// theServer is the one of this process, started when first asked for. A private
// one ends with the process, whichever way that ends (see pgchild).
var theServer = sync.OnceValues(startServer)

var started bool // theServer was asked for; read by Main when the tests are over

func startServer() (*server, error) {
	started = true
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s := &server{stop: func(context.Context) error { return nil }}
	if dsn := os.Getenv(EnvServer); dsn != "" {
		s.dsn = func(database string) string { return withDatabase(dsn, database) }
	} else {
		sweep(filepath.Join(os.TempDir(), folderPrefix+"*"), 10*time.Minute)
		dir, err := os.MkdirTemp("", folderPrefix)
		if err != nil {
			return nil, err
		}
		child, err := pgchild.New(pgchild.Options{Dir: dir, Settings: []string{
			"max_connections=600", "shared_buffers=64MB", "fsync=off", "synchronous_commit=off", "full_page_writes=off",
			"parley.accept=fsync,full_page_writes", // Parley uses no server that may lose data, unless that says so
		}})
		if err == nil {
			err = child.Start(ctx)
		}
		if errors.Is(err, pgchild.ErrNotInstalled) {
			err = fmt.Errorf("%w: %w", errNone, err)
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		s.dsn, s.stop = child.DSNFor, func(ctx context.Context) error { return errors.Join(child.Stop(ctx), os.RemoveAll(dir)) }
	}
	err := s.makeTemplate(ctx)
	if err != nil {
		err = errors.Join(err, s.stop(ctx))
	}
	return s, err
}

// folderPrefix begins the names of the private servers' folders in the temp directory.
const folderPrefix = "parley-storetest-"

// sweep removes the folders that killed test runs have left: ours, older than age, and with nobody who
// holds pgchild's lock.
func sweep(pattern string, age time.Duration) {
	dirs, _ := filepath.Glob(pattern)
	for _, dir := range dirs {
		fi, err := os.Lstat(dir)
		if err != nil || !fi.IsDir() || time.Since(fi.ModTime()) < age || int(fi.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			continue
		}
		lock, err := os.OpenFile(filepath.Join(dir, "parley.lock"), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(dir)
		}
		_ = lock.Close()
	}
}

// withDatabase is dsn with another database.
func withDatabase(dsn, database string) string {
	if u, err := url.Parse(dsn); err == nil && (u.Scheme == "postgres" || u.Scheme == "postgresql") {
		u.Path = "/" + database
		return u.String()
	}
	return dsn + " dbname=" + database // the last one counts
}

// makeTemplate makes the migrated database that those of the tests are copied
// from, unless this server has one of the same migrations. Processes that share
// a server take turns.
func (s *server) makeTemplate(ctx context.Context) error {
	sum, err := migrationsSum()
	if err != nil {
		return err
	}
	s.template = "parley_template_" + sum
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock(hashtext($1))`, s.template); err != nil {
		return err // the lock goes with the connection
	}
	var have bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, s.template).Scan(&have)
	if err != nil || have {
		return err
	}
	draft := newName("parley_draft_")
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+draft); err != nil {
		return err
	}
	if _, _, err := store.Migrate(ctx, s.dsn(draft), nil); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "ALTER DATABASE "+draft+" RENAME TO "+s.template)
	return err
}

func migrationsSum() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(migrations.FS, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := migrations.FS.ReadFile(path)
		fmt.Fprintf(h, "%s %d %s", path, len(b), b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil)[:8]), err
}

func newName(prefix string) string { return prefix + strings.ToLower(rand.Text()[:16]) }

// exec runs a statement outside of any test's database.
func (s *server) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.dsn("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}
