package pgchild_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/programtest"
)

func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func TestCrashRestarts(t *testing.T) {
	t.Parallel()
	s := start(t, pgchild.Options{Dir: newDir(t)})
	mustQuery(t, s, "CREATE TABLE t (n text)")
	mustQuery(t, s, "INSERT INTO t VALUES ('kept')")
	for i := 1; i <= 2; i++ {
		old := s.PID()
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "another postmaster serves", func() bool {
			if pid := s.PID(); pid == 0 || pid == old {
				return false
			}
			got, err := query(testContext(t), s.DSN(), "SELECT n FROM t")
			return err == nil && got == "kept"
		})
		if s.Restarts() < i {
			t.Errorf("Restarts() = %d after %d crashes", s.Restarts(), i)
		}
	}
	stop(t, s)
}

// While there is nothing to start, Stop must not have to wait for the backoff.
func TestStopWhileDown(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s := start(t, pgchild.Options{Dir: dir})
	if err := os.Rename(filepath.Join(dir, "data"), filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "several restarts have failed", func() bool { return s.Restarts() >= 3 })
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("a restart made a new, empty cluster")
	}
	stop(t, s)
}

func TestSecondServerRefused(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	first := start(t, pgchild.Options{Dir: dir})
	second := newServer(t, pgchild.Options{Dir: dir})
	second.SetTimeouts(50*time.Millisecond, time.Minute)
	err := second.Start(testContext(t))
	if !errors.Is(err, pgchild.ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Fatalf("Start() on a folder in use = %v, want ErrInUse and our pid", err)
	}
	mustQuery(t, first, "SELECT 'unharmed'")
	stop(t, first)
	if err := second.Start(testContext(t)); err != nil {
		t.Fatalf("Start() after the first left = %v", err)
	}
	stop(t, second)
}

// A postmaster that somebody started by hand is not in our lock; here the lock is taken from under a
// Server to the same effect.
func TestForeignPostmasterRefused(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	first := start(t, pgchild.Options{Dir: dir})
	if err := os.Remove(filepath.Join(dir, "parley.lock")); err != nil {
		t.Fatal(err)
	}
	second := newServer(t, pgchild.Options{Dir: dir})
	second.SetTimeouts(time.Second, 200*time.Millisecond)
	err := second.Start(testContext(t))
	if !errors.Is(err, pgchild.ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(first.PID())) {
		t.Fatalf("Start() beside a live postmaster = %v, want ErrInUse and its pid", err)
	}
	mustQuery(t, first, "SELECT 'unharmed'")
}

// In a restarted container the pid in postmaster.pid is often alive again as something else, which
// PostgreSQL takes for a running server.
func TestRecycledPID(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	s := start(t, pgchild.Options{Dir: dir})
	uid, gid := s.Account()
	pidFile := filepath.Join(dir, "data", "postmaster.pid")
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	stop(t, s)

	sleep, err := filepath.EvalSymlinks(programtest.Path(t, "sleep")) // the account may not reach the folder of the links
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command(sleep, "60")
	other.Dir = "/"
	if os.Geteuid() == 0 {
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	_, rest, _ := strings.Cut(string(b), "\n")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(other.Process.Pid)+"\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(pidFile, uid, gid); err != nil {
		t.Fatal(err)
	}
	s = start(t, pgchild.Options{Dir: dir})
	mustQuery(t, s, "SELECT 'up'")
}
