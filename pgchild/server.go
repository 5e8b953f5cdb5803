package pgchild

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that New and Start wrap; their texts say what to do.
var (
	// ErrNotInstalled: no usable server binaries were found.
	ErrNotInstalled = errors.New("no PostgreSQL server is installed")
	// ErrWrongVersion: the data directory belongs to a major version that is not installed.
	ErrWrongVersion = errors.New("data directory made by another PostgreSQL version")
	// ErrInUse: another process uses the data directory and did not leave in time.
	ErrInUse = errors.New("data directory in use")
	// ErrStopped: the Server has been stopped; make a new one.
	ErrStopped = errors.New("postgres server stopped")
)

// A Server is a private PostgreSQL. Its methods may be called concurrently.
type Server struct {
	opts Options
	log  *slog.Logger
	bin  installation
	who  account // that the server runs under
	run  string  // the socket's folder

	lockTimeout, stopTimeout time.Duration // constants, but for tests

	quit     context.Context // ends when Stop is called
	askQuit  context.CancelFunc
	hurry    context.Context // ends when a Stop has no more time
	askHurry context.CancelFunc

	pid      atomic.Int64
	restarts atomic.Int64

	mu   sync.Mutex
	done chan struct{} // mu guards the field; nil before Start, closed when everything that Start began has ended

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
	if opts.Dir == "" {
		return nil, errors.New("pgchild options: Dir: required")
	}
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	var err error
	if opts.Dir, err = filepath.Abs(opts.Dir); err != nil {
		return nil, err
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
	who, err := accountFor(data)
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: opts, bin: bin, who: who, run: runDirFor(opts.Dir), lockTimeout: lockTimeout, stopTimeout: stopTimeout,
		log: opts.Logger.With("component", "pgchild"),
	}
	s.quit, s.askQuit = context.WithCancel(context.Background())
	s.hurry, s.askHurry = context.WithCancel(context.Background())
	return s, nil
}

// DSN returns how to connect to the database "parley", which Start creates if it is missing, as a libpq
// keyword/value string. It is the same for the life of the Server and valid before Start. The role is the
// superuser "parley".
func (s *Server) DSN() string { return s.DSNFor(database) }

// DSNFor is DSN for another database of the same server, such as one per test. Its name is letters, digits
// and underscores. Everything that PG* variables would otherwise supply is in it.
func (s *Server) DSNFor(database string) string {
	return "host='" + s.run + "' port=" + port + " user=" + superuser + " dbname=" + database + " sslmode=disable"
}

// PID returns the process id of the postmaster, 0 while there is none.
func (s *Server) PID() int { return int(s.pid.Load()) }

// Restarts returns how often the postmaster was started again because it had ended unasked. Attempts
// that failed count.
func (s *Server) Restarts() int { return int(s.restarts.Load()) }
