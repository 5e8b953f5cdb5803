package chat

import (
	"slices"
	"strconv"
	"time"
)

// EventType says what an event of the log is.
type EventType string

// The types of event.
const (
	EventMessage      EventType = "message"
	EventEdit         EventType = "edit"
	EventDelete       EventType = "delete"
	EventReaction     EventType = "reaction"
	EventConversation EventType = "conversation"
)

// EventTypes returns all types of event.
func EventTypes() []EventType {
	return []EventType{EventMessage, EventEdit, EventDelete, EventReaction, EventConversation}
}

// Event is one entry of a conversation's log.
type Event struct {
	ConversationID ID
	Seq            int64 // 1, 2, 3 … without gaps
	Type           EventType
	ID             ID // of the message, for EventMessage; of the event otherwise
	SenderID       ID // who did it
	ClientMsgID    ID // the sender's idempotency key; zero for EventConversation
	CreatedAt      time.Time
	Content        string // EventMessage, EventEdit
	EditedAt       time.Time
	DeletedAt      time.Time // EventMessage: a tombstone; EventEdit: its message is one. Content is empty
	EventDetail

	Encoded []byte // what AppendJSON appends without an epoch, of an event of which nothing is known beside that and its place in the log
}

// EventDetail holds the parts of an event that most messages lack. It is stored
// as one JSON value beside the event and is part of the event's wire form. The tags say
// which types of event always have a field, and which may have it: a test holds the
// documents and the client to them.
type EventDetail struct {
	ReplyTo     ID      `json:"replyTo,omitzero" maybe:"message"`
	Attachments []ID    `json:"attachments,omitempty" maybe:"message"`
	Mentions    []ID    `json:"mentions,omitempty" maybe:"message edit"` // members whose names the content mentions
	MessageID   ID      `json:"messageId,omitzero" always:"edit delete reaction"`
	Emoji       string  `json:"emoji,omitempty" always:"reaction"`
	Op          string  `json:"op,omitempty" always:"reaction conversation"`
	Kind        Kind    `json:"kind,omitempty" maybe:"conversation"`    // created
	Title       string  `json:"title,omitempty" maybe:"conversation"`   // created, renamed
	UserIDs     []ID    `json:"userIds,omitempty" maybe:"conversation"` // created (the first MaxEventUsers), joined, left, role
	Role        Role    `json:"role,omitempty" maybe:"conversation"`    // joined (unless member), role
	History     History `json:"history,omitempty" maybe:"conversation"` // history
}

// What EventDetail.Op says: of a reaction the first two, of a conversation the others.
const (
	OpAdd     = "add"
	OpRemove  = "remove"
	OpCreated = "created"
	OpRenamed = "renamed"
	OpHistory = "history" // what those who join may see has changed
	OpJoined  = "joined"
	OpLeft    = "left" // or removed
	OpRole    = "role"
)

// IsZero reports whether the event has no details.
func (d *EventDetail) IsZero() bool {
	return d.ReplyTo.IsZero() && len(d.Attachments) == 0 && len(d.Mentions) == 0 && d.MessageID.IsZero() && d.Emoji == "" &&
		d.Op == "" && d.Kind == "" && d.Title == "" && len(d.UserIDs) == 0 && d.Role == "" && d.History == ""
}

// Equal reports whether both hold the same details, but for the mentions: they follow
// from the content, and from who was a member.
func (d *EventDetail) Equal(o *EventDetail) bool {
	return d.ReplyTo == o.ReplyTo && slices.Equal(d.Attachments, o.Attachments) && d.MessageID == o.MessageID &&
		d.Emoji == o.Emoji && d.Op == o.Op && d.Kind == o.Kind && d.Title == o.Title && slices.Equal(d.UserIDs, o.UserIDs) && d.Role == o.Role &&
		d.History == o.History
}

// AppendJSON appends the event as subscribers of conv/{id}/messages receive it
// (contract, 2), in the epoch of the log; "": without one. It is written by hand because it
// runs once per message.
func (e *Event) AppendJSON(b []byte, epoch LogEpoch) []byte {
	if e.Encoded != nil {
		b = append(b, e.Encoded...)
	} else {
		b = e.appendJSON(b)
	}
	if epoch != "" {
		b = append(append(append(b[:len(b)-1], `,"epoch":"`...), epoch...), `"}`...)
	}
	return b
}

func (e *Event) appendJSON(b []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, e.Type...)
	b = append(b, `","conversationId":"`...)
	b = e.ConversationID.append(b)
	b = append(b, `","seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	b = append(b, `,"senderId":"`...)
	b = e.SenderID.append(b)
	b = append(b, `","createdAt":"`...)
	b = e.CreatedAt.UTC().AppendFormat(b, TimeFormat)
	b = append(b, '"')
	switch e.Type {
	case EventMessage:
		b = append(b, `,"id":"`...)
		b = e.ID.append(b)
		b = append(b, `","clientMsgId":"`...)
		b = e.ClientMsgID.append(b)
		b = append(b, `","content":`...)
		b = AppendJSONString(b, e.Content)
		b = appendTime(b, `,"editedAt":"`, e.EditedAt)
		b = appendTime(b, `,"deletedAt":"`, e.DeletedAt)
	case EventEdit:
		b = append(b, `,"content":`...)
		b = AppendJSONString(b, e.Content)
		b = appendTime(b, `,"deletedAt":"`, e.DeletedAt)
	case EventDelete, EventReaction, EventConversation:
	}
	return append(e.appendDetail(b), '}')
}

func (d *EventDetail) appendDetail(b []byte) []byte {
	b = appendID(b, `,"replyTo":"`, d.ReplyTo)
	b = appendIDs(b, `,"attachments":[`, d.Attachments)
	b = appendIDs(b, `,"mentions":[`, d.Mentions)
	b = appendID(b, `,"messageId":"`, d.MessageID)
	b = appendText(b, `,"emoji":`, d.Emoji)
	b = appendText(b, `,"op":`, d.Op)
	b = appendText(b, `,"kind":`, string(d.Kind))
	b = appendText(b, `,"title":`, d.Title)
	b = appendIDs(b, `,"userIds":[`, d.UserIDs)
	b = appendText(b, `,"role":`, string(d.Role))
	return appendText(b, `,"history":`, string(d.History))
}

func appendID(b []byte, key string, id ID) []byte {
	if id.IsZero() {
		return b
	}
	return append(id.append(append(b, key...)), '"')
}

func appendIDs(b []byte, key string, ids []ID) []byte {
	if len(ids) == 0 {
		return b
	}
	b = append(b, key...)
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(id.append(append(b, '"')), '"')
	}
	return append(b, ']')
}

func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return AppendJSONString(append(b, key...), s)
}

func appendTime(b []byte, key string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return append(t.UTC().AppendFormat(append(b, key...), TimeFormat), '"')
}

// AppendJSONString appends s as a JSON string (RFC 8259, 7). s is valid UTF-8.
func AppendJSONString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[start:]...), '"')
}
