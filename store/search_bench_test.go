package store_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// BenchmarkSearch measures searches by a user with 200 of 1,000 conversations of 1,000
// messages each (100 under -short), 30 words a message from a vocabulary as texts have it
// (Zipf), all conversations equally busy: the worst case, because no search may stop at
// the newest conversations. docs/performance.md has the figures.
//
//	go test -run '^$' -bench Search -benchtime 200x -timeout 1h ./store
func BenchmarkSearch(b *testing.B) {
	conversations, each, mine := 1000, 1000, 200
	if testing.Short() {
		conversations, each, mine = 50, 100, 20
	}
	s := storetest.New(b)
	rnd := rand.New(rand.NewPCG(1, 2))
	u := users(b, s, 101)
	first := fillForSearch(b, s, rnd, u, conversations, each, mine)
	start := time.Now()
	index(b, s)
	took := time.Since(start)
	n := float64(conversations * each)
	segments, events := size(b, s, "search_segments"), size(b, s, "events")
	b.Run("index", func(b *testing.B) {
		for b.Loop() { // made already, above
		}
		b.ReportMetric(n/took.Seconds(), "msgs/s")
		b.ReportMetric(float64(segments)/n, "index-bytes/msg")
		b.ReportMetric(float64(events)/n, "log-bytes/msg")
	})
	exec(b, s, `ANALYZE`)
	for _, tt := range []struct {
		name string
		q    chat.MessageSearch
	}{
		{"common", chat.MessageSearch{Text: `"w0"`}},
		{"usual", chat.MessageSearch{Text: `"w50"`}},
		{"rare", chat.MessageSearch{Text: `"w9000"`}},
		{"none", chat.MessageSearch{Text: "nowhere"}},
		{"prefix", chat.MessageSearch{Text: "w12"}},
		{"letter", chat.MessageSearch{Text: "w"}},
		{"three words", chat.MessageSearch{Text: "w3 w17 w80"}},
		{"phrase", chat.MessageSearch{Text: `"w0 w1"`}},
		{"one conversation", chat.MessageSearch{Text: "w50", ConversationID: first}},
		{"by rank", chat.MessageSearch{Text: `"w50"`, ByRank: true}},
		{"common by rank", chat.MessageSearch{Text: `"w0"`, ByRank: true}},
	} {
		b.Run(strings.ReplaceAll(tt.name, " ", "-"), func(b *testing.B) {
			tt.q.UserID, tt.q.Limit = u[0], 50
			var all []time.Duration
			found := 0
			for b.Loop() {
				start := time.Now()
				p, err := s.SearchMessages(b.Context(), tt.q)
				if err != nil {
					b.Fatal(err)
				}
				all, found = append(all, time.Since(start)), len(p.Items)
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
			b.ReportMetric(float64(found), "found")
		})
	}
}

// fillForSearch makes conversations of 100 users each, the first user in some of them.
func fillForSearch(b *testing.B, s *store.Store, rnd *rand.Rand, u []chat.ID, conversations, each, mine int) chat.ID {
	b.Helper()
	zipf := func() int { return int(math.Pow(20_000, rnd.Float64())) - 1 } // each word as often as all of ten times its number
	var ids []chat.ID
	for i := range conversations {
		members := u[1:]
		if i%(conversations/mine) == 0 {
			members = append([]chat.ID{u[0]}, u[1:100]...)
		}
		ids = append(ids, group(b, s, now, members...).ID)
	}
	// In the order of time, as in life: neighbours on disk are not of one conversation.
	var text bytes.Buffer
	const chunk = 50
	for from := 0; from < each; from += chunk {
		rows := make([][]any, 0, chunk*conversations)
		for seq := from; seq < from+chunk; seq++ {
			at := now.Add(time.Duration(seq+1) * time.Minute)
			for i, c := range ids {
				text.Reset()
				for range 30 {
					fmt.Fprintf(&text, "w%d ", zipf())
				}
				rows = append(rows, []any{c, int64(seq + 2), chat.NewID(), u[1+rnd.IntN(99)], chat.NewID(), at.Add(time.Duration(i) * time.Millisecond), "message", text.String()})
			}
		}
		columns := []string{"conversation_id", "seq", "id", "sender_id", "client_msg_id", "created_at", "type", "content"}
		if _, err := s.Pool().CopyFrom(b.Context(), pgx.Identifier{"events"}, columns, pgx.CopyFromRows(rows)); err != nil {
			b.Fatal(err)
		}
	}
	exec(b, s, `UPDATE conversations c SET last_seq = e.seq, last_event_at = e.created_at FROM events e WHERE e.conversation_id = c.id AND e.seq = $1`, each+1)
	return ids[0]
}
