package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
)

// Options says what a Service is made of. Only Store is needed; the zero value
// of every other field stands for its default.
type Options struct {
	Store      Store
	Clock      chat.Clock            // chat.SystemClock
	Logger     *slog.Logger          // none
	Registerer prometheus.Registerer // nil: metrics are not kept

	Issuer    string        // "iss" of access tokens; "parley"
	Audience  string        // "aud" of access tokens; "parley"
	AccessTTL time.Duration // how long an access token is valid; 15 minutes, at most MaxTokenTTL
	LoginTTL  time.Duration // how long a login lives without being refreshed; 60 days

	SigningPEM []byte // Ed25519 keys in PKCS#8 PEM: the first signs, all verify. Empty: keys in the database

	Passwords        PasswordParams // DefaultPasswordParams
	MaxHashes        int            // password hashes computed at once; GOMAXPROCS
	MaxWaitingHashes int            // callers waiting to hash, beyond which Quota; 128
	PollRevokedEvery time.Duration  // how often Run looks for other nodes' revocations; 500 ms
}

// MaxTokenTTL is the longest life of an access token.
const MaxTokenTTL = 30 * 24 * time.Hour

// deleteEvery is how often Run removes logins and keys that are of no use any more.
const deleteEvery = 10 * time.Minute

// Service is accounts, logins and tokens. It implements chat.Authenticator and is safe
// for concurrent use. It works without Run, but then revocations by other nodes are
// noticed within 10 s instead of one, by tokens shown here only and not by OnRevoked.
type Service struct {
	store   Store
	clock   chat.Clock
	logger  *slog.Logger
	metrics *metrics
	hasher  *hasher
	keys    *keyring
	revoked *revocations
	parser  *jwt.Parser

	verified verifiedTokens

	issuer, audience               string
	accessTTL, loginTTL, pollEvery time.Duration
	deleted                        time.Time // owned by Run: when expired logins were last removed
}

var _ chat.Authenticator = (*Service)(nil)

// New makes a Service. It starts nothing and does not use the store; it fails only for
// options that cannot work.
func New(o Options) (*Service, error) {
	if o.Store == nil {
		return nil, errors.New("identity: Options.Store is needed")
	}
	o.setDefaults()
	if o.AccessTTL < time.Second || o.AccessTTL > MaxTokenTTL || o.LoginTTL < o.AccessTTL {
		return nil, fmt.Errorf("identity: access tokens valid for %v and logins for %v: want 1s to %v, and logins at least as long", o.AccessTTL, o.LoginTTL, MaxTokenTTL)
	}
	m := newMetrics(o.Registerer)
	h, err := newHasher(o.Passwords, o.MaxHashes, o.MaxWaitingHashes, m)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	keys, err := newKeyring(o.Store, o.Clock, o.SigningPEM)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return &Service{
		store: o.Store, clock: o.Clock, logger: o.Logger.With("component", "identity"), metrics: m, hasher: h, keys: keys,
		revoked: newRevocations(o.Store, o.Clock, o.AccessTTL, m),
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience),
			jwt.WithExpirationRequired(), jwt.WithLeeway(tokenLeeway), jwt.WithStrictDecoding(), jwt.WithTimeFunc(o.Clock.Now)),
		issuer: o.Issuer, audience: o.Audience, accessTTL: o.AccessTTL, loginTTL: o.LoginTTL, pollEvery: o.PollRevokedEvery,
	}, nil
}

func (o *Options) setDefaults() {
	if o.Clock == nil {
		o.Clock = chat.SystemClock{}
	}
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.Issuer = cmp.Or(o.Issuer, "parley")
	o.Audience = cmp.Or(o.Audience, "parley")
	o.AccessTTL = cmp.Or(o.AccessTTL, 15*time.Minute)
	o.LoginTTL = cmp.Or(o.LoginTTL, 60*24*time.Hour)
	o.Passwords = cmp.Or(o.Passwords, DefaultPasswordParams)
	o.MaxHashes = cmp.Or(o.MaxHashes, runtime.GOMAXPROCS(0))
	o.MaxWaitingHashes = cmp.Or(o.MaxWaitingHashes, 128)
	o.PollRevokedEvery = cmp.Or(o.PollRevokedEvery, 500*time.Millisecond)
}

// now is the present as it is stored.
func (s *Service) now() time.Time { return chat.Timestamp(s.clock.Now()) }

// Run polls for revocations by other nodes, reads the signing keys again every half a
// minute, replaces them when they are old, and removes what has expired, until ctx ends.
// An unavailable store is logged and tried again; Run returns only when ctx ends, and nil.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.pollEvery)
	defer tick.Stop()
	var failing bool
	for {
		err := s.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !failing:
			s.logger.WarnContext(ctx, "cannot read revocations and signing keys; retrying", "err", err)
		case err == nil && failing:
			s.logger.InfoContext(ctx, "revocations and signing keys can be read again")
		}
		failing = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// round does what is due, for Run.
func (s *Service) round(ctx context.Context) error {
	ctx, cancel := chat.WithDeadline(ctx, 5*time.Second, "identity.round")
	defer cancel()
	if err := s.revoked.poll(ctx, 0); err != nil {
		return err
	}
	if err := s.refreshKeys(ctx); err != nil {
		return err
	}
	return s.deleteExpired(ctx)
}

func (s *Service) refreshKeys(ctx context.Context) error {
	set, err := s.keys.get(ctx)
	if err != nil {
		return err
	}
	now := s.clock.Now()
	if now.Sub(set.loaded) >= keysMaxAge {
		if set, err = s.keys.load(ctx, set); err != nil {
			return err
		}
	}
	if set.created.IsZero() || now.Sub(set.created) < keyRotation {
		return nil
	}
	// Two nodes may do this at the same time and make a key each: the later one signs.
	if err := s.keys.rotate(ctx); err != nil {
		return err
	}
	s.logger.InfoContext(ctx, "signing key replaced", "kid", s.keys.set.Load().signKID)
	return nil
}

func (s *Service) deleteExpired(ctx context.Context) error {
	now := s.clock.Now()
	if now.Sub(s.deleted) < deleteEvery {
		return nil
	}
	s.deleted = now
	// A revoked login is kept as long as a token of it could still be shown, a
	// retired key as long as the longest-lived token it may have signed.
	if err := s.store.DeleteExpired(ctx, now.Add(-s.revoked.keep-keyGrace)); err != nil {
		return err
	}
	return s.store.DeleteSigningKeys(ctx, now.Add(-MaxTokenTTL-keyGrace))
}

func invalid(field, msg string) *chat.Error {
	return &chat.Error{Code: chat.Invalid, Field: field, Msg: msg}
}
