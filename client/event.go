package client

import (
	"encoding/json"
	"time"
)

// EventType says what an event is. A newer server may have others: ignore them.
type EventType string

// The types of event.
const (
	EventMessage      EventType = "message"
	EventEdit         EventType = "edit"         // MessageID now says Content
	EventDelete       EventType = "delete"       // MessageID has been taken back
	EventReaction     EventType = "reaction"     // SenderID reacts to MessageID with Emoji, or no longer: Op
	EventConversation EventType = "conversation" // the conversation or its members changed: Op
)

// Event is an entry of a conversation's log. Each has its place, Seq: 1, 2, 3 …
// without gaps, for as long as one is a member.
type Event struct {
	Type           EventType `json:"type"`
	ConversationID ID        `json:"conversationId"`
	Seq            int64     `json:"seq"`
	Epoch          string    `json:"epoch"`    // within which Seq counts: another one after the server's database was set back to an earlier moment; then forget every seq
	SenderID       ID        `json:"senderId"` // who did it
	CreatedAt      time.Time `json:"createdAt"`

	ID          ID        `json:"id"`          // message
	ClientMsgID ID        `json:"clientMsgId"` // message
	Content     string    `json:"content"`     // message, edit; empty if the message was deleted meanwhile
	ReplyTo     ID        `json:"replyTo"`     // message: which one it answers
	Attachments []ID      `json:"attachments"` // message
	Mentions    []ID      `json:"mentions"`    // message, edit
	EditedAt    time.Time `json:"editedAt"`    // message: Content is of an edit, whose event follows
	DeletedAt   time.Time `json:"deletedAt"`   // message, edit: the message was deleted, whose event follows
	MessageID   ID        `json:"messageId"`   // edit, delete, reaction
	Emoji       string    `json:"emoji"`       // reaction
	Op          string    `json:"op"`          // reaction: add, remove; conversation: created, renamed, history, joined, left, role
	Kind        Kind      `json:"kind"`        // conversation created
	Title       string    `json:"title"`       // conversation created, renamed
	History     string    `json:"history"`     // conversation history
	UserIDs     []ID      `json:"userIds"`     // conversation created (the first ones), joined, left, role
	Role        Role      `json:"role"`        // conversation role
}

// Message returns the message that an event of that type is, and nil for others.
func (e *Event) Message() *Message {
	if e.Type != EventMessage {
		return nil
	}
	return &Message{
		ID: e.ID, ConversationID: e.ConversationID, Seq: e.Seq, SenderID: e.SenderID, ClientMsgID: e.ClientMsgID, Content: e.Content,
		ReplyTo: e.ReplyTo, Attachments: e.Attachments, Mentions: e.Mentions, CreatedAt: e.CreatedAt, EditedAt: e.EditedAt, DeletedAt: e.DeletedAt,
	}
}

// Typing: a user types in a conversation, or has stopped. It holds until ExpiresAt
// without another one.
type Typing struct {
	ConversationID ID        `json:"conversationId"`
	UserID         ID        `json:"userId"`
	Typing         bool      `json:"typing"`
	ExpiresAt      time.Time `json:"expiresAt"`
}

// Read: a user, perhaps oneself on another device, has read a conversation up to a seq.
type Read struct {
	ConversationID ID        `json:"conversationId"`
	UserID         ID        `json:"userId"`
	UpTo           int64     `json:"upTo"`
	At             time.Time `json:"at"`
}

// Delivered: a conversation has come to a device of a user's up to a seq.
type Delivered struct {
	ConversationID ID        `json:"conversationId"`
	UserID         ID        `json:"userId"`
	UpTo           int64     `json:"upTo"`
	At             time.Time `json:"at"`
}

// Status is how a user is shown.
type Status string

// The statuses. Nobody is shown as invisible, but to themselves.
const (
	Online    Status = "online"
	Away      Status = "away"
	Invisible Status = "invisible"
	Offline   Status = "offline"
)

// Presence is a contact's status, or one's own.
type Presence struct {
	UserID       ID        `json:"userId"`
	Status       Status    `json:"status"`
	LastOnlineAt time.Time `json:"lastOnlineAt"` // zero: is online, or never was
}

// parseEvent reads the payload of conv/{id}/messages.
func parseEvent(payload []byte) (*Event, error) {
	var e Event
	if err := json.Unmarshal(payload, &e); err != nil {
		return nil, err
	}
	if e.Type == "" || e.ConversationID == "" || e.Seq < 1 {
		return nil, &Error{Op: "receive", Code: Internal, Detail: "an event without type, conversationId or seq"}
	}
	return &e, nil
}
