package identity_test

import (
	"testing"
	"time"

	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

// A token that was accepted before is remembered, but no longer than it is valid, and not
// against a revocation. However many there are, a bounded number is remembered.
func TestVerifiedTokens(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := node(t, storetest.New(t), c)
	register(t, s, "alice")
	issue := func(ttl time.Duration) string {
		token, _, err := s.IssueToken(t.Context(), "alice", ttl)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	short, long := issue(time.Minute), issue(time.Hour)
	for range 3 {
		good(t, s, short, "while it is valid")
		good(t, s, long, "while it is valid")
	}
	c.advance(time.Minute + 31*time.Second)
	refused(t, s, short, "after its end")
	good(t, s, long, "while it is valid")
	if _, err := s.SetDisabled(t.Context(), "alice", true); err != nil {
		t.Fatal(err)
	}
	refused(t, s, long, "of a disabled user")

	if n := s.RememberVerified(identity.MaxVerified + 10); n != identity.MaxVerified {
		t.Errorf("%d tokens are remembered, want %d", n, identity.MaxVerified)
	}
}
