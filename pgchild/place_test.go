package pgchild_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/programtest"
)

// Where the folder's path cannot be a socket's address, the socket is elsewhere, and no less private.
func TestAwkwardPaths(t *testing.T) {
	t.Parallel()
	for name, path := range map[string][]string{
		"long":  {strings.Repeat("long", 30), strings.Repeat("path", 30)},
		"comma": {"a,b"},
		"quote": {`a'b`},
		"space": {"a b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, pgchild.Options{Dir: newDir(t, path...)})
			mustQuery(t, s, "SELECT 'reached'")
			fi, err := os.Stat(s.RunDir())
			if err != nil || fi.Mode().Perm() != 0o700 {
				t.Errorf("socket folder: %v, %v; want mode 0700", fi.Mode(), err)
			}
			stop(t, s)
			if _, err := os.Stat(s.RunDir()); name != "space" && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s after Stop: %v, want it gone", s.RunDir(), err)
			}
		})
	}
}

// As root the server runs under another account, even where that account could not walk: a home of
// mode 0700 above, and the folder itself still root's.
func TestRootHome(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only for root")
	}
	dir := newDir(t, "home", ".local", "share", "parley")
	home := filepath.Join(dir, "..", "..", "..")
	if fi, err := os.Stat(home); err != nil || fi.Mode().Perm() != 0o700 {
		t.Fatalf("home: mode %v, %v; want 0700", fi.Mode(), err)
	}
	s := start(t, pgchild.Options{Dir: dir})
	mustQuery(t, s, "SELECT 'reached'")
	uid, _ := s.Account()
	if got := ownerOf(t, filepath.Join(s.Dir(), "data")); got != uid || got == 0 {
		t.Errorf("data belongs to %d, want %d, not root", got, uid)
	}
	if got := ownerOf(t, s.Dir()); got != 0 {
		t.Errorf("%s belongs to %d, want only data and run given away", s.Dir(), got)
	}
}

// A restore from a backup leaves everything to root.
func TestRootOwnsData(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only for root")
	}
	dir := newDir(t)
	if out, err := exec.Command(programtest.Path(t, "chown"), "-R", "0:0", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := start(t, pgchild.Options{Dir: dir})
	mustQuery(t, s, "SELECT 'reached'")
}

// Root that opens an ordinary user's folder leaves it to that user.
func TestRootKeepsOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only for root")
	}
	const user = 65534
	dir := newDir(t)
	if out, err := exec.Command(programtest.Path(t, "chown"), "-R", "65534:65534", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := start(t, pgchild.Options{Dir: dir})
	mustQuery(t, s, "SELECT 'reached'")
	if got := ownerOf(t, filepath.Join(dir, "data", "postmaster.pid")); got != user {
		t.Errorf("the server runs as %d, want the owner %d", got, user)
	}
}

func ownerOf(t *testing.T, path string) int {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(fi.Sys().(*syscall.Stat_t).Uid)
}
