package rest

import (
	"net/http"
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

const maxAddresses = 1 << 16

// limiter keeps a Rate for each address (IPv6: each /64, which is one customer). It
// remembers at most maxAddresses; beyond that it forgets one at random, which lets
// somebody off lightly rather than grow.
type limiter struct {
	rate  Rate
	clock chat.Clock

	mu    sync.Mutex
	table map[netip.Prefix]*rate.Limiter // mu guards
}

// newLimiter returns nil, which limits nothing, for a negative rate.
func newLimiter(r Rate, clock chat.Clock) *limiter {
	if r.Every < 0 {
		return nil
	}
	return &limiter{rate: r, clock: clock, table: map[netip.Prefix]*rate.Limiter{}}
}

// allow returns nil, or Quota with when to come back.
func (l *limiter) allow(a netip.Addr) error {
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
		Code: chat.Quota, Op: "rest.limit", Msg: "too many of these from your address; wait a moment",
		RetryAfter: time.Duration(missing * float64(l.rate.Every)),
	}
}

// makeRoom forgets a few addresses that have their whole burst again, or any one.
func (l *limiter) makeRoom(now time.Time) {
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

// remoteAddr is the address of the connection's other end.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}
