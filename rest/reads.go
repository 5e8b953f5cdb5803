package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// ReadMessages is the body of POST /api/messages/read.
type ReadMessages struct {
	_          struct{} `additionalProperties:"false"`
	MessageIDs []ID     `json:"messageIds" minItems:"1" maxItems:"1000" nullable:"false" doc:"May be of several conversations. Each is read up to the last of its messages here."`
}

// ReadUpTo is the body of POST /api/conversations/{id}/read.
type ReadUpTo struct {
	_    struct{} `additionalProperties:"false"`
	UpTo int64    `json:"upTo" minimum:"1" maximum:"9223372036854775807" doc:"The seq of the last event that was read; at most the conversation's last." example:"42"`
}

// MessageDetail is a message with what became of it.
type MessageDetail struct {
	Message
	ReadBy         []ReadReceipt      `json:"readBy" nullable:"false" doc:"Who has read it, the sender apart, in the order in which they did: the first 100."`
	ReadCount      int                `json:"readCount" doc:"How many have read it." example:"1"`
	DeliveredTo    []DeliveredReceipt `json:"deliveredTo" nullable:"false" doc:"To whom it was delivered, the sender apart: 100 at most. Reading implies delivery."`
	DeliveredCount int                `json:"deliveredCount" doc:"To how many it was delivered." example:"1"`
}

// ReadReceipt says who has read a message, and when.
type ReadReceipt struct {
	UserID ID   `json:"userId"`
	At     Time `json:"at"`
}

// DeliveredReceipt says to whom a message was delivered: a device of theirs has
// acknowledged it.
type DeliveredReceipt struct {
	UserID ID `json:"userId"`
}

func (s *server) reads() {
	register(s, s.secured(huma.Operation{
		OperationID: "readMessages", Method: http.MethodPost, Path: "/api/messages/read", MaxBodyBytes: maxBigBodyBytes + 1, Tags: []string{"messages"}, DefaultStatus: http.StatusNoContent,
		Summary: "Mark messages as read",
		Description: "Everything before them in their conversations is read, too. It goes forward only: what was read before changes nothing. " +
			"If one of them is not there, nothing is done.",
	}), s.readMessages, chat.NotFound)
	register(s, s.secured(huma.Operation{
		OperationID: "readConversation", Method: http.MethodPost, Path: "/api/conversations/{id}/read", Tags: []string{"conversations"}, DefaultStatus: http.StatusNoContent,
		Summary: "Mark a conversation as read up to a place in its log", Description: "It goes forward only: a place before the one that was read changes nothing.",
	}), s.readConversation, chat.Forbidden)
}

func (s *server) readMessages(ctx context.Context, in *struct{ Body ReadMessages }) (*struct{}, error) {
	return nil, s.chat.MarkMessagesRead(ctx, principal(ctx).UserID, chatIDs(in.Body.MessageIDs))
}

func (s *server) readConversation(ctx context.Context, in *struct {
	ID   ID `path:"id"`
	Body ReadUpTo
},
) (*struct{}, error) {
	return nil, s.chat.MarkRead(ctx, principal(ctx).UserID, in.ID.chatID(), in.Body.UpTo)
}

// detailOf is a message with its receipts, as the user may see them.
func (s *server) detailOf(ctx context.Context, user chat.ID, e *chat.Event) (*MessageDetail, error) {
	messages, err := s.messagesOf(ctx, user, e.ConversationID, []chat.Event{*e})
	if err != nil {
		return nil, err
	}
	r, err := s.chat.GetReceipts(ctx, user, e)
	if err != nil {
		return nil, err
	}
	out := &MessageDetail{
		Message: messages[0], ReadBy: make([]ReadReceipt, 0, len(r.ReadBy)), ReadCount: r.ReadCount,
		DeliveredTo: make([]DeliveredReceipt, 0, len(r.DeliveredTo)), DeliveredCount: r.DeliveredCount,
	}
	for _, by := range r.ReadBy {
		out.ReadBy = append(out.ReadBy, ReadReceipt{UserID: idOf(by.UserID), At: Time(by.At)})
	}
	for _, to := range r.DeliveredTo {
		out.DeliveredTo = append(out.DeliveredTo, DeliveredReceipt{UserID: idOf(to)})
	}
	return out, nil
}
