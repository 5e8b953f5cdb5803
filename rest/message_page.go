package rest

import (
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// messagePage is a Page[Message] that is made from the events without copying them.
type messagePage struct {
	*chat.MessagePage

	next string // cursor; "": this is the last page
}

// Schema implements huma.SchemaProvider.
func (messagePage) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[Page[Message]](), true, "")
}

// appendJSON implements jsonAppender.
func (p messagePage) appendJSON(b []byte) []byte {
	b = append(b, `{"data":[`...)
	for i := range p.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendMessage(b, &p.Items[i], p.Reactions[p.Items[i].ID])
	}
	if p.next == "" {
		return append(b, `],"nextCursor":null}`...)
	}
	return append(chat.AppendJSONString(append(b, `],"nextCursor":`...), p.next), '}')
}

// appendMessage appends what json.Marshal makes of messageOf(e) with those reactions.
func appendMessage(b []byte, e *chat.Event, reactions []chat.ReactionCount) []byte {
	b = appendID(b, `{"id":"`, e.ID)
	b = appendID(b, `","conversationId":"`, e.ConversationID)
	b = strconv.AppendInt(append(b, `","seq":`...), e.Seq, 10)
	b = appendID(b, `,"senderId":"`, e.SenderID)
	b = appendID(b, `","clientMsgId":"`, e.ClientMsgID)
	b = chat.AppendJSONString(append(b, `","content":`...), e.Content)
	if !e.ReplyTo.IsZero() {
		b = append(appendID(b, `,"replyTo":"`, e.ReplyTo), '"')
	}
	b = appendIDs(b, `,"attachments":["`, e.Attachments)
	b = appendIDs(b, `,"mentions":["`, e.Mentions)
	b = append(e.CreatedAt.UTC().AppendFormat(append(b, `,"createdAt":"`...), chat.TimeFormat), '"')
	if !e.EditedAt.IsZero() {
		b = append(e.EditedAt.UTC().AppendFormat(append(b, `,"editedAt":"`...), chat.TimeFormat), '"')
	}
	if !e.DeletedAt.IsZero() {
		b = append(e.DeletedAt.UTC().AppendFormat(append(b, `,"deletedAt":"`...), chat.TimeFormat), '"')
	}
	for i, r := range reactions {
		key := `,{"emoji":`
		if i == 0 {
			key = `,"reactions":[{"emoji":`
		}
		b = chat.AppendJSONString(append(b, key...), r.Emoji)
		b = strconv.AppendInt(append(b, `,"count":`...), int64(r.Users), 10)
		b = append(strconv.AppendBool(append(b, `,"mine":`...), r.Mine), '}')
	}
	if len(reactions) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

// appendID appends an id, or nothing for the zero id.
func appendID(b []byte, key string, id chat.ID) []byte {
	if b = append(b, key...); id.IsZero() {
		return b
	}
	b, _ = id.AppendText(b) // it cannot fail
	return b
}

func appendIDs(b []byte, key string, ids []chat.ID) []byte {
	for i, id := range ids {
		if i > 0 {
			key = `","`
		}
		b = appendID(b, key, id)
	}
	if len(ids) > 0 {
		b = append(b, `"]`...)
	}
	return b
}
