package identity

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	// A revocation is stamped before it is committed, by a node whose clock may
	// differ: each poll looks back this far before the last one.
	pollOverlap = 30 * time.Second
	// A set that could not be brought up to date for this long decides nothing.
	maxStale = 10 * time.Second
	// A disabled user who keeps coming costs a query this often, to see whether
	// they have been enabled again.
	recheckDisabled = time.Second
)

// revocations remembers whose tokens are good no longer although they have not
// expired: revoked logins, disabled users, and users with another password.
type revocations struct {
	store   Store
	clock   chat.Clock
	keep    time.Duration // an access token's longest life: after this a revoked login is forgotten
	keepAll time.Duration // an operator's token's longest life: after this a changed password is forgotten
	metrics *metrics
	turn    chan struct{} // capacity 1: one poll at a time

	mu        sync.RWMutex
	logins    map[chat.ID]time.Time // mu guards: revoked when
	users     map[chat.ID]*disabled // mu guards, with what it points to
	changed   map[chat.ID]time.Time // mu guards: users by when their password was changed
	polled    time.Time             // mu guards: when the last poll that succeeded began; zero: none yet
	pruned    time.Time             // mu guards
	listeners []func(Revocation)    // mu guards; only ever appended to
}

type disabled struct{ at, checked time.Time }

func newRevocations(store Store, clock chat.Clock, accessTTL, maxTokenTTL time.Duration, m *metrics) *revocations {
	return &revocations{
		store: store, clock: clock, keep: accessTTL + 5*time.Minute, keepAll: maxTokenTTL + 5*time.Minute, metrics: m, turn: make(chan struct{}, 1),
		logins: map[chat.ID]time.Time{}, users: map[chat.ID]*disabled{}, changed: map[chat.ID]time.Time{},
	}
}

// OnRevoked has f called with every revocation this node learns of from now on,
// once each: of its own at once, of another node's within the poll interval and a
// query. f is called from whichever goroutine learned it; it must not block.
//
// A connection that is just being made may miss it: it asks Revoked once it can
// be found by f.
func (s *Service) OnRevoked(f func(Revocation)) {
	s.revoked.mu.Lock()
	defer s.revoked.mu.Unlock()
	s.revoked.listeners = append(s.revoked.listeners, f)
}

// Revoked reports whether this node knows that p's login has been revoked, its
// user disabled, or the password behind it changed. It asks memory only and does not block.
func (s *Service) Revoked(p chat.Principal) bool {
	r := s.revoked
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, login := r.logins[p.LoginID]
	_, user := r.users[p.UserID]
	return login || user || r.outdated(p)
}

// outdated reports whether p stands on a password that has been changed. mu is held.
func (r *revocations) outdated(p chat.Principal) bool {
	at, ok := r.changed[p.UserID]
	return ok && Revocation{UserID: p.UserID, At: at, Credentials: true}.Concerns(p)
}

// check refuses a principal whose login is revoked, whose user is disabled or whose
// password has been changed.
func (r *revocations) check(ctx context.Context, p chat.Principal) error {
	if err := r.fresh(ctx); err != nil {
		return err
	}
	now := r.clock.Now()
	r.mu.Lock()
	_, revoked := r.logins[p.LoginID]
	outdated := r.outdated(p)
	d := r.users[p.UserID]
	var at time.Time
	ask := false
	if d != nil {
		at = d.at
		if ask = now.Sub(d.checked) >= recheckDisabled; ask {
			d.checked = now
		}
	}
	r.mu.Unlock()
	switch {
	case revoked:
		return badToken(errors.New("login revoked"))
	case outdated:
		return badToken(errors.New("password changed"))
	case d == nil:
		return nil
	case ask:
		a, err := r.store.GetUser(ctx, p.UserID)
		if err != nil && chat.CodeOf(err) != chat.NotFound {
			return err
		}
		if err == nil && a.DisabledAt.IsZero() {
			r.enabled(p.UserID, at)
			return nil
		}
	}
	return badToken(errors.New("user disabled"))
}

// fresh makes sure that the set is not older than maxStale, polling if nobody else has.
func (r *revocations) fresh(ctx context.Context) error {
	r.mu.RLock()
	ok := !r.polled.IsZero() && r.clock.Now().Sub(r.polled) <= maxStale
	r.mu.RUnlock()
	if ok {
		return nil
	}
	return r.poll(ctx, maxStale)
}

// poll reads what has been revoked since the last time, unless somebody has done
// that less than age ago.
func (r *revocations) poll(ctx context.Context, age time.Duration) error {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return &chat.Error{Code: chat.Unavailable, Op: "identity.poll", Err: context.Cause(ctx)}
	}
	now := r.clock.Now()
	r.mu.RLock()
	last := r.polled
	r.mu.RUnlock()
	since, credentialsSince := time.Time{}, now.Add(-r.keepAll)
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
	r.add(now, list, !last.IsZero())
	r.prune(now)
	return nil
}

// add remembers revocations and, unless this is the first reading (nobody can be
// connected yet), tells the listeners of those that are new.
func (r *revocations) add(now time.Time, list []Revocation, tell bool) {
	var news []Revocation
	r.mu.Lock()
	for _, v := range list {
		if v.Credentials {
			if r.changed[v.UserID].Before(v.At) && now.Sub(v.At) < r.keepAll {
				r.changed[v.UserID] = v.At
				news = append(news, v)
			}
			continue
		}
		if !v.LoginID.IsZero() {
			if _, ok := r.logins[v.LoginID]; !ok && now.Sub(v.At) < r.keep {
				r.logins[v.LoginID] = v.At
				news = append(news, v)
			}
			continue
		}
		if d := r.users[v.UserID]; d == nil || d.at.Before(v.At) {
			r.users[v.UserID] = &disabled{at: v.At, checked: now}
			news = append(news, v)
		}
	}
	listeners := r.listeners
	r.metrics.revocations.Set(float64(len(r.logins) + len(r.users) + len(r.changed)))
	r.mu.Unlock()
	if !tell {
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
	if d := r.users[user]; d != nil && !d.at.After(at) {
		delete(r.users, user)
	}
}

func (r *revocations) prune(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.pruned) < time.Minute {
		return
	}
	r.pruned = now
	for id, at := range r.logins {
		if now.Sub(at) > r.keep {
			delete(r.logins, id)
		}
	}
	for id, at := range r.changed {
		if now.Sub(at) > r.keepAll {
			delete(r.changed, id)
		}
	}
}

// Poll reads at once what other nodes have revoked; Run does it all the time.
func (s *Service) Poll(ctx context.Context) error { return s.revoked.poll(ctx, 0) }
