package identity

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	// A revocation gets its time before it is committed, from a node whose clock may
	// differ: each poll looks back this far before the previous one.
	pollOverlap = 30 * time.Second
	// What is known may be this old; older, tokens are not accepted until a poll succeeds.
	maxStale = 10 * time.Second
	// While a disabled user keeps trying, the database is asked this often whether they
	// have been enabled again.
	recheckDisabled = time.Second
	// How much longer than the longest token a revocation is remembered.
	forgetAfter = 5 * time.Minute
)

// Revocation says that one login (LoginID), every connection of a disabled user
// (LoginID zero), or, with Credentials, every connection that was authenticated with a
// password set before At is no longer valid. Logins made with that password are revoked
// one by one, so Credentials does not concern them.
type Revocation struct {
	LoginID     chat.ID
	UserID      chat.ID
	At          time.Time
	Credentials bool
}

// Concerns reports whether v makes p invalid.
func (v Revocation) Concerns(p chat.Principal) bool {
	switch {
	case p.UserID != v.UserID:
		return false
	case v.Credentials:
		return p.LoginID.IsZero() && p.CredentialsAt.Before(v.At)
	}
	return v.LoginID.IsZero() || p.LoginID == v.LoginID
}

// reason says for the log why a principal is refused.
func (v Revocation) reason() error {
	switch {
	case v.Credentials:
		return errors.New("password changed")
	case v.LoginID.IsZero():
		return errors.New("user disabled")
	}
	return errors.New("login revoked")
}

// revocations is what makes tokens invalid before they expire, in memory: revoked
// logins, disabled users, and changed passwords.
type revocations struct {
	store   Store
	clock   chat.Clock
	keep    time.Duration // how long a revoked login is remembered
	metrics *metrics
	polling chan struct{} // capacity 1: one poll at a time

	mu        sync.RWMutex
	known     map[Revocation]*revoked // mu guards, with what it points to; the keys have no At
	polled    time.Time               // mu guards: when the last successful poll began; zero: none yet
	pruned    time.Time               // mu guards
	listeners []func(Revocation)      // mu guards; only ever appended to
}

// revoked is when a Revocation took place, and when the database was last asked about it.
type revoked struct{ at, checked time.Time }

func newRevocations(store Store, clock chat.Clock, accessTTL time.Duration, m *metrics) *revocations {
	return &revocations{
		store: store, clock: clock, keep: accessTTL + forgetAfter, metrics: m, polling: make(chan struct{}, 1), known: map[Revocation]*revoked{},
	}
}

// outdated reports whether v can be forgotten: no token that it makes invalid is still
// within its own life. That a user is disabled is remembered until they are enabled.
func (r *revocations) outdated(v Revocation, now time.Time) bool {
	switch age := now.Sub(v.At); {
	case v.Credentials:
		return age >= MaxTokenTTL+forgetAfter
	case v.LoginID.IsZero():
		return false
	default:
		return age >= r.keep
	}
}

// OnRevoked has f called with every revocation this node learns of from now on,
// once each: of its own at once, of another node's within the poll interval and a
// query. f is called from whichever goroutine learned it; it must not block.
//
// A connection that is just being made may miss it: its maker calls Revoked once f can
// find it.
func (s *Service) OnRevoked(f func(Revocation)) {
	s.revoked.mu.Lock()
	defer s.revoked.mu.Unlock()
	s.revoked.listeners = append(s.revoked.listeners, f)
}

// Revoked implements chat.Authenticator: it reports whether this node knows that p's
// login has been revoked, its user disabled, or its password changed.
func (s *Service) Revoked(p chat.Principal) bool {
	s.revoked.mu.RLock()
	defer s.revoked.mu.RUnlock()
	_, known := s.revoked.find(p)
	return known != nil
}

// find returns a revocation that concerns p. mu is held. A disabled user comes last,
// because that is the one that check may find to be over.
func (r *revocations) find(p chat.Principal) (Revocation, *revoked) {
	for _, v := range []Revocation{{UserID: p.UserID, Credentials: true}, {UserID: p.UserID, LoginID: p.LoginID}, {UserID: p.UserID}} {
		if known := r.known[v]; known != nil {
			if v.At = known.at; v.Concerns(p) {
				return v, known
			}
		}
	}
	return Revocation{}, nil
}

// check refuses a principal that a revocation concerns.
func (r *revocations) check(ctx context.Context, p chat.Principal) error {
	if err := r.fresh(ctx); err != nil {
		return err
	}
	now := r.clock.Now()
	r.mu.Lock()
	v, known := r.find(p)
	ask := known != nil && !v.Credentials && v.LoginID.IsZero() && now.Sub(known.checked) >= recheckDisabled
	if ask {
		known.checked = now
	}
	r.mu.Unlock()
	if known == nil {
		return nil
	}
	if ask {
		a, err := r.store.GetUser(ctx, p.UserID)
		if err != nil && chat.CodeOf(err) != chat.NotFound {
			return err
		}
		if err == nil && a.DisabledAt.IsZero() {
			r.enabled(p.UserID, v.At)
			return nil
		}
	}
	return badToken(v.reason())
}

// fresh makes sure that what is known is not older than maxStale.
func (r *revocations) fresh(ctx context.Context) error {
	r.mu.RLock()
	ok := !r.polled.IsZero() && r.clock.Now().Sub(r.polled) <= maxStale
	r.mu.RUnlock()
	if ok {
		return nil
	}
	return r.poll(ctx, maxStale)
}

// poll reads what has been revoked since the previous poll, unless that began less
// than age ago.
func (r *revocations) poll(ctx context.Context, age time.Duration) error {
	select {
	case r.polling <- struct{}{}:
		defer func() { <-r.polling }()
	case <-ctx.Done():
		return &chat.Error{Code: chat.Unavailable, Op: "identity.poll", Err: context.Cause(ctx)}
	}
	now := r.clock.Now()
	r.mu.RLock()
	last := r.polled
	r.mu.RUnlock()
	since, credentialsSince := time.Time{}, now.Add(-MaxTokenTTL-forgetAfter)
	if !last.IsZero() {
		if now.Sub(last) < age {
			return nil
		}
		since = last.Add(-pollOverlap)
		credentialsSince = since
	}
	list, err := r.store.ListRevocations(ctx, since, credentialsSince)
	if err != nil {
		r.metrics.pollFailures.Inc()
		return err
	}
	r.mu.Lock()
	r.polled = now
	r.mu.Unlock()
	r.add(now, list, !last.IsZero()) // at the first reading nobody is connected yet
	r.prune(now)
	return nil
}

// add remembers revocations and, if notify is set, calls the listeners with those that
// are new.
func (r *revocations) add(now time.Time, list []Revocation, notify bool) {
	var news []Revocation
	r.mu.Lock()
	for _, v := range list {
		key := v
		key.At = time.Time{}
		old := r.known[key]
		if r.outdated(v, now) || old != nil && (!v.LoginID.IsZero() || !old.at.Before(v.At)) {
			continue
		}
		r.known[key] = &revoked{at: v.At, checked: now}
		news = append(news, v)
	}
	listeners := r.listeners
	r.metrics.revocations.Set(float64(len(r.known)))
	r.mu.Unlock()
	if !notify {
		return
	}
	for _, v := range news {
		for _, f := range listeners {
			f(v)
		}
	}
}

// enabled forgets that the user was disabled at the given time; a later one stands.
func (r *revocations) enabled(user chat.ID, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := Revocation{UserID: user}
	if known := r.known[key]; known != nil && !known.at.After(at) {
		delete(r.known, key)
	}
}

// prune forgets what is outdated, once a minute.
func (r *revocations) prune(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.pruned) < time.Minute {
		return
	}
	r.pruned = now
	for v, known := range r.known {
		if v.At = known.at; r.outdated(v, now) {
			v.At = time.Time{}
			delete(r.known, v)
		}
	}
}
