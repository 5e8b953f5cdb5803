package identity_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/parleymq/parley/identity"
)

// The table of addresses does not grow without end, and forgets idle ones first.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	clk := newClock()
	l := identity.NewLimiter(identity.Rate{Every: time.Second, Burst: 1}, identity.Rate{}, clk)
	for i := range identity.MaxAddresses + 1000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if err := l.Allow(a); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.Len(); got > identity.MaxAddresses {
		t.Errorf("%d addresses, want at most %d", got, identity.MaxAddresses)
	}
	clk.advance(time.Minute)
	if err := l.Allow(netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Fatal(err)
	}
	if got := l.Len(); got > identity.MaxAddresses-60 {
		t.Errorf("%d addresses after a minute, want idle ones forgotten", got)
	}
}
