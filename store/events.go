package store

import (
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/parleymq/parley/chat"
)

// eventColumns are the columns that scanEvent reads, in its order.
const eventColumns = `conversation_id, seq, type, id, sender_id, client_msg_id, created_at, content, edited_at, deleted_at, detail`

// scanEvent reads one row of eventColumns. A row of NULLs, as an outer join gives
// it, is the zero Event.
func scanEvent(row pgx.CollectableRow) (chat.Event, error) {
	var r eventRow
	if err := row.Scan(r.targets()...); err != nil {
		return chat.Event{}, err
	}
	return r.toEvent()
}

type eventRow struct {
	event  chat.Event
	detail []byte
}

func (r *eventRow) targets() []any {
	e := &r.event
	return []any{
		&e.ConversationID, (*zeronull.Int8)(&e.Seq), (*zeronull.Text)(&e.Type), &e.ID, &e.SenderID, &e.ClientMsgID, scanTime(&e.CreatedAt),
		(*zeronull.Text)(&e.Content), scanTime(&e.EditedAt), scanTime(&e.DeletedAt), &r.detail,
	}
}

func (r *eventRow) toEvent() (chat.Event, error) {
	if r.detail != nil {
		if err := json.Unmarshal(r.detail, &r.event.EventDetail); err != nil {
			return chat.Event{}, fmt.Errorf("detail of event %d of conversation %s: %w", r.event.Seq, r.event.ConversationID, err)
		}
	}
	return r.event, nil
}

// detailJSON returns d as it is stored: JSON, or nil for NULL if it is zero.
func detailJSON(d *chat.EventDetail) (*string, error) {
	if d.IsZero() {
		return nil, nil
	}
	b, err := json.Marshal(d)
	s := string(b)
	return &s, err
}

// memberEvents interprets the rows of a query that left-joins the asking member's row with
// events: no row means that the user is not a member, a row of NULLs that there are no events.
func memberEvents(op string, conversation chat.ID, rows []chat.Event) ([]chat.Event, error) {
	switch {
	case len(rows) == 0:
		return nil, noConversation(op, conversation)
	case rows[0].Seq == 0:
		return []chat.Event{}, nil
	}
	return rows, nil
}
