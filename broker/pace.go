package broker

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

// How much is read from clients is paced: a connection, all those of a user, and all those
// of an address have a budget each, which fills at so many units a second and holds those of
// one second. When it is used up, the reader waits until it has filled up again, and TCP
// holds the client back; nothing is lost, and nobody is disconnected. So one who sends as
// fast as they can takes a small part of the server, whatever their packets are.
const (
	unitBytes      = 2048 // a packet costs a unit, and another for each 2 KiB
	ackUnits       = 8    // acknowledgements cost an eighth: they answer what the server has sent. PUBCOMP for a PUBREL is free: after crashes tens of thousands are sent
	subscribeUnits = 20   // SUBSCRIBE and UNSUBSCRIBE ask the database
	userRate       = 2    // times that of a connection
	addressRate    = 25   // likewise
	turn           = 32   // packets that are read from a connection before others are
	waitStep       = 50 * time.Millisecond
)

// budget is how much may be read, as the time at which all that was read so far is paid
// (the generic cell rate algorithm). It is safe for concurrent use, without a lock.
type budget struct {
	every time.Duration // for a unit; 0: there is no limit
	paid  atomic.Int64  // nanoseconds since epoch
}

// shared is the budget of a user or an address.
type shared struct {
	budget
	of    paceKey
	users int // paces.mu guards: connections that share it
}

// charge is that of budget; nil has no limit.
func (b *shared) charge(now int64, eighths int) int64 {
	if b == nil {
		return now
	}
	return b.budget.charge(now, eighths)
}

// epoch is where budgets count from.
var epoch = time.Now()

// charge takes eighths of units, and returns when more may be read, in nanoseconds since epoch.
func (b *budget) charge(now int64, eighths int) int64 {
	if b.every == 0 {
		return now
	}
	cost := int64(b.every) * int64(eighths) / ackUnits
	for {
		paid := b.paid.Load()
		next := max(paid, now) + cost
		if b.paid.CompareAndSwap(paid, next) {
			return next - int64(time.Second)
		}
	}
}

// pace is a connection's budgets. It is owned by the reader.
type pace struct {
	own     budget
	user    *shared // nil: not connected, or a guest
	address *shared // nil: not known, or this machine's own
	resume  [3]int64
}

var paceNames = [3]string{"connection", "user", "address"}

// charge takes eighths of units from all budgets.
func (p *pace) charge(eighths int) {
	now := int64(time.Since(epoch))
	p.resume = [3]int64{p.own.charge(now, eighths), p.user.charge(now, eighths), p.address.charge(now, eighths)}
}

// due returns how long the reader is to wait, and for which budget.
func (p *pace) due() (wait time.Duration, by int) {
	for i, at := range p.resume {
		if at > p.resume[by] {
			by = i
		}
	}
	if p.resume[by] == 0 {
		return 0, by
	}
	return time.Duration(p.resume[by]) - time.Since(epoch), by
}

// paces are the budgets that connections share.
type paces struct {
	every time.Duration // for a unit of one connection; 0: no limits
	mu    sync.Mutex
	by    map[paceKey]*shared // mu guards
}

// paceKey is a user or an address.
type paceKey struct {
	user    chat.ID
	address netip.Addr
}

func (p *paces) take(k paceKey, times time.Duration) *shared {
	if p.every == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.by[k]
	if b == nil {
		b = &shared{budget: budget{every: p.every / times}, of: k}
		p.by[k] = b
	}
	b.users++
	return b
}

func (p *paces) drop(b *shared) {
	if b == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if b.users--; b.users == 0 {
		delete(p.by, b.of)
	}
}

// addressKey is the budget of an address: IPv6 by /64. This machine's own has none, since a
// proxy on it may stand for everybody.
func addressKey(a net.Addr) (k paceKey) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return k
	}
	ap := tcp.AddrPort()
	if !ap.Addr().IsValid() || ap.Addr().Unmap().IsLoopback() {
		return k
	}
	k.address = ap.Addr().Unmap().WithZone("")
	if k.address.Is6() {
		p, _ := k.address.Prefix(64) // it has 128 bits
		k.address = p.Addr()
	}
	return k
}

// PaceAs has the connection share the budget of a user's. It is called before Accepted.
func (c *Conn) PaceAs(user chat.ID) {
	c.reader.pace.user = c.server.paces.take(paceKey{user: user}, userRate)
}

// await waits until the budgets allow to read on. What the client has sent meanwhile counts
// as sent in time.
func (c *Conn) await() {
	wait, by := c.reader.pace.due()
	if wait <= 0 {
		return
	}
	c.server.heldBack(c, paceNames[by], wait)
	for end := time.Now().Add(wait); wait > 0 && !c.closing.Load(); wait = time.Until(end) {
		time.Sleep(min(wait, waitStep))
	}
	c.reader.keepalive(c)
	c.arm(c.reader.idle)
}

// heldBack counts and logs that a client is held back.
func (s *Server) heldBack(c *Conn, by string, wait time.Duration) {
	s.metrics.heldBack.WithLabelValues(by).Add(wait.Seconds())
	s.slowed.Do(func() {
		var user chat.ID
		if b := c.reader.pace.user; b != nil {
			user = b.of.user
		}
		s.logger.Warn("a client sends more than its budget, and is read more slowly", "remote", c.RemoteAddr().String(), "user", user, "budget", by)
	})
}
