package rest

import (
	"context"
	"net/url"

	"github.com/parleymq/parley/chat"
)

// MessageEdit is the body of PATCH /api/messages/{id}.
type MessageEdit struct {
	_           struct{} `additionalProperties:"false"`
	Content     string   `json:"content" doc:"The new content: 1 to 65536 bytes." example:"hello, world"`
	ClientMsgID ID       `json:"clientMsgId,omitempty" doc:"Use a new one for each edit: if the request is repeated, the edit is made once, even after a later edit."`
}

// MessageText is one version of a message's content.
type MessageText struct {
	Seq       int64  `json:"seq" doc:"Of the message, or of the edit with this content." example:"42"`
	Content   string `json:"content" example:"hello"`
	CreatedAt Time   `json:"createdAt" doc:"When the message was sent or edited."`
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
	register(s, s.secured(op(tag, "PATCH /api/messages/{id}", "editMessage", "Edit one of your messages",
		"Members receive an `edit` event. An edit that does not change the content does nothing.",
	)), s.editMessage, chat.Forbidden, chat.NotFound, chat.Conflict)
	register(s, s.secured(op(tag, "DELETE /api/messages/{id}", "deleteMessage", "Delete a message",
		"Your own, or anybody's if you are owner or admin of the group. Its content, earlier versions and reactions are deleted; a tombstone stays "+
			"in the history, and members receive a `delete` event. May be repeated.",
	)), s.deleteMessage, chat.Forbidden, chat.NotFound)
	register(s, s.secured(op(tag, "GET /api/messages/{id}/edits", "listEdits", "List the versions of a message",
		"Oldest first; the last one is the current content. A deleted message has none.")), s.listEdits, chat.NotFound)
	register(s, s.secured(op(tag, "GET /api/messages/{id}/reactions", "listReactions", "List the reactions to a message", "")), s.listReactions, chat.NotFound)
	register(s, s.secured(op(tag, "PUT /api/messages/{id}/reactions/{emoji}", "addReaction", "React to a message",
		"May be repeated. A message can have at most 50 different emojis.",
	)), s.reaction(chat.OpAdd), chat.Forbidden, chat.NotFound, chat.Conflict, chat.Quota)
	register(s, s.secured(op(tag, "DELETE /api/messages/{id}/reactions/{emoji}", "removeReaction", "Remove a reaction", "May be repeated.")),
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
	return editList.page(ctx, &in.Paging, in.ID.chatID().String(), func(ctx context.Context, me chat.ID, after int64, limit int) ([]chat.MessageText, error) {
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
	return reactionList.page(ctx, &in.Paging, in.ID.chatID().String(), func(ctx context.Context, me chat.ID, after chat.Reaction, limit int) ([]chat.Reaction, error) {
		return s.chat.ListReactions(ctx, me, in.ID.chatID(), after, limit)
	})
}
