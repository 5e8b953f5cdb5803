package chat

import (
	"context"
	"time"
)

// Append is one event on its way into the log, and its outcome.
type Append struct {
	Event  Event     // Seq and CreatedAt are set by the commit; for a repeat, also ID: the first one's
	Resent bool      // the packet is sent again and its ClientMsgID is a ResendKey: look before storing
	Since  time.Time // Resent: the first sending was stored after this, if it was
	Repeat bool      // outcome: the event was stored before, under the same key; or, without a Seq, there was nothing to do
	Done   Waiter    // notified of the outcome

	// Device and Epoch name the connection that the packet came over, where a resent
	// packet can be recognised by nothing else, or whose will it is; "" otherwise. The event is stored only
	// while no newer connection of the device exists, at any node.
	Device string
	Epoch  int64

	// MembersVersion is the version of the roster the sender was checked
	// against. The commit happens only if it is still the current one.
	MembersVersion int64

	recheckedAt int64 // the MembersVersion that Recheck has accepted
}

// Waiter is notified of what became of an Append.
type Waiter interface {
	// Committed is called exactly once for every Append that Log.Append took:
	// after its transaction is durable (err nil), or when it is certain that it
	// was refused, or given up (Unavailable: it may or may not be stored, and may be
	// sent again). It is called from a writer's goroutine: it must not block.
	Committed(a *Append, err error)
}

// Log is the durable log of all conversations.
type Log interface {
	// Append queues a for its conversation's writer and returns; a.Done is notified of
	// the outcome. Events of one conversation are stored in the order of their
	// Append calls. It blocks while the queue is full, within a limit of its own
	// and until ctx ends (Unavailable; a.Done is then not called).
	Append(ctx context.Context, a *Append) error
}

// Publisher carries committed events to the sessions of members.
type Publisher interface {
	// Publish is called once for each stored event, in seq order for each
	// conversation, after the commit. It must not wait for a client.
	Publish(e *Event, r *Roster)
	// Hint tells the members' sessions that a conversation's log reaches at least
	// seq; those that lack something read it. It must not wait for a client.
	Hint(conversation ID, seq int64, r *Roster)
	// Signal carries something that is not stored to those sessions of the users
	// that have subscribed to the topic and have room for it. except may be nil; a
	// user for whom it is true is left out. It must not block, nor call back.
	Signal(t Topic, payload []byte, users []ID, except func(ID) bool)
}

// Roster is who may read and write a conversation, at one version.
type Roster struct {
	ConversationID ID
	Version        int64 // rises with every change of membership
	Kind           Kind
	Members        []ID  // ascending
	LastSeq        int64 // how far the log reached when this was read
	Blocked        bool  // direct conversations: one of the two has blocked the other

	before *Roster // the one of the version before, if it was cached; see Rosters.keep
}

// Has reports whether the user is a member. O(log members).
func (r *Roster) Has(user ID) bool { return hasID(r.Members, user) }

// Position is how far a conversation's log reaches.
type Position struct {
	ConversationID ID
	LastSeq        int64
}

// MessageQuery asks for a page of a conversation's messages. At most one of
// Before, After and Around is set; none means the newest.
type MessageQuery struct {
	UserID         ID // who asks; must be a member
	ConversationID ID
	Limit          int   // 1 to MaxPageSize
	Before         int64 // seq: older than this, newest first
	After          int64 // seq: newer than this, oldest first
	HasAfter       bool  // After is set; 0 means from the beginning
	Around         ID    // a message: the page with it in the middle, newest first
}

// MessagePage is one page of messages.
type MessagePage struct {
	Items []Event
	More  bool // there are more in the direction of reading

	// Reactions are those to the items, as CountReactions returns them.
	Reactions map[ID][]ReactionCount
}

// Reader is the queries that a Service passes to the store as they are: each checks by
// itself what the user may see. limit is 1 to MaxPageSize where nothing else is said.
type Reader interface {
	MessageStore
	// GetConversation returns a conversation as a member sees it; NotFound to
	// everybody else.
	GetConversation(ctx context.Context, user, conversation ID) (*Conversation, error)
	// ListConversations returns a page of the user's conversations, latest
	// activity first.
	ListConversations(ctx context.Context, user ID, after ConversationCursor, limit int) (*ConversationPage, error)
	// ListMessages returns a page of messages; NotFound if the user is not a member.
	ListMessages(ctx context.Context, q MessageQuery) (*MessagePage, error)
	// GetMessage returns a message of one of the user's conversations, or NotFound.
	GetMessage(ctx context.Context, user, message ID) (*Event, error)
	// ListParticipants returns up to limit of a conversation's participants, ascending
	// by id from behind after; NotFound if the user is not one of them.
	ListParticipants(ctx context.Context, user, conversation, after ID, limit int) ([]Participant, error)
	// ListBlocks returns up to limit of those the user has blocked, ascending by id from
	// behind after.
	ListBlocks(ctx context.Context, user, after ID, limit int) ([]Block, error)
	// GetReceipts returns who has read a message, and received it, which GetMessage has
	// returned to the user.
	GetReceipts(ctx context.Context, user ID, message *Event) (*Receipts, error)
}

// Store is everything that a Service needs of the database: the sum of the interfaces that
// its parts declare. All methods block for a round trip and return chat errors; an
// unavailable database is Unavailable, and a call may be repeated then.
type Store interface {
	Reader
	RosterStore
	GroupStore
	BlockStore
	NameStore
	SyncStore
	SearchStore
	ReadStore
	DeliveredStore

	// CreateConversation stores a conversation, its participants and its first
	// event in one transaction. Conflict with Existing set if the two users have
	// a direct conversation already; NotFound naming the field if a user does
	// not exist.
	CreateConversation(ctx context.Context, n NewConversation, now time.Time) (*Conversation, *Event, error)
}
