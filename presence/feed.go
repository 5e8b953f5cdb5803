package presence

import (
	"context"
	"slices"
	"strconv"

	"github.com/parleymq/parley/chat"
)

// feedPage is how many contacts of a session's user are read at once: about 90 KiB when they
// are sent.
const feedPage = 500

// Feed sends a session of the user, which has just subscribed or come back, how the user and
// the contacts are: those named in of, or all if it is nil. It reads contacts by pages. send
// must not block, and returns false if there is no room; wait then blocks until there is, or
// returns why that will not be.
//
// What send was given is not older than anything that is signaled after it.
func (e *Engine) Feed(ctx context.Context, user chat.ID, of []chat.ID, send func(chat.Presence) bool, wait func(context.Context) error) error {
	if of == nil || slices.Contains(of, user) {
		for !e.feedSelf(user, send) {
			if err := wait(ctx); err != nil {
				return err
			}
		}
	}
	if of != nil {
		of = slices.DeleteFunc(slices.Clone(of), func(id chat.ID) bool { return id == user })
	}
	var after chat.ID
	for of == nil || len(of) > 0 {
		version := e.contactsVersion(user)
		page, err := e.read(ctx, user, of, after, feedPage)
		if err != nil {
			return err
		}
		sent, changed := e.sendPage(user, page, version, send)
		if sent > 0 {
			after = page[sent-1].UserID
		}
		switch { // what was not sent is read again: it may be old by then
		case changed:
		case sent < len(page):
			if err := wait(ctx); err != nil {
				return err
			}
		case sent < feedPage:
			return nil
		}
	}
	return nil
}

// sendPage sends a page of contacts as far as there is room, and reports whether contacts of
// the user have changed since version: then the rest may be none any more.
func (e *Engine) sendPage(user chat.ID, page []State, version uint64, send func(chat.Presence) bool) (sent int, changed bool) {
	for _, st := range page {
		sh := e.shard(user)
		sh.mu.Lock() // whoever ceases to be a contact is shown as offline after it
		u, ok := sh.users[user], false
		if changed = u != nil && u.contacts != version; !changed {
			e.board.look(st, func(p chat.Presence) { ok = send(p) })
		}
		sh.mu.Unlock()
		if !ok {
			break
		}
		sent++
	}
	return sent, changed
}

// feedSelf sends a user's session how they are shown to themselves, unless Run is yet to
// notify all of them.
func (e *Engine) feedSelf(user chat.ID, send func(chat.Presence) bool) bool {
	sh := e.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.users[user]
	if u == nil || u.self == "" {
		return true
	}
	p := chat.Presence{UserID: user, Status: u.self}
	if p.Status == chat.Offline {
		p.LastOnlineAt = u.lastOnline()
	}
	return send(p)
}

// contactsVersion rises when the contacts of a user who is here have changed.
func (e *Engine) contactsVersion(id chat.ID) (version uint64) {
	e.locked(id, func(u *user) {
		if u != nil {
			version = u.contacts
		}
	})
	return version
}

// read reads a page of contacts. It waits while too many are being read.
func (e *Engine) read(ctx context.Context, user chat.ID, of []chat.ID, after chat.ID, limit int) ([]State, error) {
	select {
	case e.reading <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-e.reading }()
	ctx, cancel := chat.WithDeadline(ctx, storeWait, "presence.read")
	defer cancel()
	return e.o.Store.ListContactPresences(ctx, user, of, after, limit)
}

// List returns how those of the users are whom the user may see, in the order of their ids:
// contacts, and the user. The others are left out, whether or not they exist. Invalid for
// none or more than chat.MaxPresences.
func (e *Engine) List(ctx context.Context, user chat.ID, of []chat.ID) ([]chat.Presence, error) {
	of = slices.Clone(of)
	slices.SortFunc(of, chat.ID.Compare)
	of = slices.Compact(of)
	if len(of) == 0 || len(of) > chat.MaxPresences {
		return nil, &chat.Error{Code: chat.Invalid, Field: "userIds", Msg: "must name 1 to " + strconv.Itoa(chat.MaxPresences) + " users"}
	}
	states, err := e.read(ctx, user, of, chat.ID{}, len(of))
	if err != nil {
		return nil, err
	}
	list := make([]chat.Presence, 0, len(states)+1)
	for _, st := range states {
		list = append(list, e.view(st.UserID, st))
	}
	if slices.Contains(of, user) {
		own, err := e.own(ctx, user)
		if err != nil {
			return nil, err
		}
		list = append(list, own)
		slices.SortFunc(list, func(a, b chat.Presence) int { return a.UserID.Compare(b.UserID) })
	}
	return list, nil
}

// own is how a user is shown to themselves.
func (e *Engine) own(ctx context.Context, user chat.ID) (chat.Presence, error) {
	ctx, cancel := chat.WithDeadline(ctx, storeWait, "presence.own")
	defer cancel()
	states, err := e.o.Store.GetPresences(ctx, []chat.ID{user})
	if err != nil {
		return chat.Presence{}, err
	}
	st := states[user]
	st.UserID = user
	sh := e.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if u := sh.users[user]; u != nil && e.alone() { // whose word is enough, before it is stored
		st.Status = u.status()
		if u.says != nil {
			st.Invisible = *u.says
		}
	}
	return st.own(), nil
}
