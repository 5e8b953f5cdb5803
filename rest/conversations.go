package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// NewConversation is the body of POST /api/conversations: otherUserId for a direct
// conversation, or userIds for a group.
type NewConversation struct {
	_           struct{} `additionalProperties:"false"`
	OtherUserID ID       `json:"otherUserId,omitempty" doc:"A direct conversation with this user."`
	UserIDs     []ID     `json:"userIds,omitempty" maxItems:"9999" doc:"A group with these users beside oneself, who owns it; may be empty."`
	Title       string   `json:"title,omitempty" doc:"Groups: at most 200 characters." example:"Rowing"`
}

func (NewConversation) example() any {
	return NewConversation{OtherUserID: ID(exampleOf("otherUserId"))}
}

type located[T any] struct {
	Status   int
	Location string `header:"Location" doc:"Where to read it."`
	Body     T
}

func (s *server) conversations() {
	tags := []string{"conversations"}
	register(s, s.secured(huma.Operation{
		OperationID: "createConversation", Method: http.MethodPost, Path: "/api/conversations", Tags: tags, DefaultStatus: http.StatusCreated,
		Summary: "Begin a conversation", MaxBodyBytes: maxBigBodyBytes + 1,
		Description: "Two users have one direct conversation at most: if it exists, the answer is a conflict that carries its `conversationId`.",
	}), s.createConversation, chat.Forbidden, chat.NotFound, chat.Conflict)
	register(s, s.secured(huma.Operation{
		OperationID: "listConversations", Method: http.MethodGet, Path: "/api/conversations", Tags: tags,
		Summary: "List one's own conversations, latest activity first",
	}), s.listConversations)
	register(s, s.secured(huma.Operation{
		OperationID: "getConversation", Method: http.MethodGet, Path: "/api/conversations/{id}", Tags: tags, Summary: "Read a conversation",
	}), s.getConversation, chat.NotFound)
}

func (s *server) createConversation(ctx context.Context, in *struct{ Body NewConversation }) (*located[Conversation], error) {
	b := &in.Body
	n := chat.NewConversation{Kind: chat.Group, Title: b.Title, Creator: principal(ctx).UserID, Users: chatIDs(b.UserIDs)}
	if (b.OtherUserID == "") == (b.UserIDs == nil) {
		return nil, &chat.Error{Code: chat.Invalid, Field: "otherUserId", Msg: "is required, or userIds instead, not both"}
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
	me := principal(ctx)
	var after chat.ConversationCursor
	if in.Cursor != "" {
		_, key, err := decodeCursor(in.Cursor, me.UserID, "", conversationsCursor)
		if err != nil {
			return nil, err
		}
		var ok bool
		if after, ok = parseConversationKey(key); !ok {
			return nil, badCursor()
		}
	}
	page, err := s.chat.ListConversations(ctx, me.UserID, after, in.Limit)
	if err != nil {
		return nil, err
	}
	var next string
	if !page.Next.IsZero() {
		next = encodeCursor(conversationsCursor, me.UserID, "", conversationKey(page.Next))
	}
	out := make([]Conversation, 0, len(page.Items))
	for i := range page.Items {
		out = append(out, conversationOf(&page.Items[i]))
	}
	return &body[Page[Conversation]]{newPage(out, next)}, nil
}

func (s *server) getConversation(ctx context.Context, in *byID) (*body[Conversation], error) {
	c, err := s.chat.GetConversation(ctx, principal(ctx).UserID, in.ID.chatID())
	if err != nil {
		return nil, err
	}
	return &body[Conversation]{conversationOf(c)}, nil
}
