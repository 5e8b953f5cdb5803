package bench_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/parleymq/parley/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A broker of conversations for one test, which passes events to everybody as deliver says: it is given each
// member's connection and the number of the event, 1, 2, 3 … It answers everything else as a server does.
type faulty struct {
	addr    string
	deliver func(send func(seq int), seq int)

	mu      sync.Mutex // guards what follows, and writing to connections
	members map[string][]net.Conn
	events  map[string][][]byte // by topic: payloads
}

func startFaulty(t *testing.T, deliver func(send func(seq int), seq int)) *faulty {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{addr: l.Addr().String(), deliver: deliver, members: map[string][]net.Conn{}, events: map[string][][]byte{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); f.serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return f
}

func (f *faulty) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		header, err := r.ReadByte()
		if err != nil {
			return
		}
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		f.mu.Lock()
		switch header >> 4 {
		case 1:
			_, _ = c.Write([]byte{0x20, 3, 0, 0, 0})
		case 8:
			topic := string(body[5 : 5+binary.BigEndian.Uint16(body[3:])])
			f.members[topic] = append(f.members[topic], c)
			_, _ = c.Write([]byte{0x90, 4, body[0], body[1], 0, 1})
		case 3:
			size := int(binary.BigEndian.Uint16(body))
			topic := string(body[2 : 2+size])
			_, _ = c.Write([]byte{0x40, 2, body[2+size], body[3+size]})
			f.publish(topic, body[5+size:])
		}
		f.mu.Unlock()
	}
}

func (f *faulty) publish(topic string, payload []byte) {
	f.events[topic] = append(f.events[topic], payload)
	seq := len(f.events[topic])
	for _, m := range f.members[topic] {
		f.deliver(func(seq int) {
			if seq > len(f.events[topic]) {
				return
			}
			var command struct{ Content string }
			_ = json.Unmarshal(f.events[topic][seq-1], &command)
			body := append(binary.BigEndian.AppendUint16(nil, uint16(len(topic))), topic...)
			body = append(body, 0, 1, 0)
			body = append(body, fmt.Sprintf(`{"type":"message","seq":%d,"content":%q}`, seq, command.Content)...)
			_, _ = m.Write(append(binary.AppendUvarint([]byte{0x32}, uint64(len(body))), body...))
		}, seq)
	}
}

// What a server does wrong is found, and named.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		deliver func(send func(seq int), seq int)
		want    bench.Faults
	}{
		"none":       {func(send func(int), seq int) { send(seq) }, bench.Faults{}},
		"duplicates": {func(send func(int), seq int) { send(seq); send(max(seq-3, 1)) }, bench.Faults{Duplicates: 2 * 40}},
		"order": {func(send func(int), seq int) { // 2 1, 4 3, 6 5 …
			if seq%2 == 0 {
				send(seq)
				send(seq - 1)
			}
		}, bench.Faults{OutOfOrder: 2 * 20, Gaps: 2 * 19}},
		"loss": {func(send func(int), seq int) {
			if seq%10 != 0 {
				send(seq)
			}
		}, bench.Faults{Lost: 2 * 4, OutOfOrder: 2 * 27, Gaps: 2 * 3}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startFaulty(t, tt.deliver)
			res, err := bench.Run(t.Context(), bench.Options{
				Addr: f.addr, Rooms: []bench.Room{{Conversation: "c", Tokens: []string{"a", "b"}, Writers: 1}}, Exact: true,
				Window: 1000, Size: 100, Messages: 40, Patience: 500 * time.Millisecond,
			})
			if diff := cmp.Diff(tt.want, res.Faults); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var faults *bench.Faults
			if found := errors.As(err, &faults); found != tt.want.Any() {
				t.Errorf("error %v", err)
			}
			if res.Acked != 40 {
				t.Errorf("%d acknowledged", res.Acked)
			}
		})
	}
}

// A message counts from when it was due, not from when the client could send it: a server that stands still for a
// while is slow to all messages that were due meanwhile.
func TestCoordinatedOmission(t *testing.T) {
	t.Parallel()
	const pause = 400 * time.Millisecond
	var once sync.Once
	f := startFaulty(t, func(send func(int), seq int) {
		if seq > 20 {
			once.Do(func() { time.Sleep(pause) })
		}
		send(seq)
	})
	res, err := bench.Run(t.Context(), bench.Options{
		Addr: f.addr, Rooms: []bench.Room{{Conversation: "c", Tokens: []string{"a", "b"}, Writers: 1}}, Exact: true,
		Window: 1, Size: 100, Messages: 200, Rate: 200,
	})
	if err != nil {
		t.Fatal(err)
	}
	// of the messages that were due in the pause, half had more than half of it to wait
	if got := res.Latencies.Quantile(0.85); got < pause/4 {
		t.Errorf("85 %% of all latencies are below %v: those that waited for the pause of %v are missing", got, pause)
	}
	if res.Late.Max() < pause/2 {
		t.Errorf("the load says that it was %v late at most", res.Late.Max())
	}
}

// A load that is interrupted has measured something, and is no fault of the server.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	f := startFaulty(t, func(send func(int), seq int) { send(seq) })
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	res, err := bench.Run(ctx, bench.Options{
		Addr: f.addr, Rooms: []bench.Room{{Conversation: "c", Tokens: []string{"a", "b"}}}, Exact: true, Window: 4, Size: 100, Duration: time.Hour,
		Interval: 10 * time.Millisecond, Seen: func(p bench.Point) {
			if p.Done > 0 {
				cancel(stop)
			}
		},
	})
	if !errors.Is(err, stop) || res == nil || res.Acked == 0 || res.Faults.Any() {
		t.Errorf("Run = %+v, %v", res, err)
	}
}

func report() *bench.Report {
	run := func(rate, p99 float64) *bench.Figures {
		return &bench.Figures{
			Metrics: []bench.Metric{{"rate", "messages", "/s", rate, "more"}, {"p99", "latency, p99", "ms", p99, "less"}},
			Curve:   []bench.CurvePoint{{0, 0.5}, {0.5, 2}, {0.9, 10}, {0.99, p99}, {1, 3 * p99}},
			Series: []bench.SeriesPoint{
				{At: 1, Rate: rate, P50: 2, P99: p99, ServerUser: 0.5, ServerSystem: 0.1, PostgresUser: 0.4, PostgresSystem: 0.2},
				{At: 2, Rate: rate / 2, P50: 3, P99: p99, ServerUser: 0.4, ServerSystem: 0.1, PostgresUser: 0.3, PostgresSystem: 0.2},
				{At: 3, Rate: rate, P50: 2, P99: p99, ServerUser: 0.5, ServerSystem: 0.2, PostgresUser: 0.4, PostgresSystem: 0.2},
			},
			Faults: &bench.Faults{},
		}
	}
	return &bench.Report{
		Format: 1, Version: "v1", Began: time.Date(2026, 11, 29, 15, 0, 0, 0, time.UTC), Machine: bench.ThisMachine(),
		Server: bench.Server{URL: "http://127.0.0.1:8080", MQTT: []string{"mqtt://127.0.0.1:1883"}, Version: "v1"}, Notes: []string{"a <note>"},
		Workloads: []*bench.Workload{
			{Name: "chat", Title: "as fast as it goes", Unit: "messages", Runs: []*bench.Figures{run(1000, 10), run(1100, 11), run(900, 12)}},
			{Name: "mosquitto", Title: "beside it", Unit: "messages", Limit: true, Runs: []*bench.Figures{run(9000, 1)}},
		},
	}
}

// What is written is read again as it was.
func TestReportRoundTrip(t *testing.T) {
	t.Parallel()
	r := report()
	var b bytes.Buffer
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	got, err := bench.ReadReport(&b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Errorf("-written +read:\n%s", diff)
	}
	for _, bad := range []string{"", "[]", `{"format":2}`, "x"} {
		if _, err := bench.ReadReport(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read as a report", bad)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	a, b := report(), report()
	for i, m := range b.Workloads[0].Runs {
		m.Metrics[0].Value = []float64{500, 510, 490}[i] // less than any of a
		m.Metrics[1].Value = []float64{5, 12, 13}[i]     // overlaps
	}
	b.Workloads[1].Title = "something else"
	all, apart := bench.Compare(a, b)
	if len(all) != 2 || len(apart) != 1 || !strings.Contains(apart[0], "mosquitto") {
		t.Fatalf("compared %+v, apart %q", all, apart)
	}
	if d := all[0]; d.Verdict != "worse" || d.Ratio != 0.5 {
		t.Errorf("rate: %+v", d)
	}
	if d := all[1]; d.Verdict != "" {
		t.Errorf("p99: %+v", d)
	}
	if all, _ := bench.Compare(b, a); all[0].Verdict != "better" {
		t.Errorf("the other way round: %+v", all[0])
	}
	var out bytes.Buffer
	if worse := (bench.Printer{W: &out}).Compare(a, b, "a.json", "b.json"); !worse || !strings.Contains(out.String(), "worse") {
		t.Errorf("printed:\n%s", out.String())
	}
	narrow(t, out.String())
}

// narrow complains about lines that are too long for a terminal.
func narrow(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// A page needs nothing beside it, and what a server is called cannot become part of it.
func TestPage(t *testing.T) {
	t.Parallel()
	r := report()
	r.Server.Version = `<script>alert("1")</script>`
	r.Workloads[0].Runs[1].Faults.Lost = 3
	var b bytes.Buffer
	if err := r.WritePage(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if found := regexp.MustCompile(`(?i)https?:|//[a-z0-9]|<script|<link|<img|@import|url\(`).FindString(page); found != "" {
		t.Errorf("the page has %q", found)
	}
	for _, want := range []string{"<svg", "prefers-color-scheme: dark", "3 lost", "a &lt;note&gt;", "127.0.0.1:8080", "median"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
	if strings.Contains(page, "NaN") || strings.Contains(page, "ZgotmplZ") {
		t.Error("the page has a place that was not filled")
	}
}

// The table fits a terminal, says what failed, and has the spread of several runs.
func TestTable(t *testing.T) {
	t.Parallel()
	r := report()
	r.Workloads[0].Runs[2].Error = "it ended"
	var b bytes.Buffer
	bench.Printer{W: &b}.Report(r)
	narrow(t, b.String())
	for _, want := range []string{"1,000 msg/s", "±10 %", "FAILED chat, run 3: it ended", "The machine's limits"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// What this process uses can be read, where there is a /proc.
func TestProcesses(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	p := bench.Processes{Server: os.Getpid()}
	before, err := p.Read()
	if err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); time.Since(start) < 10*time.Second; {
		after, err := p.Read()
		if err != nil {
			t.Fatal(err)
		}
		if after.Server.CPU() > before.Server.CPU()+20*time.Millisecond && after.Server.RSS > 1<<20 {
			return
		}
	}
	t.Error("it used no CPU in 10 s of work")
}

// One after the other, for as long as it is to last, or so many times.
func TestRepeat(t *testing.T) {
	t.Parallel()
	res, err := bench.Repeat(t.Context(), bench.RepeatOptions{Workers: 3, Times: 100, Do: func(context.Context, int, int) error { return nil }})
	if err != nil || res.Done != 100 {
		t.Errorf("Repeat = %+v, %v", res, err)
	}
	fault := errors.New("no")
	if _, err := bench.Repeat(t.Context(), bench.RepeatOptions{Workers: 3, Duration: time.Hour, Do: func(_ context.Context, _, n int) error {
		if n == 10 {
			return fault
		}
		return nil
	}}); !errors.Is(err, fault) {
		t.Errorf("Repeat = %v, want %v", err, fault)
	}
}
