package chat

import (
	"context"
	"fmt"
	"time"
)

// Clock returns the time. Production uses SystemClock; tests set their own.
type Clock interface {
	// Now returns the current time. It never blocks.
	Now() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// WithDeadline is context.WithTimeout with a name: after the timeout, context.Cause says
// which limit was exceeded.
func WithDeadline(ctx context.Context, d time.Duration, name string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, &deadlineError{name, d})
}

// deadlineError is the cause of a named deadline. It is formatted only when it is needed.
type deadlineError struct {
	name string
	d    time.Duration
}

func (e *deadlineError) Error() string {
	return fmt.Sprintf("%s: %v after %v", e.name, context.DeadlineExceeded, e.d)
}

func (e *deadlineError) Unwrap() error { return context.DeadlineExceeded }

// Timestamp truncates t to what is stored and sent: UTC with milliseconds.
func Timestamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// TimeFormat is the format of times on the wire: RFC 3339, UTC, three digits of
// milliseconds, always the same length.
const TimeFormat = "2006-01-02T15:04:05.000Z"
