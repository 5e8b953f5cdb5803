package pgchild_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleymq/parley/pgchild"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		made      int
		installed []int
		want      int
	}{
		{0, nil, 0},
		{0, []int{13}, 0},
		{0, []int{14, 17, 15}, 17},
		{0, []int{19, 18, 15}, 18}, // one we know before one we do not
		{0, []int{19, 20}, 20},
		{15, []int{14, 17, 15}, 15},
		{19, []int{18, 19}, 19},
		{16, []int{14, 17, 15}, 0},
	} {
		if got := pgchild.Choose(c.made, c.installed...); got != c.want {
			t.Errorf("data made by %d, installed %v: chose %d, want %d", c.made, c.installed, got, c.want)
		}
	}
}

func TestNotInstalled(t *testing.T) {
	t.Parallel()
	if _, err := pgchild.New(pgchild.Options{Dir: t.TempDir(), BinDir: t.TempDir()}); !errors.Is(err, pgchild.ErrNotInstalled) {
		t.Errorf("New with an empty BinDir = %v, want ErrNotInstalled", err)
	}
}

func TestWrongVersion(t *testing.T) {
	t.Parallel()
	needPostgres(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := pgchild.New(pgchild.Options{Dir: dir}); err == nil {
		t.Error("New accepts a data folder that is none")
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "PG_VERSION"), []byte("9.6\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ours := newServer(t, pgchild.Options{Dir: t.TempDir()}).Version()
	_, err := pgchild.New(pgchild.Options{Dir: dir})
	if !errors.Is(err, pgchild.ErrWrongVersion) {
		t.Fatalf("New = %v, want ErrWrongVersion", err)
	}
	for _, want := range []string{"PostgreSQL 9", ours, "pg_upgrade", dir} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not mention %q", err, want)
		}
	}
}
