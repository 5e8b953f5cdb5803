package identity

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/parleymq/parley/chat"
)

// Rate is how often one address may do something: Burst times at once, and once more
// after each Every. An Every of 0 means the default, a negative one no limit.
type Rate struct {
	Every time.Duration
	Burst int
}

// The rates where Options of app and rest say nothing.
var (
	DefaultSignupRate = Rate{Every: 3 * time.Second, Burst: 20}
	DefaultLoginRate  = Rate{Every: time.Second, Burst: 30}
)

const maxAddresses = 1 << 16

// Limiter keeps a Rate for each address (IPv6: each /64, which is one customer). It
// remembers at most maxAddresses; beyond that it forgets one at random, which lets
// somebody off lightly rather than grow. A nil Limiter limits nothing.
type Limiter struct {
	rate  Rate
	clock chat.Clock

	mu    sync.Mutex
	table map[netip.Prefix]*rate.Limiter // mu guards
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
	return &Limiter{rate: r, clock: clock, table: map[netip.Prefix]*rate.Limiter{}}
}

// Allow implements chat.Limiter.
func (l *Limiter) Allow(a netip.Addr) error {
	if l == nil {
		return nil
	}
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // all invalid addresses share one limit
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.table[p]
	if e == nil {
		l.makeRoom()
		e = rate.NewLimiter(rate.Every(l.rate.Every), l.rate.Burst)
		l.table[p] = e
	}
	r := e.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait == 0 {
		return nil
	}
	r.CancelAt(now)
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
