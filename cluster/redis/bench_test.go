package redis_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster/redistest"
)

// A frame of 400 bytes from one link to another: one at a time (each waits for the one
// before), and as many as the queue takes. cpu-us/frame is of this process, both links
// together, without Redis; redis-us/frame is of Redis.
func BenchmarkFrames(b *testing.B) {
	for _, kind := range []string{"single", "cluster"} {
		for _, window := range []int{1, 16, 4096} {
			b.Run(fmt.Sprintf("%s/window=%d", kind, window), func(b *testing.B) {
				var url string
				var servers []*redistest.Server
				if kind == "single" {
					servers = []*redistest.Server{redistest.Start(b)}
					url = servers[0].URL()
				} else {
					c := redistest.StartCluster(b, 3, false)
					servers, url = c.Masters, c.URL()
				}
				var got atomic.Int64
				arrived := make(chan struct{}, 1)
				a := start(b, url, "a", calm)
				z := startWith(b, url, "z", func(string, []byte) {
					got.Add(1)
					select {
					case arrived <- struct{}{}:
					default:
					}
				}, calm)
				whole(b, a, z)
				frame := make([]byte, 400)
				cpu, there := cpuTime(), redisTime(servers)
				b.ResetTimer()
				for i := range int64(b.N) {
					for i-got.Load() >= int64(window) {
						<-arrived
					}
					if !a.Send("z", frame) {
						b.Fatal("Send = false")
					}
				}
				for got.Load() < int64(b.N) {
					<-arrived
				}
				b.StopTimer()
				n := float64(b.N)
				b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/n, "cpu-us/frame")
				b.ReportMetric(float64((redisTime(servers)-there).Microseconds())/n, "redis-us/frame")
				b.ReportMetric(n/b.Elapsed().Seconds(), "frames/s")
				b.ReportMetric(n/max(a.value(b, "parley_redis_messages_total"), 1), "frames/message")
			})
		}
	}
}

// Where 1 and 1,000 users are, with 4 askers at a time.
func BenchmarkLocate(b *testing.B) {
	s := redistest.Start(b)
	a := start(b, s.URL(), "a", calm)
	users := make([]chat.ID, 1000)
	for i := range users {
		users[i] = chat.NewID()
		a.Register(users[i])
	}
	redistest.Await(b, "everybody", func() bool {
		found, err := a.Locate(b.Context(), users)
		for _, ids := range found {
			if err != nil || len(ids) == 0 {
				return false
			}
		}
		return err == nil
	})
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("users=%d", n), func(b *testing.B) {
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range 4 {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := a.Locate(b.Context(), users[:n]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkRegister registers 100,000 users, and reports what Redis takes for each.
func BenchmarkRegister(b *testing.B) {
	const users = 100_000
	for b.Loop() {
		s := redistest.Start(b)
		before := redisMemory(b, s)
		a := start(b, s.URL(), "0123456789abcdef", calm)
		redistest.Await(b, "the link", a.Healthy)
		began := time.Now()
		for range users {
			a.Register(chat.NewID())
		}
		redistest.Await(b, "everybody", func() bool { return a.value(b, "parley_redis_registry_total", "register") >= users })
		b.ReportMetric(users/time.Since(began).Seconds(), "users/s")
		b.ReportMetric((redisMemory(b, s)-before)/users, "bytes/user")
		b.ReportMetric(float64(redisTime([]*redistest.Server{s}).Microseconds())/users, "redis-us/user")
		a.stop()
		s.Kill()
	}
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// redisTime is what the servers have used.
func redisTime(servers []*redistest.Server) (sum time.Duration) {
	for _, s := range servers {
		for line := range strings.Lines(s.Do("INFO", "cpu").(string)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			if name == "used_cpu_sys" || name == "used_cpu_user" {
				d, _ := time.ParseDuration(value + "s")
				sum += d
			}
		}
	}
	return sum
}

func redisMemory(b *testing.B, s *redistest.Server) float64 {
	b.Helper()
	var n float64
	for line := range strings.Lines(s.Do("INFO", "memory").(string)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			n, _ = strconv.ParseFloat(v, 64)
		}
	}
	if n == 0 {
		fmt.Fprintln(os.Stderr, "Redis does not say how much memory it uses")
	}
	return n
}
