// Package packetfuzz_test sends the running server packets that are right, wrong and
// in the wrong order, from several connections of two users at once, while others
// talk. No packet may harm anybody but its own connection.
package packetfuzz_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// patience is for what hangs, not for what is slow.
const patience = time.Minute

// world is a server, those who attack it, and those who must not notice.
type world struct {
	*apptest.App
	users [2]apptest.User
	conv  []apptest.Conv // each of the attackers with nan, and that of nan and bob

	nan, bob   *apptest.Device
	seq        map[apptest.Conv]int64 // of the last event that nan received
	log        *errorLog
	goroutines int // that there are without scripts
	files      int // and open files
}

func newWorld(t testing.TB) *world {
	log := &errorLog{}
	a := apptest.Start(t, func(o *app.Options) {
		o.Logger = slog.New(log)
		o.Limits.ConnectTimeout, o.Limits.PacketTimeout = time.Second, 300*time.Millisecond // what is half a packet is closed soon
		o.Limits.Linger = 100 * time.Millisecond
	})
	w := &world{App: a, users: [2]apptest.User{a.User(t, "eve"), a.User(t, "mallory")}, seq: map[apptest.Conv]int64{}, log: log}
	nan, bob := a.User(t, "nan"), a.User(t, "bob")
	w.conv = []apptest.Conv{a.Direct(t, w.users[0], nan), a.Direct(t, w.users[1], nan), a.Direct(t, bob, nan)}
	w.nan, w.bob = w.device(t, nan), w.device(t, bob)
	w.nan.MustSubscribe(1, "conv/#", "user/+/presence")
	for _, c := range w.conv {
		w.seq[c] = 1 // that it was made
	}
	w.undisturbed(t)
	w.goroutines, w.files = runtime.NumGoroutine(), openFiles(t)
	return w
}

// device connects somebody who must not notice. On a machine that is very busy it takes
// longer than the server waits for CONNECT here, and is tried again.
func (w *world) device(t testing.TB, u apptest.User) *apptest.Device {
	t.Helper()
	o := u.As(brokertest.Connect{ClientID: "device", KeepAlive: 3600})
	for range 50 {
		c := w.Dial(t)
		if c.Write(c.Encode(o.Packet())) != nil {
			continue
		}
		if pk, err := c.Recv(patience); err == nil && pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == 0 {
			c.AutoAck = true
			return apptest.NewDevice(t, c, u)
		}
	}
	t.Fatalf("%s was not let in", u.Username)
	return nil
}

func (w *world) dial(version byte, policy int, u apptest.User) *peer {
	conn, err := net.DialTimeout("tcp", w.MQTTAddr(), patience)
	if err != nil {
		// It is found by undisturbed; until then the script writes into the void.
		conn, _ = net.Pipe()
		_ = conn.Close()
	}
	return newPeer(conn, version, policy, u)
}

// execute runs a script and asks the oracle.
func (w *world) execute(t testing.TB, bytes []byte) {
	t.Helper()
	open := (&script{bytes}).run(w)
	var mu sync.Mutex
	var wrong []error
	var all sync.WaitGroup
	for _, p := range open {
		all.Go(func() {
			if err := p.settled(); err != nil {
				mu.Lock()
				wrong = append(wrong, err)
				mu.Unlock()
			}
			p.cut()
		})
	}
	all.Wait()
	for _, err := range wrong {
		t.Error(err)
	}
	w.undisturbed(t)
}

// undisturbed checks that bob's message reaches nan, after everything before it in
// order, and that nothing in the server has complained.
func (w *world) undisturbed(t testing.TB) {
	t.Helper()
	conv := w.conv[len(w.conv)-1]
	text := "message " + strconv.FormatInt(w.seq[conv], 10)
	ack := w.bob.Publish(1, conv.Topic("messages"), text)
	if ack.Code != 0 || ack.Seq != w.seq[conv]+1 {
		t.Fatalf("bob's message was acknowledged with %+v, want seq %d", ack, w.seq[conv]+1)
	}
	for {
		pk := w.nan.Await(packets.Publish)
		if !strings.HasSuffix(pk.TopicName, "/messages") {
			continue // a signal
		}
		e := apptest.EventOf(t, pk)
		if last := w.seq[e.ConversationID]; e.Seq != last+1 {
			t.Fatalf("nan received event %d of %s after %d", e.Seq, e.ConversationID, last)
		}
		w.seq[e.ConversationID] = e.Seq
		if e.ConversationID == conv {
			if e.Content != text {
				t.Errorf("nan received %+v, want %q", e, text)
			}
			break
		}
	}
	if complaints := w.log.take(); complaints != "" {
		t.Errorf("the server has logged:\n%s", complaints)
	}
}

// healthy checks what takes longer: no panic was counted, and no goroutine and no file
// is left of the scripts.
func (w *world) healthy(t testing.TB) {
	t.Helper()
	metrics := w.Metrics(t)
	if !strings.Contains(metrics, "\nparley_mqtt_panics_total 0\n") {
		i := max(0, strings.Index(metrics, "\nparley_mqtt_panics_total"))
		t.Errorf("the metrics say %.80s", metrics[i:])
	}
	apptest.Eventually(t, fmt.Sprintf("there are no more than some %d goroutines and %d files", w.goroutines, w.files), func() bool {
		return runtime.NumGoroutine() <= w.goroutines+slack && openFiles(t) <= w.files+slack
	})
}

// slack is for the pool's connections and what the runtime does beside.
const slack = 20

func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if errors.Is(err, os.ErrNotExist) {
		return 0 // not Linux
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// errorLog keeps what is logged as an error.
type errorLog struct {
	mu   sync.Mutex
	text strings.Builder // mu guards
}

func (l *errorLog) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.text.String()
	l.text.Reset()
	return s
}

// Enabled implements slog.Handler.
func (l *errorLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }

// Handle implements slog.Handler.
func (l *errorLog) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s", r.Message)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&l.text, " %s", a); return true })
	l.text.WriteByte('\n')
	return nil
}

// WithAttrs implements slog.Handler.
func (l *errorLog) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *errorLog) WithGroup(string) slog.Handler { return l }

// random returns a script of random choices.
func random(r *rand.Rand) []byte {
	b := make([]byte, 20+r.IntN(500))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Random scripts for a while: a minute, or as long as PARLEY_FUZZ_FOR says (1h). The seed is
// in the log, and PARLEY_TEST_SEED repeats it. A script that fails is written to
// testdata/fuzz/FuzzPackets, where it is run by FuzzPackets from then on.
func TestPackets(t *testing.T) {
	t.Parallel()
	d, err := time.ParseDuration(getenv("PARLEY_FUZZ_FOR", "1m"))
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		d = min(d, 5*time.Second)
	}
	seed := seedtest.Seed(t)
	w := newWorld(t)
	r := seedtest.New(seed, 1)
	n := 0
	for end := time.Now().Add(d); time.Now().Before(end) && !t.Failed(); n++ {
		b := random(r)
		saved := false
		func() {
			defer func() { // a Fatal ends the test here, too
				if t.Failed() && !saved {
					saved = true
					t.Logf("seed %d, script %d; it was written to %s", seed, n, save(t, b))
				}
			}()
			w.execute(t, b)
		}()
		if n%200 == 199 {
			w.healthy(t)
		}
	}
	w.healthy(t)
	t.Logf("seed %d: %d scripts", seed, n)
}

func getenv(name, or string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return or
}

// save writes a script in the form of go test's corpus.
func save(t *testing.T, b []byte) string {
	t.Helper()
	dir := filepath.Join("testdata", "fuzz", "FuzzPackets")
	file := filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256(b))[:16])
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(file, fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", b), 0o600)); err != nil {
		t.Error(err)
	}
	return file
}

// The same, led by what of the server has been covered: make fuzz FUZZ=Packets TIME=1h.
// Without -fuzz it runs the scripts that once failed.
func FuzzPackets(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 8 {
		f.Add(random(r))
	}
	now := &current{f}
	w := newWorld(now)
	f.Cleanup(func() { now.TB = f })
	n := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		now.TB = t
		w.execute(t, b)
		if n++; n%200 == 0 {
			w.healthy(t)
		}
	})
}

// current is the test of the script at hand, for what was made before it: the methods
// of a testing.F must not be called while its scripts run.
type current struct{ testing.TB }
