package pgchild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/backoff"
)

// Start makes the data directory if there is none, starts the server and returns when it accepts
// connections and the database exists: about a second the first time, else well under a tenth, and as
// long as it takes to replay the log after a crash. From then on it is kept running until Stop.
//
// It first waits up to 5 s for another Server on the same folder, and up to 30 s for the postmaster of one
// that was killed; then ErrInUse. ctx limits all of it and nothing after it. When Start fails, nothing is
// left running and it may be called again; after Stop it returns ErrStopped. To start a running Server is
// an error.
func (s *Server) Start(ctx context.Context) error {
	done, err := s.beginStart()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.quit, func() { cancel(ErrStopped) })()

	began := time.Now()
	c, err := s.start(ctx)
	if err != nil {
		err = errors.Join(err, s.release())
		s.mu.Lock()
		s.done = nil
		s.mu.Unlock()
		close(done)
		return fmt.Errorf("start postgres in %s: %w", s.opts.Dir, err)
	}
	s.log.Info("postgres is ready", "version", s.bin.version, "pid", c.pid(), "dir", s.opts.Dir,
		"elapsed_ms", time.Since(began).Milliseconds())
	// Ends after Stop, which waits for done.
	go s.supervise(c, done)
	return nil
}

func (s *Server) beginStart() (chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quit.Err() != nil {
		return nil, ErrStopped
	}
	if s.done != nil {
		return nil, errors.New("postgres server is already started")
	}
	s.done = make(chan struct{})
	return s.done, nil
}

// start does the work of Start. What it has opened when it fails is for release.
func (s *Server) start(ctx context.Context) (_ *child, err error) {
	if err := os.MkdirAll(s.opts.Dir, 0o700); err != nil {
		return nil, err
	}
	if s.root, err = os.OpenRoot(s.opts.Dir); err != nil {
		return nil, err
	}
	if s.lock, err = takeLock(ctx, s.root, s.lockTimeout); err != nil {
		return nil, err
	}
	if err := s.prepareData(ctx); err != nil {
		return nil, err
	}
	c, err := s.launch(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.ensureDatabase(ctx); err != nil {
		c.end(syscall.SIGINT, s.stopTimeout, s.hurry.Done())
		s.pid.Store(0)
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return nil, err
	}
	return c, nil
}

// ensureDatabase creates the database if it is missing.
func (s *Server) ensureDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSNFor("postgres"))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	var exists bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, database).Scan(&exists)
	if err == nil && !exists {
		_, err = conn.Exec(ctx, "CREATE DATABASE "+database)
	}
	if err != nil {
		err = fmt.Errorf("create the database: %w", err)
	}
	return errors.Join(err, conn.Close(ctx))
}

// prepareData makes the cluster if there is none. New has looked too, but did not hold the lock.
func (s *Server) prepareData(ctx context.Context) error {
	removeSideFolders(s.root)
	data := filepath.Join(s.opts.Dir, dataFolder)
	major, err := madeBy(data)
	if err != nil {
		return err
	}
	if major == 0 {
		return s.makeCluster(ctx, s.root)
	}
	if major != s.bin.major {
		return fmt.Errorf("%w: PostgreSQL %d made %s just now, we chose %s before: try again", ErrWrongVersion, major, data, s.bin.version)
	}
	return s.who.give(s.root, dataFolder)
}

// release closes what start has opened. The lock goes last.
func (s *Server) release() error {
	var errs []error
	if s.run != filepath.Join(s.opts.Dir, runFolder) && s.lock != nil {
		_ = removeSockets(s.run)
		_ = os.Remove(s.run) // it is recreated when needed
	}
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	s.root, s.lock = nil, nil
	return errors.Join(errs...)
}

// launch starts a postmaster and waits until it accepts connections, trying again for as long as a
// predecessor needs to shut down.
func (s *Server) launch(ctx context.Context) (*child, error) {
	begun, logged := time.Now(), false
	for {
		c, err := s.launchOnce(ctx)
		if !errors.Is(err, errBusy) || time.Since(begun) > s.stopTimeout {
			return c, err
		}
		if !logged && time.Since(begun) > time.Second {
			s.log.Info("waiting for another postgres to leave the data directory", "dir", s.opts.Dir, "err", err)
			logged = true
		}
		if !backoff.Sleep(ctx, 25*time.Millisecond) {
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
}

func (s *Server) launchOnce(ctx context.Context) (*child, error) {
	if err := clearPredecessor(s.root, s.run, s.who); err != nil {
		return nil, err
	}
	s.rotateLog()
	c, logged, err := s.spawnServer()
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if isReady(s.root, c.pid()) {
				s.pid.Store(int64(c.pid()))
				return c, nil
			}
		case <-c.exited:
			return nil, whyEnded(c, recordedPID(s.root), logSince(s.root, logged))
		case <-ctx.Done():
			// nobody has used it: no reason to take time for a checkpoint
			c.end(syscall.SIGQUIT, quitTimeout, nil)
			return nil, fmt.Errorf("postgres is not ready: %w\n%s", context.Cause(ctx), logSince(s.root, logged))
		}
	}
}

// spawnServer starts a postmaster; logged is the length of the log before.
func (s *Server) spawnServer() (c *child, logged int64, err error) {
	if err := makeRunDir(s.run, s.who); err != nil {
		return nil, 0, err
	}
	data, err := s.root.Open(dataFolder)
	if err != nil {
		return nil, 0, err
	}
	defer data.Close()
	run, err := os.Open(s.run)
	if err != nil {
		return nil, 0, err
	}
	defer run.Close()
	log, logged, err := openLog(s.root)
	if err != nil {
		return nil, 0, err
	}
	defer log.Close()

	cmd := s.command("postgres")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Args = append(cmd.Args, serverArgs(s.opts,
		s.lend(cmd, data, filepath.Join(s.opts.Dir, dataFolder)), s.lend(cmd, run, s.run))...)
	c, err = spawn(cmd, s.who.credential(), syscall.SIGINT)
	return c, logged, err
}

// whyEnded makes an error of a postmaster that ended before it was ready, from what it logged and the pid
// in the pid file.
func whyEnded(c *child, recorded, logged string) error {
	// the first two name a live postmaster, the last one its orphans
	for _, busy := range []string{`" already exists`, `lock file "postmaster.pid" is empty`, "pre-existing shared memory block"} {
		if strings.Contains(logged, busy) {
			return fmt.Errorf("%w (pid %s)\n%s", errBusy, recorded, logged)
		}
	}
	return fmt.Errorf("postgres ended while starting: %w\n%s", c.err, logged)
}
