package chat

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Block is somebody whom a user wants nothing to do with.
type Block struct {
	UserID      ID // who is blocked
	Username    string
	DisplayName string
	CreatedAt   time.Time
}

// BlockChange is what blocking somebody, or ending that, has changed.
type BlockChange struct {
	Changed      bool    // false: it was so already
	Conversation ID      // the direct conversation of the two; zero: they have none
	Roster       *Roster // of it, at its new version
}

// BlockStore keeps who has blocked whom.
type BlockStore interface {
	// SetBlock has user block other, and raises the version of their direct
	// conversation's roster, so that what is on its way there is checked again.
	// NotFound for an other who does not exist; Conflict if the user has blocked
	// MaxBlockedUsers. After Unavailable it may have been stored; the change names the
	// conversation even so, if it is known. It may be repeated.
	SetBlock(ctx context.Context, user, other ID, now time.Time) (*BlockChange, error)
	// DeleteBlock undoes SetBlock, likewise.
	DeleteBlock(ctx context.Context, user, other ID) (*BlockChange, error)
	// ListHidden returns, ascending, the members of a conversation who have blocked
	// the user, or whom the user has blocked.
	ListHidden(ctx context.Context, conversation, user ID) ([]ID, error)
}

// Blocked is the one answer in a direct conversation of two of whom one has blocked
// the other. It does not tell who.
func Blocked() error {
	return &Error{Code: Forbidden, Field: "conversationId", Msg: "you and the other participant cannot write to each other"}
}

// BlockUser has the user want nothing to do with another one, from the commit on.
// Neither can begin a direct conversation with the other, write in the one they
// have, add the other to a group, or see the other type or be online. Invalid for
// oneself, NotFound for nobody, Conflict beyond MaxBlockedUsers. It may be repeated.
func (s *Service) BlockUser(ctx context.Context, user, other ID) error {
	if user == other {
		return invalid("userId", "must be the id of another user")
	}
	c, err := s.store.SetBlock(ctx, user, other, Timestamp(s.clock.Now()))
	return s.blockChanged(user, other, c, err)
}

// UnblockUser ends what BlockUser has begun; a block by the other one stays. It may
// be repeated.
func (s *Service) UnblockUser(ctx context.Context, user, other ID) error {
	c, err := s.store.DeleteBlock(ctx, user, other)
	return s.blockChanged(user, other, c, err)
}

// blockChanged makes known what the store has committed, or may have.
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
			s.doubt(c.Conversation)
		}
		return err
	}
	s.typing.hide(user, other) // after an end of a block it is asked for again when they type on
	s.presence.ContactsChanged([]ID{user}, []ID{other})
	return nil
}

const (
	hiddenPatience = 2 * time.Second
	hiddenRetry    = time.Second      // after a failure nobody asks for so long
	hiddenFresh    = 30 * time.Second // then it is asked for again: a block whose commit was not answered is heard of by that
	maxHidden      = 1_000_000        // entries and ids, beyond which entries are forgotten at random
)

// hidden caches which members of a group are hidden from a user by a block, for
// what is told of them often. On this node it is exact: what a block may have
// changed is forgotten after its commit, and whoever noted an older answer finds
// that current has changed. No lock is held while the store is asked.
type hidden struct {
	store BlockStore
	clock Clock
	n     atomic.Uint64 // blocks so far, for current

	mu      sync.Mutex
	entries map[ID]map[ID]*hiddenEntry // mu guards: by user and conversation
	size    int                        // mu guards: entries and their ids
	failed  time.Time                  // mu guards: when the store last did not answer
}

type hiddenEntry struct {
	version int64 // of the roster
	users   []ID
	asked   time.Time
}

// hiddenFrom is who is hidden from a user, as long as current returns at.
type hiddenFrom struct {
	users []ID // ascending; not to be changed
	at    uint64
}

func newHidden(store BlockStore, clock Clock) *hidden {
	return &hidden{store: store, clock: clock, entries: map[ID]map[ID]*hiddenEntry{}}
}

// current changes when an answer may have become wrong.
func (h *hidden) current() uint64 { return h.n.Load() }

// get returns which members are hidden from the user; nil if that cannot be known.
func (h *hidden) get(ctx context.Context, r *Roster, user ID) *hiddenFrom {
	at := h.current()
	if r.Kind == Direct {
		return &hiddenFrom{at: at} // Roster.Blocked says it
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

// keep puts an answer into the cache, unless a block has been stored since at.
func (h *hidden) keep(conversation, user ID, e *hiddenEntry, at uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current() != at {
		return
	}
	h.drop(user, conversation)
	if h.entries[user] == nil {
		h.entries[user] = map[ID]*hiddenEntry{}
	}
	h.entries[user][conversation] = e
	h.size += 1 + len(e.users)
	for id, of := range h.entries { // map order is as good as random
		for c := range of {
			if h.size <= maxHidden {
				return
			}
			if id != user || c != conversation {
				h.drop(id, c)
			}
		}
	}
}

// drop takes an entry out. mu is held.
func (h *hidden) drop(user, conversation ID) {
	e := h.entries[user][conversation]
	if e == nil {
		return
	}
	h.size -= 1 + len(e.users)
	delete(h.entries[user], conversation)
	if len(h.entries[user]) == 0 {
		delete(h.entries, user)
	}
}

// forget is called after the commit of whatever may have changed what the two are to
// each other.
func (h *hidden) forget(users ...ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.n.Add(1)
	for _, user := range users {
		for conversation := range h.entries[user] {
			h.drop(user, conversation)
		}
	}
}
