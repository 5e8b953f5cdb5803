package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Message is a message of a conversation. To send one, set Content or Attachments,
// and what you like of ClientMsgID and ReplyTo; the rest is the server's to say.
type Message struct {
	ID             ID              `json:"id"`
	ConversationID ID              `json:"conversationId"`
	Seq            int64           `json:"seq"` // its place in the conversation's log
	SenderID       ID              `json:"senderId"`
	ClientMsgID    ID              `json:"clientMsgId"` // the sender's key: the same one is stored once
	Content        string          `json:"content"`     // at most 65,536 bytes; empty if it was deleted
	ReplyTo        ID              `json:"replyTo"`     // the message it answers
	Attachments    []ID            `json:"attachments"` // at most 20
	Mentions       []ID            `json:"mentions"`    // members whose names Content mentions, as @username
	CreatedAt      time.Time       `json:"createdAt"`
	EditedAt       time.Time       `json:"editedAt"`  // zero: never
	DeletedAt      time.Time       `json:"deletedAt"` // not zero: it has been taken back
	Reactions      []ReactionCount `json:"reactions"` // in history; not of events

	// What GetMessage says beside: others who have read it, or to whose devices it came;
	// the first 100, and how many there are.
	ReadBy         []ReadBy      `json:"readBy"`
	ReadCount      int           `json:"readCount"`
	DeliveredTo    []DeliveredTo `json:"deliveredTo"`
	DeliveredCount int           `json:"deliveredCount"`
}

// ReactionCount is how many users react to a message with an emoji.
type ReactionCount struct {
	Emoji string `json:"emoji"`
	Count int    `json:"count"`
	Mine  bool   `json:"mine"` // oneself is among them
}

// ReadBy is who has read a message, and when.
type ReadBy struct {
	UserID ID        `json:"userId"`
	At     time.Time `json:"at"`
}

// DeliveredTo is somebody to whose device a message has come.
type DeliveredTo struct {
	UserID ID `json:"userId"`
}

// Reaction is one user's reaction to a message.
type Reaction struct {
	Emoji     string    `json:"emoji"`
	UserID    ID        `json:"userId"`
	CreatedAt time.Time `json:"createdAt"`
}

// MessageText is what a message said at some time.
type MessageText struct {
	Seq       int64     `json:"seq"` // of the message, or of the edit that said it
	Content   string    `json:"content"`
	CreatedAt time.Time `json:"createdAt"`
}

// History lists a conversation's messages, the newest first.
func (a *API) History(ctx context.Context, conversation ID) iter.Seq2[*Message, error] {
	return a.messages(ctx, url.Values{"conversationId": {string(conversation)}})
}

// HistoryAfter lists a conversation's messages from behind a seq on, the oldest first.
func (a *API) HistoryAfter(ctx context.Context, conversation ID, seq int64) iter.Seq2[*Message, error] {
	return a.messages(ctx, url.Values{"conversationId": {string(conversation)}, "after": {strconv.FormatInt(seq, 10)}})
}

func (a *API) messages(ctx context.Context, query url.Values) iter.Seq2[*Message, error] {
	return list[Message](ctx, a, call{op: "list messages", path: "/api/messages", query: query})
}

// GetMessage returns a message of one of one's conversations.
func (a *API) GetMessage(ctx context.Context, id ID) (*Message, error) {
	var m Message
	if err := a.do(ctx, call{op: "get message", method: http.MethodGet, path: at("messages", string(id)), out: &m}); err != nil {
		return nil, err
	}
	return &m, nil
}

// Edits lists what a message has said, the oldest first; a deleted one has none.
func (a *API) Edits(ctx context.Context, message ID) iter.Seq2[*MessageText, error] {
	return list[MessageText](ctx, a, call{op: "list edits", path: at("messages", string(message), "edits")})
}

// Reactions lists who reacts to a message, and how.
func (a *API) Reactions(ctx context.Context, message ID) iter.Seq2[*Reaction, error] {
	return list[Reaction](ctx, a, call{op: "list reactions", path: at("messages", string(message), "reactions")})
}
