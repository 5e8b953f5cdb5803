package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/bench"
	"github.com/parleymq/parley/identity"
)

// makeRing stores users with direct conversations: each with the so many that follow
// on either side, in a ring. User i is called ring<i>.
func makeRing(tb testing.TB, dsn string, users, side int) {
	tb.Helper()
	values := strings.NewReplacer("@users", strconv.Itoa(users), "@side", strconv.Itoa(side))
	ctx := context.Background()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close(ctx)
	for _, text := range []string{`
CREATE TEMP TABLE r AS SELECT i, gen_random_uuid() AS id FROM generate_series(0, @users - 1) AS i`, `
INSERT INTO users (id, username, display_name, password_hash, created_at) SELECT id, 'ring' || i, '', 'x', now() FROM r`, `
CREATE TEMP TABLE d AS SELECT gen_random_uuid() AS id, a.id AS a, b.id AS b
FROM r a CROSS JOIN generate_series(1, @side) AS k JOIN r b ON b.i = (a.i + k) % @users`, `
INSERT INTO conversations (id, kind, created_by, created_at, last_seq, last_event_at) SELECT id, 'direct', a, now(), 0, now() FROM d`, `
INSERT INTO direct_conversations SELECT least(a, b), greatest(a, b), id FROM d`, `
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq)
SELECT id, u, 'member', now(), 1 FROM d CROSS JOIN LATERAL (VALUES (a), (b)) AS m (u)`, `DROP TABLE r, d`, `
ANALYZE users, conversations, direct_conversations, participants`} { // not what is empty yet, or plans for that are kept
		if _, err := c.Exec(ctx, values.Replace(text)); err != nil {
			tb.Fatalf("%s: %v", text, err)
		}
	}
}

// The time until 10,000 users with 50 contacts each, who come online at once, know
// that all of their contacts are: each has a device that connects, subscribes to
// user/+/presence, and has heard of all 50.
//
//	go test -run '^$' -bench PresenceStorm -benchtime 1x -timeout 20m ./app
func BenchmarkPresenceStorm(b *testing.B) {
	users, side := sized(10_000, 60), 25
	raiseFiles(b, uint64(users+1000))
	for range b.N {
		s := startBench(b)
		makeRing(b, s.app.DSN(), users, side)
		accounts, err := identity.New(identity.Options{Store: s.app.Store()})
		if err != nil {
			b.Fatal(err)
		}
		tokens := make([]string, users)
		for i := range tokens {
			if tokens[i], _, err = accounts.IssueToken(b.Context(), fmt.Sprint("ring", i), time.Hour); err != nil {
				b.Fatal(err)
			}
		}
		before := cpuTime(b)
		r := presenceLoad(b, bench.PresenceOptions{Addr: s.app.MQTTAddr(), Tokens: tokens, Contacts: 2 * side, Dialing: 256})
		cpu := cpuTime(b) - before
		b.Logf("%d users with %d contacts each: all are shown as online to all after %v, the last had subscribed after %v; %.0f signals/s, CPU of the server %v",
			users, 2*side, r.Elapsed.Round(time.Millisecond), r.Connected.Round(time.Millisecond), float64(r.Signals)/r.Elapsed.Seconds(), cpu.Round(time.Millisecond))
		b.ReportMetric(r.Elapsed.Seconds(), "s/storm")
		b.ReportMetric(float64(r.Signals)/r.Elapsed.Seconds(), "signals/s")
		b.ReportMetric(cpu.Seconds(), "cpu-s/storm")
	}
}

// cpuTime is what the process has used so far; its PostgreSQL is another one.
func cpuTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const presenceLoadEnv = "PARLEY_TEST_PRESENCE_LOAD"

// presenceLoad runs the load in a process of its own: two ends of each connection would
// be more open files than one may have.
func presenceLoad(b *testing.B, o bench.PresenceOptions) *bench.PresenceResult {
	b.Helper()
	in, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	out := filepath.Join(b.TempDir(), "result")
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run", "^TestPresenceLoad$")
	cmd.Env = append(os.Environ(), presenceLoadEnv+"="+out)
	cmd.Stdin = bytes.NewReader(in)
	if text, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	var r bench.PresenceResult
	text, err := os.ReadFile(out)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		b.Fatal(err)
	}
	return &r
}

// It is no test, but the load of BenchmarkPresenceStorm.
func TestPresenceLoad(t *testing.T) {
	out := os.Getenv(presenceLoadEnv)
	if out == "" {
		t.Skip("runs for BenchmarkPresenceStorm")
	}
	var o bench.PresenceOptions
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		t.Fatal(err)
	}
	raiseFiles(t, uint64(len(o.Tokens)+1000))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	r, err := bench.Presence(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(out, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
