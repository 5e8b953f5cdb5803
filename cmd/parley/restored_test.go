package main_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// epoch returns the epoch of the log, as REST says it; "" while nobody answers.
func (s *server) epoch() string {
	resp, err := httpClient.Get("http://" + s.HTTP + "/healthz")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	return resp.Header.Get("Parley-Epoch")
}

// serveOn is serve on ports that stay the same when the server starts again.
func serveOn(t *testing.T, env []string) *server {
	t.Helper()
	s := serve(t, env)
	s.Stop(syscall.SIGTERM)
	return serve(t, env, "--mqtt-addr="+s.MQTT, "--http-addr="+s.HTTP)
}

// awaitEpoch waits until the server has another epoch than before, and returns it.
func awaitEpoch(t *testing.T, s *server, before string) (now string) {
	t.Helper()
	apptest.Eventually(t, "the server has another epoch", func() bool {
		now = s.epoch()
		return now != "" && now != before
	})
	return now
}

// parley restored works beside a running server, which starts again, and without one. The
// accounts and conversations are those of before.
func TestRestoredCommand(t *testing.T) {
	t.Parallel()
	env := []string{"PARLEY_DATA=" + dataDir(t)}
	s := serveOn(t, env)
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	before := s.epoch()
	restored := func() string {
		t.Helper()
		out, stderr, code := run(t, env, "", "restored")
		if code != 0 {
			t.Fatalf("parley restored exited with %d: %s", code, stderr)
		}
		return out
	}
	out := restored()
	now := awaitEpoch(t, s, before)
	if !strings.Contains(out, now) {
		t.Errorf("parley restored says %q, and the server %q", out, now)
	}
	s.rest(t, ann.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": "after"}, http.StatusCreated, nil)
	s.Stop(syscall.SIGTERM)
	out = restored()
	s = serve(t, env)
	if later := s.epoch(); later == now || !strings.Contains(out, later) {
		t.Errorf("parley restored says %q, and the next server %q; before it was %q", out, later, now)
	}
	if h := s.history(t, ann.Token, conv); len(h) != 1 || h[0].Content != "after" {
		t.Errorf("the history is %v", h)
	}
}

// A dump is restored under a running server: it notices, starts again, and goes on from what
// is there.
func TestRestoredWhileRunning(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	s := serveOn(t, []string{"DATABASE_URL=" + dsn})
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	say := func(text string, seq int64) {
		t.Helper()
		var m message
		s.rest(t, ann.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": text}, http.StatusCreated, &m)
		if m.Seq != seq {
			t.Errorf("%q is event %d, want %d", text, m.Seq, seq)
		}
	}
	say("two", 2)
	dump := storetest.Dump(t, dsn)
	say("old three", 3)
	before := s.epoch()
	storetest.Restore(t, dsn, dump)
	awaitEpoch(t, s, before)
	say("new three", 3)
}

// The data of the private PostgreSQL are replaced by an older copy while nothing runs: the
// next start notices. It notices nothing where they are the newest.
func TestRestoredDataDirectory(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	env := []string{"PARLEY_DATA=" + dir}
	data, backup := filepath.Join(dir, "postgres", "data"), filepath.Join(dir, "backup")
	s := serve(t, env)
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	s.Stop(syscall.SIGTERM)
	cp := func(from, to string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), programtest.Path(t, "cp"), "-a", from, to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
	cp(data, backup)
	s = serve(t, env)
	before := s.epoch()
	s.rest(t, ann.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": "old"}, http.StatusCreated, nil)
	s.Stop(syscall.SIGTERM)
	s = serve(t, env)
	if now := s.epoch(); now != before {
		t.Errorf("after an ordinary restart the epoch is %s, want %s", now, before)
	}
	s.Stop(syscall.SIGTERM)
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	cp(backup, data)
	s = serve(t, env)
	if now := s.epoch(); now == before {
		t.Errorf("the epoch is still %s", now)
	}
	if h := s.history(t, ann.Token, conv); len(h) != 0 {
		t.Errorf("the history is %v", h)
	}
}
