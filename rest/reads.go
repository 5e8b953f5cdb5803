package rest

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// ReadMessages is the body of POST /api/messages/read.
type ReadMessages struct {
	_          struct{} `additionalProperties:"false"`
	MessageIDs []ID     `json:"messageIds" minItems:"1" maxItems:"1000" nullable:"false" doc:"May be from several conversations. Each conversation is marked as read up to the last of its messages named here."`
}

// ReadUpTo is the body of POST /api/conversations/{id}/read.
type ReadUpTo struct {
	_    struct{} `additionalProperties:"false"`
	UpTo int64    `json:"upTo" minimum:"1" maximum:"9223372036854775807" doc:"The seq of the last event read; at most the conversation's last." example:"42"`
}

// MessageDetail is a message with its receipts.
type MessageDetail struct {
	Message
	ReadBy         []ReadReceipt      `json:"readBy" nullable:"false" doc:"Who has read it, except the sender, in the order in which they read it: the first 100."`
	ReadCount      int                `json:"readCount" doc:"How many have read it." example:"1"`
	DeliveredTo    []DeliveredReceipt `json:"deliveredTo" nullable:"false" doc:"To whom it was delivered, except the sender: at most 100. Reading implies delivery."`
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
	register(s, s.secured(big(op("messages", "POST /api/messages/read", "readMessages", "Mark messages as read",
		"Everything before them in their conversations becomes read, too. A read position never moves back: messages that were read before change nothing. "+
			"If one of the messages does not exist, nothing is done.",
	))), s.readMessages, chat.NotFound)
	register(s, s.secured(op("conversations", "POST /api/conversations/{id}/read", "readConversation", "Mark a conversation as read up to a seq",
		"A read position never moves back: a smaller seq changes nothing.")), s.readConversation, chat.Forbidden)
}

func (s *server) readMessages(ctx context.Context, in *with[ReadMessages]) (*struct{}, error) {
	return nil, s.chat.MarkMessagesRead(ctx, principal(ctx).UserID, chatIDs(in.Body.MessageIDs))
}

func (s *server) readConversation(ctx context.Context, in *byIDWith[ReadUpTo]) (*struct{}, error) {
	return nil, s.chat.MarkRead(ctx, principal(ctx).UserID, in.ID.chatID(), in.Body.UpTo)
}

// detailOf is a message with its receipts, as the user may see them.
func (s *server) detailOf(ctx context.Context, user chat.ID, e *chat.Event) (*body[MessageDetail], error) {
	messages, err := s.messagesOf(ctx, user, []chat.Event{*e})
	if err != nil {
		return nil, err
	}
	r, err := s.chat.GetReceipts(ctx, user, e)
	if err != nil {
		return nil, err
	}
	return &body[MessageDetail]{MessageDetail{
		Message:     messages[0],
		ReadBy:      mapped(r.ReadBy, func(by *chat.ReadReceipt) ReadReceipt { return ReadReceipt{UserID: idOf(by.UserID), At: Time(by.At)} }),
		ReadCount:   r.ReadCount,
		DeliveredTo: mapped(r.DeliveredTo, func(to *chat.ID) DeliveredReceipt { return DeliveredReceipt{UserID: idOf(*to)} }), DeliveredCount: r.DeliveredCount,
	}}, nil
}
