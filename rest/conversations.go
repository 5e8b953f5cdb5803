package rest

import (
	"context"
	"net/http"

	"github.com/parleymq/parley/chat"
)

// NewConversation is the body of POST /api/conversations: otherUserId for a direct
// conversation, or userIds for a group.
type NewConversation struct {
	_           struct{} `additionalProperties:"false"`
	OtherUserID ID       `json:"otherUserId,omitempty" doc:"A direct conversation with this user."`
	UserIDs     []ID     `json:"userIds,omitempty" maxItems:"9999" doc:"A group of these users and you, its owner; may be empty."`
	Title       string   `json:"title,omitempty" doc:"Groups only: at most 200 characters." example:"Rowing"`
}

func (NewConversation) example() any {
	return NewConversation{OtherUserID: ID(exampleOf("otherUserId"))}
}

func (s *server) conversations() {
	const tag = "conversations"
	register(s, s.secured(created(big(op(tag, "POST /api/conversations", "createConversation", "Start a conversation",
		"Two users have at most one direct conversation: if it exists already, the answer is a conflict with its `conversationId`.",
	)))), s.createConversation, chat.Forbidden, chat.NotFound, chat.Conflict)
	register(s, s.secured(op(tag, "GET /api/conversations", "listConversations", "List your conversations, latest activity first", "")), s.listConversations)
	register(s, s.secured(op(tag, "GET /api/conversations/{id}", "getConversation", "Read a conversation", "")), s.getConversation, chat.NotFound)
}

func (s *server) createConversation(ctx context.Context, in *with[NewConversation]) (*located[Conversation], error) {
	b := &in.Body
	n := chat.NewConversation{Kind: chat.Group, Title: b.Title, Creator: principal(ctx).UserID, Users: chatIDs(b.UserIDs)}
	if (b.OtherUserID == "") == (b.UserIDs == nil) {
		return nil, &chat.Error{Code: chat.Invalid, Field: "otherUserId", Msg: "is required, or userIds instead, but not both"}
	}
	if b.OtherUserID != "" {
		n.Kind, n.Users = chat.Direct, []chat.ID{b.OtherUserID.chatID()}
	}
	c, err := s.chat.CreateConversation(ctx, n)
	if err != nil {
		return nil, err
	}
	out := conversationOf(c)
	return &located[Conversation]{Status: http.StatusCreated, Location: "/api/conversations/" + string(out.ID), Body: out}, nil
}

func (s *server) listConversations(ctx context.Context, in *struct{ Paging }) (*body[Page[Conversation]], error) {
	me := principal(ctx).UserID
	after, err := resume(&in.Paging, me, "", conversationsCursor, parseConversationKey)
	if err != nil {
		return nil, err
	}
	page, err := s.chat.ListConversations(ctx, me, after, in.Limit)
	if err != nil {
		return nil, err
	}
	var next string
	if !page.Next.IsZero() {
		next = encodeCursor(conversationsCursor, me, "", conversationKey(page.Next))
	}
	return pageOf(page.Items, conversationOf, next), nil
}

func (s *server) getConversation(ctx context.Context, in *byID) (*body[Conversation], error) {
	return reply(conversationOf)(s.chat.GetConversation(ctx, principal(ctx).UserID, in.ID.chatID()))
}
