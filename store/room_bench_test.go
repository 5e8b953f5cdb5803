package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// What things take on disk, indexes included, and in the write-ahead log: for the
// arithmetic of docs/scaling.md. Run it alone (-benchtime 1x): the log is the whole
// server's.
func BenchmarkRoom(b *testing.B) {
	const conversations, messages = 2_000, 100_000
	small := testing.Short()
	scale := func(n int) int {
		if small {
			return n / 100
		}
		return n
	}
	for b.Loop() {
		s := storetest.New(b)
		exec(b, s, manyUsersSQL, scale(20_000))
		all := listIDs(b, s, `SELECT array_agg(id ORDER BY id) FROM users`)
		var ids []chat.ID
		for i := range scale(conversations) {
			ids = append(ids, group(b, s, now, all[i%len(all)], all[(i+1)%len(all)]).ID)
		}
		for _, batch := range []int{1, 10, 100, 1000} {
			n := scale(messages) / 10 * min(10, batch)
			before, room := wal(b, s), size(b, s, "events")
			appendAll(b, s, ids, all, n, batch)
			b.ReportMetric(float64(wal(b, s)-before)/float64(n), fmt.Sprintf("WAL-B/message,batch=%d", batch))
			if batch == 100 {
				exec(b, s, `VACUUM events`)
				b.ReportMetric(float64(size(b, s, "events")-room)/float64(n), "events-B/message")
			}
		}
		count := func(table string) float64 {
			return float64(number(b, s, `SELECT count(*) FROM `+table))
		}
		indexAll(b, s, ids[:scale(100)], all, 4096)
		exec(b, s, `
INSERT INTO sessions (id, user_id, client_id, node, created_at, connected_at, expiry_seconds, expires_at, parted_at, subscriptions)
SELECT gen_random_uuid(), id, 'phone-' || id, 'parley-1', now(), now(), 604800, now() + interval '7 d', now(),
  '[{"text":"conv/+/messages","qos":1},{"text":"user/+/presence","qos":0},{"text":"conv/+/reads","qos":0}]' FROM users`)
		exec(b, s, `INSERT INTO session_cursors SELECT s.id, c.id, 100 FROM sessions s, (SELECT id FROM conversations ORDER BY id LIMIT 20) c`)
		exec(b, s, `
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq, read_seq, read_at)
SELECT c.id, u.id, 'member', now(), 1, 50, now() FROM users u, (SELECT gen_random_uuid() AS id FROM generate_series(1, 10)) c`)
		exec(b, s, `INSERT INTO reads SELECT p.conversation_id, p.user_id, 50 + i, now() FROM participants p, generate_series(1, 2) i`)
		exec(b, s, `INSERT INTO presences SELECT id, NULL, false, now() FROM users`)
		exec(b, s, `INSERT INTO reactions SELECT conversation_id, id, '👍', sender_id, now() FROM events WHERE type = 'message'`)
		for _, table := range []string{"users", "conversations", "participants", "sessions", "session_cursors", "reads", "reactions", "presences"} {
			b.ReportMetric(float64(size(b, s, table))/count(table), table+"-B/row")
		}
		b.Log("full_page_writes is", setting(b, s, `SHOW full_page_writes`))
	}
}

// indexAll indexes n more messages in each of some conversations, as they gather.
func indexAll(b *testing.B, s *store.Store, conversations, users []chat.ID, n int) {
	b.Helper()
	if err := store.Index(b.Context(), s); err != nil {
		b.Fatal(err)
	}
	before, total := size(b, s, "search_segments"), float64(len(conversations)*n)
	x, written := store.NewIndexer(s, store.IndexerOptions{}), int64(0)
	for range n / 64 {
		for _, c := range conversations {
			appendAll(b, s, []chat.ID{c}, users, 64, 64)
		}
		from := wal(b, s)
		for _, c := range conversations {
			if _, _, err := store.IndexStep(b.Context(), x, c); err != nil {
				b.Fatal(err)
			}
		}
		written += wal(b, s) - from
	}
	exec(b, s, `VACUUM FULL search_segments`)
	b.ReportMetric(float64(written)/total, "WAL-B/message,index")
	b.ReportMetric(float64(size(b, s, "search_segments")-before)/total, "index-B/message")
}

// appendAll stores n messages of 200 bytes in batches of that size.
func appendAll(b *testing.B, s *store.Store, conversations, users []chat.ID, n, batch int) {
	b.Helper()
	w := store.NewWriter(s.WriterConfig(), store.WriterOptions{
		Shards: 1, MaxBatch: batch, QueueLen: batch, Recheck: func(context.Context, *chat.Append) error { return nil },
		Committed: func(context.Context, *chat.Event, int64) {},
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }() // ends below
	var failed atomic.Int64
	for i := range n {
		id := chat.NewID()
		place := i % len(conversations)
		words := fmt.Sprintf("message %d says w%d w%d %s", i, i%977, i%89, strings.Repeat("of the usual length ", 10))
		a := &chat.Append{MembersVersion: 1, Done: counted{&failed}, Event: chat.Event{
			ConversationID: conversations[place], Type: chat.EventMessage, ID: id, ClientMsgID: chat.NewID(), SenderID: users[place%len(users)], Content: words[:200],
		}}
		if err := w.Append(b.Context(), a); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil || failed.Load() > 0 {
		b.Fatal(failed.Load(), err)
	}
}

type counted struct{ failed *atomic.Int64 }

func (c counted) Committed(_ *chat.Append, err error) {
	if err != nil {
		c.failed.Add(1)
	}
}

func wal(b *testing.B, s *store.Store) int64 {
	return number(b, s, `SELECT (pg_current_wal_insert_lsn() - '0/0')::int8`)
}

func size(b *testing.B, s *store.Store, table string) int64 {
	return number(b, s, `SELECT pg_total_relation_size('`+table+`')`)
}

func number(b testing.TB, s *store.Store, sql string) int64 {
	b.Helper()
	return one(b, s, sql, pgx.RowTo[int64])
}

func setting(b testing.TB, s *store.Store, sql string) string {
	b.Helper()
	return one(b, s, sql, pgx.RowTo[string])
}

func one[T any](b testing.TB, s *store.Store, sql string, scan pgx.RowToFunc[T]) T {
	b.Helper()
	rows, err := s.Pool().Query(b.Context(), sql)
	if err != nil {
		b.Fatal(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, scan)
	if err != nil {
		b.Fatal(err)
	}
	return v
}
