package rest

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// NewMessage is the body of POST /api/messages.
type NewMessage struct {
	_              struct{} `additionalProperties:"false"`
	ConversationID ID       `json:"conversationId"`
	Content        string   `json:"content,omitempty" doc:"At most 65536 bytes; not empty unless there are attachments." example:"hello"`
	ClientMsgID    ID       `json:"clientMsgId,omitempty" doc:"Use a new one for each message: if the request is repeated after a lost answer, the message is stored once."`
	ReplyTo        ID       `json:"replyTo,omitempty" doc:"The message it replies to, in the same conversation."`
	Attachments    []ID     `json:"attachments,omitempty" maxItems:"20"`
}

type messageQuery struct {
	ConversationID ID              `query:"conversationId" required:"true"`
	After          optional[int64] `query:"after" minimum:"0" doc:"Oldest first, starting after this seq; 0: from the beginning."`
	Around         ID              `query:"around" doc:"A page with this message in the middle, newest first."`
	Paging
}

// optional is a parameter that may be absent although its zero value means something.
type optional[T any] struct {
	Value T
	Set   bool
}

// Schema implements huma.SchemaProvider.
func (optional[T]) Schema(r huma.Registry) *huma.Schema {
	return huma.SchemaFromType(r, reflect.TypeFor[T]())
}

// Receiver implements huma.ParamWrapper.
func (o *optional[T]) Receiver() reflect.Value { return reflect.ValueOf(o).Elem().Field(0) }

// OnParamSet implements huma.ParamReactor.
func (o *optional[T]) OnParamSet(isSet bool, _ any) { o.Set = isSet }

func (s *server) messages() {
	const tag = "messages"
	repeat := &huma.Response{
		Description: "The message had been stored before, under the same clientMsgId.",
		Content:     map[string]*huma.MediaType{jsonType: {Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Message](), true, "")}},
	}
	send := s.secured(created(big(op(tag, "POST /api/messages", "sendMessage", "Send a message",
		"The answer comes after the commit. 503 means that the message may or may not have been stored: send it again with the same `clientMsgId`."))))
	send.Responses = map[string]*huma.Response{"200": repeat}
	register(s, send, s.sendMessage, chat.Forbidden, chat.Conflict, chat.Quota)
	register(s, s.secured(op(tag, "GET /api/messages", "listMessages", "Read a conversation's messages",
		"Newest first; oldest first with `after`; around a message with `around`. Continue with `nextCursor`, which keeps the direction.",
	)), s.listMessages, chat.NotFound)
	register(s, s.secured(op(tag, "GET /api/messages/{id}", "getMessage", "Read a message, and who has read it", "")), s.getMessage, chat.NotFound)
}

func (s *server) sendMessage(ctx context.Context, in *with[NewMessage]) (*located[Message], error) {
	b := &in.Body
	e, repeat, err := s.chat.Send(ctx, principal(ctx).UserID, b.ConversationID.chatID(), &chat.Command{
		Type: chat.EventMessage, Content: b.Content, ClientMsgID: b.ClientMsgID.chatID(), ReplyTo: b.ReplyTo.chatID(), Attachments: chatIDs(b.Attachments),
	})
	if err != nil {
		return nil, err
	}
	out := &located[Message]{Status: http.StatusCreated, Location: "/api/messages/" + e.ID.String(), Body: messageOf(e)}
	if repeat {
		out.Status = http.StatusOK
	}
	return out, nil
}

func (s *server) listMessages(ctx context.Context, in *messageQuery) (*body[messagePage], error) {
	me := principal(ctx).UserID
	q := chat.MessageQuery{UserID: me, ConversationID: in.ConversationID.chatID(), Limit: in.Limit, Around: in.Around.chatID()}
	q.After, q.HasAfter = in.After.Value, in.After.Set
	if err := in.resume(&q); err != nil {
		return nil, err
	}
	page, err := s.chat.ListMessages(ctx, q)
	if err != nil {
		return nil, err
	}
	out := messagePage{MessagePage: page}
	if page.More && len(page.Items) > 0 {
		kind := olderCursor
		if q.HasAfter {
			kind = newerCursor
		}
		out.next = encodeCursor(kind, me, string(in.ConversationID), seqKey(page.Items[len(page.Items)-1].Seq))
	}
	return &body[messagePage]{out}, nil
}

// resume makes the query continue at the cursor, and refuses more than one starting point.
func (in *messageQuery) resume(q *chat.MessageQuery) error {
	switch {
	case in.After.Set && in.Around != "":
		return &chat.Error{Code: chat.Invalid, Field: "around", Msg: "cannot be combined with after"}
	case in.Cursor == "":
		return nil
	case in.After.Set || in.Around != "":
		return &chat.Error{Code: chat.Invalid, Field: "cursor", Msg: "cannot be combined with after or around: it contains them"}
	}
	kind, key, err := decodeCursor(in.Cursor, q.UserID, string(in.ConversationID), olderCursor, newerCursor)
	if err != nil {
		return err
	}
	seq, ok := parseSeqKey(key)
	switch {
	case !ok:
		return badCursor()
	case kind == newerCursor:
		q.After, q.HasAfter = seq, true
	default:
		q.Before = seq
	}
	return nil
}

func (s *server) getMessage(ctx context.Context, in *byID) (*body[MessageDetail], error) {
	me := principal(ctx).UserID
	e, err := s.chat.GetMessage(ctx, me, in.ID.chatID())
	if err != nil {
		return nil, err
	}
	return s.detailOf(ctx, me, e)
}

// messagesOf returns messages that the user may see, with their reactions.
func (s *server) messagesOf(ctx context.Context, user chat.ID, events []chat.Event) ([]Message, error) {
	reactions, err := s.chat.CountReactions(ctx, user, events)
	if err != nil {
		return nil, err
	}
	return mapped(events, func(e *chat.Event) Message {
		m := messageOf(e)
		m.Reactions = reactionsOf(reactions[e.ID])
		return m
	}), nil
}
