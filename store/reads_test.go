package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func move(conversation, user chat.ID, places ...int64) chat.ReadMove {
	return chat.ReadMove{ConversationID: conversation, UserID: user, Places: places}
}

func place(conversation, user chat.ID, end, read int64, at time.Time) chat.ReadPlace {
	return chat.ReadPlace{ConversationID: conversation, UserID: user, LastSeq: end, MembersVersion: 1, ReadSeq: read, At: at}
}

func by(user chat.ID, at time.Time) chat.ReadReceipt { return chat.ReadReceipt{UserID: user, At: at} }

// moveReads returns what MoveReads says, by conversation and user.
func moveReads(t testing.TB, s *store.Store, at time.Time, moves ...chat.ReadMove) map[[2]chat.ID]chat.ReadPlace {
	t.Helper()
	places, err := s.MoveReads(t.Context(), moves, at)
	if err != nil {
		t.Fatal(err)
	}
	found := map[[2]chat.ID]chat.ReadPlace{}
	for _, p := range places {
		found[[2]chat.ID{p.ConversationID, p.UserID}] = p
	}
	if len(found) != len(places) {
		t.Errorf("somebody is named twice: %v", places)
	}
	return found
}

func TestMoveReads(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	ann, bob, eve := u[0], u[1], u[2]
	one, two := group(t, s, now, ann, bob).ID, group(t, s, now, ann, bob).ID
	post(t, s, one, ann, 9) // to 10
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	for i, tt := range []struct {
		moves []chat.ReadMove
		want  []chat.ReadPlace
	}{
		{[]chat.ReadMove{move(one, bob, 4)}, []chat.ReadPlace{place(one, bob, 10, 4, at(0))}},
		{[]chat.ReadMove{move(one, bob, 4)}, []chat.ReadPlace{place(one, bob, 10, 0, time.Time{})}},
		{[]chat.ReadMove{move(one, bob, 3)}, []chat.ReadPlace{place(one, bob, 10, 0, time.Time{})}},
		// Beyond the end counts for nothing, and spoils nothing.
		{[]chat.ReadMove{move(one, bob, 11)}, []chat.ReadPlace{place(one, bob, 10, 0, time.Time{})}},
		{[]chat.ReadMove{move(one, bob, 1<<62, 6, 11, 5)}, []chat.ReadPlace{place(one, bob, 10, 6, at(4))}},
		{[]chat.ReadMove{move(one, ann, 10), move(two, bob, 1), move(one, bob, 7)}, []chat.ReadPlace{place(one, ann, 10, 10, at(5)), place(one, bob, 10, 7, at(5)), place(two, bob, 1, 1, at(5))}},
		// Who is no participant is not in the answer.
		{[]chat.ReadMove{move(one, eve, 1), move(chat.NewID(), bob, 1), move(two, ann, 2)}, []chat.ReadPlace{place(two, ann, 1, 0, time.Time{})}},
		{nil, nil},
	} {
		want := map[[2]chat.ID]chat.ReadPlace{}
		for _, p := range tt.want {
			want[[2]chat.ID{p.ConversationID, p.UserID}] = p
		}
		if diff := cmp.Diff(want, moveReads(t, s, at(i), tt.moves...)); diff != "" {
			t.Errorf("move %d (-want +got):\n%s", i, diff)
		}
	}
	// The clock of another node is behind.
	if got := moveReads(t, s, at(-60), move(one, bob, 8))[[2]chat.ID{one, bob}]; !got.At.Equal(at(5)) {
		t.Errorf("read at %v, after %v", got.At, at(5))
	}
	var moves []string
	rows, err := s.Pool().Query(t.Context(), `SELECT seq || ' at ' || to_char(at AT TIME ZONE 'UTC', 'HH24:MI') FROM reads WHERE conversation_id = $1 AND user_id = $2 ORDER BY seq`, one, bob)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var m string
		if err := rows.Scan(&m); err != nil {
			t.Fatal(err)
		}
		moves = append(moves, m)
	}
	if want := []string{"4 at 05:06", "6 at 05:10", "7 at 05:11", "8 at 05:11"}; !slices.Equal(moves, want) {
		t.Errorf("moves %v, want %v", moves, want)
	}
	storetest.Check(t, s)

	// Who left and came back may read again what they had read.
	exec(t, s, `UPDATE participants SET read_seq = 0, read_at = NULL WHERE conversation_id = $1 AND user_id = $2`, one, bob)
	if got := moveReads(t, s, at(60), move(one, bob, 6))[[2]chat.ID{one, bob}]; got.ReadSeq != 6 {
		t.Errorf("read again: %+v", got)
	}
	s.Close()
	_, err = s.MoveReads(t.Context(), []chat.ReadMove{move(one, bob, 9)}, now)
	wantError(t, err, chat.Unavailable, "")
}

// Moves of many at once, in any order, never wait for each other in a circle, and
// go forward only.
func TestMoveReadsRaces(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 10)
	var convs []chat.ID
	for range 10 {
		c := group(t, s, now, u...).ID
		post(t, s, c, u[0], 99)
		convs = append(convs, c)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			for range 30 {
				moves := map[[2]chat.ID]int64{}
				for range 30 {
					moves[[2]chat.ID{convs[r.IntN(10)], u[r.IntN(10)]}] = 1 + r.Int64N(100)
				}
				var reads []chat.ReadMove
				var delivered []chat.DeliveredMove
				for key, seq := range moves {
					reads = append(reads, move(key[0], key[1], seq))
					delivered = append(delivered, chat.DeliveredMove{ConversationID: key[0], UserID: key[1], UpTo: seq})
				}
				places, err := s.MoveReads(t.Context(), reads, now)
				if err != nil {
					t.Error(err)
				}
				for _, p := range places {
					if asked := moves[[2]chat.ID{p.ConversationID, p.UserID}]; !p.At.IsZero() && p.ReadSeq != asked {
						t.Errorf("moved to %d, asked for %d", p.ReadSeq, asked)
					}
				}
				if _, err := s.MoveDelivered(t.Context(), delivered, now); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	storetest.Check(t, s)
}

func TestLocateMessages(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	mine, later, other := group(t, s, now, u[0], u[1]).ID, group(t, s, now, u[0], u[1]).ID, group(t, s, now, u[0], u[2]).ID
	var ids []chat.ID
	var want []chat.Event
	for _, c := range []chat.ID{mine, later, other} {
		post(t, s, c, u[0], 3) // 2, 3, 4
		for _, e := range log(t, s, u[0], c) {
			ids = append(ids, e.ID)
			if e.Seq > 1 && c == mine || e.Seq > 2 && c == later {
				want = append(want, chat.Event{ID: e.ID, ConversationID: c, Seq: e.Seq})
			}
		}
	}
	exec(t, s, `UPDATE participants SET joined_seq = 3 WHERE conversation_id = $1 AND user_id = $2`, later, u[1])
	ids = append(ids, chat.NewID(), chat.ID{})
	got, err := s.LocateMessages(t.Context(), u[1], ids)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b chat.Event) int {
		return slices.IndexFunc(ids, func(id chat.ID) bool { return id == a.ID }) - slices.IndexFunc(ids, func(id chat.ID) bool { return id == b.ID })
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got, err := s.LocateMessages(t.Context(), u[1], nil); len(got) != 0 || err != nil {
		t.Errorf("of none: %v, %v", got, err)
	}
}

func TestReceipts(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 6)
	c := group(t, s, now, u...).ID
	post(t, s, c, u[0], 9) // 2 … 10
	at := func(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }
	moveReads(t, s, at(1), move(c, u[0], 10)) // the sender
	moveReads(t, s, at(2), move(c, u[2], 5))
	moveReads(t, s, at(3), move(c, u[1], 7))
	moveReads(t, s, at(4), move(c, u[2], 10))
	moveReads(t, s, at(5), move(c, u[3], 10)) // joins later, below
	exec(t, s, `UPDATE participants SET joined_seq = 6 WHERE conversation_id = $1 AND user_id = $2`, c, u[3])
	delivered := func(user chat.ID, upTo int64, want int) {
		t.Helper()
		places, err := s.MoveDelivered(t.Context(), []chat.DeliveredMove{{ConversationID: c, UserID: user, UpTo: upTo}, {ConversationID: chat.NewID(), UserID: user, UpTo: upTo}}, now)
		if err != nil || len(places) != want || want > 0 && places[0] != (chat.DeliveredPlace{DeliveredMove: chat.DeliveredMove{ConversationID: c, UserID: user, UpTo: upTo}, MembersVersion: 1}) {
			t.Errorf("MoveDelivered to %d = %v, %v, want %d", upTo, places, err, want)
		}
	}
	delivered(u[4], 6, 1)
	delivered(u[4], 6, 0)
	delivered(u[4], 5, 0)
	delivered(u[1], 3, 1)
	delivered(u[4], 7, 1)
	delivered(chat.NewID(), 3, 0)

	want := func(seq int64, read []chat.ReadReceipt, to ...chat.ID) {
		t.Helper()
		got, err := s.GetReceipts(t.Context(), u[0], &chat.Event{ConversationID: c, Seq: seq, SenderID: u[0]})
		if err != nil {
			t.Fatal(err)
		}
		w := &chat.Receipts{ReadBy: read, ReadCount: len(read), DeliveredTo: to, DeliveredCount: len(to)}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Errorf("of %d (-want +got):\n%s", seq, diff)
		}
	}
	want(5, []chat.ReadReceipt{by(u[2], at(2)), by(u[1], at(3))}, u[1], u[2], u[4])
	want(7, []chat.ReadReceipt{by(u[1], at(3)), by(u[2], at(4)), by(u[3], at(5))}, u[1], u[2], u[3], u[4])
	want(8, []chat.ReadReceipt{by(u[2], at(4)), by(u[3], at(5))}, u[2], u[3])
	exec(t, s, `UPDATE participants SET read_seq = 9 WHERE conversation_id = $1 AND user_id = $2`, c, u[5]) // who may see what was before them, and has not read it
	want(8, []chat.ReadReceipt{by(u[2], at(4)), by(u[3], at(5))}, u[2], u[3])
	storetest.Check(t, s)
}

// Whoever has blocked the other one of a direct conversation shows them nothing
// more, and is shown nothing.
func TestReceiptsOfTheBlocked(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	d, _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: u[0], Users: u[1:]}, now)
	if err != nil {
		t.Fatal(err)
	}
	g := group(t, s, now, u...)
	for _, c := range []chat.ID{d.ID, g.ID} {
		post(t, s, c, u[0], 1)
		moveReads(t, s, now, move(c, u[1], 2))
	}
	count := func(user, conversation chat.ID, want int) {
		t.Helper()
		r, err := s.GetReceipts(t.Context(), user, &chat.Event{ConversationID: conversation, Seq: 2, SenderID: u[0]})
		if err != nil || r.ReadCount != want || r.DeliveredCount != want {
			t.Errorf("GetReceipts = %+v, %v, want %d", r, err, want)
		}
	}
	count(u[0], d.ID, 1)
	for i := range 2 {
		exec(t, s, `DELETE FROM blocks`)
		exec(t, s, `INSERT INTO blocks VALUES ($1, $2, now())`, u[i], u[1-i])
		count(u[0], d.ID, 0)
		count(u[1], d.ID, 1) // one's own
		count(u[0], g.ID, 1)
	}
}

// history is a conversation as a naive reader would keep it.
type history struct {
	senders []chat.ID // of each event, from seq 1; zero: no message
	deleted map[int64]bool
	joined  map[chat.ID]int64
	read    map[chat.ID]int64
}

func (h *history) unread(user chat.ID) (n int64) {
	for i, sender := range h.senders {
		seq := int64(i + 1)
		if !sender.IsZero() && sender != user && !h.deleted[seq] && seq > h.read[user] && seq >= h.joined[user] {
			n++
		}
	}
	return n
}

// What is unread never drifts from what somebody would find who counts, whatever is
// sent, deleted, joined and read, by several devices at once and over and over.
func TestUnreadNeverDrifts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			unreadHistory(t, rand.New(rand.NewPCG(seed, 7)))
		})
	}
}

func unreadHistory(t *testing.T, r *rand.Rand) {
	s := storetest.New(t)
	u := users(t, s, 4)
	c := group(t, s, now, u[:2]...).ID
	h := &history{senders: make([]chat.ID, 1), deleted: map[int64]bool{}, joined: map[chat.ID]int64{u[0]: 1, u[1]: 1}, read: map[chat.ID]int64{}}
	send := func(sender chat.ID, n int) {
		post(t, s, c, sender, n)
		for range n {
			h.senders = append(h.senders, sender)
		}
	}
	if r.IntN(2) == 0 { // so many that they are not counted one by one
		send(u[0], 600)
		send(u[1], 900)
	}
	check := func(step int) {
		t.Helper()
		for user := range h.joined {
			got, err := s.GetConversation(t.Context(), user, c)
			if err != nil {
				t.Fatal(err)
			}
			if want := h.unread(user); got.UnreadCount != want {
				t.Fatalf("step %d: %d unread, want %d", step, got.UnreadCount, want)
			}
			page, err := s.ListConversations(t.Context(), user, chat.ConversationCursor{}, 10)
			if err != nil || len(page.Items) != 1 || page.Items[0].UnreadCount != got.UnreadCount {
				t.Fatalf("step %d: in the list %+v, %v", step, page, err)
			}
		}
	}
	for step := range 60 {
		members := slices.Collect(func(yield func(chat.ID) bool) {
			for _, id := range u {
				if h.joined[id] > 0 && !yield(id) {
					return
				}
			}
		})
		last := int64(len(h.senders))
		switch r.IntN(9) {
		case 8: // something that is no message
			exec(t, s, `
WITH c AS (UPDATE conversations SET last_seq = last_seq + 1, last_xid = pg_current_xact_id() WHERE id = $1 RETURNING last_seq, last_event_at)
INSERT INTO events (conversation_id, seq, id, sender_id, created_at, type, client_msg_id)
SELECT $1, last_seq, gen_random_uuid(), $2, last_event_at, 'edit', CASE WHEN $3 THEN gen_random_uuid() END FROM c`, c, members[r.IntN(len(members))], r.IntN(2) == 0)
			h.senders = append(h.senders, chat.ID{})
		case 0: // somebody joins
			for _, id := range u {
				if h.joined[id] == 0 {
					exec(t, s, `INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq) VALUES ($1, $2, 'member', $3, $4)`, c, id, now, last+1)
					h.joined[id] = last + 1
					break
				}
			}
		case 1: // something is deleted
			if seq := 1 + r.Int64N(last); !h.senders[seq-1].IsZero() {
				exec(t, s, `UPDATE events SET deleted_at = $3, content = '' WHERE conversation_id = $1 AND seq = $2`, c, seq, now)
				h.deleted[seq] = true
			}
		case 2, 3, 4:
			send(members[r.IntN(len(members))], 1+r.IntN(5))
		default: // devices of everybody read, at once, some of them nonsense
			var wg sync.WaitGroup
			for _, id := range members {
				highest := h.read[id]
				for range 1 + r.IntN(3) {
					to := 1 + r.Int64N(last+2)
					if to <= last {
						highest = max(highest, to)
					}
					wg.Go(func() {
						if _, err := s.MoveReads(t.Context(), []chat.ReadMove{move(c, id, to)}, now); err != nil && !errors.Is(err, chat.Unavailable) {
							t.Error(err)
						}
					})
				}
				h.read[id] = highest
			}
			wg.Wait()
		}
		check(step)
	}
	storetest.Check(t, s)
}
