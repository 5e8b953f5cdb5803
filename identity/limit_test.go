package identity_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/parleymq/parley/identity"
)

// The table of addresses does not grow without end.
func TestLimiterIsBounded(t *testing.T) {
	t.Parallel()
	l := identity.NewLimiter(identity.Rate{Every: time.Second, Burst: 1}, identity.Rate{}, newClock())
	for i := range identity.MaxAddresses + 1000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if err := l.Allow(a); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.Len(); got > identity.MaxAddresses {
		t.Errorf("%d addresses, want at most %d", got, identity.MaxAddresses)
	}
}
