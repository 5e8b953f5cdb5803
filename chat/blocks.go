package chat

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Block is a user whom another user has blocked.
type Block struct {
	UserID      ID
	Username    string
	DisplayName string
	CreatedAt   time.Time
}

// BlockChange is what a block, or the end of one, has changed.
type BlockChange struct {
	Changed      bool    // false: it had been so before
	Conversation ID      // the direct conversation of the two; zero: they have none
	Roster       *Roster // of it, at its new version
}

// BlockStore stores who has blocked whom.
type BlockStore interface {
	// SetBlock stores that user blocks other. It raises the version of their direct
	// conversation's roster, so that commits in progress there are checked again.
	// NotFound if other does not exist; Conflict if the user has blocked
	// MaxBlockedUsers. After Unavailable it may have been stored; the change then still
	// names the conversation, if it is known. It may be repeated.
	SetBlock(ctx context.Context, user, other ID, now time.Time) (*BlockChange, error)
	// DeleteBlock undoes SetBlock, with the same errors and effect on the roster.
	DeleteBlock(ctx context.Context, user, other ID) (*BlockChange, error)
	// ListHidden returns, ascending, the members of a conversation who have blocked
	// the user, or whom the user has blocked.
	ListHidden(ctx context.Context, conversation, user ID) ([]ID, error)
}

// Blocked is the error for writing in a direct conversation where one of the two has
// blocked the other. It does not say which.
func Blocked() error {
	return &Error{Code: Forbidden, Field: "conversationId", Msg: "you and the other participant cannot write to each other"}
}

// BlockUser blocks another user, from the commit on: neither of the two can start a
// direct conversation with the other, write in the one they have, add the other to a
// group, or see the other typing or online. Invalid for oneself, NotFound if there is no
// such user, Conflict beyond MaxBlockedUsers. It may be repeated.
func (s *Service) BlockUser(ctx context.Context, user, other ID) error {
	if user == other {
		return invalid("userId", "must be the id of another user")
	}
	c, err := s.store.SetBlock(ctx, user, other, Timestamp(s.clock.Now()))
	return s.blockChanged(user, other, c, err)
}

// UnblockUser undoes BlockUser; a block by the other user stays. It may be repeated.
func (s *Service) UnblockUser(ctx context.Context, user, other ID) error {
	c, err := s.store.DeleteBlock(ctx, user, other)
	return s.blockChanged(user, other, c, err)
}

// blockChanged applies a change that the store has committed, or may have, here and at
// the other nodes.
func (s *Service) blockChanged(user, other ID, c *BlockChange, err error) error {
	switch {
	case err == nil && !c.Changed:
		return nil
	case err != nil && CodeOf(err) != Unavailable:
		return err
	}
	if c != nil && c.Roster != nil && err == nil {
		s.Rosters.put(c.Roster) // ends the typing there
		s.peers.Notify(Notice{Hint: &HintNotice{c.Conversation, c.Roster.LastSeq, c.Roster.Version}}, []ID{user, other})
	}
	s.hidden.forget(user, other)
	s.peers.Notify(Notice{Block: &BlockNotice{user, other}}, nil)
	if err != nil {
		if c != nil && !c.Conversation.IsZero() {
			s.unconfirmed.add(c.Conversation)
		}
		return err
	}
	s.typing.hide(user, other) // also at the end of a block: the next typing signal looks it up again
	s.presence.ContactsChanged([]ID{user}, []ID{other})
	return nil
}

const (
	hiddenPatience = 2 * time.Second
	hiddenRetry    = time.Second      // pause of all queries after one has failed
	hiddenFresh    = 30 * time.Second // after which an entry is read again: a block whose commit went unanswered takes effect by then
	maxHidden      = 1_000_000        // entries and ids, after which the cache is emptied
)

// hidden caches which members of a group are hidden from a user by a block. A block
// removes the entries it may have changed, after its commit, and changes current, so that
// an answer obtained before is recognised as outdated. No lock is held during a query.
type hidden struct {
	store BlockStore
	clock Clock
	n     atomic.Uint64 // blocks so far; see current

	mu      sync.Mutex
	entries map[ID]map[ID]*hiddenEntry // mu guards: by user and conversation
	added   int                        // mu guards: entries and their ids since the cache was last empty, replaced ones included
	failed  time.Time                  // mu guards: when a query last failed
}

type hiddenEntry struct {
	version int64 // of the roster
	users   []ID
	asked   time.Time
}

// hiddenFrom is who is hidden from a user, valid while current returns at.
type hiddenFrom struct {
	users []ID // ascending; not to be changed
	at    uint64
}

func newHidden(store BlockStore, clock Clock) *hidden {
	return &hidden{store: store, clock: clock, entries: map[ID]map[ID]*hiddenEntry{}}
}

// current changes with every block that this node knows of.
func (h *hidden) current() uint64 { return h.n.Load() }

// get returns which members are hidden from the user; nil if that is not cached and
// cannot be looked up.
func (h *hidden) get(ctx context.Context, r *Roster, user ID) *hiddenFrom {
	at := h.current()
	if r.Kind == Direct {
		return &hiddenFrom{at: at} // Roster.Blocked covers it
	}
	now := h.clock.Now()
	h.mu.Lock()
	e := h.entries[user][r.ConversationID]
	failed := now.Before(h.failed.Add(hiddenRetry))
	h.mu.Unlock()
	if e != nil && e.version != r.Version {
		e = nil
	}
	if e == nil || now.After(e.asked.Add(hiddenFresh)) && !failed {
		if failed {
			return nil
		}
		asked, cancel := WithDeadline(ctx, hiddenPatience, "chat.hidden")
		users, err := h.store.ListHidden(asked, r.ConversationID, user)
		cancel()
		switch {
		case err == nil:
			e = &hiddenEntry{version: r.Version, users: users, asked: now}
			h.keep(r.ConversationID, user, e, at)
		case ctx.Err() == nil:
			h.mu.Lock()
			h.failed = now
			h.mu.Unlock()
		}
	}
	if e == nil {
		return nil
	}
	return &hiddenFrom{users: e.users, at: at}
}

// keep caches an answer, unless there was a block since at.
func (h *hidden) keep(conversation, user ID, e *hiddenEntry, at uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current() != at {
		return
	}
	if h.added += 1 + len(e.users); h.added > maxHidden {
		clear(h.entries)
		h.added = 1 + len(e.users)
	}
	if h.entries[user] == nil {
		h.entries[user] = map[ID]*hiddenEntry{}
	}
	h.entries[user][conversation] = e
}

// forget removes the entries of users after a block between them has changed.
func (h *hidden) forget(users ...ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n.Add(1)
	for _, user := range users {
		delete(h.entries, user)
	}
}
