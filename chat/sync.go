package chat

import (
	"context"
	"time"
)

// Limits of a sync.
const (
	MaxSyncPage     = 500
	DefaultSyncPage = 100
	// MaxSyncCursorBytes bounds the store's part of a cursor.
	MaxSyncCursorBytes = 32 << 10
)

// SyncItemType is what kind of change a SyncItem is.
type SyncItemType string

// The types of items, in the order in which a run returns them.
const (
	SyncProfile      SyncItemType = "profile"
	SyncLeft         SyncItemType = "left"
	SyncConversation SyncItemType = "conversation"
	SyncEvent        SyncItemType = "event"
	SyncRead         SyncItemType = "read"
)

// SyncItem is one change for a user. An event is returned once; all other items are the
// current state and may be returned again.
type SyncItem struct {
	Type           SyncItemType
	User           *User         // profile
	Conversation   *Conversation // conversation: with its first MaxListedMembers participants
	JoinedSeq      int64         // conversation: the user has joined it, and sees its log from here; 0: was a member before
	Event          *Event        // event
	ConversationID ID            // left, read
	UserID         ID            // read: the reader
	UpTo           int64         // read: the seq
	At             time.Time     // left, read
}

// SyncQuery asks for what has changed for a user.
type SyncQuery struct {
	UserID ID
	Cursor []byte // SyncPage.Next of the previous page; empty: from the beginning
	Now    bool   // no items, only a cursor for changes from now on; Cursor is empty then
	Limit  int    // 1 to MaxSyncPage items
}

// SyncPage is one page of changes.
type SyncPage struct {
	Items []SyncItem
	Next  []byte // never empty; valid for the same user
	More  bool   // there is more already
}

// SyncStore reads what has changed for a user since their last sync.
type SyncStore interface {
	// Sync returns the next items after the cursor. A run is all pages up to one with
	// More false, and covers the changes between two moments; what is committed during a
	// run belongs to the next one. No commit is missed, however late it comes, and each
	// event is returned exactly once while the user stays a member.
	//
	// Invalid with Field "cursor" if the cursor is not, or no longer, one of this
	// database: the client starts again from the beginning. A cursor grants no rights:
	// what the user may see is decided anew.
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
