package pgchild

import (
	"log/slog"
	"os"
	"time"
)

// Options configure a Server.
type Options struct {
	// Dir is the folder for everything, created with mode 0700 if missing. Required.
	Dir string

	// BinDir is the folder with the programs postgres and initdb. Empty: the installed versions are
	// looked up, see New.
	BinDir string

	// Settings are further server settings, such as "work_mem=5MB". They override the tuning of this
	// package, but not the way we connect. With "fsync=off", for tests, initdb flushes nothing either.
	Settings []string

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

// isRoot reports whether PostgreSQL would refuse to run as our account.
func isRoot() bool { return os.Geteuid() == 0 }
