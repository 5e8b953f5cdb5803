package rest

import (
	"context"
	"net/http"
	"net/url"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// MessageEdit is the body of PATCH /api/messages/{id}.
type MessageEdit struct {
	_           struct{} `additionalProperties:"false"`
	Content     string   `json:"content" doc:"What the message is to say: 1 to 65536 bytes." example:"hello, world"`
	ClientMsgID ID       `json:"clientMsgId,omitempty" doc:"Make one for each edit, and sending it again does it once, also after a later edit."`
}

// MessageText is what a message said at some time.
type MessageText struct {
	Seq       int64  `json:"seq" doc:"Of the message, or of the edit that said it." example:"42"`
	Content   string `json:"content" example:"hello"`
	CreatedAt Time   `json:"createdAt" doc:"When it was said."`
}

// Reaction is one user's reaction to a message.
type Reaction struct {
	Emoji     string `json:"emoji" example:"👍"`
	UserID    ID     `json:"userId"`
	CreatedAt Time   `json:"createdAt"`
}

type messageList struct {
	ID ID `path:"id"`
	Paging
}

type reactionInput struct {
	ID    ID     `path:"id"`
	Emoji string `path:"emoji" doc:"One emoji, percent-encoded." example:"👍"`
}

func (s *server) commands() {
	tags := []string{"messages"}
	register(s, s.secured(huma.Operation{
		OperationID: "editMessage", Method: http.MethodPatch, Path: "/api/messages/{id}", Tags: tags, Summary: "Edit a message of one's own",
		Description: "Members hear an `edit` event. An edit to what the message says already changes nothing.",
	}), s.editMessage, chat.Forbidden, chat.NotFound, chat.Conflict)
	register(s, s.secured(huma.Operation{
		OperationID: "deleteMessage", Method: http.MethodDelete, Path: "/api/messages/{id}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary:     "Take a message back",
		Description: "One's own, or as owner or admin of the group anybody's. Its texts and reactions are gone; a tombstone stays in the history, and members hear a `delete` event. It may be repeated.",
	}), s.deleteMessage, chat.Forbidden, chat.NotFound)
	register(s, s.secured(huma.Operation{
		OperationID: "listEdits", Method: http.MethodGet, Path: "/api/messages/{id}/edits", Tags: tags, Summary: "Read what a message has said",
		Description: "Oldest first; the last one is what it says now. A deleted message has none.",
	}), s.listEdits, chat.NotFound)
	register(s, s.secured(huma.Operation{
		OperationID: "listReactions", Method: http.MethodGet, Path: "/api/messages/{id}/reactions", Tags: tags, Summary: "Read who reacts to a message, and how",
	}), s.listReactions, chat.NotFound)
	register(s, s.secured(huma.Operation{
		OperationID: "addReaction", Method: http.MethodPut, Path: "/api/messages/{id}/reactions/{emoji}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "React to a message", Description: "It may be repeated. A message has reactions with at most 50 different emojis.",
	}), s.reaction(chat.OpAdd), chat.Forbidden, chat.NotFound, chat.Conflict, chat.Quota)
	register(s, s.secured(huma.Operation{
		OperationID: "removeReaction", Method: http.MethodDelete, Path: "/api/messages/{id}/reactions/{emoji}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Take a reaction back", Description: "It may be repeated.",
	}), s.reaction(chat.OpRemove), chat.Forbidden, chat.NotFound)
}

func (s *server) editMessage(ctx context.Context, in *struct {
	ID   ID `path:"id"`
	Body MessageEdit
},
) (*body[MessageDetail], error) {
	_, err := s.chat.SendAbout(ctx, principal(ctx).UserID, &chat.Command{
		Type: chat.EventEdit, MessageID: in.ID.chatID(), Content: in.Body.Content, ClientMsgID: in.Body.ClientMsgID.chatID(),
	})
	if err != nil {
		return nil, err
	}
	return s.getMessage(ctx, &byID{ID: in.ID})
}

func (s *server) deleteMessage(ctx context.Context, in *byID) (*struct{}, error) {
	_, err := s.chat.SendAbout(ctx, principal(ctx).UserID, &chat.Command{Type: chat.EventDelete, MessageID: in.ID.chatID()})
	return nil, err
}

func (s *server) reaction(op string) func(context.Context, *reactionInput) (*struct{}, error) {
	return func(ctx context.Context, in *reactionInput) (*struct{}, error) {
		emoji, err := url.PathUnescape(in.Emoji) // the router hands it on as it was sent
		if err != nil {
			emoji = ""
		}
		_, err = s.chat.SendAbout(ctx, principal(ctx).UserID, &chat.Command{Type: chat.EventReaction, MessageID: in.ID.chatID(), Emoji: emoji, Op: op})
		return nil, err
	}
}

func (s *server) listEdits(ctx context.Context, in *messageList) (*body[Page[MessageText]], error) {
	me := principal(ctx)
	var after int64
	if in.Cursor != "" {
		_, key, err := decodeCursor(in.Cursor, me.UserID, string(in.ID), editsCursor)
		if err != nil {
			return nil, err
		}
		var ok bool
		if after, ok = parseSeqKey(key); !ok {
			return nil, badCursor()
		}
	}
	texts, err := s.chat.ListEdits(ctx, me.UserID, in.ID.chatID(), after, in.Limit+1) // one more tells whether there are more
	if err != nil {
		return nil, err
	}
	var next string
	if len(texts) > in.Limit {
		texts = texts[:in.Limit]
		next = encodeCursor(editsCursor, me.UserID, string(in.ID), seqKey(texts[in.Limit-1].Seq))
	}
	out := make([]MessageText, 0, len(texts))
	for _, t := range texts {
		out = append(out, MessageText{Seq: t.Seq, Content: t.Content, CreatedAt: Time(t.CreatedAt)})
	}
	return &body[Page[MessageText]]{newPage(out, next)}, nil
}

func (s *server) listReactions(ctx context.Context, in *messageList) (*body[Page[Reaction]], error) {
	me := principal(ctx)
	var after chat.Reaction
	if in.Cursor != "" {
		_, key, err := decodeCursor(in.Cursor, me.UserID, string(in.ID), reactionsCursor)
		if err != nil {
			return nil, err
		}
		if len(key) < len(after.UserID) {
			return nil, badCursor()
		}
		var ok bool
		if after.Emoji, ok = parseTextKey(key[copy(after.UserID[:], key):]); !ok {
			return nil, badCursor()
		}
	}
	list, err := s.chat.ListReactions(ctx, me.UserID, in.ID.chatID(), after, in.Limit+1)
	if err != nil {
		return nil, err
	}
	var next string
	if len(list) > in.Limit {
		list = list[:in.Limit]
		last := &list[in.Limit-1]
		next = encodeCursor(reactionsCursor, me.UserID, string(in.ID), append(last.UserID[:], last.Emoji...))
	}
	out := make([]Reaction, 0, len(list))
	for _, r := range list {
		out = append(out, Reaction{Emoji: r.Emoji, UserID: idOf(r.UserID), CreatedAt: Time(r.CreatedAt)})
	}
	return &body[Page[Reaction]]{newPage(out, next)}, nil
}
