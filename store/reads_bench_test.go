package store_test

import (
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/storetest"
)

// Who has read a message of the largest group, which all but its sender have.
func BenchmarkReceipts(b *testing.B) {
	s := storetest.New(b)
	exec(b, s, manyUsersSQL, chat.MaxGroupMembers)
	all := listIDs(b, s, `SELECT array_agg(id ORDER BY id) FROM users`)
	c := group(b, s, now, all...).ID
	post(b, s, c, all[0], 3)
	for seq := range int64(3) {
		var moves []chat.ReadMove
		for _, id := range all {
			moves = append(moves, move(c, id, 2+seq))
		}
		start := time.Now()
		moveReads(b, s, now, moves...)
		b.Logf("%d moves in one transaction: %v", len(moves), time.Since(start))
	}
	message := &chat.Event{ConversationID: c, Seq: 2, SenderID: all[0]}
	for b.Loop() {
		if r, err := s.GetReceipts(b.Context(), all[1], message); err != nil || r.ReadCount != len(all)-1 || r.DeliveredCount != len(all)-1 || len(r.ReadBy) != chat.MaxListedReceipts {
			b.Fatal(r, err)
		}
	}
}

// A thousand moves in a thousand conversations, as one transaction of many readers.
func BenchmarkMoveReads(b *testing.B) {
	s := storetest.New(b)
	u := users(b, s, 2)
	var convs []chat.ID
	for range 1000 {
		c := group(b, s, now, u...).ID
		post(b, s, c, u[0], 1000)
		convs = append(convs, c)
	}
	seq := int64(0)
	for b.Loop() {
		seq++
		moves := make([]chat.ReadMove, len(convs))
		for i, c := range convs {
			moves[i] = move(c, u[1], seq)
		}
		if places, err := s.MoveReads(b.Context(), moves, now); err != nil || len(places) != len(convs) {
			b.Fatal(err)
		}
	}
}

// A page of 20 conversations with 10,000 unread messages each. With 50 of 100,000 each
// it took 24 ms, and 7.8 s when each message was looked at.
func BenchmarkListUnread(b *testing.B) {
	const unread = 10_000
	s := storetest.New(b)
	u := users(b, s, 3)
	for range 20 {
		c := group(b, s, now, u...).ID
		post(b, s, c, u[0], unread/2)
		post(b, s, c, u[2], unread/2)
	}
	exec(b, s, `VACUUM ANALYZE events`)
	for b.Loop() {
		if p, err := s.ListConversations(b.Context(), u[1], chat.ConversationCursor{}, 50); err != nil || p.Items[0].UnreadCount != unread {
			b.Fatal(err)
		}
	}
}
