package pgchild

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Options configure a Server.
type Options struct {
	// Dir is the folder for everything, created with mode 0700 if missing. Required, unless Ephemeral.
	Dir string

	// BinDir is the folder with the programs postgres and initdb. Empty: the installed versions are
	// looked up, see New.
	BinDir string

	// MaxConnections is max_connections, of which PostgreSQL keeps three for superusers. 0: 100.
	MaxConnections int

	// Settings are further server settings by name, as in postgresql.conf. They override the tuning of
	// this package, but neither durability nor the way we connect.
	Settings map[string]string

	// Ephemeral makes a throw-away server for tests: Dir must be empty and a folder below the temp
	// directory is used, which Stop removes; nothing is flushed to disk (fsync, synchronous_commit and
	// full_page_writes are off), so a crash of the machine would corrupt it.
	Ephemeral bool

	// Logger gets starts, crashes and restarts. Nil discards them.
	Logger *slog.Logger
}

const (
	// lockTimeout is how long Start waits for another live Server to leave Dir.
	lockTimeout = 5 * time.Second
	// stopTimeout is how long a fast shutdown may take before the server is stopped immediately, which
	// loses nothing but makes the next start replay its log. It also limits how long Start waits for the
	// postmaster of a killed predecessor.
	stopTimeout = 30 * time.Second
)

// withDefaults returns o with zero values replaced, or what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Ephemeral && o.Dir != "":
		return o, errors.New("Dir: must be empty with Ephemeral, which would endanger what is there")
	case o.Ephemeral:
		o.Dir = ephemeralDir()
	case o.Dir == "":
		return o, errors.New("Dir: required")
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 100
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	o.Dir, err = filepath.Abs(o.Dir)
	return o, err
}

// isRoot reports whether PostgreSQL would refuse to run as our account.
func isRoot() bool { return os.Geteuid() == 0 }
