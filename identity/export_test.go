package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"net/netip"
)

// OnHash has f called inside each password hash, once it has its slot.
func (s *Service) OnHash(f func()) { s.hasher.started = f }

// Waiting is how many callers wait to hash.
func (s *Service) Waiting() int { return int(s.hasher.waiting.Load()) }

// Signer returns the key that signs.
func (s *Service) Signer(ctx context.Context) (string, ed25519.PrivateKey, error) {
	set, err := s.keys.get(ctx)
	if err != nil {
		return "", nil, err
	}
	return set.signKID, set.sign, nil
}

// RotateKeys makes a new key that signs from now on.
func (s *Service) RotateKeys(ctx context.Context) error { return s.keys.rotate(ctx) }

// Poll reads at once what other nodes have revoked.
func (s *Service) Poll(ctx context.Context) error { return s.revoked.poll(ctx, 0) }

// Round does what is due in Run.
func (s *Service) Round(ctx context.Context) error { return s.round(ctx) }

var KeyID = keyID

const (
	MaxAddresses = maxAddresses
	MaxUndecided = maxUndecided
)

// WaitingFrom is how many wait in Reserve for one address.
func (l *Limiter) WaitingFrom(a netip.Addr) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.find(a).waiting
}

// Len is how many addresses the limiter remembers.
func (l *Limiter) Len() int { return len(l.table) }

// MaxVerified is maxVerified.
const MaxVerified = maxVerified

// RememberVerified remembers n made-up tokens, and returns how many are remembered.
func (s *Service) RememberVerified(n int) int {
	for i := range n {
		s.verified.put([sha256.Size]byte{byte(i), byte(i >> 8)}, verified{})
	}
	return len(s.verified.byID)
}
