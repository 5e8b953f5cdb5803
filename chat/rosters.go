package chat

import (
	"context"
	"sync"
	"time"
)

// RosterStore reads who is a member of a conversation.
type RosterStore interface {
	// GetRoster returns a conversation's members, or NotFound.
	GetRoster(ctx context.Context, conversation ID) (*Roster, error)
	// AwaitRoster is GetRoster after waiting for transactions that are changing the
	// conversation: it includes a commit whose answer was lost.
	AwaitRoster(ctx context.Context, conversation ID) (*Roster, error)
}

// Rosters caches who is a member of what, so that a publish costs no query. An
// entry may be older than the database: a decision made by it is made
// again by the commit, which fails if the roster's version is no longer the current one, and
// a caller that sees a newer version calls Reload.
//
// It holds at most maxMembers user ids; beyond that it forgets entries at random.
// It is safe for concurrent use. No lock is held while the store is asked.
type Rosters struct {
	store      RosterStore
	maxMembers int
	changed    func(*Roster) // called without locks for each roster that is new to the cache; may be nil

	mu      sync.RWMutex
	entries map[ID]*Roster    // mu guards
	members int               // mu guards: the sum over entries
	loading map[ID]*rosterGet // mu guards: one query at a time for each conversation
}

type rosterGet struct {
	done chan struct{} // closed when roster and err are set
	r    *Roster
	err  error
}

// NewRosters returns an empty cache over the store.
func NewRosters(store RosterStore, maxMembers int) *Rosters {
	return &Rosters{store: store, maxMembers: maxMembers, entries: map[ID]*Roster{}, loading: map[ID]*rosterGet{}}
}

// Get returns the conversation's roster, from memory if it is there. NotFound if
// there is no such conversation.
func (c *Rosters) Get(ctx context.Context, conversation ID) (*Roster, error) {
	if r := c.cached(conversation); r != nil {
		return r, nil
	}
	return c.load(ctx, conversation, true)
}

func (c *Rosters) cached(conversation ID) *Roster {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.entries[conversation]
}

// Reload is Get by a query that begins after the call, whatever the cache holds.
func (c *Rosters) Reload(ctx context.Context, conversation ID) (*Roster, error) {
	return c.load(ctx, conversation, false)
}

// Require returns the roster if the user is in it, and Forbidden otherwise, in
// the same words whether or not the conversation exists. If the cache says that the user
// is not a member, the store is asked, for at most storePatience.
func (c *Rosters) Require(ctx context.Context, conversation, user ID) (*Roster, error) {
	if r := c.cached(conversation); r != nil && r.Has(user) { // the path of every publish
		return r, nil
	}
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.Rosters")
	defer cancel()
	r, err := c.Get(ctx, conversation)
	if err == nil && !r.Has(user) {
		r, err = c.Reload(ctx, conversation)
	}
	switch {
	case CodeOf(err) == NotFound, err == nil && !r.Has(user):
		return nil, NotParticipant(conversation)
	case err != nil:
		return nil, err
	}
	return r, nil
}

// storePatience is how long a sender waits for the store.
const storePatience = 10 * time.Second

// NotParticipant is the error for conversations that do not exist and for those of other
// users alike.
func NotParticipant(conversation ID) error {
	return &Error{Code: Forbidden, Field: "conversationId", Msg: "you are not a participant of conversation " + conversation.String()}
}

func (c *Rosters) load(ctx context.Context, conversation ID, share bool) (*Roster, error) {
	c.mu.Lock()
	g := c.loading[conversation]
	if g == nil || !share { // a Reload wants a query that began after it was called
		g = &rosterGet{done: make(chan struct{})}
		c.loading[conversation] = g
		c.mu.Unlock()
		g.r, g.err = c.store.GetRoster(ctx, conversation)
		c.keep(conversation, g)
		close(g.done)
		return g.r, g.err
	}
	c.mu.Unlock()
	select {
	case <-g.done:
		if g.err != nil && ctx.Err() == nil && CodeOf(g.err) != NotFound {
			return c.store.GetRoster(ctx, conversation) // the other caller's failure, perhaps its deadline, is not ours
		}
		return g.r, g.err
	case <-ctx.Done():
		return nil, &Error{Code: Unavailable, Op: "chat.Rosters", Err: context.Cause(ctx)}
	}
}

// put caches a roster that was not loaded by Get or Reload.
func (c *Rosters) put(r *Roster) { c.keep(r.ConversationID, &rosterGet{r: r}) }

// keep puts the result of a query into the cache, unless the cache holds a newer version.
func (c *Rosters) keep(conversation ID, g *rosterGet) {
	if c.exchange(conversation, g) && c.changed != nil {
		c.changed(g.r)
	}
}

// exchange reports whether the roster's version differs from the cached one's. The cached
// roster is kept as g.r.before if it is the version just before, for events that were
// stored at that version and are still to be published.
func (c *Rosters) exchange(conversation ID, g *rosterGet) (kept bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.loading[conversation] == g {
		delete(c.loading, conversation)
	}
	old := c.entries[conversation]
	switch {
	case g.err == nil && (old == nil || old.Version <= g.r.Version):
		kept = old == nil || old.Version < g.r.Version
		if old != nil {
			c.members -= old.size()
			g.r.before = old.before
		}
		if kept {
			g.r.before = nil
			if old != nil && old.Version+1 == g.r.Version {
				before := *old
				before.before = nil
				g.r.before = &before
			}
		}
		c.entries[conversation] = g.r
		c.members += g.r.size()
	case CodeOf(g.err) == NotFound && old != nil:
		c.members -= old.size()
		delete(c.entries, conversation)
	}
	for id, r := range c.entries { // map order is as good as random
		if c.members <= c.maxMembers {
			break
		}
		if id == conversation {
			continue
		}
		c.members -= r.size()
		delete(c.entries, id)
	}
	return kept
}

// size is what the roster counts for in the cache.
func (r *Roster) size() int {
	if r.before == nil {
		return len(r.Members)
	}
	return len(r.Members) + len(r.before.Members)
}

// remaining returns r reduced to those who were also members at the version before.
func (r *Roster) remaining() *Roster {
	out := *r
	out.before, out.Members = nil, make([]ID, 0, min(len(r.Members), len(r.before.Members)))
	old := r.before.Members
	for _, user := range r.Members {
		for len(old) > 0 && old[0].Compare(user) < 0 {
			old = old[1:]
		}
		if len(old) > 0 && old[0] == user {
			out.Members = append(out.Members, user)
		}
	}
	return &out
}
