package store

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
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

// collectEvents is collect for rows of eventColumns. It reads the wire format itself: pages of
// events are most of what is read, and scanning costs more than all else about them. It makes room
// for n of them at first.
func collectEvents(ctx context.Context, q querier, n int, sql string, args ...any) ([]chat.Event, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil { // rows has no fields then, not even none
		return nil, err
	}
	defer rows.Close()
	if !isEventFormat(rows.FieldDescriptions()) {
		return pgx.CollectRows(rows, scanEvent)
	}
	events := make([]chat.Event, 0, n)
	for rows.Next() {
		events = append(events, chat.Event{})
		if err := decodeEvent(&events[len(events)-1], rows.RawValues()); err != nil {
			return nil, err
		}
	}
	return events, rows.Err()
}

// eventFormats are the formats of eventColumns that decodeEvent reads. Another mode of pgx, set
// in the DSN, has others.
var eventFormats = [...]int16{
	pgtype.BinaryFormatCode, pgtype.BinaryFormatCode, pgtype.TextFormatCode, pgtype.BinaryFormatCode, pgtype.BinaryFormatCode, pgtype.BinaryFormatCode,
	pgtype.BinaryFormatCode, pgtype.TextFormatCode, pgtype.BinaryFormatCode, pgtype.BinaryFormatCode, pgtype.TextFormatCode,
}

func isEventFormat(fields []pgconn.FieldDescription) bool {
	if len(fields) != len(eventFormats) {
		return false
	}
	for i, f := range fields {
		if f.Format != eventFormats[i] {
			return false
		}
	}
	return true
}

func decodeEvent(e *chat.Event, v [][]byte) error {
	copy(e.ConversationID[:], v[0])
	e.Seq = decodeInt8(v[1])
	switch t := chat.EventType(v[2]); t { // without an allocation for those that are known
	case chat.EventMessage:
		e.Type = chat.EventMessage
	default:
		e.Type = t
	}
	copy(e.ID[:], v[3])
	copy(e.SenderID[:], v[4])
	copy(e.ClientMsgID[:], v[5])
	e.CreatedAt, e.EditedAt, e.DeletedAt = decodeTime(v[6]), decodeTime(v[8]), decodeTime(v[9])
	e.Content = string(v[7])
	if v[10] == nil {
		return nil
	}
	row := eventRow{event: *e, detail: v[10]}
	decoded, err := row.toEvent()
	*e = decoded
	return err
}

// decodeInt8 and decodeTime read the binary format; the zero value for NULL.
func decodeInt8(v []byte) int64 {
	if v == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

func decodeTime(v []byte) time.Time {
	if v == nil {
		return time.Time{}
	}
	return postgresEpoch.Add(time.Duration(decodeInt8(v)) * time.Microsecond)
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
