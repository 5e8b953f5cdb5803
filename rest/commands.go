package rest

import (
	"context"
	"net/url"

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
	const tag = "messages"
	register(s, s.secured(op(tag, "PATCH /api/messages/{id}", "editMessage", "Edit a message of one's own",
		"Members receive an `edit` event. An edit to what the message says already changes nothing.",
	)), s.editMessage, chat.Forbidden, chat.NotFound, chat.Conflict)
	register(s, s.secured(op(tag, "DELETE /api/messages/{id}", "deleteMessage", "Take a message back",
		"One's own, or as owner or admin of the group anybody's. Its texts and reactions are gone; a tombstone stays in the history, and members receive a `delete` event. It may be repeated.",
	)), s.deleteMessage, chat.Forbidden, chat.NotFound)
	register(s, s.secured(op(tag, "GET /api/messages/{id}/edits", "listEdits", "Read what a message has said",
		"Oldest first; the last one is what it says now. A deleted message has none.")), s.listEdits, chat.NotFound)
	register(s, s.secured(op(tag, "GET /api/messages/{id}/reactions", "listReactions", "Read who reacts to a message, and how", "")), s.listReactions, chat.NotFound)
	register(s, s.secured(op(tag, "PUT /api/messages/{id}/reactions/{emoji}", "addReaction", "React to a message",
		"It may be repeated. A message has reactions with at most 50 different emojis.",
	)), s.reaction(chat.OpAdd), chat.Forbidden, chat.NotFound, chat.Conflict, chat.Quota)
	register(s, s.secured(op(tag, "DELETE /api/messages/{id}/reactions/{emoji}", "removeReaction", "Take a reaction back", "It may be repeated.")),
		s.reaction(chat.OpRemove), chat.Forbidden, chat.NotFound)
}

func (s *server) editMessage(ctx context.Context, in *byIDWith[MessageEdit]) (*body[MessageDetail], error) {
	_, err := s.chat.SendAbout(ctx, principal(ctx).UserID, &chat.Command{
		Type: chat.EventEdit, MessageID: in.ID.chatID(), Content: in.Body.Content, ClientMsgID: in.Body.ClientMsgID.chatID(),
	})
	if err != nil {
		return nil, err
	}
	return s.getMessage(ctx, &byID{in.ID})
}

func (s *server) deleteMessage(ctx context.Context, in *byID) (*struct{}, error) {
	_, err := s.chat.SendAbout(ctx, principal(ctx).UserID, &chat.Command{Type: chat.EventDelete, MessageID: in.ID.chatID()})
	return nil, err
}

func (s *server) reaction(op string) func(context.Context, *reactionInput) (*struct{}, error) {
	return func(ctx context.Context, in *reactionInput) (*struct{}, error) {
		emoji, err := url.PathUnescape(in.Emoji) // the router passes it on as it was sent
		if err != nil {
			emoji = ""
		}
		_, err = s.chat.SendAbout(ctx, principal(ctx).UserID, &chat.Command{Type: chat.EventReaction, MessageID: in.ID.chatID(), Emoji: emoji, Op: op})
		return nil, err
	}
}

var editList = list[chat.MessageText, int64, MessageText]{
	kind: editsCursor, parse: parseSeqKey, key: func(t *chat.MessageText) []byte { return seqKey(t.Seq) },
	show: func(t *chat.MessageText) MessageText {
		return MessageText{Seq: t.Seq, Content: t.Content, CreatedAt: Time(t.CreatedAt)}
	},
}

func (s *server) listEdits(ctx context.Context, in *messageList) (*body[Page[MessageText]], error) {
	return editList.page(ctx, &in.Paging, string(in.ID), func(ctx context.Context, me chat.ID, after int64, limit int) ([]chat.MessageText, error) {
		return s.chat.ListEdits(ctx, me, in.ID.chatID(), after, limit)
	})
}

var reactionList = list[chat.Reaction, chat.Reaction, Reaction]{
	kind: reactionsCursor, parse: parseReactionKey, key: func(r *chat.Reaction) []byte { return append(r.UserID[:], r.Emoji...) },
	show: func(r *chat.Reaction) Reaction {
		return Reaction{Emoji: r.Emoji, UserID: idOf(r.UserID), CreatedAt: Time(r.CreatedAt)}
	},
}

func (s *server) listReactions(ctx context.Context, in *messageList) (*body[Page[Reaction]], error) {
	return reactionList.page(ctx, &in.Paging, string(in.ID), func(ctx context.Context, me chat.ID, after chat.Reaction, limit int) ([]chat.Reaction, error) {
		return s.chat.ListReactions(ctx, me, in.ID.chatID(), after, limit)
	})
}
