package pgchild_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/pgchild"
)

func TestStartStopReopen(t *testing.T) {
	t.Parallel()
	needPostgres(t)
	ctx, dir := testContext(t), filepath.Join(t.TempDir(), "not", "there yet")

	began := time.Now()
	s := start(t, pgchild.Options{Dir: dir})
	t.Logf("first start: %v", time.Since(began).Round(time.Millisecond))
	if s.PID() == 0 {
		t.Error("PID() = 0 while running")
	}
	if err := s.Start(ctx); err == nil || errors.Is(err, pgchild.ErrStopped) {
		t.Errorf("second Start() = %v, want an error that it runs", err)
	}
	mustQuery(t, s, "CREATE TABLE t (n text)")
	mustQuery(t, s, "INSERT INTO t VALUES ('kept')")
	began = time.Now()
	stop(t, s)
	t.Logf("stop: %v", time.Since(began).Round(time.Millisecond))
	if err := s.Stop(ctx); err != nil {
		t.Errorf("second Stop() = %v", err)
	}
	if err := s.Start(ctx); !errors.Is(err, pgchild.ErrStopped) {
		t.Errorf("Start() after Stop = %v, want ErrStopped", err)
	}

	dsn := s.DSN()
	began = time.Now()
	s = start(t, pgchild.Options{Dir: dir})
	t.Logf("reopen: %v", time.Since(began).Round(time.Millisecond))
	if s.DSN() != dsn {
		t.Errorf("DSN() = %q after reopening, was %q", s.DSN(), dsn)
	}
	if got := mustQuery(t, s, "SELECT n FROM t"); got != "kept" {
		t.Errorf("found %q, want what was committed", got)
	}
	stop(t, s)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	s := start(t, pgchild.Options{Dir: newDir(t), Settings: []string{
		"max_connections=33", "work_mem=5MB", "shared_buffers=32MB", "listen_addresses=localhost",
	}})
	for name, want := range map[string]string{
		"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "listen_addresses": "",
		"max_wal_size": "2GB", "checkpoint_timeout": "15min", "jit": "off", "wal_level": "replica", "data_checksums": "on",
		"max_connections": "33", "work_mem": "5MB", "shared_buffers": "32MB",
	} {
		if got := mustQuery(t, s, "SHOW "+name); got != want {
			t.Errorf("SHOW %s = %q, want %q", name, got, want)
		}
	}
	fi, err := os.Stat(s.RunDir())
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("socket folder: mode %v, %v; want 0700, for whoever gets in is trusted", fi.Mode(), err)
	}
}

func TestNoSync(t *testing.T) {
	t.Parallel()
	needPostgres(t)
	s := start(t, pgchild.Options{Dir: t.TempDir(), Settings: []string{"fsync=off"}})
	if got := mustQuery(t, s, "SHOW fsync"); got != "off" {
		t.Errorf("SHOW fsync = %q, want off", got)
	}
	mustQuery(t, s, "CREATE DATABASE one")
	if got, err := query(testContext(t), s.DSNFor("one"), "SELECT current_database()::text"); got != "one" {
		t.Errorf("DSNFor(one) leads to %q, %v", got, err)
	}
}

func TestOptionFaults(t *testing.T) {
	t.Parallel()
	if _, err := pgchild.New(pgchild.Options{}); err == nil || !strings.Contains(err.Error(), "Dir: required") {
		t.Errorf("New without Dir = %v", err)
	}
}

// A Start that is broken off leaves no process and no half-made cluster, and may be repeated.
func TestStartBrokenOff(t *testing.T) {
	t.Parallel()
	needPostgres(t)
	dir := t.TempDir()
	s := newServer(t, pgchild.Options{Dir: dir})
	ctx, cancel := context.WithCancel(testContext(t))
	started := make(chan error, 1)
	go func() { started <- s.Start(ctx) }()
	eventually(t, "initdb is at work", func() bool {
		m, _ := filepath.Glob(filepath.Join(dir, "data.new-*", "base"))
		return len(m) > 0
	})
	cancel()
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Fatalf("Start() = %v, want context.Canceled", err)
	}
	if m, _ := filepath.Glob(filepath.Join(dir, "data*")); len(m) != 0 {
		t.Errorf("left behind: %v", m)
	}
	if err := s.Start(testContext(t)); err != nil {
		t.Fatalf("Start() again = %v", err)
	}
	stop(t, s)
}

func TestStopBreaksOffStart(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	holder := start(t, pgchild.Options{Dir: dir})
	s := newServer(t, pgchild.Options{Dir: dir})
	s.SetTimeouts(time.Minute, time.Minute)
	started := make(chan error, 1)
	go func() { started <- s.Start(testContext(t)) }()
	eventually(t, "Start is under way", func() bool { return s.Started() })
	stop(t, s)
	if err := <-started; !errors.Is(err, pgchild.ErrStopped) {
		t.Errorf("Start() = %v, want ErrStopped", err)
	}
	mustQuery(t, holder, "SELECT 'unharmed'")
}

// A postmaster that does not react is stopped hard.
func TestStopHard(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s := start(t, pgchild.Options{Dir: dir})
	mustQuery(t, s, "CREATE TABLE t (n text)")
	freeze(t, s.PID())
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Stop(ctx); err == nil {
		t.Error("Stop() = nil, want an error that says it was forced")
	}
	s = start(t, pgchild.Options{Dir: dir})
	mustQuery(t, s, "SELECT n FROM t")
}

func TestRotateLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "postgres.log")
	for _, text := range []string{"first", "second", "x"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := pgchild.RotateLog(dir, 3); err != nil {
			t.Fatal(err)
		}
	}
	now, _ := os.ReadFile(name)
	old, _ := os.ReadFile(name + ".1")
	if string(now) != "x" || string(old) != "second" {
		t.Errorf("log %q, old log %q; want the short one kept and the last long one moved", now, old)
	}
}
