package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/store"
)

// Database is the PostgreSQL to use: the one at URL, or else a private one whose data is
// in DataDir.
type Database struct {
	URL         string
	DataDir     string
	PostgresBin string // folder of the server's programs; empty: looked up
	Logger      *slog.Logger
}

// Serve starts the private PostgreSQL, if there is no URL, and returns how to connect.
// stop stops it again.
func (d Database) Serve(ctx context.Context) (dsn string, stop func(context.Context) error, err error) {
	if d.URL != "" {
		return d.URL, func(context.Context) error { return nil }, nil
	}
	child, err := d.child()
	if err != nil {
		return "", nil, err
	}
	if err := child.Start(ctx); err != nil {
		return "", nil, err
	}
	return child.DSN(), child.Stop, nil
}

// Use opens the database for a command that may run beside the server: a private
// PostgreSQL that a server has started is used as it is; otherwise it is started for the
// command. Then the schema is migrated. A private one is not made here: a command with a
// mistyped directory would find nothing wrong in it. stop closes what was opened.
func (d Database) Use(ctx context.Context) (st *store.Store, stop func(), err error) {
	if d.URL == "" {
		child, err := d.child()
		if err != nil {
			return nil, nil, err
		}
		if st, err := store.Open(ctx, store.Options{DSN: child.DSN(), ConnectWait: -1}); err == nil {
			return st, st.Close, nil
		}
		if _, err := os.Stat(filepath.Join(d.DataDir, "postgres", "data")); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("there is no database in %s: name its directory with --data or PARLEY_DATA, or make one there with parley migrate", d.DataDir)
		}
	}
	dsn, closeDB, err := d.Serve(ctx)
	if err != nil {
		return nil, nil, err
	}
	if st, err = store.OpenMigrated(ctx, store.Options{DSN: dsn, Logger: d.Logger}); err != nil {
		return nil, nil, errors.Join(err, closeDB(context.WithoutCancel(ctx)))
	}
	return st, func() { st.Close(); _ = closeDB(context.WithoutCancel(ctx)) }, nil
}

func (d Database) child() (*pgchild.Server, error) {
	return pgchild.New(pgchild.Options{Dir: filepath.Join(d.DataDir, "postgres"), BinDir: d.PostgresBin, Logger: d.Logger})
}

// DefaultDataDir returns the folder for a user's data: $XDG_DATA_HOME/parley, or
// ~/.local/share/parley (XDG Base Directory Specification).
func DefaultDataDir() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "parley"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", errors.New("there is no home directory to keep data in: set PARLEY_DATA, or DATABASE_URL")
	}
	return filepath.Join(home, ".local", "share", "parley"), nil
}
