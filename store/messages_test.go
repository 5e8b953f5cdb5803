package store_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func seqs(events []chat.Event) []int64 {
	all := []int64{}
	for _, e := range events {
		all = append(all, e.Seq)
	}
	return all
}

// span is first, …, last, in either direction.
func span(first, last int64) []int64 {
	all := []int64{first}
	for first != last {
		if first < last {
			first++
		} else {
			first--
		}
		all = append(all, first)
	}
	return all
}

func TestListMessages(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	c := group(t, s, now, u...)
	post(t, s, c.ID, u[0], 20) // 2 … 21
	exec(t, s, `UPDATE participants SET joined_seq = 12 WHERE conversation_id = $1 AND user_id = $2`, c.ID, u[1])
	exec(t, s, `UPDATE participants SET joined_seq = 22 WHERE conversation_id = $1 AND user_id = $2`, c.ID, u[2])
	ids := map[int64]chat.ID{}
	for _, e := range log(t, s, u[0], c.ID) {
		ids[e.Seq] = e.ID
	}
	tests := []struct {
		name string
		q    chat.MessageQuery
		want []int64
		more bool
	}{
		{"newest", chat.MessageQuery{Limit: 3}, span(21, 19), true},
		{"all", chat.MessageQuery{Limit: 20}, span(21, 2), false},
		{"all but one", chat.MessageQuery{Limit: 19}, span(21, 3), true},
		{"before", chat.MessageQuery{Limit: 3, Before: 10}, span(9, 7), true},
		{"before the end", chat.MessageQuery{Limit: 3, Before: 5}, span(4, 2), false},
		{"before all", chat.MessageQuery{Limit: 3, Before: 2}, []int64{}, false},
		{"before, beyond the log", chat.MessageQuery{Limit: 2, Before: math.MaxInt64}, span(21, 20), true},
		{"from the beginning", chat.MessageQuery{Limit: 3, HasAfter: true}, span(2, 4), true},
		{"after", chat.MessageQuery{Limit: 3, HasAfter: true, After: 10}, span(11, 13), true},
		{"after, to the end", chat.MessageQuery{Limit: 3, HasAfter: true, After: 18}, span(19, 21), false},
		{"after all", chat.MessageQuery{Limit: 3, HasAfter: true, After: 21}, []int64{}, false},
		{"around", chat.MessageQuery{Limit: 5, Around: ids[10]}, span(12, 8), true},
		{"around, even", chat.MessageQuery{Limit: 4, Around: ids[10]}, span(12, 9), true},
		{"around, one", chat.MessageQuery{Limit: 1, Around: ids[10]}, []int64{10}, true},
		{"around the newest", chat.MessageQuery{Limit: 5, Around: ids[21]}, span(21, 17), true},
		{"around the oldest", chat.MessageQuery{Limit: 5, Around: ids[2]}, span(6, 2), false},
		{"around, near the oldest", chat.MessageQuery{Limit: 5, Around: ids[3]}, span(6, 2), false},
		{"around, all", chat.MessageQuery{Limit: 100, Around: ids[7]}, span(21, 2), false},
		{"no limit", chat.MessageQuery{}, []int64{21}, true},
		{"since joining", chat.MessageQuery{Limit: 100, UserID: u[1]}, span(21, 12), false},
		{"since joining, before", chat.MessageQuery{Limit: 100, UserID: u[1], Before: 14}, span(13, 12), false},
		{"since joining, after", chat.MessageQuery{Limit: 3, UserID: u[1], HasAfter: true}, span(12, 14), true},
		{"since joining, around", chat.MessageQuery{Limit: 5, UserID: u[1], Around: ids[12]}, span(16, 12), false},
		{"joined after all", chat.MessageQuery{Limit: 100, UserID: u[2]}, []int64{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.ConversationID = c.ID
			if tt.q.UserID.IsZero() {
				tt.q.UserID = u[0]
			}
			page, err := s.ListMessages(t.Context(), tt.q)
			if err != nil {
				t.Fatal(err)
			}
			if got := seqs(page.Items); !slices.Equal(got, tt.want) || page.More != tt.more {
				t.Errorf("got %v, more %v, want %v, more %v", got, page.More, tt.want, tt.more)
			}
		})
	}
	other := group(t, s, now, u[0])
	post(t, s, other.ID, u[0], 1)
	for name, around := range map[string]chat.ID{
		"nothing": chat.NewID(), "an event that is no message": ids[1], "another conversation's": log(t, s, u[0], other.ID)[1].ID,
	} {
		t.Run("around "+name, func(t *testing.T) {
			_, err := s.ListMessages(t.Context(), chat.MessageQuery{UserID: u[0], ConversationID: c.ID, Limit: 5, Around: around})
			wantError(t, err, chat.NotFound, "around")
		})
	}
	t.Run("around one before joining", func(t *testing.T) {
		_, err := s.ListMessages(t.Context(), chat.MessageQuery{UserID: u[1], ConversationID: c.ID, Limit: 5, Around: ids[11]})
		wantError(t, err, chat.NotFound, "around")
	})
	storetest.Check(t, s)
}

// While messages come in, whoever pages back sees each of the older ones once,
// and whoever pages forward each of all.
func TestPagesAreStable(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	c := group(t, s, now, u...)
	last := post(t, s, c.ID, u[0], 30)
	var back, forward []int64
	q := chat.MessageQuery{UserID: u[0], ConversationID: c.ID, Limit: 7}
	for more := true; more; {
		page, err := s.ListMessages(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, seqs(page.Items)...)
		q.Before, more = back[len(back)-1], page.More
		post(t, s, c.ID, u[0], 3)
	}
	if want := span(last, 2); !slices.Equal(back, want) {
		t.Errorf("back: got %v, want %v", back, want)
	}
	q = chat.MessageQuery{UserID: u[0], ConversationID: c.ID, Limit: 7, HasAfter: true}
	for more := true; more; {
		page, err := s.ListMessages(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		forward = append(forward, seqs(page.Items)...)
		q.After, more = forward[len(forward)-1], page.More
		last = post(t, s, c.ID, u[0], 3)
	}
	if want := span(2, last-3); !slices.Equal(forward, want) {
		t.Errorf("forward: got %v, want %v", forward, want)
	}
}

// An event comes back as it was stored, in every part.
func TestEventRoundTrip(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	c := group(t, s, now, u...)
	post(t, s, c.ID, u[0], 1)
	first := log(t, s, u[0], c.ID)[1]
	want := chat.Event{
		ConversationID: c.ID, Seq: 3, Type: chat.EventMessage, ID: chat.NewID(), SenderID: u[0], ClientMsgID: chat.NewID(), CreatedAt: now.Add(2e9),
		Content: "Grüße 👩‍👩‍👧 \"\\\u2028\u200f\n\t<&>", EditedAt: now.Add(3e9), DeletedAt: now.Add(4e9),
		EventDetail: chat.EventDetail{ReplyTo: first.ID, Attachments: []chat.ID{chat.NewID(), chat.NewID()}},
	}
	exec(t, s, `UPDATE conversations SET last_seq = 3, last_xid = pg_current_xact_id(), last_event_at = $2 WHERE id = $1`, c.ID, want.CreatedAt)
	exec(t, s, `INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content, edited_at, deleted_at, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`, want.ConversationID, want.Seq, want.ID, want.SenderID, want.ClientMsgID, want.CreatedAt,
		want.Type, want.Content, want.EditedAt, want.DeletedAt, &want.EventDetail)
	got, err := s.GetMessage(t.Context(), u[0], want.ID)
	if diff := cmp.Diff(&want, got); diff != "" || err != nil {
		t.Errorf("GetMessage: %v, (-want +got):\n%s", err, diff)
	}
	page, err := s.ListMessages(t.Context(), chat.MessageQuery{UserID: u[0], ConversationID: c.ID, Limit: 1})
	if diff := cmp.Diff([]chat.Event{want}, page.Items); diff != "" || err != nil {
		t.Errorf("ListMessages: %v, (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff(want, log(t, s, u[0], c.ID)[2]); diff != "" {
		t.Errorf("ReadLog (-want +got):\n%s", diff)
	}
	conversation, err := s.GetConversation(t.Context(), u[0], c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&want, conversation.LastMessage); diff != "" {
		t.Errorf("LastMessage (-want +got):\n%s", diff)
	}
	// The first event of a conversation is no message.
	_, err = s.GetMessage(t.Context(), u[0], log(t, s, u[0], c.ID)[0].ID)
	wantError(t, err, chat.NotFound, "messageId")
	exec(t, s, `UPDATE participants SET joined_seq = 4 WHERE conversation_id = $1`, c.ID)
	_, err = s.GetMessage(t.Context(), u[0], want.ID) // before joining
	wantError(t, err, chat.NotFound, "messageId")
}

func TestReadLog(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	c := group(t, s, now, u...)
	last := post(t, s, c.ID, u[0], store.MaxLogPage+10)
	exec(t, s, `UPDATE participants SET joined_seq = 500 WHERE conversation_id = $1 AND user_id = $2`, c.ID, u[1])
	for _, tt := range []struct {
		user  chat.ID
		after int64
		limit int
		want  []int64
	}{
		{u[0], 0, 3, span(1, 3)}, // what is not a message is there too
		{u[0], 10, 3, span(11, 13)},
		{u[0], last - 1, 3, []int64{last}},
		{u[0], last, 3, []int64{}}, // a member with nothing new
		{u[0], last + 100, 3, []int64{}},
		{u[0], 0, 1 << 30, span(1, store.MaxLogPage)},
		{u[0], 0, 0, []int64{1}},
		{u[1], 0, 3, span(500, 502)},
		{u[1], 600, 3, span(601, 603)},
	} {
		t.Run(fmt.Sprint(tt.after, " ", tt.limit), func(t *testing.T) {
			events, err := s.ReadLog(t.Context(), tt.user, c.ID, tt.after, tt.limit)
			if err != nil {
				t.Fatal(err)
			}
			if got := seqs(events); !slices.Equal(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
	p, err := s.ListPositions(t.Context(), u[1])
	if diff := cmp.Diff([]chat.Position{{ConversationID: c.ID, LastSeq: last}}, p); diff != "" || err != nil {
		t.Errorf("ListPositions: %v, (-want +got):\n%s", err, diff)
	}
	exec(t, s, `DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2`, c.ID, u[1])
	_, err = s.ReadLog(t.Context(), u[1], c.ID, 0, 10)
	wantError(t, err, chat.NotFound, "conversationId")
}

// Events that cannot be read, because the connection has ended meanwhile, are an error.
func TestCollectEventsFails(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for _, prepared := range []bool{false, true} {
		conn, err := s.Pool().Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if prepared {
			if _, err := store.CollectEvents(t.Context(), conn.Conn()); err != nil {
				t.Fatal(err)
			}
		}
		exec(t, s, fmt.Sprintf(`SELECT pg_terminate_backend(%d, 10000)`, conn.Conn().PgConn().PID()))
		if events, err := store.CollectEvents(t.Context(), conn.Conn()); err == nil {
			t.Errorf("prepared %v: got %d events", prepared, len(events))
		}
		if events, err := store.CollectEvents(t.Context(), conn.Conn()); err == nil { // it is known to be closed
			t.Errorf("prepared %v: got %d events", prepared, len(events))
		}
		conn.Release()
	}
}
