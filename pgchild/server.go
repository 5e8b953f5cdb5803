package pgchild

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// A Server is a private PostgreSQL. Its methods may be called concurrently.
type Server struct {
	opts Options
	log  *slog.Logger
	bin  installation
	who  account // whom the server runs as
	run  string  // the socket's folder

	quit     context.Context // ends when Stop is called
	askQuit  context.CancelFunc
	hurry    context.Context // ends when a Stop has no more time
	askHurry context.CancelFunc

	pid      atomic.Int64
	restarts atomic.Int64

	mu   sync.Mutex
	done chan struct{} // mu guards the field; nil before Start, closed when all that Start began has ended

	stopErr error // written before done is closed

	// owned by Start until it succeeds, then by supervise
	root *os.Root
	lock *os.File
}

// New checks opts and finds the server binaries; it starts and changes nothing.
//
// Without Options.BinDir it looks where Debian, Red Hat, Homebrew and Postgres.app install and on PATH,
// and takes the major version that made the data directory; for a new directory the newest of 14 to 18,
// or a newer one if there is no other. Runs each candidate once for its version, a few milliseconds.
//
// Errors: ErrNotInstalled, ErrWrongVersion, and unnamed ones for options that are wrong.
func New(opts Options) (*Server, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("pgchild options: %w", err)
	}
	data := filepath.Join(opts.Dir, dataFolder)
	major, err := madeBy(data)
	if err != nil {
		return nil, err
	}
	bin, err := find(opts.BinDir, data, major)
	if err != nil {
		return nil, err
	}
	who, err := accountFor(data, opts.Account)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, bin: bin, who: who, run: runDirFor(opts.Dir), log: opts.Logger.With("component", "pgchild")}
	s.quit, s.askQuit = context.WithCancel(context.Background())
	s.hurry, s.askHurry = context.WithCancel(context.Background())
	return s, nil
}

// DSN returns how to connect to Options.Database, as a libpq keyword/value string, which pgx understands.
// It is the same for the life of the Server and valid before Start. The role is the superuser "parley".
func (s *Server) DSN() string { return s.DSNFor(s.opts.Database) }

// DSNFor is DSN for another database of the same server, such as one per test.
func (s *Server) DSNFor(database string) string { return dsn(s.run, database) }

// PID returns the process id of the postmaster, 0 while there is none.
func (s *Server) PID() int { return int(s.pid.Load()) }

// Restarts returns how often the postmaster was started again because it had ended unasked. Attempts
// that failed count.
func (s *Server) Restarts() int { return int(s.restarts.Load()) }

// Version returns the version of the server binaries, such as "15.14".
func (s *Server) Version() string { return s.bin.version }
