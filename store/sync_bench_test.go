package store_test

import (
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/storetest"
)

// A user with a thousand conversations: nothing new, ten new events, ten thousand that
// were missed, in pages of 500, and everything from the beginning.
func BenchmarkSync(b *testing.B) {
	const conversations = 1000
	s := storetest.New(b)
	u := users(b, s, 51)
	convs := make([]chat.ID, conversations)
	for i := range convs {
		convs[i] = group(b, s, now, u[50], u[i%50]).ID
		post(b, s, convs[i], u[50], 100)
	}
	exec(b, s, `VACUUM ANALYZE`)
	me := u[50]
	begin := func(b *testing.B) *syncer {
		p, err := s.Sync(b.Context(), chat.SyncQuery{UserID: me, Now: true, Limit: 1})
		if err != nil {
			b.Fatal(err)
		}
		return &syncer{s: s, user: me, cursor: p.Next}
	}
	measure := func(name string, events, each, limit int) {
		b.Run(name, func(b *testing.B) {
			c := begin(b)
			for b.Loop() {
				b.StopTimer()
				for i := range events / max(each, 1) {
					post(b, s, convs[i%conversations], u[0], each)
				}
				b.StartTimer()
				if got := c.run(b, limit); len(got) != events {
					b.Fatalf("%d items, want %d", len(got), events)
				}
			}
		})
	}
	measure("nothing", 0, 0, 100)
	measure("10", 10, 1, 100)
	measure("10000 of 100", 10_000, 100, 500)
	measure("10000 of 1", 10_000, 10_000, 500)
	b.Run("groups of 50, nothing", func(b *testing.B) {
		exec(b, s, `
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq)
SELECT c.id, u.id, 'member', now(), 1 FROM conversations c, users u ON CONFLICT DO NOTHING`)
		exec(b, s, `VACUUM ANALYZE`)
		c := begin(b)
		for b.Loop() {
			c.run(b, 100)
		}
	})
	b.Run("beginning", func(b *testing.B) {
		for b.Loop() {
			c := &syncer{s: s, user: me}
			if _, err := c.page(b.Context(), 500); err != nil {
				b.Fatal(err)
			}
		}
	})
}
