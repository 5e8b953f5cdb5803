package app_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/bench"
	"github.com/parleymq/parley/cluster/redistest"
	"github.com/parleymq/parley/identity"
)

// benchNodes is several nodes in this process, over one private PostgreSQL.
type benchNodes struct {
	nodes []*app.App
	pairs []bench.Room
	redis *redistest.Server // nil: one node alone
}

func startBenchNodes(b *testing.B, n int, alone bool) *benchNodes {
	b.Helper()
	s := &benchNodes{}
	if alone {
		one := startBench(b)
		return &benchNodes{nodes: []*app.App{one.app}, pairs: one.pairs}
	}
	s.redis = redistest.Start(b)
	dir, err := os.MkdirTemp("", "parley-bench")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	for i := range n {
		o := app.Options{
			DataDir: dir, RedisURL: s.redis.URL(), Node: fmt.Sprint("node-", i), MQTTAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0",
			Logger:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
			Identity: identity.Options{Passwords: identity.PasswordParams{MemoryKiB: 64, Passes: 1, Threads: 1}},
		}
		if i > 0 {
			o.DatabaseURL = s.nodes[0].DSN()
		}
		a := app.New(o)
		if err := a.Start(context.Background()); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := a.Stop(context.Background()); err != nil {
				b.Error(err)
			}
		})
		s.nodes = append(s.nodes, a)
	}
	s.pairs = makePairs(b, s.nodes[0].Store(), benchPairs)
	for _, a := range s.nodes {
		for a.Peers() < n-1 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return s
}

// BenchmarkNodes measures what several nodes cost: the same load as BenchmarkMessages,
// on one node alone, and on nodes that share the machine, where the two users of each
// conversation are at the same node, or at different ones. cpu-us/msg is this process:
// nodes and load together; PostgreSQL and Redis have theirs beside it.
//
//	go test -run '^$' -bench Nodes -benchtime 30000x ./app
func BenchmarkNodes(b *testing.B) {
	for _, c := range []struct {
		name  string
		nodes int
		alone bool
		apart bool
	}{{"alone", 1, true, false}, {"nodes=1", 1, false, false}, {"nodes=2/together", 2, false, false}, {"nodes=2/apart", 2, false, true}, {"nodes=3/together", 3, false, false}, {"nodes=3/apart", 3, false, true}} {
		for _, rate := range []int{0, 200} {
			name := fmt.Sprintf("%s/window=16", c.name)
			if rate > 0 {
				name = fmt.Sprintf("%s/steady=%d", c.name, rate)
			}
			b.Run(name, func(b *testing.B) {
				s := startBenchNodes(b, c.nodes, c.alone)
				s.run(b, c.apart, rate)
			})
		}
	}
}

func (s *benchNodes) run(b *testing.B, apart bool, rate int) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	n := b.N
	if rate > 0 {
		n = min(n, 10*rate)
	}
	sent, cpuBefore := s.traffic(b)
	began := cpuTime(b)
	b.ResetTimer()
	r, err := bench.Run(ctx, bench.Options{
		Rooms: s.pairs, Window: 16, Messages: n, Size: benchText, Plain: true, Rate: rate,
		AddrOf: func(pair, side int) string {
			if apart {
				pair += side
			}
			return s.nodes[pair%len(s.nodes)].MQTTAddr()
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	cpu := cpuTime(b) - began
	b.ReportMetric(r.Rate(), "msgs/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(r.Acked), "cpu-us/msg")
	b.ReportMetric(float64(r.Latencies.Quantile(0.5).Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(r.Latencies.Quantile(0.99).Microseconds())/1000, "p99-ms")
	if s.redis != nil {
		bytes, cpuAfter := s.traffic(b)
		b.ReportMetric((bytes-sent)/float64(r.Acked), "redis-B/msg")
		b.ReportMetric(1e6*(cpuAfter-cpuBefore)/float64(r.Acked), "redis-us/msg")
	}
}

// traffic returns the bytes that Redis has taken in, and the seconds of CPU that it has
// used.
func (s *benchNodes) traffic(b *testing.B) (bytes, cpu float64) {
	b.Helper()
	if s.redis == nil {
		return 0, 0
	}
	info := fmt.Sprint(s.redis.Do("INFO", "everything"))
	number := func(name string) float64 {
		m := regexp.MustCompile(`(?m)^` + name + `:([0-9.]+)`).FindStringSubmatch(info)
		if m == nil {
			b.Fatalf("Redis does not say %s", name)
		}
		f, _ := strconv.ParseFloat(m[1], 64)
		return f
	}
	return number("total_net_input_bytes"), number("used_cpu_sys") + number("used_cpu_user")
}

// BenchmarkHeal measures how long it takes until a message that has been lost on its
// way between nodes arrives all the same: Redis is killed, and 20 messages a second go
// from one node to the other.
func BenchmarkHeal(b *testing.B) {
	s := startBenchNodes(b, 2, false)
	s.redis.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	r, err := bench.Run(ctx, bench.Options{
		Rooms: s.pairs, Window: 16, Messages: min(max(b.N, 20), 600), Size: benchText, Plain: true, Rate: 20,
		AddrOf: func(_, side int) string { return s.nodes[side].MQTTAddr() },
	})
	if err != nil {
		b.Fatal(err)
	}
	for name, q := range map[string]float64{"p50-ms": 0.5, "p90-ms": 0.9, "p99-ms": 0.99, "max-ms": 1} {
		b.ReportMetric(float64(r.Latencies.Quantile(q).Microseconds())/1000, name)
	}
}
