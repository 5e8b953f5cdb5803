package asyncapi

import "github.com/parleymq/parley/chat"

// What clients publish to conv/{conversationId}/messages.

// MessageCommand sends a message.
type MessageCommand struct {
	Type        string `json:"type,omitempty" const:"message" doc:"May be left out."`
	Content     string `json:"content,omitempty" max:"65536" doc:"At most 65,536 bytes of UTF-8 without NUL. Not empty, unless there are attachments. @username mentions a member."`
	ClientMsgID ID     `json:"clientMsgId,omitempty" doc:"The idempotency key, made by the client: a UUID of version 1 to 7. The same key of the same sender in the same conversation is stored once."`
	ReplyTo     ID     `json:"replyTo,omitempty" doc:"The message it answers, of the same conversation."`
	Attachments []ID   `json:"attachments,omitempty" max:"20" doc:"What is attached."`
}

// EditCommand gives one's own message another content.
type EditCommand struct {
	Type        string `json:"type" const:"edit"`
	MessageID   ID     `json:"messageId" doc:"The message: one's own, not deleted."`
	Content     string `json:"content" min:"1" max:"65536" doc:"What it says from now on: at most 65,536 bytes of UTF-8 without NUL."`
	ClientMsgID ID     `json:"clientMsgId,omitempty" doc:"The idempotency key."`
}

// DeleteCommand takes a message back.
type DeleteCommand struct {
	Type        string `json:"type" const:"delete"`
	MessageID   ID     `json:"messageId" doc:"The message: one's own, or any for the owner and admins of a group."`
	ClientMsgID ID     `json:"clientMsgId,omitempty" doc:"The idempotency key."`
}

// ReactionCommand adds or removes a reaction of one's own.
type ReactionCommand struct {
	Type        string `json:"type" const:"reaction"`
	MessageID   ID     `json:"messageId" doc:"The message."`
	Emoji       string `json:"emoji" min:"1" max:"64" doc:"One emoji: at most 64 bytes."`
	Op          string `json:"op" enum:"add,remove"`
	ClientMsgID ID     `json:"clientMsgId,omitempty" doc:"The idempotency key."`
}

// What members receive there: the events of the log.

type eventHead struct {
	ConversationID ID   `json:"conversationId"`
	Seq            Seq  `json:"seq" doc:"Its place in the conversation's log: 1, 2, 3 … without gaps."`
	SenderID       ID   `json:"senderId" doc:"Who did it."`
	CreatedAt      Time `json:"createdAt" doc:"When it was stored; it never goes back within a conversation."`
}

// MessageEvent is a message, as it is now.
type MessageEvent struct {
	Type string `json:"type" const:"message"`
	eventHead
	ID          ID     `json:"id" doc:"Of the message, for edits, deletions, reactions and replies."`
	ClientMsgID ID     `json:"clientMsgId" doc:"The sender's idempotency key; one made by the server if the sender set none."`
	Content     string `json:"content" doc:"Empty for a message that was deleted."`
	EditedAt    Time   `json:"editedAt,omitempty" doc:"There if it was edited before it reached this session; content is the newest."`
	DeletedAt   Time   `json:"deletedAt,omitempty" doc:"There if it was deleted before it reached this session."`
	ReplyTo     ID     `json:"replyTo,omitempty" doc:"The message it answers."`
	Attachments []ID   `json:"attachments,omitempty"`
	Mentions    []ID   `json:"mentions,omitempty" doc:"The members whom @username in the content means."`
}

// EditEvent tells of a message's new content.
type EditEvent struct {
	Type string `json:"type" const:"edit"`
	eventHead
	MessageID ID     `json:"messageId" doc:"The message that was edited."`
	Content   string `json:"content" doc:"What it says now. Empty if the message was deleted since."`
	DeletedAt Time   `json:"deletedAt,omitempty" doc:"There if the message was deleted before this event reached the session."`
	Mentions  []ID   `json:"mentions,omitempty" doc:"The members whom @username in the new content means."`
}

// DeleteEvent tells that a message was taken back.
type DeleteEvent struct {
	Type string `json:"type" const:"delete"`
	eventHead
	MessageID ID `json:"messageId" doc:"The message that is gone."`
}

// ReactionEvent tells of a reaction that came or went.
type ReactionEvent struct {
	Type string `json:"type" const:"reaction"`
	eventHead
	MessageID ID     `json:"messageId" doc:"The message reacted to."`
	Emoji     string `json:"emoji"`
	Op        string `json:"op" enum:"add,remove"`
}

// ConversationEvent tells of the conversation itself.
type ConversationEvent struct {
	Type string `json:"type" const:"conversation"`
	eventHead
	Op      string `json:"op" enum:"created,renamed,history,joined,left,role" doc:"What happened. Which of the other fields are there depends on it; clients pass over what they do not know."`
	Kind    string `json:"kind,omitempty" enum:"direct,group" doc:"created."`
	Title   string `json:"title,omitempty" max:"200" doc:"created, renamed: the title of a group; left out if it has none."`
	UserIDs []ID   `json:"userIds,omitempty" max:"100" doc:"created, joined, left, role: whom it is about. At most 100 are named; a larger group is listed by REST."`
	Role    string `json:"role,omitempty" enum:"owner,admin,member" doc:"role: what they are now."`
	History string `json:"history,omitempty" enum:"joined,all" doc:"history: what those who join from now on may see."`
}

// The signals of a conversation: they are not in the log.

// TypingSignal is what a device says of its user.
type TypingSignal struct {
	Typing bool `json:"typing" doc:"true: repeat it every few seconds while it holds; false: stopped."`
}

// TypingEvent tells that a member types, or has stopped.
type TypingEvent struct {
	ConversationID ID   `json:"conversationId"`
	UserID         ID   `json:"userId" doc:"Who types."`
	Typing         bool `json:"typing"`
	ExpiresAt      Time `json:"expiresAt" doc:"typing is true: until when it holds, unless it is said again; false: now."`
}

// ReadUpTo says how far one has read.
type ReadUpTo struct {
	UpTo Seq `json:"upTo" doc:"Everything up to this place has been read. It only moves forward, and not beyond the end of the log."`
}

// ReadMessages says which messages one has read.
type ReadMessages struct {
	MessageIDs []ID `json:"messageIds" min:"1" max:"1000" doc:"Messages of this conversation; everything up to the last of them counts as read."`
}

// ReadEvent tells how far a member has read.
type ReadEvent struct {
	ConversationID ID   `json:"conversationId"`
	UserID         ID   `json:"userId" doc:"Who has read."`
	UpTo           Seq  `json:"upTo" doc:"Up to where."`
	At             Time `json:"at" doc:"When."`
}

// DeliveredEvent tells how far a member's devices have received.
type DeliveredEvent struct {
	ConversationID ID   `json:"conversationId"`
	UserID         ID   `json:"userId" doc:"Whose devices."`
	UpTo           Seq  `json:"upTo" doc:"Up to where: the best of their devices."`
	At             Time `json:"at" doc:"When."`
}

// The signals of a user.

// PresenceStatus is what a device says of its user; also as its will.
type PresenceStatus struct {
	Status string `json:"status" enum:"online,away,invisible,offline" doc:"invisible: others see offline, and one receives as before."`
}

// PresenceEvent tells how a contact is there.
type PresenceEvent struct {
	UserID       ID     `json:"userId"`
	Status       string `json:"status" enum:"online,away,offline,invisible" doc:"invisible is for one's own devices only; others are told offline."`
	LastOnlineAt *Time  `json:"lastOnlineAt" doc:"offline: when they were there last; null: they are there, or it is not known."`
}

// PublishError tells why a publish was refused. It has the form of a problem (RFC 9457).
type PublishError struct {
	Type        string    `json:"type" const:"about:blank"`
	Title       string    `json:"title" doc:"What happened, in words."`
	Code        chat.Code `json:"code" doc:"What happened; stable, for programs. The same codes as in REST."`
	Detail      string    `json:"detail" doc:"One sentence about this occurrence, for people: the field, and its limit if there is one."`
	Topic       string    `json:"topic" doc:"Where it was published."`
	ClientMsgID ID        `json:"clientMsgId,omitempty" doc:"Which command it was, if that could be read."`
}

// Stored is what the acknowledgement of a command says in MQTT 5, as user properties.
type Stored struct {
	ID        ID     `json:"id" doc:"Of the message or event."`
	Seq       string `json:"seq" doc:"Its place in the log, in decimal digits."`
	CreatedAt Time   `json:"createdAt" doc:"When it was stored."`
}
