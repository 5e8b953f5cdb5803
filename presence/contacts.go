package presence

import (
	"context"
	"slices"
	"time"

	"github.com/parleymq/parley/chat"
)

// changeKept is for how long a change of contacts may be found by nodes that missed its notice.
const changeKept = 10 * time.Minute

// contactChange is one that those concerned are to be notified of.
type contactChange struct {
	ContactChange
	mine bool // the other nodes are to be notified from here
}

// ContactsChanged notes that members of a and members of b have become contacts, or ceased to
// be: both are shown how the others are, or that they are offline. It does not block, and
// keeps neither slice.
func (e *Engine) ContactsChanged(a, b []chat.ID) {
	e.queueContacts(contactChange{ContactChange{chat.NewID(), slices.Clone(a), slices.Clone(b)}, true})
}

func (e *Engine) queueContacts(c contactChange) {
	if len(c.B) == 0 {
		c.B = c.A
	}
	if e.closed.Load() || e.alone() && !e.anyHere(c.A) && !e.anyHere(c.B) {
		return // nobody would be notified
	}
	e.mu.Lock()
	added := e.contacts.add(c, len(c.A)+len(c.B))
	e.mu.Unlock()
	if !added {
		e.dropped.Add(1)
	}
	wake(e.here)
}

// anyHere reports whether any of the users has a device here.
func (e *Engine) anyHere(users []chat.ID) bool {
	return slices.ContainsFunc(users, func(id chat.ID) (here bool) {
		e.locked(id, func(u *user) { here = u != nil })
		return here
	})
}

// announceContacts notifies of a change of contacts. The other nodes find it in the database
// if they miss the notice.
func (e *Engine) announceContacts(ctx context.Context, c contactChange) {
	if _, done := e.announced[c.ID]; done {
		return
	}
	if c.mine && !e.alone() {
		if !e.retry(ctx, "store changed contacts", func(ctx context.Context) error { return e.o.Store.PutContactChange(ctx, c.ContactChange) }) {
			return
		}
		n := chat.ContactsNotice{ID: c.ID, A: c.A, B: c.B}
		if slices.Equal(c.A, c.B) {
			n.B = nil
		}
		e.o.Notify(chat.Notice{Contacts: &n}, slices.Concat(c.A, n.B))
	}
	if !e.alone() {
		now := time.Now()
		e.announced[c.ID] = now
		for _, id := range slices.Concat(c.A, c.B) {
			e.moved[id] = now
		}
	}
	if e.anyHere(c.A) || e.anyHere(c.B) {
		e.introduce(ctx, c.A, c.B)
	}
}

// introduce shows users to each other who have become contacts, or are none any more.
func (e *Engine) introduce(ctx context.Context, a, b []chat.ID) {
	both := slices.Concat(a, b)
	slices.SortFunc(both, chat.ID.Compare)
	both = slices.Compact(both)
	var contacts map[chat.ID][]chat.ID
	var stored map[chat.ID]State
	var blocked [][2]chat.ID
	acquainted := true
	if !e.retry(ctx, "read changed contacts", func(ctx context.Context) (err error) {
		if contacts, err = e.o.Store.ListContacts(ctx, a, b); err != nil {
			return err
		}
		if stored, err = e.o.Store.GetPresences(ctx, both); err != nil {
			return err
		}
		if len(a) == 1 && len(b) == 1 { // a block, perhaps of strangers; a change of members names all of them
			acquainted, err = e.o.Store.Acquainted(ctx, a[0], b[0])
		} else {
			blocked, err = e.o.Store.ListBlocked(ctx, both)
		}
		return err
	}) {
		return
	}
	// From here on a Feed that is reading contacts looks again.
	for _, id := range both {
		e.locked(id, func(u *user) {
			if u != nil {
				u.contacts++
			}
		})
	}
	if !acquainted {
		return // nor were they: to notify them would tell strangers of each other
	}
	areContacts := map[[2]chat.ID]bool{} // false: because of a block, nor were they; of whom nothing is said were contacts
	for _, pair := range blocked {
		areContacts[pair], areContacts[[2]chat.ID{pair[1], pair[0]}] = false, false
	}
	for id, list := range contacts {
		for _, other := range list {
			areContacts[[2]chat.ID{id, other}], areContacts[[2]chat.ID{other, id}] = true, true
		}
	}
	e.show(a, b, areContacts, stored)
	if !slices.Equal(a, b) {
		e.show(b, a, areContacts, stored)
	}
}

// show notifies those in to of how those in of are.
func (e *Engine) show(of, to []chat.ID, areContacts map[[2]chat.ID]bool, stored map[chat.ID]State) {
	for _, id := range of {
		p := e.view(id, stored[id])
		var yes, no []chat.ID
		for _, other := range to {
			switch are, said := areContacts[[2]chat.ID{id, other}]; {
			case other == id:
			case are:
				yes = append(yes, other)
			case !said && (p.Status != chat.Offline || time.Since(p.LastOnlineAt) < changeKept):
				// Also to those who may have missed that id went offline, being no contacts any more by then.
				no = append(no, other)
			}
		}
		if len(yes) > 0 {
			e.o.Signal(p, yes)
		}
		if len(no) > 0 {
			e.o.Signal(chat.Presence{UserID: id, Status: chat.Offline}, no)
		}
	}
}

// view is how a user is shown, of whom the database said st.
func (e *Engine) view(id chat.ID, st State) (p chat.Presence) {
	st.UserID = id
	e.board.look(st, func(shown chat.Presence) { p = shown })
	return p
}
