package identity

import (
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

	Issuer      string        // "iss" of access tokens; "parley"
	Audience    string        // "aud" of access tokens; "parley"
	AccessTTL   time.Duration // how long an access token is good; 15 minutes
	LoginTTL    time.Duration // how long a login lives without being refreshed; 60 days
	MaxTokenTTL time.Duration // the longest life IssueToken gives; 30 days, never less than AccessTTL

	SigningPEM  []byte        // Ed25519 keys in PKCS#8 PEM: the first signs, all verify. Empty: keys in the database
	RotateEvery time.Duration // age at which a signing key in the database is replaced; 90 days; negative: never

	Passwords         PasswordParams // DefaultPasswordParams
	MaxHashes         int            // password hashes at once; GOMAXPROCS
	MaxWaitingHashes  int            // callers waiting for their turn to hash, beyond which Quota; 128. Negative: none
	PollRevokedEvery  time.Duration  // how often Run looks for other nodes' revocations; 500 ms
	DeleteExpiredEach time.Duration  // how often Run removes logins and keys that are of no use; 10 minutes
}

// Service is accounts, logins and tokens. It implements chat.Authenticator and
// is safe for concurrent use. It works without Run, but then a revocation by another
// node is noticed within 10 s instead of one, and nobody hears of it through OnRevoked
// in the meantime.
type Service struct {
	store   Store
	clock   chat.Clock
	logger  *slog.Logger
	metrics *metrics
	hasher  *hasher
	keys    *keyring
	revoked *revocations
	parser  *jwt.Parser

	issuer, audience                 string
	accessTTL, loginTTL, maxTokenTTL time.Duration
	rotateEvery                      time.Duration
	pollEvery, deleteEvery           time.Duration
	deleted                          time.Time // owned by Run: when expired logins were last removed
}

var _ chat.Authenticator = (*Service)(nil)

// New makes a Service. It starts nothing and asks the store nothing; it fails only
// for options that cannot work.
func New(o Options) (*Service, error) {
	if o.Store == nil {
		return nil, errors.New("identity: Options.Store is needed")
	}
	o.setDefaults()
	if o.AccessTTL < time.Second || o.LoginTTL < o.AccessTTL {
		return nil, fmt.Errorf("identity: access tokens of %v and logins of %v: want at least 1s, and logins the longer", o.AccessTTL, o.LoginTTL)
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
		revoked: newRevocations(o.Store, o.Clock, o.AccessTTL, o.MaxTokenTTL, m),
		parser: jwt.NewParser(jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(o.Issuer), jwt.WithAudience(o.Audience),
			jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(tokenLeeway), jwt.WithStrictDecoding(), jwt.WithTimeFunc(o.Clock.Now)),
		issuer: o.Issuer, audience: o.Audience, accessTTL: o.AccessTTL, loginTTL: o.LoginTTL, maxTokenTTL: o.MaxTokenTTL,
		rotateEvery: o.RotateEvery, pollEvery: o.PollRevokedEvery, deleteEvery: o.DeleteExpiredEach,
	}, nil
}

func (o *Options) setDefaults() {
	if o.Clock == nil {
		o.Clock = chat.SystemClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.Issuer, "parley")
	setDefault(&o.Audience, "parley")
	setDefault(&o.AccessTTL, 15*time.Minute)
	setDefault(&o.LoginTTL, 60*24*time.Hour)
	setDefault(&o.MaxTokenTTL, 30*24*time.Hour)
	o.MaxTokenTTL = max(o.MaxTokenTTL, o.AccessTTL)
	setDefault(&o.RotateEvery, 90*24*time.Hour)
	setDefault(&o.Passwords, DefaultPasswordParams)
	setDefault(&o.MaxHashes, runtime.GOMAXPROCS(0))
	setDefault(&o.MaxWaitingHashes, 128)
	setDefault(&o.PollRevokedEvery, 500*time.Millisecond)
	setDefault(&o.DeleteExpiredEach, 10*time.Minute)
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Run looks for revocations by other nodes, reads the signing keys again now and
// then, replaces them when they are old, and removes what has expired, until ctx ends.
// A store that is away is logged and tried again; Run returns only with ctx, nil.
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
			s.logger.WarnContext(ctx, "revocations and keys cannot be read; trying on", "err", err)
		case err == nil && failing:
			s.logger.InfoContext(ctx, "revocations and keys are read again")
		}
		failing = err != nil
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// round is one turn of Run: what is due is done.
func (s *Service) round(ctx context.Context) error {
	ctx, cancel := chat.WithDeadline(ctx, 5*time.Second, "identity.round")
	defer cancel()
	if err := s.revoked.poll(ctx, 0); err != nil {
		return err
	}
	if err := s.tendKeys(ctx); err != nil {
		return err
	}
	return s.deleteExpired(ctx)
}

func (s *Service) tendKeys(ctx context.Context) error {
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
	if s.rotateEvery < 0 || set.born.IsZero() || now.Sub(set.born) < s.rotateEvery {
		return nil
	}
	// Two nodes may come here together and make a key each: the later one signs.
	if err := s.keys.rotate(ctx); err != nil {
		return err
	}
	s.logger.InfoContext(ctx, "signing key replaced", "kid", s.keys.current().signKID)
	return nil
}

func (s *Service) deleteExpired(ctx context.Context) error {
	now := s.clock.Now()
	if now.Sub(s.deleted) < s.deleteEvery {
		return nil
	}
	s.deleted = now
	// A revoked login is kept as long as a token of it could still be shown, a
	// retired key as long as the longest-lived token it may have signed.
	if err := s.store.DeleteExpired(ctx, now.Add(-s.revoked.keep-keyGrace)); err != nil {
		return err
	}
	return s.store.DeleteSigningKeys(ctx, now.Add(-s.maxTokenTTL-keyGrace))
}

func invalid(field, msg string) *chat.Error {
	return &chat.Error{Code: chat.Invalid, Field: field, Msg: msg}
}
