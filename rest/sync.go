package rest

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

type syncQuery struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"100" doc:"The maximum number of items; pages of large items have fewer."`
	Cursor string `query:"cursor" doc:"nextCursor of the previous answer; none: everything, from the beginning."`
	From   string `query:"from" enum:"now" doc:"now: no items, only a cursor to start from. Cannot be combined with cursor."`
}

// SyncPage is a part of what has changed.
type SyncPage struct {
	Data       []SyncItem `json:"data" nullable:"false"`
	NextCursor string     `json:"nextCursor" doc:"Store it once the items are applied, and send it next time." example:"AXkB"`
	HasMore    bool       `json:"hasMore" doc:"There is more: ask again immediately."`
}

// SyncItem is one thing that has changed.
type SyncItem struct {
	Type           chat.SyncItemType `json:"type" enum:"profile,left,conversation,event,read" doc:"Determines which of the other fields are present."`
	User           *User             `json:"user,omitempty" doc:"profile: yours, or that of a user with whom you share a conversation of up to 500 members."`
	Conversation   *Conversation     `json:"conversation,omitempty" doc:"conversation: as it is now, with its first 20 participants."`
	JoinedSeq      int64             `json:"joinedSeq,omitempty" doc:"conversation: you have joined it, perhaps again. Discard your copy of it; its events follow, from this seq on. If absent, you were in it before and your role has changed." example:"1"`
	Event          *syncEvent        `json:"event,omitempty" doc:"event: an entry of a conversation's log, as published on conv/{id}/messages."`
	ConversationID ID                `json:"conversationId,omitempty" doc:"left, read."`
	UserID         ID                `json:"userId,omitempty" doc:"read: who."`
	UpTo           int64             `json:"upTo,omitempty" doc:"read: the seq of the last event they have read." example:"42"`
	At             *Time             `json:"at,omitempty" doc:"left, read: when."`
}

// syncEvent is an event in the JSON that MQTT has for it.
type syncEvent struct {
	e     *chat.Event
	epoch chat.LogEpoch
}

// MarshalJSON implements json.Marshaler.
func (e syncEvent) MarshalJSON() ([]byte, error) { return e.e.AppendJSON(nil, e.epoch), nil }

// Schema implements huma.SchemaProvider. It says what all events have; the rest
// depends on their type.
func (syncEvent) Schema(r huma.Registry) *huma.Schema {
	id, at := ID("").Schema(r), Time{}.Schema(r)
	var types []any
	for _, t := range chat.EventTypes() {
		types = append(types, t)
	}
	return &huma.Schema{
		Type: huma.TypeObject, Required: []string{"type", "conversationId", "seq", "senderId", "createdAt", "epoch"}, AdditionalProperties: true,
		Properties: map[string]*huma.Schema{
			"type":           {Type: huma.TypeString, Enum: types},
			"conversationId": id, "senderId": id, "createdAt": at,
			"epoch": {Type: huma.TypeString, Examples: []any{"k3v9x2ab"}, Description: epochDoc},
			"seq":   {Type: huma.TypeInteger, Format: "int64", Examples: []any{42}},
		},
	}
}

func (s *server) sync() {
	register(s, s.secured(op("messages", "GET /api/sync", "sync", "Read everything that has changed for you",
		"Apply the items one after the other, store `nextCursor`, and ask again with it: immediately while `hasMore` is true, later to learn what has changed since. "+
			"Nothing is left out, whatever is committed meanwhile, and each event comes once, in the order of its log; other items give the current state of something, and may come again.\n\n"+
			"What has changed up to one moment comes in this order, in one page or several: profiles; conversations you have left; conversations you have joined, or in which your role has changed; "+
			"events; read positions of members (of others in conversations of up to 500). Edits, deletions, reactions and changes of a group are events.\n\n"+
			"A cursor that is refused (`invalid`, field `cursor`) belongs to another user, or to another epoch of the log, since the database was replaced or set back: start again without one.",
	)), s.readSync)
}

func (s *server) readSync(ctx context.Context, in *syncQuery) (*body[SyncPage], error) {
	me := principal(ctx).UserID
	q := chat.SyncQuery{UserID: me, Limit: in.Limit, Now: in.From == "now"}
	var err error
	if q.Cursor, err = resume(&Paging{Cursor: in.Cursor}, me, "", syncCursor, func(key []byte) ([]byte, bool) { return key, len(key) > 0 }); err != nil {
		return nil, err
	}
	page, err := s.chat.Sync(ctx, q)
	if err != nil {
		return nil, err
	}
	return &body[SyncPage]{SyncPage{
		Data: mapped(page.Items, s.syncItemOf), HasMore: page.More, NextCursor: encodeCursor(syncCursor, me, "", page.Next),
	}}, nil
}

func (s *server) syncItemOf(i *chat.SyncItem) SyncItem {
	out := SyncItem{Type: i.Type, JoinedSeq: i.JoinedSeq, ConversationID: idOf(i.ConversationID), UserID: idOf(i.UserID), UpTo: i.UpTo, At: timeOf(i.At)}
	if i.User != nil {
		u := userOf(i.User)
		out.User = &u
	}
	if i.Conversation != nil {
		c := conversationOf(i.Conversation)
		out.Conversation = &c
	}
	if i.Event != nil {
		out.Event = &syncEvent{i.Event, s.epoch}
	}
	return out
}
