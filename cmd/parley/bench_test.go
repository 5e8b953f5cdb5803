package main_test

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parleymq/parley/bench"
)

// quick are the flags with which a workload is over in moments.
var quick = []string{"--duration=300ms", "--warmup=100ms", "--settle=1s"}

func readReport(t *testing.T, name string) *bench.Report {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := bench.ReadReport(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// parley bench starts a server of its own, whatever database the environment names, measures it and the machine,
// writes what it has measured, and leaves nothing behind.
func TestBench(t *testing.T) {
	t.Parallel()
	dataDir(t) // or there is no PostgreSQL here
	dir, out := t.TempDir(), t.TempDir()
	jsonFile, page := filepath.Join(out, "a.json"), filepath.Join(out, "a.html")
	args := append([]string{"bench", "short", "--only=rate,presence", "--limits", "--repeat=2", "--dir=" + dir, "--json=" + jsonFile, "--html=" + page}, quick...)
	stdout, stderr, code := run(t, []string{"DATABASE_URL=postgres://nobody@127.0.0.1:1/nothing", "REDIS_URL=redis://127.0.0.1:1", "PGHOST=127.0.0.1"}, "", args...)
	if code != 0 || stderr != "" {
		t.Fatalf("parley bench exited with %d, and said %q:\n%s", code, stderr, stdout)
	}
	for _, want := range []string{"presence", "rate 200", "±", "Checked: nothing lost", "postgres 4×1000", "loopback"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("it printed no %q:\n%s", want, stdout)
		}
	}
	for line := range strings.Lines(stdout) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	r := readReport(t, jsonFile)
	if !r.Server.Own || r.Server.PostgreSQL == "" || len(r.Workloads[1].Runs) != 2 {
		t.Errorf("the report says %+v", r)
	}
	i := slices.IndexFunc(r.Workloads, func(w *bench.Workload) bool { return w.Name == "rate 200" })
	if i < 0 {
		t.Fatal("rate 200 was not measured")
	}
	for _, name := range []string{"rate", "p99.9", "ack.p50", "late.p99", "wal", "commits"} {
		if _, ok := r.Workloads[i].Get(name); !ok {
			t.Errorf("rate 200 has no %s", name)
		}
	}
	if _, ok := r.Workloads[i].Get("cpu.postgres.user"); !ok && runtime.GOOS == "linux" {
		t.Error("rate 200 has no CPU of PostgreSQL")
	}
	html, err := os.ReadFile(page)
	if err != nil || !bytes.Contains(html, []byte("<svg")) || bytes.Contains(html, []byte("http")) {
		t.Errorf("the page: %v", err)
	}

	stdout, stderr, code = run(t, nil, "", "bench", "--compare", jsonFile, jsonFile)
	if code != 0 || strings.Contains(stdout, "worse ") || !strings.Contains(stdout, "1.00") {
		t.Errorf("parley bench --compare exited with %d: %s%s", code, stdout, stderr)
	}
}

// Each workload measures a running server, as another user of it, with accounts that are made once.
func TestBenchRunningServer(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"PARLEY_DATA=" + dataDir(t)})
	users := filepath.Join(t.TempDir(), "users")
	url := []string{"--url=http://" + s.HTTP, "--mqtt=" + s.MQTT + ",mqtt://" + s.MQTT, "--users=" + users}
	if runtime.GOOS == "linux" {
		url = append(url, "--server-pid="+strconv.Itoa(s.cmd.Process.Pid))
	}
	for _, args := range [][]string{
		{"chat", "--connections=8", "--window=1", "--plain"},
		{"rate", "--connections=4", "--rates=50,100"},
		{"fan-out", "--members=8", "--writers=2"},
		{"idle", "--connections=20", "--hold=0s"},
		{"connect", "--at-once=4"},
		{"history", "--clients=2", "--messages=60"},
		{"search", "--clients=2", "--messages=50"},
		{"reconnect", "--devices=12", "--missed=10"},
		{"presence", "--online=8", "--contacts=3"},
	} {
		out := filepath.Join(t.TempDir(), "report.json")
		all := append(append(append([]string{"bench"}, args...), append(url, "--json="+out)...), quick...)
		stdout, stderr, code := run(t, nil, "", all...)
		if code != 0 {
			t.Fatalf("parley %s exited with %d:\n%s%s", strings.Join(all, " "), code, stdout, stderr)
		}
		if !strings.Contains(stdout, "Note: what PostgreSQL writes is not known") || !strings.Contains(stdout, "begin with bench-") {
			t.Errorf("%s printed\n%s", args[0], stdout)
		}
		for _, w := range readReport(t, out).Workloads {
			rate, ok := w.Get("rate")
			if !ok || rate.Value <= 0 {
				t.Errorf("%s has the rate %+v", w.Name, rate)
			}
			if _, ok := w.Get("per-cpu-second"); !ok && runtime.GOOS == "linux" && args[0] == "chat" {
				t.Errorf("%s has no CPU", w.Name)
			}
		}
	}
	text, err := os.ReadFile(users)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(regexp.MustCompile(`(?m)^bench-[0-9a-f]+-\d{4}:.+$`).FindAllString(string(text), -1)); n != 12 {
		t.Errorf("%d accounts were kept, and 12 were needed at most:\n%s", n, text)
	}
}

// What cannot be done is refused before anything is started, with the name of the flag.
func TestBenchRefuses(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + closed.Addr().String()
	_ = closed.Close()
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--duration=1h"}, "--duration: 1h0m0s is not 100ms to 10m0s"},
		{[]string{"chat", "--window=257"}, "--window: 257 is not 1 to 256"},
		{[]string{"chat", "--connections=3"}, "--connections: 3 is odd"},
		{[]string{"chat", "--size=10"}, "--size: 10 is not "},
		{[]string{"rate", "--rates=0"}, "--rates: 0 is not 1 to "},
		{[]string{"short", "--only=chats"}, `--only: there is no "chats"; there are idle, `},
		{[]string{"--mqtt=localhost:1883"}, "--mqtt is for use with --url"},
		{[]string{"--database=postgres://x"}, "--database is for use with --url"},
		{[]string{"--url=" + nobody, "--dir=."}, "--dir is for use without --url"},
		{[]string{"--url=localhost:8080"}, "--url: "},
		{[]string{"--url=" + nobody, "--mqtt=ws://localhost/mqtt"}, "--mqtt: "},
		{[]string{"--url=" + nobody}, "connection refused"},
		{[]string{"--url=http://192.0.2.1:8080"}, "192.0.2.1 is another machine"},
		{[]string{"--url=" + nobody, "--mqtt=mqtt://192.0.2.1:1883"}, "192.0.2.1 is another machine"},
		{[]string{"compare", "../../go.mod", "../../go.mod"}, "go.mod: not a report"},
	} {
		stdout, stderr, code := run(t, nil, "", append([]string{"bench"}, tt.args...)...)
		if code != 1 || !strings.Contains(lastLine(stderr), tt.want) || stdout != "" {
			t.Errorf("parley bench %s exited with %d, %q, %q; want %q", strings.Join(tt.args, " "), code, stdout, stderr, tt.want)
		}
	}
}

// Ctrl-C prints what there is, and takes the server along. So does the death of the process.
func TestBenchInterrupted(t *testing.T) {
	t.Parallel()
	dataDir(t)
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		if sig == syscall.SIGKILL && runtime.GOOS != "linux" {
			continue // elsewhere nothing tells the server
		}
		dir, out := t.TempDir(), filepath.Join(t.TempDir(), "report.json")
		cmd := command(t, nil, "bench", "chat", "--connections=4", "--duration=10m", "--warmup=0s", "--dir="+dir, "--json="+out)
		var stdout, stderr syncBuffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := serverOf(t, dir)
		if sig == syscall.SIGINT {
			waitForLoad(t, pid)
		}
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		for end := time.Now().Add(patience); syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the server has outlived %v", sig)
			}
		}
		if sig == syscall.SIGKILL {
			continue
		}
		if code := cmd.ProcessState.ExitCode(); code != 1 || lastLine(stderr.String()) != "parley: interrupted" || !strings.Contains(stdout.String(), "chat") {
			t.Errorf("after %v it exited with %d: %s%s", sig, code, stdout.String(), stderr.String())
		}
		if r := readReport(t, out); !r.Interrupted || len(r.Workloads) != 1 || r.Workloads[0].Runs[0].Failed() == "" {
			t.Errorf("the report is %+v", r)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

// serverOf returns the pid of the server that has started in a folder of dir.
func serverOf(t *testing.T, dir string) int {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		locks, err := filepath.Glob(filepath.Join(dir, "*", "postgres", "parley.lock"))
		if err != nil {
			t.Fatal(err)
		}
		if len(locks) == 1 {
			text, err := os.ReadFile(locks[0])
			if pid, e := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && e == nil {
				return pid
			}
		}
		if time.Now().After(end) {
			t.Fatal("no server has started")
		}
	}
}

// waitForLoad waits until a server has used so much CPU that a load has begun.
func waitForLoad(t *testing.T, pid int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		time.Sleep(10 * time.Second)
		return
	}
	p := bench.Processes{Server: pid}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		used, err := p.Read()
		if err != nil {
			t.Fatal(err)
		}
		if used.Server.CPU() > 5*time.Second { // start and logins are less
			return
		}
		if time.Now().After(end) {
			t.Fatal("no load has begun")
		}
	}
}
