package chat

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/backoff"
)

const (
	presenceBatch = 256  // users whose contacts are read, and told, at once
	presencePut   = 5000 // users stored at once when the node stops
	presencePage  = 500  // contacts of a session's user read at once: about 90 KiB when they are told
	seeEvery      = 10 * time.Second
	presenceWait  = 10 * time.Second // for the store to answer
	stopWait      = 3 * time.Second  // likewise, when the node stops
)

type presenceCounts struct{ told, dropped, failures atomic.Int64 }

// PresenceStats counts what presence has done, and holds.
type PresenceStats struct {
	Users    int   // who are here, or were a moment ago
	Queued   int   // of whom something may have to be told
	Told     int64 // changes told to contacts
	Dropped  int64 // changes of contacts that nobody was told of
	Failures int64 // of the store
}

// Stats counts. It may be called at any time.
func (p *Presences) Stats() PresenceStats {
	s := PresenceStats{Told: p.counts.told.Load(), Dropped: p.counts.dropped.Load(), Failures: p.counts.failures.Load()}
	p.mu.Lock()
	s.Queued = len(p.changes) + len(p.turns)
	p.mu.Unlock()
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		s.Users += len(sh.users)
		sh.mu.Unlock()
	}
	return s
}

// Run tells contacts, and the store, what has changed, until ctx ends; then it stores
// that nobody is here any more, and since when. All that Presences tells is told from
// here, in turn, so that nothing old comes after something new. While the store is
// away it waits, and nobody hears of anything.
func (p *Presences) Run(ctx context.Context) error {
	if p.shared != nil {
		return p.runShared(ctx)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.beSeen(ctx) })
	tick := time.NewTicker(boardKeeps / 3)
	defer tick.Stop()
	for {
		select {
		case <-p.wake:
			backoff.Sleep(ctx, p.o.Gather)
			p.work(ctx)
		case <-tick.C:
			now := p.clock.Now()
			p.board.sweep(now)
			p.forgetRested(now)
		case <-ctx.Done():
			p.stop(ctx)
			return nil
		}
	}
}

// beSeen notes in the store that the node lives: how long its users were here for
// sure, should it crash.
func (p *Presences) beSeen(ctx context.Context) {
	for ctx.Err() == nil {
		asking, cancel := WithDeadline(ctx, presenceWait, "presence.beSeen")
		if err := p.store.SeeNode(asking, p.o.Node, p.clock.Now()); err != nil && ctx.Err() == nil {
			p.counts.failures.Add(1)
			p.o.Logger.Warn("could not note that the node lives; trying again", "err", err)
		}
		cancel()
		backoff.Sleep(ctx, seeEvery)
	}
}

// retry calls f until it succeeds, and reports whether it did before ctx ended.
func (p *Presences) retry(ctx context.Context, what string, f func(context.Context) error) bool {
	for wait := backoff.New(100*time.Millisecond, 5*time.Second); ctx.Err() == nil; wait.Sleep(ctx) {
		asking, cancel := WithDeadline(ctx, presenceWait, "presence: "+what)
		err := f(asking)
		cancel()
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			p.counts.failures.Add(1)
			p.o.Logger.Warn("presence waits for the database", "doing", what, "err", err)
		}
	}
	return false
}

// work does what there is to do.
func (p *Presences) work(ctx context.Context) {
	for ctx.Err() == nil {
		p.mu.Lock()
		n := min(len(p.changes), presenceBatch)
		users, turns := slices.Clone(p.changes[:n]), p.turns
		if p.changes = p.changes[n:]; len(p.changes) == 0 {
			p.changes = nil
		}
		p.turns, p.turnIDs = nil, 0
		p.mu.Unlock()
		if len(users)+len(turns) == 0 {
			return
		}
		if len(users) > 0 {
			p.tell(ctx, users)
		}
		for _, t := range turns {
			p.turn(ctx, t)
		}
	}
}

// tell has contacts, the users' own devices and the store hear how users are.
func (p *Presences) tell(ctx context.Context, users []*present) {
	if !p.load(ctx, users) {
		return
	}
	var differ []ID
	for _, u := range users {
		sh := p.shard(u.id)
		sh.mu.Lock()
		u.queued = false // what changes from here on is looked at again
		shown := u.shown()
		sh.mu.Unlock()
		if p.status(u.id) != shown.Status {
			differ = append(differ, u.id)
		}
	}
	var contacts map[ID][]ID
	if len(differ) > 0 && !p.retry(ctx, "read contacts", func(ctx context.Context) (err error) {
		contacts, err = p.store.ListContacts(ctx, differ, nil)
		return err
	}) {
		return
	}
	asked := make(map[ID]bool, len(differ))
	for _, id := range differ {
		asked[id] = true
	}
	var shown []Presence
	var states []PresenceState
	var stored []*present
	now := p.clock.Now()
	for _, u := range users {
		sh := p.shard(u.id)
		sh.mu.Lock()
		view, mine := u.shown(), u.ownView()
		if asked[u.id] {
			shown = append(shown, view)
		}
		if asked[u.id] || mine.Status != u.own {
			u.pace = maxTime(u.pace, now).Add(presencePace)
		}
		if mine.Status != u.own {
			u.own = mine.Status
			p.signal(mine, []ID{u.id}) // while tellSelf waits, so that no session hears it twice
		}
		state := PresenceState{UserID: u.id, Online: view.Status != Offline, Invisible: u.invisible, LastOnlineAt: u.saved.LastOnlineAt}
		if !state.Online {
			state.LastOnlineAt = u.lastOnline()
		}
		sh.mu.Unlock()
		if state != u.saved {
			states, stored = append(states, state), append(stored, u)
		}
	}
	changed := p.memory.put(shown)
	for _, v := range changed {
		p.signal(v, contacts[v.UserID])
	}
	p.counts.told.Add(int64(len(changed)))
	if len(states) > 0 && !p.retry(ctx, "store who is here", func(ctx context.Context) error {
		return p.store.PutPresences(ctx, p.o.Node, states)
	}) {
		return
	}
	for i, u := range stored {
		u.saved = states[i]
	}
	for _, u := range users {
		p.forget(u, now)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// load reads what is stored of users who have come.
func (p *Presences) load(ctx context.Context, users []*present) bool {
	var ids []ID
	for _, u := range users {
		if !u.loaded {
			ids = append(ids, u.id)
		}
	}
	if len(ids) == 0 {
		return true
	}
	var states map[ID]PresenceState
	if !p.retry(ctx, "read who is invisible", func(ctx context.Context) (err error) {
		states, err = p.store.GetPresences(ctx, ids)
		return err
	}) {
		return false
	}
	for _, u := range users {
		if u.loaded {
			continue
		}
		u.loaded, u.saved = true, states[u.id]
		u.saved.UserID = u.id
		sh := p.shard(u.id)
		sh.mu.Lock()
		u.last = u.saved.LastOnlineAt
		if !u.known {
			u.known, u.invisible = true, u.saved.Invisible
			if u.invisible {
				u.seen = time.Time{}
			}
		}
		sh.mu.Unlock()
	}
	return true
}

// status is how the user was told to be last.
func (p *Presences) status(user ID) (status Status) {
	p.board.look(user, func(v Presence, ok bool) {
		if status = Offline; ok {
			status = v.Status
		}
	})
	return status
}

// forget lets go of a user who is gone and of whom everything is told, when their
// pace allows: or whoever comes and goes all the time would have all of it told.
func (p *Presences) forget(u *present, now time.Time) {
	sh := p.shard(u.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case len(u.devices) > 0 || u.queued || u.paced || p.shared != nil && (!u.loaded || u.place != Offline || u.says != nil):
	case u.pace.After(now):
		p.resting = append(p.resting, u)
	case sh.users[u.id] == u:
		delete(sh.users, u.id)
	}
}

func (p *Presences) forgetRested(now time.Time) {
	resting := p.resting
	p.resting = nil
	for _, u := range resting {
		p.forget(u, now)
	}
}

// turn tells users of each other who have become contacts, or are none any more.
func (p *Presences) turn(ctx context.Context, t contactTurn) {
	var contacts map[ID][]ID
	var stored map[ID]PresenceState
	var blocked [][2]ID
	acquainted := true
	both := append(slices.Clone(t.a), t.b...)
	slices.SortFunc(both, ID.Compare)
	both = slices.Compact(both)
	block := len(t.a) == 1 && len(t.b) == 1 // of two who may be strangers; a change of members names all of them
	if !p.retry(ctx, "read changed contacts", func(ctx context.Context) (err error) {
		if contacts, err = p.store.ListContacts(ctx, t.a, t.b); err != nil {
			return err
		}
		if stored, err = p.store.GetPresences(ctx, both); err != nil {
			return err
		}
		if block {
			acquainted, err = p.store.Acquainted(ctx, t.a[0], t.b[0])
		} else {
			blocked, err = p.store.ListBlocked(ctx, both)
		}
		return err
	}) {
		return
	}
	// From here on whoever reads a session's contacts looks again, see tellSession.
	for _, id := range both {
		sh := p.shard(id)
		sh.mu.Lock()
		if u := sh.users[id]; u != nil {
			u.contacts++
		}
		sh.mu.Unlock()
	}
	if !acquainted {
		return // nor were they: to say anything would tell strangers of each other
	}
	pairs := make(map[[2]ID]bond)
	for a, list := range contacts {
		for _, b := range list {
			pairs[[2]ID{a, b}], pairs[[2]ID{b, a}] = areContacts, areContacts
		}
	}
	for _, pair := range blocked {
		pairs[pair], pairs[[2]ID{pair[1], pair[0]}] = wereNone, wereNone
	}
	p.introduce(t.a, t.b, pairs, stored)
	if !slices.Equal(t.a, t.b) {
		p.introduce(t.b, t.a, pairs, stored)
	}
}

// bond is what two users are to each other, whose contacts have changed.
type bond uint8

const (
	wereContacts bond = iota // and are not any more
	areContacts
	wereNone // nor are they now, because of a block
)

// introduce tells those in to how those in of are.
func (p *Presences) introduce(of, to []ID, pairs map[[2]ID]bond, stored map[ID]PresenceState) {
	for _, id := range of {
		st := stored[id]
		st.UserID = id
		view := p.view(st)
		var yes, no []ID
		for _, other := range to {
			if other == id {
				continue
			}
			switch b := pairs[[2]ID{id, other}]; {
			case b == areContacts:
				yes = append(yes, other)
			case b == wereContacts && view.Status != Offline:
				no = append(no, other)
			}
		}
		if len(yes) > 0 {
			p.signal(view, yes)
		}
		if len(no) > 0 {
			p.signal(Presence{UserID: id, Status: Offline}, no)
		}
	}
}

// view is how a user is shown, of whom the store said so much.
func (p *Presences) view(stored PresenceState) (view Presence) {
	p.board.look(stored.UserID, func(v Presence, ok bool) { view = shownAs(stored, v, ok) })
	return view
}

// presence is how the user is shown by the store alone.
func (st *PresenceState) presence() Presence {
	v := Presence{UserID: st.UserID, Status: Offline, LastOnlineAt: st.LastOnlineAt, version: st.Version}
	if st.Status == Online || st.Status == Away {
		v.Status, v.LastOnlineAt = st.Status, time.Time{}
	}
	return v
}

// own is presence for the user themselves.
func (st *PresenceState) own() Presence {
	v := st.presence()
	if st.Invisible {
		v.Status, v.LastOnlineAt = Invisible, time.Time{}
	}
	return v
}

// shownAs is what is shown of a user by the store and the board together.
func shownAs(stored PresenceState, v Presence, ok bool) Presence {
	switch {
	case !ok || v.version < stored.Version:
		return stored.presence()
	case v.Status == Offline && v.LastOnlineAt.Before(stored.LastOnlineAt):
		v.LastOnlineAt = stored.LastOnlineAt
	}
	return v
}

// stop stores that nobody is here any more. What it cannot store heals at the next
// start, as after a crash.
func (p *Presences) stop(ctx context.Context) {
	p.closed.Store(true)
	ctx, cancel := WithDeadline(context.WithoutCancel(ctx), stopWait, "presence.stop")
	defer cancel()
	now := p.clock.Now()
	var states []PresenceState
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, u := range sh.users {
			u.touch(now)
			for _, dev := range u.devices {
				if dev.timer != nil {
					dev.timer.Stop()
				}
			}
			if u.known {
				states = append(states, PresenceState{UserID: u.id, Invisible: u.invisible, LastOnlineAt: u.lastOnline()})
			}
		}
		sh.mu.Unlock()
	}
	for chunk := range slices.Chunk(states, presencePut) {
		if err := p.store.PutPresences(ctx, p.o.Node, chunk); err != nil {
			p.counts.failures.Add(1)
			p.o.Logger.Warn("could not store that nobody is here any more; the next start does it", "err", err)
			return
		}
	}
}

// ask waits for a place among those who ask for a session.
func (p *Presences) ask(ctx context.Context, user ID, of []ID, after ID, limit int) ([]PresenceState, error) {
	select {
	case p.asking <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-p.asking }()
	ctx, cancel := WithDeadline(ctx, presenceWait, "presence.ask")
	defer cancel()
	return p.store.ListContactPresences(ctx, user, of, after, limit)
}

func (p *Presences) tellSession(ctx context.Context, user ID, of []ID, tell func(Presence) bool, wait func(context.Context) error) error {
	room := func(f func() bool) error {
		for !f() {
			if err := wait(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	if of == nil || slices.Contains(of, user) {
		if err := room(func() bool { return p.tellSelf(user, tell) }); err != nil {
			return err
		}
	}
	if of != nil {
		of = slices.DeleteFunc(slices.Clone(of), func(id ID) bool { return id == user })
	}
	var after ID
	for of == nil || len(of) > 0 {
		version := p.contactsVersion(user)
		page, err := p.ask(ctx, user, of, after, presencePage)
		if err != nil {
			return err
		}
		told := 0
		for told < len(page) && p.tellOne(page[told], tell) {
			told++
		}
		if told > 0 {
			after = page[told-1].UserID
			if err := p.tellLost(ctx, user, page[:told], version, tell, room); err != nil {
				return err
			}
		}
		if told < len(page) { // what was read may be old when there is room
			if err := wait(ctx); err != nil {
				return err
			}
		} else if len(page) < presencePage {
			return nil
		}
	}
	return nil
}

// tellOne tells how a contact is, while that cannot change.
func (p *Presences) tellOne(stored PresenceState, tell func(Presence) bool) (ok bool) {
	p.board.look(stored.UserID, func(v Presence, found bool) { ok = tell(shownAs(stored, v, found)) })
	return ok
}

// tellSelf tells a user's session how they are shown to themselves, unless Run is yet
// to tell all of them.
func (p *Presences) tellSelf(user ID, tell func(Presence) bool) bool {
	sh := p.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.users[user]
	if u == nil || u.own == "" {
		return true
	}
	v := u.ownView()
	v.Status = u.own // if it has changed, that is told after this
	if v.Status != Offline {
		v.LastOnlineAt = time.Time{}
	}
	return tell(v)
}

// tellLost takes back what a session was told of contacts who, as it turns out, were
// none any more: those whom a change of contacts since version concerns.
func (p *Presences) tellLost(ctx context.Context, user ID, told []PresenceState, version uint64, tell func(Presence) bool, room func(func() bool) error) error {
	for {
		now := p.contactsVersion(user)
		if now == version {
			return nil
		}
		version = now
		ids := make([]ID, len(told))
		for i := range told {
			ids[i] = told[i].UserID
		}
		still, err := p.ask(ctx, user, ids, ID{}, len(ids))
		if err != nil {
			return err
		}
		for _, id := range ids {
			if slices.ContainsFunc(still, func(s PresenceState) bool { return s.UserID == id }) {
				continue
			}
			if err := room(func() bool { return tell(Presence{UserID: id, Status: Offline}) }); err != nil {
				return err
			}
		}
	}
}

func (p *Presences) list(ctx context.Context, user ID, of []ID) ([]Presence, error) {
	of = slices.Clone(of)
	slices.SortFunc(of, ID.Compare)
	of = slices.Compact(of)
	if len(of) == 0 || len(of) > MaxPresences {
		return nil, invalid("userIds", "must name 1 to "+itoa(MaxPresences)+" users")
	}
	states, err := p.ask(ctx, user, of, ID{}, MaxPresences)
	if err != nil {
		return nil, err
	}
	list := make([]Presence, 0, len(states)+1)
	for _, s := range states {
		list = append(list, p.view(s))
	}
	if !slices.Contains(of, user) {
		return list, nil
	}
	own, err := p.self(ctx, user)
	if err != nil {
		return nil, err
	}
	list = append(list, own)
	slices.SortFunc(list, func(a, b Presence) int { return a.UserID.Compare(b.UserID) })
	return list, nil
}

// self is how a user is shown to themselves.
func (p *Presences) self(ctx context.Context, user ID) (Presence, error) {
	sh := p.shard(user)
	sh.mu.Lock()
	u := sh.users[user]
	if u != nil && u.known && p.shared == nil { // else it is not for this node alone to say
		defer sh.mu.Unlock()
		return u.ownView(), nil
	}
	sh.mu.Unlock()
	ctx, cancel := WithDeadline(ctx, presenceWait, "presence.self")
	defer cancel()
	states, err := p.store.GetPresences(ctx, []ID{user})
	if err != nil {
		return Presence{}, err
	}
	st := states[user]
	st.UserID = user
	return st.own(), nil
}
