package identity

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/parleymq/parley/chat"
)

// Rate is how often one address may do something: Burst at once, and one more
// after each Every. An Every of 0 means the default, a negative one no limit.
type Rate struct {
	Every time.Duration
	Burst int
}

// The rates for Options of app and rest that say nothing.
var (
	DefaultSignupRate = Rate{Every: 3 * time.Second, Burst: 20}
	DefaultLoginRate  = Rate{Every: time.Second, Burst: 30}
)

const maxAddresses = 1 << 16

// Limiter keeps a Rate for each address (IPv6: each /64, which is one customer). It
// remembers at most maxAddresses; beyond that it forgets one at random, which lets
// somebody off lightly rather than grow. nil limits nothing.
type Limiter struct {
	rate  Rate
	clock chat.Clock

	mu    sync.Mutex
	table map[netip.Prefix]*rate.Limiter // mu guards
}

var _ chat.Limiter = (*Limiter)(nil)

// NewLimiter returns a Limiter that knows no address yet: of the default rate if
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
	p, _ := a.Prefix(bits) // an invalid address shares one limit with its kind
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.table[p]
	if e == nil {
		l.makeRoom(now)
		e = rate.NewLimiter(rate.Every(l.rate.Every), l.rate.Burst)
		l.table[p] = e
	}
	if e.AllowN(now, 1) {
		return nil
	}
	missing := 1 - e.TokensAt(now)
	return &chat.Error{
		Code: chat.Quota, Op: "identity.Limiter", Msg: "too many of these from your address; wait a moment",
		RetryAfter: time.Duration(missing * float64(l.rate.Every)),
	}
}

// makeRoom forgets a few addresses that have their whole burst again, or any one.
func (l *Limiter) makeRoom(now time.Time) {
	if len(l.table) < maxAddresses {
		return
	}
	looked := 0
	var last netip.Prefix
	for p, e := range l.table { // map order is as good as random
		last = p
		if e.TokensAt(now) >= float64(l.rate.Burst) {
			delete(l.table, p)
		}
		if looked++; looked == 64 {
			break
		}
	}
	if len(l.table) >= maxAddresses {
		delete(l.table, last)
	}
}
