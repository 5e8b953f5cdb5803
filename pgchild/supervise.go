package pgchild

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"time"

	"github.com/parleymq/parley/backoff"
)

// Stop shuts the server down and waits until it and everything Start began has ended. The server closes
// its connections; committed work is safe. It takes some ten milliseconds, at most 30 s or until ctx ends,
// and then some seconds for an immediate shutdown, which it reports as an error. A Start under way is
// interrupted. Repeating Stop returns the same; without Start it does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	s.askQuit()
	done := s.done
	s.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
	case <-ctx.Done():
		s.askHurry()
		<-done
	}
	return s.stopErr
}

// The pauses before a postmaster that ended unexpectedly is restarted; they start over after one that ran
// for longEnough.
const (
	firstWait  = 100 * time.Millisecond
	lastWait   = 10 * time.Second
	longEnough = time.Minute
)

// supervise keeps a postmaster running, at first c, until Stop.
func (s *Server) supervise(c *child, done chan struct{}) {
	defer close(done)
	defer func() { s.stopErr = errors.Join(s.stopErr, s.release()) }()
	wait := backoff.New(firstWait, lastWait)
	for {
		since := time.Now()
		if s.attend(c) {
			s.stopErr = s.shutdown(c)
			return
		}
		s.log.Error("postgres ended unexpectedly; restarting it", "err", c.err, "pid", c.pid(),
			"log", filepath.Join(s.opts.Dir, logFile))
		if time.Since(since) >= longEnough {
			wait.Reset()
		}
		if c = s.revive(&wait); c == nil {
			return
		}
	}
}

// attend waits while c runs, and rotates its log. stop reports that Stop was called.
func (s *Server) attend(c *child) (stop bool) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-s.quit.Done():
			return true
		case <-c.exited:
			s.pid.Store(0)
			return false
		case <-tick.C:
			s.rotateLog()
		}
	}
}

func (s *Server) rotateLog() {
	if err := rotateLog(s.root, logLimit); err != nil {
		s.log.Warn("postgres log not rotated", "err", err) // a long log is no reason to stay down
	}
}

// revive tries until a postmaster is up again, and returns nil if Stop is called first.
func (s *Server) revive(wait *backoff.Backoff) *child {
	for wait.Sleep(s.quit) {
		began := time.Now()
		s.restarts.Add(1)
		c, err := s.launch(s.quit)
		switch {
		case err == nil:
			s.log.Info("postgres is ready again", "pid", c.pid(), "restarts", s.Restarts(), "elapsed_ms", time.Since(began).Milliseconds())
			return c
		case s.quit.Err() == nil:
			s.log.Error("postgres does not start; retrying", "err", err, "restarts", s.Restarts())
		}
	}
	return nil
}

func (s *Server) shutdown(c *child) error {
	began := time.Now()
	forced := c.end(syscall.SIGINT, s.stopTimeout, s.hurry.Done())
	s.pid.Store(0)
	if forced {
		s.log.Warn("postgres did not shut down in time and was stopped", "elapsed_ms", time.Since(began).Milliseconds())
		return errors.New("postgres did not shut down in time and was stopped; it replays its log at the next start")
	}
	s.log.Info("postgres is stopped", "elapsed_ms", time.Since(began).Milliseconds())
	return nil
}
