package redis

import (
	"math/rand/v2"
	"time"
)

// backoff is how long to wait before trying again: twice as long each time, up to most,
// and jittered, so that the nodes do not come back all at once.
type backoff struct {
	most time.Duration
	last time.Duration
}

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, b.most/32), b.most)
	return b.last/2 + rand.N(b.last/2+1)
}

func (b *backoff) reset() { b.last = 0 }
