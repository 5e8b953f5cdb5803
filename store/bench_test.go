package store_test

import (
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// A page of 50 at depth 100,000, from several readers.
func BenchmarkListMessages(b *testing.B) {
	s := storetest.New(b)
	u := users(b, s, 2)
	c := group(b, s, now, u...)
	last := post(b, s, c.ID, u[0], 100_000)
	for name, before := range map[string]int64{"newest": 0, "deep": last / 2} {
		b.Run(name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p, err := s.ListMessages(b.Context(), chat.MessageQuery{UserID: u[1], ConversationID: c.ID, Limit: 50, Before: before})
					if err != nil || len(p.Items) != 50 {
						b.Error(len(p.Items), err)
						return
					}
				}
			})
		})
	}
}

// Two hundred conversations, of which a page of 50 is listed.
func BenchmarkListConversations(b *testing.B) {
	s := storetest.New(b)
	u := users(b, s, 10)
	for range 200 {
		post(b, s, group(b, s, now, u...).ID, u[0], 20)
	}
	for b.Loop() {
		if p, err := s.ListConversations(b.Context(), u[1], chat.ConversationCursor{}, 50); err != nil || len(p.Items) != 50 {
			b.Fatal(len(p.Items), err)
		}
	}
}

// The roster of the largest group.
func BenchmarkGetRoster(b *testing.B) {
	s := storetest.New(b)
	exec(b, s, manyUsersSQL, chat.MaxGroupMembers)
	all := listIDs(b, s, `SELECT array_agg(id ORDER BY id) FROM users`)
	c := group(b, s, now, all...)
	for b.Loop() {
		if r, err := s.GetRoster(b.Context(), c.ID); err != nil || len(r.Members) != len(all) {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateLargestGroup(b *testing.B) {
	s := storetest.New(b)
	exec(b, s, manyUsersSQL, chat.MaxGroupMembers)
	all := listIDs(b, s, `SELECT array_agg(id ORDER BY id) FROM users`)
	for b.Loop() {
		group(b, s, now, all...)
	}
}

// What a start of the server costs when the schema is current.
func BenchmarkMigrateCurrentAndOpen(b *testing.B) {
	dsn := storetest.DSN(b)
	for b.Loop() {
		if _, _, err := store.Migrate(b.Context(), dsn, nil); err != nil {
			b.Fatal(err)
		}
		s, err := store.Open(b.Context(), store.Options{DSN: dsn})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
