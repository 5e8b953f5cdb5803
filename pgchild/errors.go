package pgchild

import "errors"

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
