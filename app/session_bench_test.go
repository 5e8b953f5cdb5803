package app_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/bench"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/identity"
)

// memory returns what the heap holds after a collection, and what the process
// occupies, in bytes.
func memory() (heap, rss uint64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, _ := os.ReadFile("/proc/self/status") // nothing elsewhere than on Linux
	if _, after, ok := strings.Cut(string(status), "VmRSS:"); ok {
		kib, _ := strconv.ParseUint(strings.Fields(after)[0], 10, 64)
		rss = kib << 10
	}
	return m.HeapAlloc, rss
}

// sized returns the size that a figure is taken with, or with -short, which is how
// make test runs every benchmark once, one that only shows that it works.
func sized(full, short int) int {
	if testing.Short() {
		return short
	}
	return full
}

// makeAway stores, in groups of groupSize, users with so many sessions each that
// are away and subscribe to everything, and have missed so many messages. User i
// is called away<i>, and its sessions 0, 1, …
func makeAway(tb testing.TB, dsn string, users, groupSize, sessions, missed int) {
	tb.Helper()
	values := strings.NewReplacer("@users", strconv.Itoa(users), "@size", strconv.Itoa(groupSize), "@sessions", strconv.Itoa(sessions), "@missed", strconv.Itoa(missed))
	ctx := context.Background()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close(ctx)
	tx, err := c.Begin(ctx) // so that now() is one moment
	if err != nil {
		tb.Fatal(err)
	}
	for _, text := range []string{`
CREATE TEMP TABLE a AS SELECT i, gen_random_uuid() AS id, i / @size AS g FROM generate_series(0, @users - 1) AS i`, `
CREATE TEMP TABLE g AS SELECT g, gen_random_uuid() AS id FROM generate_series(0, (@users - 1) / @size) AS g`, `
INSERT INTO users (id, username, display_name, password_hash, created_at) SELECT id, 'away' || i, '', 'x', now() FROM a`, `
INSERT INTO conversations (id, kind, title, created_by, created_at, last_seq, last_event_at)
SELECT g.id, 'group', 'away', a.id, now(), @missed + 1, now() FROM g JOIN a ON a.i = g.g * @size`, `
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq)
SELECT g.id, a.id, CASE WHEN a.i % @size = 0 THEN 'owner' ELSE 'member' END, now(), 1 FROM a JOIN g ON g.g = a.g`, `
INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content)
SELECT g.id, n, gen_random_uuid(), a.id, gen_random_uuid(), now(), 'message', repeat('x', 200)
FROM g JOIN a ON a.i = g.g * @size CROSS JOIN generate_series(1, @missed + 1) AS n`, `
CREATE TEMP TABLE s AS SELECT gen_random_uuid() AS id, a.id AS user_id, n, g.id AS conversation_id
FROM a JOIN g ON g.g = a.g CROSS JOIN generate_series(0, @sessions - 1) AS n`, `
INSERT INTO sessions (id, user_id, client_id, node, created_at, connected_at, expiry_seconds, expires_at, subscriptions)
SELECT id, user_id, n::text, 'parley', now(), now(), 864000, now() + interval '10 days', '[{"filter":"conv/+/messages","qos":1}]' FROM s`, `
INSERT INTO session_cursors SELECT id, conversation_id, 1 FROM s`, `DROP TABLE a, g, s`, `ANALYZE`} {
		if _, err := tx.Exec(ctx, values.Replace(text)); err != nil {
			tb.Fatalf("%s: %v", text, err)
		}
	}
	if err := tx.Commit(ctx); err != nil {
		tb.Fatal(err)
	}
}

// Sessions that are away cost rows and nothing else: what the live path does, and
// what the process occupies, with and without 100,000 of them that have missed
// 1,000 messages each.
//
//	go test -run '^$' -bench SessionsAway -benchtime 1x -timeout 20m ./app
func BenchmarkSessionsAway(b *testing.B) {
	s := startBench(b)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, s.app.DSN())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	live := func(what string, messages, window, rate int) {
		r, err := bench.Run(ctx, bench.Options{Addr: s.app.MQTTAddr(), Rooms: s.pairs, Window: window, Messages: messages, Size: benchText, Plain: true, Rate: rate})
		if err != nil {
			b.Fatal(err)
		}
		heap, rss := memory()
		b.Logf("%-32s window %2d rate %3d: %6.0f msgs/s, p50 %.2f ms, p99 %.2f ms; heap %.1f MiB, RSS %.1f MiB", what, window, rate,
			r.Rate(), float64(r.Latencies.Quantile(0.5).Microseconds())/1000, float64(r.Latencies.Quantile(0.99).Microseconds())/1000,
			float64(heap)/(1<<20), float64(rss)/(1<<20))
	}
	for range b.N {
		settle := func(more ...string) { // what much writing leaves the database to do is not measured
			for _, text := range append(more, "VACUUM ANALYZE", "CHECKPOINT") {
				if _, err := c.Exec(ctx, text); err != nil {
					b.Fatalf("%s: %v", text, err)
				}
			}
		}
		measure := func(what string) {
			for range 2 {
				live(what, sized(40_000, 500), 16, 0)
			}
			live(what, sized(2_000, 50), 16, 200)
		}
		if _, err := bench.Run(ctx, bench.Options{Addr: s.app.MQTTAddr(), Rooms: s.pairs, Window: 16, Messages: sized(40_000, 500), Size: benchText, Plain: true}); err != nil {
			b.Fatal(err)
		}
		settle()
		measure("before")
		start := time.Now()
		users, sessions, missed := sized(1000, 10), 100, sized(1000, 10)
		makeAway(b, s.app.DSN(), users, min(users, 100), sessions, missed)
		settle()
		b.Logf("%d sessions × %d messages stored in %v", users*sessions, missed, time.Since(start).Round(time.Second))
		measure(fmt.Sprintf("with %d sessions away", users*sessions))
		settle("DELETE FROM sessions")
		measure("without them again")
	}
}

// lean is an MQTT client that costs little: it counts the events of one session
// and acknowledges them.
type lean struct {
	addr, token, clientID string
}

var errRefused = errors.New("refused")

// connect makes a connection of the session, which must be there.
func (l lean) connect() (net.Conn, *bufio.Reader, error) {
	c, err := net.DialTimeout("tcp", l.addr, brokertest.Patience)
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
	if _, err := c.Write(leanConnect(l.clientID, l.token)); err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	r := bufio.NewReaderSize(c, 2048)
	kind, body, err := leanPacket(r, nil)
	switch {
	case err != nil:
	case kind>>4 != packets.Connack || body[1] != 0:
		err = fmt.Errorf("%w: % x % x", errRefused, kind, body[:min(len(body), 8)])
	case body[0] != 1:
		err = errors.New("the session was not there")
	}
	if err != nil {
		_ = c.Close()
	}
	return c, r, err
}

// leanConnect is a CONNECT of MQTT 5 for a session that is kept.
func leanConnect(clientID, token string) []byte {
	var body []byte
	text := func(s string) { body = append(append(body, byte(len(s)>>8), byte(len(s))), s...) }
	text("MQTT")
	body = append(body, 5, 0x40, 0, 60, 5, 0x11, 0, 1, 0, 0) // password; keepalive 60 s; session expiry 65,536 s
	text(clientID)
	text(token)
	n := len(body)
	return append([]byte{packets.Connect << 4, byte(n)&0x7f | 0x80, byte(n >> 7)}, body...)
}

// leanPacket reads a packet into buf, as far as that is large enough.
func leanPacket(r *bufio.Reader, buf []byte) (kind byte, body []byte, err error) {
	if kind, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	length, shift := 0, 0
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, nil, err
		}
		length |= int(b&0x7f) << shift
		if shift += 7; b&0x80 == 0 {
			break
		}
	}
	if cap(buf) < length {
		buf = make([]byte, length)
	}
	_, err = io.ReadFull(r, buf[:length])
	return kind, buf[:length], err
}

// hold connects again and again until the session has received n events, which it
// does in order, tells that, and keeps the connection until it is over.
func (l lean) hold(n int, retries *atomic.Int64, held *sync.WaitGroup, over <-chan struct{}) error {
	done := sync.OnceFunc(held.Done)
	defer done() // also after an error

	pause := 50 * time.Millisecond
	for {
		c, r, err := l.connect()
		if err == nil {
			defer c.Close()
			if err := leanReceive(c, r, n); err != nil {
				return err
			}
			done()
			<-over
			return nil
		}
		if !errors.Is(err, errRefused) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			return err
		}
		retries.Add(1)
		time.Sleep(pause) // as clients do
		pause = min(2*pause, 2*time.Second)
	}
}

func leanReceive(c net.Conn, r *bufio.Reader, n int) error {
	buf := make([]byte, 1024)
	for last := int64(1); n > 0; {
		kind, body, err := leanPacket(r, buf)
		if err != nil {
			return fmt.Errorf("%d events are missing: %w", n, err)
		}
		if kind>>4 != packets.Publish || kind>>1&3 != 1 {
			return fmt.Errorf("%d events are missing: got 0x%02x % x", n, kind, body[:min(len(body), 8)])
		}
		at := 2 + int(body[0])<<8 + int(body[1])
		id := body[at : at+2]
		at += 2
		var e struct{ Seq int64 }
		if err := json.Unmarshal(body[at+1+int(body[at]):], &e); err != nil || e.Seq != last+1 {
			return fmt.Errorf("event %d came after %d, %w", e.Seq, last, err)
		}
		last = e.Seq
		if _, err := c.Write([]byte{packets.Puback << 4, 2, id[0], id[1]}); err != nil {
			return err
		}
		n--
	}
	return nil
}

// storm has n devices, in groups of 100, come back at once, each of which has
// missed so many messages, and returns when all hold everything.
func storm(tb testing.TB, addr, dsn string, issue func(username string) string, n, missed int) (elapsed time.Duration, retries int64) {
	tb.Helper()
	raiseFiles(tb, uint64(2*n+1000))
	makeAway(tb, dsn, n, min(n, 100), 1, missed)
	devices := make([]lean, n)
	for i := range devices {
		devices[i] = lean{addr, issue(fmt.Sprint("away", i)), "0"}
	}
	var again atomic.Int64
	var wg, held sync.WaitGroup
	held.Add(n)
	over := make(chan struct{})
	errs := make(chan error, n)
	start := time.Now()
	for _, d := range devices {
		wg.Go(func() {
			if err := d.hold(missed, &again, &held, over); err != nil {
				errs <- err
			}
		})
	}
	held.Wait()
	elapsed = time.Since(start)
	close(over)
	wg.Wait()
	close(errs)
	shown := 0
	for err := range errs {
		if shown++; shown <= 5 {
			tb.Error(err)
		}
	}
	if shown > 0 {
		tb.Errorf("%d of %d devices failed", shown, n)
	}
	return elapsed, again.Load()
}

// raiseFiles sees to it that the process may have so many files open.
func raiseFiles(tb testing.TB, n uint64) {
	tb.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		tb.Fatal(err)
	}
	if l.Cur >= n {
		return
	}
	l.Cur, l.Max = n, max(l.Max, n)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		tb.Skipf("%d open files are not allowed: %v", n, err)
	}
}

// Everybody comes back at once: all are served, all of it, in order.
func TestReconnectStorm(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	n := 300
	if big, err := strconv.Atoi(os.Getenv("PARLEY_TEST_STORM")); err == nil {
		n = big
	}
	elapsed, retries := storm(t, a.MQTTAddr(), a.DSN(), func(u string) string { return a.Token(t, u) }, n, 100)
	t.Logf("%d devices with 100 messages each in %v, %d connects refused at first", n, elapsed, retries)
	apptest.Eventually(t, "every place is saved", func() bool {
		return number(t, a, `SELECT count(*) FROM session_cursors WHERE seq = 101`) == int64(n) &&
			number(t, a, `SELECT count(*) FROM sessions WHERE expires_at IS NULL`) == 0
	})
}

// The time until 5,000 devices that come back at once hold the 100 messages that
// each has missed, and what that occupies, clients included.
//
//	go test -run '^$' -bench ReconnectStorm -benchtime 1x -timeout 20m ./app
func BenchmarkReconnectStorm(b *testing.B) {
	devices := sized(5000, 50)
	for range b.N {
		s := startBench(b)
		accounts, err := identity.New(identity.Options{Store: s.app.Store()})
		if err != nil {
			b.Fatal(err)
		}
		heap, rss := memory()
		var peak atomic.Uint64
		done := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), m.HeapInuse+m.StackInuse))
				select {
				case <-done:
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
		elapsed, retries := storm(b, s.app.MQTTAddr(), s.app.DSN(), func(u string) string {
			token, _, err := accounts.IssueToken(context.Background(), u, time.Hour)
			if err != nil {
				b.Fatal(err)
			}
			return token
		}, devices, 100)
		close(done)
		wg.Wait()
		after, rssAfter := memory()
		b.Logf("%d devices × 100 messages: %v, %.0f events/s, %d connects refused at first; heap and stacks at most %.0f MiB with the clients (heap %.0f → %.0f MiB, RSS %.0f → %.0f MiB)",
			devices, elapsed.Round(time.Millisecond), float64(devices*100)/elapsed.Seconds(), retries, float64(peak.Load())/(1<<20),
			float64(heap)/(1<<20), float64(after)/(1<<20), float64(rss)/(1<<20), float64(rssAfter)/(1<<20))
		b.ReportMetric(elapsed.Seconds(), "s/storm")
	}
}

// What stuck readers cost the others: devices of the same users that subscribe
// and then read nothing.
//
//	go test -run '^$' -bench StuckReaders -benchtime 1x -timeout 20m ./app
func BenchmarkStuckReaders(b *testing.B) {
	s := startBench(b)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	stuck := 0
	for range b.N {
		for _, n := range []int{0, 0, 1, 50} { // the first is to warm up
			for ; stuck < n; stuck++ {
				c := brokertest.Dial(b, s.app.MQTTAddr())
				if tcp, ok := c.Conn().(*net.TCPConn); ok {
					_ = tcp.SetReadBuffer(4 << 10)
				}
				c.MustConnect(brokertest.Connect{ClientID: fmt.Sprint("stuck", stuck), Password: s.pairs[stuck%len(s.pairs)].Tokens[0], KeepAlive: 3600})
				c.MustSubscribe(0, "conv/+/messages")
			}
			for _, rate := range []int{0, 200} {
				messages := sized(100_000, 500) // so that each stuck reader is owed more than all buffers hold
				if rate > 0 {
					messages = sized(2000, 50)
				}
				r, err := bench.Run(ctx, bench.Options{Addr: s.app.MQTTAddr(), Rooms: s.pairs, Window: 16, Messages: messages, Size: benchText, Plain: true, Rate: rate})
				if err != nil {
					b.Fatal(err)
				}
				heap, rss := memory()
				b.Logf("%2d stuck, rate %3d: %6.0f msgs/s, p50 %.2f ms, p99 %.2f ms; heap %.1f MiB, RSS %.1f MiB", n, rate, r.Rate(),
					float64(r.Latencies.Quantile(0.5).Microseconds())/1000, float64(r.Latencies.Quantile(0.99).Microseconds())/1000, float64(heap)/(1<<20), float64(rss)/(1<<20))
			}
		}
	}
}
