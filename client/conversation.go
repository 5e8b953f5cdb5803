package client

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"time"
)

// Kind is the kind of a conversation.
type Kind string

// The kinds.
const (
	Direct Kind = "direct" // exactly two users, who have one such conversation at most
	Group  Kind = "group"
)

// Role is what a user may do in a group.
type Role string

// The roles.
const (
	Owner  Role = "owner"
	Admin  Role = "admin"
	Member Role = "member"
)

// Conversation is a conversation as one of its members sees it.
type Conversation struct {
	ID               ID            `json:"id"`
	Kind             Kind          `json:"kind"`
	Title            string        `json:"title"`   // of a group
	History          string        `json:"history"` // of a group: "joined" or "all", which is what new members see
	CreatedAt        time.Time     `json:"createdAt"`
	Participants     []Participant `json:"participants"` // in a list only the first 20
	ParticipantCount int           `json:"participantCount"`
	LastMessage      *Message      `json:"lastMessage"` // nil: none yet
	UnreadCount      int64         `json:"unreadCount"` // messages of others beyond what one has read
	HasUnread        bool          `json:"hasUnread"`
	LastReadAt       time.Time     `json:"lastReadAt"` // zero: never
}

// Participant is a member of a conversation, with their role.
type Participant struct {
	UserID      ID     `json:"userId"`
	Username    string `json:"username"`
	DisplayName string `json:"displayName"`
	Role        Role   `json:"role"`
}

// ConversationUpdate is what to change of a group; nil stays as it is.
type ConversationUpdate struct {
	Title   *string `json:"title,omitempty"`   // at most 200 characters
	History *string `json:"history,omitempty"` // "joined" or "all"
}

// CreateDirect begins the direct conversation with a user, and returns its id; if it
// exists already, that of the existing one, with created false. It may be repeated.
// NotFound if there is no such user, Forbidden if one of the two has blocked the other.
func (a *API) CreateDirect(ctx context.Context, user ID) (id ID, created bool, err error) {
	var c Conversation
	err = a.do(ctx, call{op: "create conversation", method: http.MethodPost, path: "/api/conversations", in: map[string]ID{"otherUserId": user}, out: &c})
	var e *Error
	if errors.As(err, &e) && e.Code == Conflict && e.ConversationID != "" {
		return e.ConversationID, false, nil
	}
	return c.ID, err == nil, err
}

// CreateGroup makes a group that one owns, with users beside oneself: at most 9,999,
// or none. NotFound names those that do not exist. Repeated, it makes another group.
func (a *API) CreateGroup(ctx context.Context, title string, users ...ID) (*Conversation, error) {
	in := struct {
		UserIDs []ID   `json:"userIds"`
		Title   string `json:"title,omitempty"`
	}{users, title}
	if users == nil {
		in.UserIDs = []ID{}
	}
	return a.conversation(ctx, call{op: "create group", method: http.MethodPost, path: "/api/conversations", in: in})
}

// Conversations lists one's conversations, the latest activity first.
func (a *API) Conversations(ctx context.Context) iter.Seq2[*Conversation, error] {
	return list[Conversation](ctx, a, call{op: "list conversations", path: "/api/conversations"})
}

// GetConversation returns one of one's conversations.
func (a *API) GetConversation(ctx context.Context, id ID) (*Conversation, error) {
	return a.conversation(ctx, call{op: "get conversation", method: http.MethodGet, path: at("conversations", string(id))})
}

// UpdateConversation changes a group of which one is owner or admin.
func (a *API) UpdateConversation(ctx context.Context, id ID, u ConversationUpdate) (*Conversation, error) {
	return a.conversation(ctx, call{op: "update conversation", method: http.MethodPatch, path: at("conversations", string(id)), in: u})
}

func (a *API) conversation(ctx context.Context, c call) (*Conversation, error) {
	var out Conversation
	c.out = &out
	if err := a.do(ctx, c); err != nil {
		return nil, err
	}
	return &out, nil
}

// Participants lists the members of a conversation.
func (a *API) Participants(ctx context.Context, conversation ID) iter.Seq2[*Participant, error] {
	return list[Participant](ctx, a, call{op: "list participants", path: at("conversations", string(conversation), "participants")})
}

// AddParticipants adds up to 100 users to a group of which one is owner or admin.
// Those who are in it already are ignored, so it may be repeated.
func (a *API) AddParticipants(ctx context.Context, conversation ID, users ...ID) error {
	return a.do(ctx, call{
		op: "add participants", method: http.MethodPost, path: at("conversations", string(conversation), "participants"), in: map[string][]ID{"userIds": users},
	})
}

// RemoveParticipant removes a user from a group: oneself, or, as owner or admin,
// others. It may be repeated.
func (a *API) RemoveParticipant(ctx context.Context, conversation, user ID) error {
	return a.do(ctx, call{op: "remove participant", method: http.MethodDelete, path: at("conversations", string(conversation), "participants", string(user))})
}

// SetRole changes what a member of one's own group may do. With Owner one hands the
// group over.
func (a *API) SetRole(ctx context.Context, conversation, user ID, role Role) error {
	return a.do(ctx, call{
		op: "set role", method: http.MethodPatch, path: at("conversations", string(conversation), "participants", string(user)), in: map[string]Role{"role": role},
	})
}
