package chat

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/parleymq/parley/backoff"
)

const (
	healPage     = 1000             // users, and changes of contacts, looked at at once
	releaseBatch = 1000             // places of a dead node that are taken away at once
	silentNode   = 30 * time.Second // after which any node looks after the places of a dead one
)

// runShared is Run where there are several nodes.
func (p *Presences) runShared(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { p.beSeen(ctx) })
	tick, heal := time.NewTicker(boardKeeps/3), time.NewTicker(p.o.Heal)
	defer tick.Stop()
	defer heal.Stop()
	p.heal(ctx) // begins
	for {
		select {
		case <-p.wake:
			backoff.Sleep(ctx, p.o.Gather)
			p.workShared(ctx, true)
		case <-p.shared.arrived:
			p.workShared(ctx, false)
		case <-heal.C:
			p.heal(ctx)
		case <-tick.C:
			now := p.clock.Now()
			p.shared.sweep(now)
			p.forgetRested(now)
			p.sweepNodes(ctx, silentNode)
		case <-ctx.Done():
			p.stopShared(ctx)
			return nil
		}
	}
}

// workShared does what there is to do; what happened here only if it has gathered.
func (p *Presences) workShared(ctx context.Context, gathered bool) {
	for ctx.Err() == nil {
		var users []*present
		var turns []contactTurn
		if gathered {
			p.mu.Lock()
			n := min(len(p.changes), presenceBatch)
			users, turns = slices.Clone(p.changes[:n]), p.turns
			if p.changes = p.changes[n:]; len(p.changes) == 0 {
				p.changes = nil
			}
			p.turns, p.turnIDs = nil, 0
			p.mu.Unlock()
		}
		notices, r, renewed := p.shared.take()
		if len(users)+len(turns)+len(notices) == 0 && r == nil && !renewed {
			return
		}
		if renewed {
			p.putAgain()
		}
		if len(users) > 0 {
			p.share(ctx, users)
		}
		for _, t := range turns {
			p.turnShared(ctx, t)
		}
		if len(notices) > 0 {
			p.hear(ctx, notices)
		}
		if r != nil {
			p.release(ctx, r)
		}
	}
}

// placed is a user whose place is to be stored.
type placed struct {
	u     *present
	place Place
}

// share stores how users are at this node, and tells of those who are shown otherwise
// by that.
func (p *Presences) share(ctx context.Context, users []*present) {
	list := p.places(users)
	var news []PresenceState
	if len(list) > 0 {
		var ok bool
		if news, ok = p.put(ctx, list); !ok {
			return
		}
	}
	if !p.announce(ctx, news, true) {
		return
	}
	now := p.clock.Now()
	for _, u := range users {
		p.forget(u, now)
	}
}

// places returns what is to be stored of users.
func (p *Presences) places(users []*present) (list []placed) {
	for _, u := range users {
		sh := p.shard(u.id)
		sh.mu.Lock()
		u.queued = false // what changes from here on is looked at again
		u.loaded, u.anew = u.loaded && !u.anew, false
		pl := Place{UserID: u.id, Status: u.status(), Invisible: u.says}
		if pl.Status == Offline || u.says != nil && *u.says {
			pl.LastOnlineAt = u.lastOnline()
		}
		if !u.loaded || pl.Status != u.place || u.says != nil || pl.LastOnlineAt.After(u.last) {
			u.says = nil
			list = append(list, placed{u, pl})
		}
		sh.mu.Unlock()
	}
	return list
}

// put stores places until that succeeds, and returns those of whom something is to be
// told; false if ctx ended first.
func (p *Presences) put(ctx context.Context, list []placed) (news []PresenceState, ok bool) {
	places := make([]Place, len(list))
	for i := range list {
		places[i] = list[i].place
	}
	tries := 0
	var outcomes []PlaceOutcome
	if !p.retry(ctx, "store who is here", func(ctx context.Context) (err error) {
		tries++
		outcomes, err = p.store.PutPlaces(ctx, p.shared.self(), places)
		return err
	}) {
		for _, l := range list { // once more when the node stops
			sh := p.shard(l.u.id)
			sh.mu.Lock()
			if l.u.says == nil {
				l.u.says = l.place.Invisible
			}
			sh.mu.Unlock()
		}
		return nil, false
	}
	of := make(map[ID]*PlaceOutcome, len(outcomes))
	for i := range outcomes {
		of[outcomes[i].UserID] = &outcomes[i]
	}
	now := p.clock.Now()
	for _, l := range list {
		u, o := l.u, of[l.u.id]
		if o == nil {
			continue // the row was deleted by hand
		}
		// What was stored by an attempt that was not answered is no change any more.
		changed := o.Changed || u.loaded && o.Version > u.saved.Version || !u.loaded && tries > 1
		sh := p.shard(u.id)
		sh.mu.Lock()
		u.loaded, u.place = true, l.place.Status
		if p.adopt(u, o.PresenceState) || changed {
			u.pace = maxTime(u.pace, now).Add(presencePace)
		}
		sh.mu.Unlock()
		if changed {
			news = append(news, o.PresenceState)
		}
	}
	return news, true
}

// adopt notes how a user is by all nodes, and tells their own devices if that is not
// what they know, which it reports. sh.mu is held.
func (p *Presences) adopt(u *present, st PresenceState) bool {
	if st.Version < u.saved.Version {
		return false
	}
	u.saved, u.last = st, maxTime(u.last, st.LastOnlineAt)
	if u.says == nil {
		if u.known, u.invisible = true, st.Invisible; u.invisible {
			u.seen = time.Time{}
		}
	}
	own := st.own()
	if own.Status == u.own {
		return false
	}
	u.own = own.Status
	p.signal(own, []ID{u.id}) // while tellSelf waits, so that no session hears it twice
	return true
}

// adopted is adopt for somebody who may not be here.
func (p *Presences) adopted(st PresenceState) {
	sh := p.shard(st.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if u := sh.users[st.UserID]; u != nil {
		p.adopt(u, st)
	}
}

// announce tells contacts, and users' own devices, how users are shown: those who are
// here, and if it is this node's to say, those at other nodes. It reports whether ctx
// has not ended.
func (p *Presences) announce(ctx context.Context, states []PresenceState, mine bool) bool {
	for chunk := range slices.Chunk(states, presenceBatch) {
		var ids []ID
		for _, st := range chunk {
			p.adopted(st)
			if !p.shared.board.knows(st.UserID, st.Version) {
				ids = append(ids, st.UserID)
			}
		}
		if len(ids) == 0 {
			continue
		}
		var contacts map[ID][]ID
		if !p.retry(ctx, "read contacts", func(ctx context.Context) (err error) {
			contacts, err = p.store.ListContacts(ctx, ids, nil)
			return err
		}) {
			return false
		}
		for i := range chunk {
			st := &chunk[i]
			v := st.presence()
			if !p.shared.board.note(v, true) {
				continue
			}
			p.signal(v, contacts[st.UserID])
			p.counts.told.Add(1)
			if mine {
				p.shared.tellPeers(st, contacts[st.UserID])
			}
		}
	}
	return true
}

// hear acts on notices of other nodes.
func (p *Presences) hear(ctx context.Context, notices []*PresenceNotice) {
	s := p.shared
	notices = slices.DeleteFunc(notices, func(n *PresenceNotice) bool { return n.Version <= s.stale })
	var shaken []ID
	for _, n := range notices {
		if _, ok := s.shaken[n.UserID]; ok && len(n.To) > 0 {
			shaken = append(shaken, n.UserID)
		}
	}
	var contacts map[ID][]ID
	if len(shaken) > 0 && !p.retry(ctx, "read contacts that have changed", func(ctx context.Context) (err error) {
		contacts, err = p.store.ListContacts(ctx, shaken, nil)
		return err
	}) {
		return
	}
	for _, n := range notices {
		st := n.state()
		p.adopted(st)
		to := n.To
		if _, ok := s.shaken[n.UserID]; ok { // the sender may not have known that somebody is no contact any more
			to = slices.DeleteFunc(slices.Clone(to), func(id ID) bool { return !slices.Contains(contacts[n.UserID], id) })
		}
		if s.board.note(st.presence(), !n.Part) {
			p.signal(st.presence(), to)
			p.counts.told.Add(1)
		}
	}
}

// turnShared is turn where there are several nodes: the others hear of it, and find it
// in the database if they do not.
func (p *Presences) turnShared(ctx context.Context, t contactTurn) {
	s := p.shared
	if _, ok := s.turned[t.id]; ok {
		return
	}
	if t.mine {
		if !p.retry(ctx, "store changed contacts", func(ctx context.Context) error {
			return p.store.PutContactChange(ctx, ContactChange{ID: t.id, A: t.a, B: t.b})
		}) {
			return
		}
		s.tellContacts(t)
	}
	now := p.clock.Now()
	s.turned[t.id] = now
	for _, list := range [][]ID{t.a, t.b} {
		for _, id := range list {
			s.shaken[id] = now
		}
	}
	if p.here(t.a) || p.here(t.b) {
		p.turn(ctx, t)
	}
}

// heal looks in the database for what has changed since it looked last, and tells of
// that which was not heard of. It is not tried again: the next time finds the same.
func (p *Presences) heal(ctx context.Context) {
	s := p.shared
	for ctx.Err() == nil {
		asking, cancel := WithDeadline(ctx, presenceWait, "presence.heal")
		changes, err := p.store.ListPresenceChanges(asking, s.cursor, healPage)
		cancel()
		if err != nil {
			if ctx.Err() == nil {
				p.counts.failures.Add(1)
				p.o.Logger.Warn("could not look for what has changed elsewhere; trying again", "err", err)
			}
			return
		}
		if !p.announce(ctx, changes.States, false) {
			return
		}
		for _, c := range changes.Contacts {
			p.turnShared(ctx, contactTurn{a: c.A, b: c.B, id: c.ID})
		}
		s.cursor = changes.Cursor
		if !changes.More {
			s.looked(s.cursor.Version)
			return
		}
		p.workShared(ctx, true)
	}
}

// release takes some places of a dead node away.
func (p *Presences) release(ctx context.Context, r *release) {
	var outcomes []PlaceOutcome
	var more bool
	if !p.retry(ctx, "release the users of a dead node", func(ctx context.Context) (err error) {
		outcomes, more, err = p.store.ReleasePlaces(ctx, r.dead, p.shared.self(), releaseBatch)
		return err
	}) {
		return
	}
	states := make([]PresenceState, len(outcomes))
	for i := range outcomes {
		states[i] = outcomes[i].PresenceState
	}
	if p.announce(ctx, states, true) && !more {
		p.shared.released(r)
	}
}

// sweepNodes looks after nodes that have died, and of whose places nobody has taken
// care; and forgets old changes of contacts.
func (p *Presences) sweepNodes(ctx context.Context, silent time.Duration) {
	asking, cancel := WithDeadline(ctx, presenceWait, "presence.sweepNodes")
	defer cancel()
	dead, err := p.store.ListDeadNodes(asking, p.shared.self(), silent)
	if err == nil {
		err = p.store.DeleteContactChanges(asking)
	}
	if err != nil && ctx.Err() == nil {
		p.counts.failures.Add(1)
		p.o.Logger.Warn("could not look for dead nodes; trying again", "err", err)
	}
	for _, d := range dead {
		p.shared.release(d)
	}
}

// putAgain has everybody who is here stored again.
func (p *Presences) putAgain() {
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, u := range sh.users {
			u.loaded = false
			p.changed(u)
		}
		sh.mu.Unlock()
	}
}

// stopShared stores what was not stored yet. Who has a device here keeps their place:
// they come back to another node, and if not, it is released as a dead node's.
func (p *Presences) stopShared(ctx context.Context) {
	p.closed.Store(true)
	ctx, cancel := WithDeadline(context.WithoutCancel(ctx), stopWait, "presence.stop")
	defer cancel()
	var users []*present
	for i := range p.shards {
		sh := &p.shards[i]
		sh.mu.Lock()
		for _, u := range sh.users {
			for _, dev := range u.devices {
				if dev.timer != nil {
					dev.timer.Stop()
				}
			}
			users = append(users, u)
		}
		sh.mu.Unlock()
	}
	for chunk := range slices.Chunk(p.places(users), presenceBatch) {
		news, ok := p.put(ctx, chunk)
		if !ok || !p.announce(ctx, news, true) {
			p.o.Logger.Warn("could not store who has gone; another node does it")
			return
		}
	}
}
