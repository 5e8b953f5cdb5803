package identity

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

// maxVerified is how many tokens are remembered; some 2 MB.
const maxVerified = 10_000

// A verified token is one whose signature and claims have been checked: neither changes, but
// the token expires, and its key may be withdrawn. Revocations are not remembered here.
type verified struct {
	principal chat.Principal
	kid       string
	expires   time.Time // leeway included
}

// verifiedTokens remembers tokens by their hash, so that a device's next request costs no
// signature check. Which one makes room for a new one is left to chance.
type verifiedTokens struct {
	mu   sync.RWMutex
	byID map[[sha256.Size]byte]verified // mu guards
}

func (v *verifiedTokens) get(id [sha256.Size]byte) (verified, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	t, ok := v.byID[id]
	return t, ok
}

func (v *verifiedTokens) put(id [sha256.Size]byte, t verified) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.byID == nil {
		v.byID = map[[sha256.Size]byte]verified{}
	}
	for other := range v.byID {
		if len(v.byID) < maxVerified {
			break
		}
		delete(v.byID, other)
	}
	v.byID[id] = t
}

func (v *verifiedTokens) forget(id [sha256.Size]byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.byID, id)
}
