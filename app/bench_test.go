package app_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/bench"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
)

// The benchmarks run a whole server in this process over a private PostgreSQL
// with full durability, and load it over real sockets. Read the ratios of one
// run: server, database and load share the machine. docs/performance.md has the
// figures and how to get them.
//
//	go test -run '^$' -bench Messages -benchtime 50000x ./app

const (
	benchPairs = 50
	benchText  = 200
)

// server is one process for all sub-benchmarks of a benchmark.
type benchServer struct {
	app   *app.App
	pairs []bench.Room
}

func startBench(b *testing.B) *benchServer {
	b.Helper()
	dir, err := os.MkdirTemp("", "parley-bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := app.New(app.Options{
		DataDir: dir, MQTTAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", AdminAddr: os.Getenv("PARLEY_BENCH_ADMIN"),
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Identity: identity.Options{Passwords: identity.PasswordParams{MemoryKiB: 64, Passes: 1, Threads: 1}},
	})
	ctx := context.Background()
	if err := a.Start(ctx); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Stop(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return &benchServer{app: a, pairs: makePairs(b, a.Store(), benchPairs)}
}

// makePairs adds users with direct conversations and tokens.
func makePairs(b *testing.B, st *store.Store, n int) []bench.Room {
	b.Helper()
	ctx := context.Background()
	accounts, err := identity.New(identity.Options{Store: st, Passwords: identity.PasswordParams{MemoryKiB: 64, Passes: 1, Threads: 1}})
	if err != nil {
		b.Fatal(err)
	}
	pairs := make([]bench.Room, n)
	for i := range pairs {
		pairs[i].Tokens = make([]string, 2)
		var ids [2]chat.ID
		for side := range ids {
			name := fmt.Sprintf("user%d-%d", i, side)
			u, err := accounts.Register(ctx, identity.NewUser{Username: name, Password: "correct horse"})
			if err != nil {
				b.Fatal(err)
			}
			ids[side] = u.ID
			if pairs[i].Tokens[side], _, err = accounts.IssueToken(ctx, name, time.Hour); err != nil {
				b.Fatal(err)
			}
		}
		c, _, err := st.CreateConversation(ctx, chat.NewConversation{Kind: chat.Direct, Creator: ids[0], Users: ids[1:]}, time.Now())
		if err != nil {
			b.Fatal(err)
		}
		pairs[i].Conversation = c.ID.String()
	}
	return pairs
}

// BenchmarkMessages measures acknowledged and delivered messages: 100 connections
// in 50 direct conversations, 200-byte texts, each message stored, acknowledged,
// and delivered to both users. Beside it, on the same server, the database alone.
func BenchmarkMessages(b *testing.B) {
	s := startBench(b)
	for _, window := range []int{1, 16} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) { s.messages(b, window, 0) })
	}
	b.Run("steady=200", func(b *testing.B) {
		s.messages(b, 16, 200)
	})
	b.Run("postgres=batch", func(b *testing.B) { s.batches(b, 1, 100) })
	b.Run("postgres=batches", func(b *testing.B) { s.batches(b, 4, 1000) })
	b.Run("postgres=autocommit", func(b *testing.B) { s.autocommit(b) })
}

func (s *benchServer) messages(b *testing.B, window, rate int) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := b.N
	if rate > 0 {
		n = min(n, 20*rate) // 20 s of it
	}
	b.ReportAllocs()
	r, err := bench.Run(ctx, bench.Options{Addr: s.app.MQTTAddr(), Rooms: s.pairs, Window: window, Messages: n, Size: benchText, Plain: true, Rate: rate})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(r.Rate(), "msgs/s")
	b.ReportMetric(float64(r.Latencies.Quantile(0.5).Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(r.Latencies.Quantile(0.99).Microseconds())/1000, "p99-ms")
}

// batches stores messages by the server's own statement, with nothing around it:
// up to size at a time on so many connections.
func (s *benchServer) batches(b *testing.B, connections, size int) {
	ctx, stop := context.WithCancel(context.Background())
	committed := make(chan struct{}, b.N)
	w := store.NewWriter(s.app.Store().WriterConfig(), store.WriterOptions{
		Shards: connections, MaxBatch: size, Committed: func(context.Context, *chat.Event, int64) { committed <- struct{}{} },
	})
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	users, conversations := s.ids(b)
	b.ResetTimer()
	start := time.Now()
	go func() {
		for i := range b.N {
			id := chat.NewID()
			_ = w.Append(ctx, &chat.Append{MembersVersion: 1, Done: ignore{}, Event: chat.Event{
				ConversationID: conversations[i%len(conversations)], SenderID: users[i%len(users)], ID: id, ClientMsgID: id,
				Type: chat.EventMessage, Content: string(make200()),
			}})
		}
	}()
	for range b.N {
		<-committed
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "msgs/s")
	stop()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

type ignore struct{}

func (ignore) Committed(*chat.Append, error) {}

func make200() []byte {
	text := make([]byte, benchText)
	for i := range text {
		text[i] = 'a' + byte(i%26)
	}
	return text
}

// autocommit stores each message by a transaction of its own, from 16
// connections: what a straightforward server does.
func (s *benchServer) autocommit(b *testing.B) {
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(s.app.DSN())
	if err != nil {
		b.Fatal(err)
	}
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	users, conversations := s.ids(b)
	text := string(make200())
	work := make(chan int)
	errs := make(chan error, 16)
	b.ResetTimer()
	start := time.Now()
	for range 16 {
		go func() {
			var err error
			for i := range work {
				id := [16]byte(chat.NewID())
				if _, e := pool.Exec(ctx, `WITH c AS (UPDATE conversations SET last_seq = last_seq + 1, last_event_at = now() WHERE id = $1 RETURNING last_seq)
					INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content)
					SELECT $1, last_seq, $2, $3, $2, now(), 'message', $4 FROM c`, pgx.QueryExecModeCacheStatement,
					[16]byte(conversations[i%len(conversations)]), id, [16]byte(users[i%len(users)]), text); e != nil {
					err = e
				}
			}
			errs <- err
		}()
	}
	for i := range b.N {
		work <- i
	}
	close(work)
	for range 16 {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "msgs/s")
}

// ids returns users and conversations of the benchmark.
func (s *benchServer) ids(b *testing.B) (users, conversations []chat.ID) {
	b.Helper()
	for _, p := range s.pairs {
		conversations = append(conversations, chat.MustParseID(p.Conversation))
		users = append(users, chat.NewID()) // the statement does not look senders up
	}
	return users, conversations
}
