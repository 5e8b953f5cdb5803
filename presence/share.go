package presence

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	healPage    = 1000 // users, and changes of contacts, read at once
	maxNoticeTo = 256  // contacts named in a notice, so that it has some 10 KB
)

// news is how a user is shown, that contacts here may not have been notified of.
type news struct {
	State
	mine  bool // other nodes are to be notified from here
	known bool // to holds the contacts; else they are to be read
	to    []chat.ID
}

// share stores how users are at this node, and notifies of those who are shown otherwise by
// that.
func (e *Engine) share(ctx context.Context, users []*user) {
	for chunk := range slices.Chunk(users, batch) {
		for _, u := range chunk {
			e.locked(u.id, func(*user) { u.queued = false }) // what changes from here on is looked at again
		}
		if list, ok := e.put(ctx, chunk); !ok || !e.announce(ctx, list) {
			return
		}
		now := time.Now()
		for _, u := range chunk {
			e.forget(u, now)
		}
	}
}

// collect returns what is to be stored of users, whose it is, and who may be shown otherwise
// by it.
func (e *Engine) collect(users []*user) (list []NodePresence, of []*user, differ []chat.ID) {
	for _, u := range users {
		sh := e.shard(u.id)
		sh.mu.Lock()
		p := NodePresence{UserID: u.id, Status: u.status(), Invisible: u.says}
		if p.Status == chat.Offline || u.says != nil && *u.says {
			p.LastOnlineAt = u.lastOnline()
		}
		if u.again || p.Status != u.here || p.Invisible != nil || p.LastOnlineAt.After(u.state.LastOnlineAt) {
			u.again = false
			list, of = append(list, p), append(of, u)
			if p.Status != u.here || p.Invisible != nil {
				differ = append(differ, u.id)
			}
		}
		sh.mu.Unlock()
	}
	return list, of, differ
}

// put stores how users are now, until that succeeds, and returns those of whom contacts are
// to be notified; false if ctx ended first.
func (e *Engine) put(ctx context.Context, users []*user) (changed []news, ok bool) {
	var list []NodePresence
	var of []*user
	var outcomes []Outcome
	var contacts map[chat.ID][]chat.ID
	attempts := 0
	if !e.retry(ctx, "store who is here", func(ctx context.Context) (err error) {
		var differ []chat.ID
		if list, of, differ = e.collect(users); len(list) == 0 {
			return nil
		}
		attempts++
		var reading sync.WaitGroup
		reading.Go(func() { contacts = e.readAhead(ctx, differ) })
		outcomes, err = e.o.Store.PutNodePresences(ctx, e.self(), list)
		if reading.Wait(); err != nil {
			for _, u := range of {
				e.locked(u.id, func(*user) { u.again = true }) // it may have been stored
			}
		}
		return err
	}) {
		return nil, false
	}
	byID := make(map[chat.ID]*Outcome, len(outcomes))
	for i := range outcomes {
		byID[outcomes[i].UserID] = &outcomes[i]
	}
	now := time.Now()
	for i, u := range of {
		o := byID[u.id]
		if o == nil {
			continue // the row was deleted by hand
		}
		sh := e.shard(u.id)
		sh.mu.Lock()
		// What was stored by an attempt that was not answered is no change any more.
		isNew := o.Changed || o.Version > u.state.Version && (attempts > 1 || !u.state.UserID.IsZero())
		if u.says == list[i].Invisible {
			u.says = nil
		}
		u.here = list[i].Status
		if e.adopt(u, o.State) || isNew {
			u.pace = latest(u.pace, now).Add(presencePace)
		}
		sh.mu.Unlock()
		if isNew {
			to, known := contacts[u.id]
			if o.Changed && o.Was == o.Status {
				to, known = nil, true // only they themselves can see the difference
			}
			changed = append(changed, news{o.State, true, known, to})
		}
	}
	return changed, true
}

// readAhead returns the contacts of users; nil if they cannot be read. It may be done before
// a change that they are to be notified of is stored: changes of contacts that come between
// the two are announced later.
func (e *Engine) readAhead(ctx context.Context, users []chat.ID) map[chat.ID][]chat.ID {
	if len(users) == 0 || e.alone() && e.closed.Load() {
		return nil
	}
	contacts, err := e.o.Store.ListContacts(ctx, users, nil)
	if err != nil {
		return nil // announce tries again
	}
	for _, id := range users {
		if _, ok := contacts[id]; !ok {
			contacts[id] = nil
		}
	}
	return contacts
}

// adopt notes how a user is by all nodes, and notifies their own devices if that is not what
// they know, which it reports. The shard is locked.
func (e *Engine) adopt(u *user, st State) bool {
	if st.Version < u.state.Version {
		return false
	}
	st.LastOnlineAt = latest(u.state.LastOnlineAt, st.LastOnlineAt)
	if u.state = st; st.Invisible && u.says == nil {
		u.seen = time.Time{}
	}
	own := st.own()
	if own.Status == u.self {
		return false
	}
	u.self = own.Status
	e.o.Signal(own, []chat.ID{u.id}) // while feedSelf waits, so that no session is notified twice
	return true
}

// announce notifies contacts here of how users are shown, and their own devices, and other
// nodes if it is this node's to say. It reports whether ctx has not ended.
func (e *Engine) announce(ctx context.Context, list []news) bool {
	if e.alone() && e.closed.Load() {
		return true // nobody is left to be notified
	}
	for chunk := range slices.Chunk(list, batch) {
		var ids []chat.ID
		for i := range chunk {
			n := &chunk[i]
			e.locked(n.UserID, func(u *user) {
				if u != nil {
					e.adopt(u, n.State)
				}
			})
			if _, moved := e.moved[n.UserID]; moved {
				n.known = false // its sender may not have known that somebody is no contact any more
			}
			if !n.known && !e.board.knows(n.State) {
				ids = append(ids, n.UserID)
			}
		}
		var contacts map[chat.ID][]chat.ID
		if len(ids) > 0 && !e.retry(ctx, "read contacts", func(ctx context.Context) (err error) {
			contacts, err = e.o.Store.ListContacts(ctx, ids, nil)
			return err
		}) {
			return false
		}
		for _, n := range chunk {
			if !e.board.note(n.State) {
				continue
			}
			if !n.known {
				n.to = contacts[n.UserID]
			}
			e.o.Signal(n.shown(), n.to)
			e.told.Add(1)
			if n.mine && !e.alone() {
				e.notify(n)
			}
		}
	}
	return true
}

// notify sends a notice to the nodes of contacts, and of the user's own devices. Where it
// would name too many contacts, the nodes read them.
func (e *Engine) notify(n news) {
	p := n.shown()
	notice := chat.PresenceNotice{UserID: n.UserID, Status: p.Status, LastOnlineAt: p.LastOnlineAt, Version: n.Version, Invisible: n.Invisible, To: n.to}
	if len(n.to) > maxNoticeTo {
		notice.To, notice.Part = nil, true
	}
	e.o.Notify(chat.Notice{Presence: &notice}, append(slices.Clone(n.to), n.UserID))
}

// Receive acts on a notice of another node, if it is about presence. It does not block.
func (e *Engine) Receive(n chat.Notice) {
	switch {
	case e.alone() || e.closed.Load():
	case n.Presence != nil:
		p := n.Presence
		st := State{UserID: p.UserID, Status: p.Status, Invisible: p.Invisible, LastOnlineAt: p.LastOnlineAt, Version: p.Version}
		if p.Version > e.stale.Load() { // else a look has found it, or will
			e.queueNews(news{State: st, known: !p.Part, to: p.To})
		}
	case n.Contacts != nil:
		e.queueContacts(contactChange{ContactChange: ContactChange{n.Contacts.ID, n.Contacts.A, n.Contacts.B}})
	case n.Device != nil:
		e.carry(n.Device)
	case n.Superseded != nil:
		e.move(chat.Device{UserID: n.Superseded.UserID, ClientID: n.Superseded.ClientID})
	}
}

// queueNews has Run announce news.
func (e *Engine) queueNews(n news) {
	e.mu.Lock()
	added := e.news.add(n, len(n.to)+1)
	e.mu.Unlock()
	if !added {
		e.dropped.Add(1) // it will be found in the database
	}
	wake(e.arrived)
}

// heal looks in the database for what has changed since it last did, notifies of what was
// missed, and reports whether there is more. It is not tried again: the next time finds the
// same.
func (e *Engine) heal(ctx context.Context) (more bool) {
	var changes *Changes
	if !e.try(ctx, "look for changes at other nodes", func(ctx context.Context) (err error) {
		changes, err = e.o.Store.ListPresenceChanges(ctx, e.cursor, healPage)
		return err
	}) {
		return false
	}
	list := make([]news, len(changes.States))
	for i, st := range changes.States {
		list[i].State = st
	}
	if !e.announce(ctx, list) {
		return false
	}
	for _, c := range changes.Contacts {
		e.announceContacts(ctx, contactChange{ContactChange: c})
	}
	if e.cursor = changes.Cursor; changes.More {
		return true
	}
	// What has a version up to the cursor's was found, or will be by the next look.
	now := time.Now()
	e.looks = append(e.looks, look{now, e.cursor.Version})
	for len(e.looks) > 0 && now.Sub(e.looks[0].at) >= staleNotice {
		e.stale.Store(e.looks[0].version)
		e.looks = e.looks[1:]
	}
	return false
}
