package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// ChangeType says what a Change is. A newer server may have others: ignore them.
type ChangeType string

// The types of change.
const (
	ChangeProfile      ChangeType = "profile"      // User: a contact, or oneself
	ChangeConversation ChangeType = "conversation" // Conversation: new to one, or changed
	ChangeLeft         ChangeType = "left"         // ConversationID: one is no longer a member
	ChangeEvent        ChangeType = "event"        // Event
	ChangeRead         ChangeType = "read"         // UserID has read ConversationID up to UpTo
)

// Change is one thing that has changed for oneself.
type Change struct {
	Type           ChangeType    `json:"type"`
	User           *User         `json:"user"`
	Conversation   *Conversation `json:"conversation"`
	JoinedSeq      int64         `json:"joinedSeq"` // ChangeConversation: not 0: one has come into it, perhaps again: forget what you hold of it; its events follow from this seq on
	Event          *Event        `json:"event"`
	ConversationID ID            `json:"conversationId"`
	UserID         ID            `json:"userId"`
	UpTo           int64         `json:"upTo"`
	At             time.Time     `json:"at"`
}

// SyncPage is what has changed, in the order in which to apply it. Cursor is where
// to go on when all of it has been.
type SyncPage struct {
	Changes []Change `json:"data"`
	Cursor  string   `json:"nextCursor"`
	More    bool     `json:"hasMore"`
}

// Sync goes through everything that has changed since a cursor, page by page: apply
// the changes of a page one by one, keep its Cursor, best in one transaction, and the
// state is that of the server. The empty cursor is the beginning of everything. A page
// may have no changes; the last one has the cursor for the next time. Going on from
// the same cursor again is safe. Invalid if the cursor is none of this user's.
//
// It is for programs that keep a copy. Events alone come to OnEvent.
func (a *API) Sync(ctx context.Context, cursor string) iter.Seq2[*SyncPage, error] {
	return func(yield func(*SyncPage, error) bool) {
		for {
			page, err := a.sync(ctx, url.Values{"cursor": {cursor}})
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(page, nil) || !page.More {
				return
			}
			cursor = page.Cursor
		}
	}
}

// SyncNow returns a cursor for what changes from now on.
func (a *API) SyncNow(ctx context.Context) (cursor string, err error) {
	page, err := a.sync(ctx, url.Values{"from": {"now"}})
	if err != nil {
		return "", err
	}
	return page.Cursor, nil
}

func (a *API) sync(ctx context.Context, query url.Values) (*SyncPage, error) {
	if query.Get("cursor") == "" {
		query.Del("cursor")
	}
	var page SyncPage
	if err := a.do(ctx, call{op: "sync", method: http.MethodGet, path: "/api/sync", query: query, out: &page}); err != nil {
		return nil, err
	}
	return &page, nil
}
