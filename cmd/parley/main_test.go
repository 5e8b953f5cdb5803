// The tests of this package run the real binary, as an operator does: what it
// prints, what it exits with, and what is left when it is killed.
package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// patience bounds every wait: it is for what hangs, not for what is slow.
const patience = time.Minute

// binaryDir holds the binary that was built for this process.
var binaryDir string

func TestMain(m *testing.M) {
	storetest.Main(m, goleak.Cleanup(func(code int) {
		if binaryDir != "" {
			_ = os.RemoveAll(binaryDir)
		}
		os.Exit(code)
	}))
}

// parley builds parley once, with the race detector if the tests have it.
var parley = sync.OnceValues(func() (string, error) {
	var err error
	if binaryDir, err = os.MkdirTemp("", "parley-cmd-"); err != nil {
		return "", err
	}
	path := filepath.Join(binaryDir, "parley")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// command is parley with arguments, in an environment without anything of
// ours, plus env ("PARLEY_DATA=…").
func command(t testing.TB, env []string, args ...string) *exec.Cmd {
	t.Helper()
	path, err := parley()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // so that it takes its PostgreSQL along
	cmd.WaitDelay = patience
	cmd.Env = append(append(environ(), "GORACE=atexit_sleep_ms=20"), env...) // otherwise it sleeps for a second
	return cmd
}

// environ is the environment of this process without what parley or libpq read.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "PARLEY_") || strings.HasPrefix(kv, "PG") || strings.HasPrefix(kv, "DATABASE_URL=")
	})
}

// run is command, run to its end.
func run(t testing.TB, env []string, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := command(t, env, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("parley %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// lastLine is what tells an operator why.
func lastLine(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	return lines[len(lines)-1]
}

// dataDir is PARLEY_DATA for a private PostgreSQL of the test's own; the test
// skips where none is installed, and fails there when CI is set.
func dataDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	_, err := pgchild.New(pgchild.Options{Dir: filepath.Join(dir, "postgres")})
	switch {
	case errors.Is(err, pgchild.ErrNotInstalled):
		programtest.Missing(t, "postgresql", err.Error())
	case err != nil:
		t.Fatal(err)
	}
	return dir
}

// server is a running parley serve.
type server struct {
	MQTT, HTTP string // the addresses that it has bound
	Banner     func() string
	Log        func() string // standard error so far

	t       testing.TB
	cmd     *exec.Cmd
	exited  chan struct{} // closed when it has ended
	started time.Duration // until the ready line
}

// serve starts parley serve on ports of its own and returns when it is ready. It
// is stopped, and must stop well, when the test ends.
func serve(t testing.TB, env []string, args ...string) *server {
	t.Helper()
	return serveBinary(t, "", env, args...)
}

// serveBinary is serve with another binary than this commit's, unless that is empty.
func serveBinary(t testing.TB, binary string, env []string, args ...string) *server {
	t.Helper()
	s := &server{t: t, exited: make(chan struct{})}
	s.cmd = command(t, env, append([]string{"serve", "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--no-rate-limits", "--log-format=json"}, args...)...)
	if binary != "" {
		s.cmd.Path = binary
	}
	var banner, log syncBuffer
	s.Banner, s.Log = banner.String, log.String
	s.cmd.Stdout = &banner
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() { // ends with the process, which t's end sees to
		defer close(s.exited)
		lines := bufio.NewScanner(io.TeeReader(stderr, &log))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var l struct{ Msg, MQTT, HTTP string }
			if s.MQTT == "" && json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "ready" {
				s.MQTT, s.HTTP = l.MQTT, l.HTTP
				close(ready)
			}
		}
		_, _ = io.Copy(&log, stderr)
		_ = s.cmd.Wait()
	}()
	select {
	case <-ready:
	case <-s.exited:
		t.Fatalf("parley ended before it was ready:\n%s", s.Log())
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		t.Fatalf("parley was not ready in time:\n%s", s.Log())
	}
	s.started = time.Since(begun)
	t.Cleanup(func() {
		s.Stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.Log())
		}
	})
	return s
}

// Stop signals the process, waits for its end and checks that it exits with 0
// (unless it was killed). It may be repeated.
func (s *server) Stop(sig syscall.Signal) {
	s.t.Helper()
	select {
	case <-s.exited:
		return
	default:
	}
	if s.t.Context().Err() == nil || sig != syscall.SIGTERM { // otherwise it has been told, see command; twice would end it at once
		_ = s.cmd.Process.Signal(sig)
	}
	select {
	case <-s.exited:
	case <-time.After(patience):
		_ = s.cmd.Process.Signal(syscall.SIGQUIT) // it says where everybody is
		<-s.exited
		s.t.Fatalf("parley did not end after %v:\n%s", sig, s.Log())
	}
	if code := s.cmd.ProcessState.ExitCode(); sig != syscall.SIGKILL && code != 0 {
		s.t.Errorf("parley exited with %d after %v:\n%s", code, sig, s.Log())
	}
	if strings.Contains(s.Log(), "DATA RACE") {
		s.t.Errorf("a data race:\n%s", s.Log())
	}
}

// syncBuffer is a bytes.Buffer for several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// httpClient keeps no connection, so that none outlives its test.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// rest makes a request with a JSON body (nil: none) and decodes the answer, whose
// status must be want, into out (nil: it is dropped).
func (s *server) rest(t testing.TB, token, method, path string, in any, want int, out any) {
	t.Helper()
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.HTTP+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		t.Fatalf("%s %s = %s %s (%v), want %d", method, path, resp.Status, answer, err, want)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(answer, out); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, answer)
	}
}

const password = "correct horse"

// user is an account with an access token.
type user struct{ ID, Name, Token string }

// user makes an account and logs it in, over REST.
func (s *server) user(t testing.TB, name string) user {
	t.Helper()
	u := user{Name: name}
	s.rest(t, "", http.MethodPost, "/api/users", map[string]string{"username": name, "email": name + "@example.com", "password": password}, http.StatusCreated, nil)
	var session struct {
		AccessToken string
		User        struct{ ID string }
	}
	s.rest(t, "", http.MethodPost, "/api/sessions", map[string]string{"username": name, "password": password}, http.StatusCreated, &session)
	u.ID, u.Token = session.User.ID, session.AccessToken
	return u
}

// direct makes the direct conversation of two users and returns its id.
func (s *server) direct(t testing.TB, a, b user) string {
	t.Helper()
	var c struct{ ID string }
	s.rest(t, a.Token, http.MethodPost, "/api/conversations", map[string]string{"otherUserId": b.ID}, http.StatusCreated, &c)
	return c.ID
}

// message is a message as REST and MQTT show it.
type message struct {
	Type, ID, ConversationID, SenderID, ClientMsgID, Content, CreatedAt string
	Seq                                                                 int64
}

// history reads a conversation from its beginning, a page at a time.
func (s *server) history(t testing.TB, token, conversation string) []message {
	t.Helper()
	var all []message
	for query := "&after=0"; ; {
		var page struct {
			Data       []message
			NextCursor *string
		}
		s.rest(t, token, http.MethodGet, "/api/messages?limit=100&conversationId="+conversation+query, nil, http.StatusOK, &page)
		all = append(all, page.Data...)
		if page.NextCursor == nil {
			return all
		}
		query = "&cursor=" + *page.NextCursor
	}
}
