// Package backoff says how long to wait between attempts: pauses that double up to a
// limit, jittered so that those who failed together do not come back together.
//
// The loop stays with its caller, who knows what may be repeated:
//
//	for wait := backoff.New(10*time.Millisecond, time.Second); ; {
//		err := try(ctx)
//		if err == nil || !wait.Sleep(ctx) {
//			return err
//		}
//	}
//
// Libraries for this (github.com/cenkalti/backoff is the best known) bring a loop of their
// own, with its timeouts and notifications, and their pauses may exceed the limit by half;
// chat, which uses this package, knows the standard library only.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff is the pauses of one loop. It is not safe for concurrent use.
type Backoff struct {
	first, limit time.Duration
	last         time.Duration // without jitter; 0: none yet
}

// New returns a Backoff whose pauses begin at first and double up to limit, each shortened
// at random by up to half.
func New(first, limit time.Duration) Backoff { return Backoff{first: first, limit: limit} }

// Next returns the next pause: between half of its full length and all of it.
func (b *Backoff) Next() time.Duration {
	b.last = min(max(2*b.last, b.first), b.limit)
	return b.last/2 + rand.N(b.last/2+1)
}

// Sleep waits for the next pause, and reports whether ctx goes on.
func (b *Backoff) Sleep(ctx context.Context) bool { return Sleep(ctx, b.Next()) }

// Reset starts over from the first pause, after a success.
func (b *Backoff) Reset() { b.last = 0 }

// Waiting reports whether there was a pause since the last Reset.
func (b *Backoff) Waiting() bool { return b.last > 0 }

// Sleep waits for d, or until ctx ends, and reports whether ctx goes on.
func Sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err() == nil
}
