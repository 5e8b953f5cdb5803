package identity_test

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

var home = netip.MustParseAddr("192.0.2.1")

// reserve must get a use at once.
func reserve(t *testing.T, l *identity.Limiter, from netip.Addr) func(counts bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whoever waited would be refused
	decide, err := l.Reserve(ctx, from)
	if err != nil {
		t.Fatal(err)
	}
	return decide
}

// over must refuse a use for as long as it says.
func over(t *testing.T, l *identity.Limiter, from netip.Addr, want time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := l.Reserve(ctx, from)
	var e *chat.Error
	if !errors.As(err, &e) || e.Code != chat.Quota || e.RetryAfter != want {
		t.Fatalf("Reserve = %v, want quota for %v", err, want)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	c := newClock()
	l := identity.NewLimiter(identity.Rate{Every: 4 * time.Second, Burst: 3}, identity.Rate{}, c)
	for range 60 { // what does not count is not limited, and not remembered
		reserve(t, l, home)(false)
	}
	if l.Len() != 0 {
		t.Errorf("%d addresses, want none", l.Len())
	}
	for range 3 {
		reserve(t, l, home)(true)
	}
	over(t, l, home, 4*time.Second)
	reserve(t, l, netip.MustParseAddr("192.0.2.2"))(true) // another address
	c.advance(3 * time.Second)
	over(t, l, home, time.Second)
	c.advance(time.Second)
	for range 60 {
		reserve(t, l, home)(false)
	}
	reserve(t, l, home)(true)
	over(t, l, home, 4*time.Second)
	c.advance(time.Hour) // what is made up for is no more than a burst
	for range 3 {
		reserve(t, l, home)(true)
	}
	over(t, l, home, 4*time.Second)

	for name, other := range map[string][2]string{
		"one /64":     {"2001:db8::1", "2001:db8::2"},
		"4 in 6":      {"192.0.2.9", "::ffff:192.0.2.9"},
		"with a zone": {"fe80::1%eth0", "fe80::2"},
	} {
		for range 3 {
			reserve(t, l, netip.MustParseAddr(other[0]))(true)
		}
		t.Log(name)
		over(t, l, netip.MustParseAddr(other[1]), 4*time.Second)
	}
	var none *identity.Limiter
	for range 60 {
		reserve(t, none, home)(true)
	}
}

// Sixty come while as many as may try at once are not decided, and wait for these: all of them
// are let in if none counts, and none if all do.
func TestLimiterAtOnce(t *testing.T) {
	t.Parallel()
	const burst, callers = 3, 60
	for _, counts := range []bool{false, true} {
		l := identity.NewLimiter(identity.Rate{Every: time.Hour, Burst: burst}, identity.Rate{}, newClock())
		var decides []func(bool)
		for range burst {
			decides = append(decides, reserve(t, l, home))
		}
		var in, out atomic.Int64
		var wg sync.WaitGroup
		for range callers {
			wg.Go(func() {
				decide, err := l.Reserve(t.Context(), home)
				if err != nil {
					out.Add(1)
					return
				}
				in.Add(1)
				decide(counts)
			})
		}
		for l.WaitingFrom(home) < callers {
			runtime.Gosched()
		}
		for _, decide := range decides {
			decide(counts)
		}
		wg.Wait()
		wantIn, wantOut := int64(callers), int64(0)
		if counts {
			wantIn, wantOut = wantOut, wantIn
		}
		if in.Load() != wantIn || out.Load() != wantOut {
			t.Errorf("counts = %v: %d got in, and %d did not; want %d and %d", counts, in.Load(), out.Load(), wantIn, wantOut)
		}
	}
}

// Whoever waits for the others to be decided waits no longer than for their context, and not
// too many wait.
func TestLimiterWaiting(t *testing.T) {
	t.Parallel()
	l := identity.NewLimiter(identity.Rate{Every: time.Second, Burst: 1}, identity.Rate{}, newClock())
	decide := reserve(t, l, home)
	over(t, l, home, time.Second) // its context has ended
	results := make(chan error, identity.MaxUndecided+1)
	ctx, cancel := context.WithCancel(t.Context())
	for range cap(results) {
		go func() { // ends with ctx at the latest, and is waited for below
			_, err := l.Reserve(ctx, home)
			results <- err
		}()
	}
	if err := <-results; chat.CodeOf(err) != chat.Quota { // the one too many; the others wait
		t.Error(err)
	}
	cancel()
	for range cap(results) - 1 {
		if err := <-results; chat.CodeOf(err) != chat.Quota {
			t.Error(err)
		}
	}
	decide(false)
	if l.Len() != 0 {
		t.Errorf("%d addresses, want none", l.Len())
	}
	reserve(t, l, home)
}

// The table of addresses does not grow without end.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	l := identity.NewLimiter(identity.Rate{Every: time.Second, Burst: 1}, identity.Rate{}, newClock())
	for i := range identity.MaxAddresses + 1000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		reserve(t, l, a)(true)
	}
	if got := l.Len(); got > identity.MaxAddresses {
		t.Errorf("%d addresses, want at most %d", got, identity.MaxAddresses)
	}
}
