package pgchild

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"time"

	"github.com/parleymq/parley/backoff"
)

// Stop shuts the server down and waits until it and everything Start began has ended. Connections are
// closed by the server, committed work is safe. It takes some ten milliseconds, at most
// Options.StopTimeout or until ctx ends, and then some seconds for a hard stop, which it reports as an
// error. A Start under way is broken off. Repeating Stop returns the same; without Start it does nothing.
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

// The pauses before a postmaster that ended unasked is started again; they begin anew after one that
// stayed up for long enough.
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
		s.log.Error("postgres ended unasked, starting it again", "err", c.err, "pid", c.pid(),
			"log", filepath.Join(s.opts.Dir, logFile))
		if time.Since(since) >= longEnough {
			wait.Reset()
		}
		if c = s.revive(&wait); c == nil {
			return
		}
	}
}

// attend waits while c runs, and looks after its log. asked reports that it is to stop.
func (s *Server) attend(c *child) (asked bool) {
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

// revive tries until a postmaster is up again; nil when asked to stop.
func (s *Server) revive(wait *backoff.Backoff) *child {
	for wait.Sleep(s.quit) {
		began := time.Now()
		s.restarts.Add(1)
		c, err := s.launch(s.quit)
		switch {
		case err == nil:
			s.log.Info("postgres is ready again", "pid", c.pid(), "restarts", s.Restarts(), "elapsed_ms", time.Since(began).Milliseconds())
			return c
		case s.quit.Err() != nil:
			return nil
		default:
			s.log.Error("postgres does not start", "err", err, "restarts", s.Restarts())
		}
	}
	return nil
}

func (s *Server) shutdown(c *child) error {
	began := time.Now()
	forced := c.end(syscall.SIGINT, s.opts.StopTimeout, s.hurry.Done())
	s.pid.Store(0)
	if forced {
		s.log.Warn("postgres stopped the hard way", "elapsed_ms", time.Since(began).Milliseconds())
		return errors.New("postgres did not shut down in time and was stopped hard; its log is replayed at the next start")
	}
	s.log.Info("postgres is stopped", "elapsed_ms", time.Since(began).Milliseconds())
	return nil
}
