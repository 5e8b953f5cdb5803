package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/parleymq/parley/chat"
)

const (
	keysMaxAge   = 30 * time.Second    // Run reads the keys again after this long
	keyMissEvery = time.Second         // how often an unknown kid may cause a query
	keyRotation  = 90 * 24 * time.Hour // age at which a signing key in the database is replaced
	keyGrace     = time.Hour           // how much longer than its last token a retired key is kept
)

// JWK is a public key as it is published (RFC 7517, RFC 8037).
type JWK struct {
	KeyType   string `json:"kty" doc:"Always OKP (RFC 8037)."`
	Curve     string `json:"crv" doc:"Always Ed25519."`
	X         string `json:"x" doc:"The public key, base64url."`
	KID       string `json:"kid" doc:"The key's RFC 7638 thumbprint."`
	Algorithm string `json:"alg" doc:"Always EdDSA."`
	Use       string `json:"use" doc:"Always sig."`
}

func newJWK(kid string, pub ed25519.PublicKey) JWK {
	return JWK{KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(pub), KID: kid, Algorithm: "EdDSA", Use: "sig"}
}

// keyID returns the thumbprint of a public key (RFC 7638; RFC 8037, 2).
func keyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + base64.RawURLEncoding.EncodeToString(pub) + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// keySet is one reading of the keys; it does not change.
type keySet struct {
	signKID string
	sign    ed25519.PrivateKey
	created time.Time // when the signing key was made; zero for one from a file
	public  map[string]ed25519.PublicKey
	jwks    []JWK // in the order they are published: the signing key first
	loaded  time.Time
}

// keyring has the key that signs, and those that still verify. They are in the
// database, or the signing one in a file of the operator's.
type keyring struct {
	store   Store
	clock   chat.Clock
	fixed   []ed25519.PrivateKey // from a PEM file; the first signs. Empty: the database's
	loading chan struct{}        // capacity 1: one reading at a time; others wait for it, with their ctx
	set     atomic.Pointer[keySet]
	misses  *rate.Limiter // of queries for unknown kids
}

func newKeyring(store Store, clock chat.Clock, pemText []byte) (*keyring, error) {
	k := &keyring{store: store, clock: clock, loading: make(chan struct{}, 1), misses: rate.NewLimiter(rate.Every(keyMissEvery), 1)}
	if len(pemText) == 0 {
		return k, nil
	}
	var err error
	k.fixed, err = parseSigningPEM(pemText)
	return k, err
}

// parseSigningPEM reads one or more "PRIVATE KEY" blocks (PKCS#8, RFC 8410), as
// openssl genpkey -algorithm ed25519 writes them.
func parseSigningPEM(text []byte) ([]ed25519.PrivateKey, error) {
	var keys []ed25519.PrivateKey
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "PRIVATE KEY" {
			return nil, fmt.Errorf("signing key: PEM block %q: want PRIVATE KEY (PKCS#8)", block.Type)
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, errors.New("signing key: not a PKCS#8 private key")
		}
		key, ok := parsed.(ed25519.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("signing key: is %T: want Ed25519", parsed)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("signing key: no PEM block found")
	}
	return keys, nil
}

// get returns the keys, reading them if that has never been done.
func (k *keyring) get(ctx context.Context) (*keySet, error) {
	if set := k.set.Load(); set != nil {
		return set, nil
	}
	return k.load(ctx, nil)
}

// public returns the key with the given id, or NotFound. An unknown id may be another
// node's new key: the keys are read again, at most once in keyMissEvery, so that
// made-up ids cost the database nothing.
func (k *keyring) public(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	set, err := k.get(ctx)
	if err != nil {
		return nil, err
	}
	if key, ok := set.public[kid]; ok {
		return key, nil
	}
	if k.misses.AllowN(k.clock.Now(), 1) {
		if set, err = k.load(ctx, set); err != nil {
			return nil, err
		}
		if key, ok := set.public[kid]; ok {
			return key, nil
		}
	}
	return nil, &chat.Error{Code: chat.NotFound, Op: "identity.key", Err: errors.New("unknown kid")}
}

// has reports whether the key is known now.
func (k *keyring) has(kid string) bool {
	set := k.set.Load()
	return set != nil && set.public[kid] != nil
}

// load reads the keys, making the first one if there is none, unless another caller
// has read them since this one saw the set seen.
func (k *keyring) load(ctx context.Context, seen *keySet) (*keySet, error) {
	select {
	case k.loading <- struct{}{}:
		defer func() { <-k.loading }()
	case <-ctx.Done():
		return nil, &chat.Error{Code: chat.Unavailable, Op: "identity.keys", Err: context.Cause(ctx)}
	}
	if set := k.set.Load(); set != seen {
		return set, nil
	}
	set, err := k.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read signing keys: %w", err)
	}
	k.set.Store(set)
	return set, nil
}

func (k *keyring) read(ctx context.Context) (*keySet, error) {
	set := &keySet{public: map[string]ed25519.PublicKey{}, loaded: k.clock.Now()}
	for _, key := range k.fixed {
		set.add(key, time.Time{}, true)
	}
	stored, err := k.store.ListSigningKeys(ctx)
	maySign := func(s SigningKey) bool { return s.RetiredAt.IsZero() }
	if err == nil && len(k.fixed) == 0 && !slices.ContainsFunc(stored, maySign) {
		// Of several nodes that get here at once the database lets one make the key.
		if err = k.create(ctx, true); err == nil {
			stored, err = k.store.ListSigningKeys(ctx)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, s := range stored {
		if len(s.Seed) == ed25519.SeedSize {
			set.add(ed25519.NewKeyFromSeed(s.Seed), s.CreatedAt, maySign(s))
		}
	}
	if set.sign == nil {
		return nil, &chat.Error{Code: chat.Internal, Op: "identity.keys", Err: errors.New("no key in the database may sign")}
	}
	return set, nil
}

func (s *keySet) add(key ed25519.PrivateKey, created time.Time, maySign bool) {
	pub := key.Public().(ed25519.PublicKey)
	kid := keyID(pub)
	if _, ok := s.public[kid]; ok {
		return
	}
	if s.sign == nil && maySign {
		s.sign, s.signKID, s.created = key, kid, created
		s.jwks = slices.Insert(s.jwks, 0, newJWK(kid, pub))
	} else {
		s.jwks = append(s.jwks, newJWK(kid, pub))
	}
	s.public[kid] = pub
}

func (k *keyring) create(ctx context.Context, onlyIfNone bool) error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	return k.store.CreateSigningKey(ctx, SigningKey{KID: keyID(pub), Seed: key.Seed(), CreatedAt: chat.Timestamp(k.clock.Now())}, onlyIfNone)
}

// rotate makes a new signing key. Nobody is logged out: the old one verifies what it
// has signed until all of that has expired. Other nodes learn of the new key when they
// first meet it. It is for keys in the database.
func (k *keyring) rotate(ctx context.Context) error {
	seen := k.set.Load()
	if err := k.create(ctx, false); err != nil {
		return fmt.Errorf("rotate signing keys: %w", err)
	}
	_, err := k.load(ctx, seen)
	return err
}

// JWKS returns the public keys that check access tokens, the signing one first.
func (s *Service) JWKS(ctx context.Context) ([]JWK, error) {
	set, err := s.keys.get(ctx)
	if err != nil {
		return nil, err
	}
	return set.jwks, nil
}
