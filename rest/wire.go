package rest

import (
	"encoding/json"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// ID is an id as JSON and parameters carry it: a UUID, of a client in upper or lower case,
// in answers in lower case (RFC 9562, 4).
type ID string

const (
	exampleID = "0198c0de-0000-7000-8000-000000000000"
	zeroID    = "00000000-0000-0000-0000-000000000000"
)

// Schema implements huma.SchemaProvider.
func (ID) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{
		Type: huma.TypeString, Pattern: `^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`,
		PatternDescription: "a UUID", Examples: []any{exampleID},
	}
}

// Resolve implements huma.ResolverWithPath: it refuses the zero id, which means none
// inside the server.
func (id ID) Resolve(_ huma.Context, at *huma.PathBuffer) []error {
	if id == zeroID {
		return []error{&huma.ErrorDetail{Location: at.String(), Message: "must not be the zero id"}}
	}
	return nil
}

func idOf(id chat.ID) ID {
	if id.IsZero() {
		return ""
	}
	return ID(id.String())
}

func idsOf(ids []chat.ID) []ID { return mapped(ids, func(id *chat.ID) ID { return idOf(*id) }) }

// chatID returns the id, or the zero id for "". The schema allows nothing else.
func (id ID) chatID() chat.ID {
	v, _ := chat.ParseID(string(id))
	return v
}

func chatIDs(ids []ID) []chat.ID { return mapped(ids, func(id *ID) chat.ID { return id.chatID() }) }

// Time is RFC 3339 in UTC with three digits of milliseconds.
type Time time.Time

// Schema implements huma.SchemaProvider.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Examples: []any{"2026-02-03T04:05:06.789Z"}}
}

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, len(chat.TimeFormat)+2)
	b = append(b, '"')
	return append(time.Time(t).UTC().AppendFormat(b, chat.TimeFormat), '"'), nil
}

func timeOf(t time.Time) *Time {
	if t.IsZero() {
		return nil
	}
	return (*Time)(&t)
}

// User is a user as everybody sees them.
type User struct {
	ID          ID     `json:"id"`
	Username    string `json:"username" example:"alice"`
	DisplayName string `json:"displayName" example:"Alice"`
	CreatedAt   Time   `json:"createdAt"`
}

func userOf(u *chat.User) User {
	return User{ID: idOf(u.ID), Username: u.Username, DisplayName: u.DisplayName, CreatedAt: Time(u.CreatedAt)}
}

// Me is a user as they see themselves.
type Me struct {
	User
	Email string `json:"email,omitempty" example:"alice@example.org"`
	Admin bool   `json:"admin,omitempty" doc:"Whether the user is an operator."`
}

func meOf(u *chat.User) Me { return Me{User: userOf(u), Email: u.Email, Admin: u.Admin} }

// Message is a message of a conversation.
type Message struct {
	ID             ID     `json:"id"`
	ConversationID ID     `json:"conversationId"`
	Seq            int64  `json:"seq" doc:"Its position in the conversation's log." example:"42"`
	SenderID       ID     `json:"senderId"`
	ClientMsgID    ID     `json:"clientMsgId" doc:"The sender's idempotency key."`
	Content        string `json:"content" doc:"Empty for a deleted message." example:"hello"`
	ReplyTo        ID     `json:"replyTo,omitempty" doc:"The message it replies to."`
	Attachments    []ID   `json:"attachments,omitempty"`
	Mentions       []ID   `json:"mentions,omitempty" doc:"Members whose names the content mentions, as @username."`
	CreatedAt      Time   `json:"createdAt"`
	EditedAt       *Time  `json:"editedAt,omitempty"`
	DeletedAt      *Time  `json:"deletedAt,omitempty" doc:"Present if the message was deleted."`

	Reactions []ReactionCount `json:"reactions,omitempty" doc:"In the order in which the emojis were first used."`
}

// ReactionCount is how many react to a message with an emoji.
type ReactionCount struct {
	Emoji string `json:"emoji" example:"👍"`
	Count int    `json:"count" doc:"The number of users." example:"3"`
	Mine  bool   `json:"mine" doc:"Whether you are among them."`
}

func reactionsOf(counts []chat.ReactionCount) []ReactionCount {
	return mapped(counts, func(c *chat.ReactionCount) ReactionCount {
		return ReactionCount{Emoji: c.Emoji, Count: c.Users, Mine: c.Mine}
	})
}

func messageOf(e *chat.Event) Message {
	return Message{
		ID: idOf(e.ID), ConversationID: idOf(e.ConversationID), Seq: e.Seq, SenderID: idOf(e.SenderID), ClientMsgID: idOf(e.ClientMsgID),
		Content: e.Content, ReplyTo: idOf(e.ReplyTo), Attachments: idsOf(e.Attachments), Mentions: idsOf(e.Mentions),
		CreatedAt: Time(e.CreatedAt), EditedAt: timeOf(e.EditedAt), DeletedAt: timeOf(e.DeletedAt),
	}
}

// maybeMessage is a message or null.
type maybeMessage struct{ m *Message }

// Schema implements huma.SchemaProvider.
func (maybeMessage) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{AnyOf: []*huma.Schema{r.Schema(reflect.TypeFor[Message](), true, ""), {Type: "null"}}}
}

// MarshalJSON implements json.Marshaler.
func (m maybeMessage) MarshalJSON() ([]byte, error) { return json.Marshal(m.m) }

// Conversation is a conversation as one of its members sees it.
type Conversation struct {
	ID           ID            `json:"id"`
	Kind         chat.Kind     `json:"kind" enum:"direct,group" example:"group"`
	Title        string        `json:"title,omitempty" doc:"Groups only." example:"Rowing"`
	History      chat.History  `json:"history,omitempty" enum:"joined,all" doc:"Groups only: what users who join may see: events after they joined, or all."`
	CreatedAt    Time          `json:"createdAt"`
	Participants []Participant `json:"participants" nullable:"false" doc:"Only the first 20 in lists."`
	MemberCount  int           `json:"participantCount" doc:"The number of participants." example:"2"`
	LastMessage  maybeMessage  `json:"lastMessage" doc:"null: none yet."`
	UnreadCount  int64         `json:"unreadCount" doc:"Messages of others after the last one you have read." example:"3"`
	HasUnread    bool          `json:"hasUnread"`
	LastReadAt   *Time         `json:"lastReadAt" nullable:"true" doc:"null: never."`
}

// Participant is a member of a conversation.
type Participant struct {
	UserID      ID        `json:"userId"`
	Username    string    `json:"username" example:"alice"`
	DisplayName string    `json:"displayName" example:"Alice"`
	Role        chat.Role `json:"role" enum:"owner,admin,member"`
	JoinedAt    Time      `json:"joinedAt"`
}

func participantOf(p *chat.Participant) Participant {
	return Participant{UserID: idOf(p.UserID), Username: p.Username, DisplayName: p.DisplayName, Role: p.Role, JoinedAt: Time(p.JoinedAt)}
}

func conversationOf(c *chat.Conversation) Conversation {
	out := Conversation{
		ID: idOf(c.ID), Kind: c.Kind, Title: c.Title, CreatedAt: Time(c.CreatedAt), Participants: mapped(c.Participants, participantOf), MemberCount: c.ParticipantCount,
		UnreadCount: c.UnreadCount, HasUnread: c.UnreadCount > 0, LastReadAt: timeOf(c.LastReadAt),
	}
	if c.Kind == chat.Group {
		out.History = c.History
	}
	if c.LastMessage != nil {
		m := messageOf(c.LastMessage)
		out.LastMessage.m = &m
	}
	return out
}
