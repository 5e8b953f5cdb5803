package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/parleymq/parley/chat"
)

// lifecycle is what has been started, in order. Starting a component and opening
// something are both a step: a name, and a way to undo it within a limited time.
type lifecycle struct {
	logger *slog.Logger
	limit  time.Duration // of each stop
	steps  []step
	failed chan error // components that ended by themselves
}

type step struct {
	name  string
	stop  func(context.Context) error
	limit time.Duration // 0: lifecycle.limit
}

// onStop has f called by stop, before what was registered earlier.
func (l *lifecycle) onStop(name string, f func(context.Context) error) {
	l.steps = append(l.steps, step{name: name, stop: f})
}

// run runs a component in a goroutine until stop gets to it, which ends ctx and waits
// for f. A component that returns earlier is reported to failed. One that has something
// to finish limits that itself; the step's own limit is for one that hangs.
func (l *lifecycle) run(name string, f func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		if ctx.Err() == nil {
			select {
			case l.failed <- fmt.Errorf("%s ended unexpectedly: %w", name, err):
			default: // the first ones are enough to stop for
			}
		}
		done <- err
	}()
	l.steps = append(l.steps, step{name, func(limit context.Context) error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-limit.Done():
			return context.Cause(limit)
		}
	}, 4 * l.limit})
}

// stop undoes all steps, the last one first, and returns what went wrong, joined. It may
// be repeated.
func (l *lifecycle) stop(ctx context.Context) error {
	var errs []error
	for len(l.steps) > 0 {
		s := l.steps[len(l.steps)-1]
		l.steps = l.steps[:len(l.steps)-1]
		start := time.Now()
		limited, cancel := chat.WithDeadline(ctx, cmp.Or(s.limit, l.limit), "stop: "+s.name)
		err := s.stop(limited)
		cancel()
		l.logger.Debug("stopped", "step", s.name, "elapsed_ms", time.Since(start).Milliseconds(), "err", err)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}
