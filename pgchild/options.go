package pgchild

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Options configure a Server.
type Options struct {
	// Dir is the folder for everything, created with mode 0700 if missing. Required, unless Ephemeral.
	Dir string

	// BinDir is the folder with the programs postgres and initdb. Empty: the installed versions are
	// looked up, see New.
	BinDir string

	// Database is the name of the database that DSN names and Start creates if missing. 1..63 bytes
	// without NUL. Empty: "parley".
	Database string

	// Account is the system account the server runs under when we are root. Empty: postgres if it
	// exists, else nobody. An existing data directory that is not root's keeps its owner, whatever this
	// says. Ignored when we are not root.
	Account string

	// MaxConnections is max_connections, of which PostgreSQL keeps three for superusers. 0: 100.
	MaxConnections int

	// Settings are further server settings by name, as in postgresql.conf. They override the tuning of
	// this package, but neither durability nor the way we connect.
	Settings map[string]string

	// LockTimeout is how long Start waits for another live Server to leave Dir. 0: 5 s.
	LockTimeout time.Duration

	// StopTimeout is how long a fast shutdown may take before the server is stopped hard, which loses
	// nothing but makes the next start replay its log. It also limits how long Start waits for the
	// postmaster of a killed predecessor. 0: 30 s.
	StopTimeout time.Duration

	// Ephemeral makes a throw-away server for tests: Dir must be empty and a folder below the temp
	// directory is used, which Stop removes; nothing is flushed to disk (fsync, synchronous_commit and
	// full_page_writes are off), so a crash of the machine would corrupt it.
	Ephemeral bool

	// Logger hears of starts, crashes and restarts. Nil discards.
	Logger *slog.Logger
}

var settingName = regexp.MustCompile(`^[a-z_][a-z0-9_.]*$`)

// withDefaults returns o with zero values replaced, or all that is wrong with it.
func (o Options) withDefaults() (Options, error) {
	var faults []error
	switch {
	case o.Ephemeral && o.Dir != "":
		faults = append(faults, errors.New("Dir: must be empty with Ephemeral, which would endanger what is there"))
	case o.Ephemeral:
		o.Dir = ephemeralDir()
	case o.Dir == "":
		faults = append(faults, errors.New("Dir: required"))
	}
	if o.Dir != "" {
		abs, err := filepath.Abs(o.Dir)
		if err != nil {
			faults = append(faults, fmt.Errorf("Dir: %w", err))
		}
		o.Dir = abs
	}
	if o.Database == "" {
		o.Database = "parley"
	}
	if len(o.Database) > 63 || strings.ContainsRune(o.Database, 0) {
		faults = append(faults, fmt.Errorf("Database: %q is not 1..63 bytes without NUL", o.Database))
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 100
	}
	if o.MaxConnections < 10 {
		faults = append(faults, fmt.Errorf("MaxConnections: %d is less than 10", o.MaxConnections))
	}
	for name, value := range o.Settings {
		if !settingName.MatchString(name) || strings.ContainsRune(value, 0) {
			faults = append(faults, fmt.Errorf("Settings[%q]: not a setting", name))
		}
	}
	if o.LockTimeout == 0 {
		o.LockTimeout = 5 * time.Second
	}
	if o.StopTimeout == 0 {
		o.StopTimeout = 30 * time.Second
	}
	if o.LockTimeout < 0 || o.StopTimeout < 0 {
		faults = append(faults, errors.New("LockTimeout, StopTimeout: must not be negative"))
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, errors.Join(faults...)
}

// isRoot reports whether PostgreSQL would refuse to run as us.
func isRoot() bool { return os.Geteuid() == 0 }
