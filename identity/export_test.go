package identity

import (
	"context"
	"crypto/ed25519"
)

// OnHash has f called inside each password hash, once it has its slot.
func (s *Service) OnHash(f func()) { s.hasher.started = f }

// Waiting is how many callers wait for their turn to hash.
func (s *Service) Waiting() int { return int(s.hasher.waiting.Load()) }

// Signer returns the key that signs.
func (s *Service) Signer(ctx context.Context) (string, ed25519.PrivateKey, error) {
	return s.keys.signer(ctx)
}

// Round is one turn of Run.
func (s *Service) Round(ctx context.Context) error { return s.round(ctx) }

var KeyID = keyID

const MaxAddresses = maxAddresses

// Len is how many addresses the limiter remembers.
func (l *Limiter) Len() int { return len(l.table) }
