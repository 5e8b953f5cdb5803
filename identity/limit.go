package identity

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

// Rate is how often one address may do something that counts: Burst times at once, and once
// more after each Every. An Every of 0 means the default, a negative one no limit.
type Rate struct {
	Every time.Duration
	Burst int
}

// The rates where Options of app and rest say nothing.
var (
	DefaultSignupRate = Rate{Every: 3 * time.Second, Burst: 20}
	DefaultLoginRate  = Rate{Every: time.Second, Burst: 30}
)

const (
	maxAddresses = 1 << 16
	maxUndecided = 1000 // callers of Reserve that wait, for each address
)

// Limiter keeps a Rate for each address (IPv6: each /64, which is one customer). It
// remembers at most maxAddresses; beyond that it forgets one at random, which lets
// somebody off lightly rather than grow. A nil Limiter limits nothing.
type Limiter struct {
	rate  Rate
	clock chat.Clock

	mu    sync.Mutex
	table map[netip.Prefix]*uses // mu guards, and what it points to
}

// uses are those of one address.
type uses struct {
	from      netip.Prefix
	forgiven  time.Time     // when those that count will have been made up for
	undecided int           // of which it is not known yet whether they count
	waiting   int           // callers of Reserve
	decided   chan struct{} // closed when one is decided; nil: nobody waits
}

var _ chat.Limiter = (*Limiter)(nil)

// NewLimiter returns a Limiter that has seen no address yet: of the default rate if
// that of r is 0, and nil if it is negative.
func NewLimiter(r, byDefault Rate, clock chat.Clock) *Limiter {
	if r.Every == 0 {
		r = byDefault
	}
	if r.Every < 0 {
		return nil
	}
	return &Limiter{rate: r, clock: clock, table: map[netip.Prefix]*uses{}}
}

// Reserve implements chat.Limiter. At most maxUndecided wait for each address.
func (l *Limiter) Reserve(ctx context.Context, a netip.Addr) (decide func(counts bool), err error) {
	if l == nil {
		return func(bool) {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.find(a)
	for {
		wait := max(0, u.forgiven.Sub(l.clock.Now())) - time.Duration(l.rate.Burst-1)*l.rate.Every
		switch {
		case wait+time.Duration(u.undecided)*l.rate.Every <= 0:
			u.undecided++
			return func(counts bool) { l.decide(u, counts) }, nil
		case wait > 0: // those that count are too many by themselves
			return nil, tooMany(wait)
		case u.waiting == maxUndecided:
			return nil, tooMany(l.rate.Every)
		}
		if !l.await(ctx, u) {
			return nil, tooMany(l.rate.Every)
		}
	}
}

// await waits until a use has been decided, and reports whether it has. The caller holds mu,
// and holds it again afterwards.
func (l *Limiter) await(ctx context.Context, u *uses) bool {
	if u.decided == nil {
		u.decided = make(chan struct{})
	}
	decided := u.decided
	u.waiting++
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		u.waiting--
	}()
	select {
	case <-decided:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *Limiter) decide(u *uses, counts bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock.Now()
	if u.undecided--; counts {
		if u.forgiven.Before(now) {
			u.forgiven = now
		}
		u.forgiven = u.forgiven.Add(l.rate.Every)
	}
	if u.decided != nil {
		close(u.decided)
		u.decided = nil
	}
	if u.undecided == 0 && u.waiting == 0 && !u.forgiven.After(now) && l.table[u.from] == u {
		delete(l.table, u.from)
	}
}

// find returns the uses of an address.
func (l *Limiter) find(a netip.Addr) *uses {
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // all invalid addresses share one limit
	u := l.table[p]
	if u == nil {
		l.makeRoom()
		u = &uses{from: p}
		l.table[p] = u
	}
	return u
}

func tooMany(wait time.Duration) error {
	return &chat.Error{
		Code: chat.Quota, Op: "identity.Limiter", Msg: "too many of these from your address; wait a moment", RetryAfter: wait,
	}
}

// makeRoom forgets one address if the table is full. The order of a map is as good as random.
func (l *Limiter) makeRoom() {
	if len(l.table) < maxAddresses {
		return
	}
	for p := range l.table {
		delete(l.table, p)
		return
	}
}
