package chat

import (
	"context"
	"fmt"
	"time"
)

// Clock tells the time. Production uses SystemClock; tests set their own.
type Clock interface {
	// Now returns the current time. It never blocks.
	Now() time.Time
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// WithDeadline is context.WithTimeout with a name: when the time runs out,
// context.Cause says whose limit it was.
func WithDeadline(ctx context.Context, d time.Duration, name string) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("%s: %w after %v", name, context.DeadlineExceeded, d))
}

// Timestamp cuts t to what is stored and sent: UTC with milliseconds (RFC 3339).
func Timestamp(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// TimeFormat is how times look on the wire: RFC 3339, UTC, three digits of
// milliseconds, always the same length.
const TimeFormat = "2006-01-02T15:04:05.000Z"
