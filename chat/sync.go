package chat

import (
	"context"
	"time"
)

// Limits of a sync that clients can see.
const (
	MaxSyncPage     = 500
	DefaultSyncPage = 100
	// MaxSyncCursorBytes is how long the store's part of a cursor may be.
	MaxSyncCursorBytes = 32 << 10
)

// SyncItemType says what a SyncItem tells of.
type SyncItemType string

// The types of items, in the order in which a run gives them.
const (
	SyncProfile      SyncItemType = "profile"
	SyncLeft         SyncItemType = "left"
	SyncConversation SyncItemType = "conversation"
	SyncEvent        SyncItemType = "event"
	SyncRead         SyncItemType = "read"
)

// SyncItem is one thing that has changed for a user. Event and its place in the log
// come once; all others are the state as it is now, and may come again.
type SyncItem struct {
	Type           SyncItemType
	User           *User         // profile
	Conversation   *Conversation // conversation: with its first MaxListedMembers participants
	JoinedSeq      int64         // conversation: the user has come into it, and sees its log from here; 0: was in it before
	Event          *Event        // event
	ConversationID ID            // left, read
	UserID         ID            // read: who
	UpTo           int64         // read: the seq
	At             time.Time     // left, read
}

// SyncQuery asks for what has changed for a user.
type SyncQuery struct {
	UserID ID
	Cursor []byte // SyncPage.Next of the answer before; empty: from the beginning
	Now    bool   // no items, only the cursor from which on changes will be told; Cursor is empty then
	Limit  int    // 1 to MaxSyncPage items
}

// SyncPage is a part of what has changed.
type SyncPage struct {
	Items []SyncItem
	Next  []byte // never empty; good for the same user
	More  bool   // there is more: ask at once
}

// SyncStore tells what has changed for a user since they last asked.
type SyncStore interface {
	// Sync returns the next items after the cursor. Runs are what lies between two
	// moments: a run's pages are asked for until More is false, and whatever is
	// committed meanwhile belongs to the next run. No commit is missed, however late
	// it comes, and each event is told exactly once while the user stays a member.
	//
	// Invalid with Field "cursor" if the cursor is not one of this database's (any
	// more): what the client holds is to be fetched from the beginning. The user is
	// taken as they come: a cursor gives no right to anything.
	Sync(ctx context.Context, q SyncQuery) (*SyncPage, error)
}

// Sync returns what has changed for the user; see SyncStore.
func (s *Service) Sync(ctx context.Context, q SyncQuery) (*SyncPage, error) {
	switch {
	case q.Limit < 1 || q.Limit > MaxSyncPage:
		return nil, invalid("limit", "must be 1 to "+itoa(MaxSyncPage))
	case q.Now && len(q.Cursor) > 0:
		return nil, invalid("from", "cannot be used together with cursor")
	}
	return s.store.Sync(ctx, q)
}
