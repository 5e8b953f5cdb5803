package chat

import (
	"strconv"
	"time"
)

// Kind is the kind of a conversation.
type Kind string

// The kinds of conversation.
const (
	Direct Kind = "direct" // exactly two users, at most one per pair
	Group  Kind = "group"  // 1 to MaxGroupMembers members
)

// Role is what a participant may do in a group; both users of a direct
// conversation are members.
type Role string

// The roles, in descending order of what they may do.
const (
	Owner       Role = "owner"
	GroupAdmin  Role = "admin"
	GroupMember Role = "member"
)

// Participant is a user in a conversation.
type Participant struct {
	UserID      ID
	Username    string
	DisplayName string
	Role        Role
	JoinedAt    time.Time
}

// Conversation is a conversation as one of its members sees it, without its log.
type Conversation struct {
	ID               ID
	Kind             Kind
	Title            string // groups only
	History          History
	CreatedBy        ID
	CreatedAt        time.Time
	LastSeq          int64         // seq of the newest event
	LastEventAt      time.Time     // its time; lists are ordered by it
	Participants     []Participant // ascending by user; in a list only the first MaxListedMembers
	ParticipantCount int           // of the whole conversation
	LastMessage      *Event        // nil if none yet
	UnreadCount      int64
	LastReadAt       time.Time // zero: never
}

// NewConversation describes a conversation to be created.
type NewConversation struct {
	ID      ID // zero: the store makes one
	Kind    Kind
	Title   string
	Creator ID
	Users   []ID // direct: the other user; group: the other members, without duplicates
}

// ConversationPage is one page of a user's conversations.
type ConversationPage struct {
	Items []Conversation
	Next  ConversationCursor // zero: no more
}

// ConversationCursor is the key of the last conversation of a page.
type ConversationCursor struct {
	LastEventAt time.Time
	ID          ID
}

// IsZero reports whether the cursor is the start of the list.
func (c ConversationCursor) IsZero() bool { return c.ID.IsZero() }

func itoa(n int) string { return strconv.Itoa(n) }
