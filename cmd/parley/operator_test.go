package main_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/parleymq/parley/programtest"
)

// An operator's commands work beside a running server and without one, on the
// same data directory, and take effect at once. What they take and print is the
// affair of user_test.go.
func TestOperator(t *testing.T) {
	t.Parallel()
	env := []string{"PARLEY_DATA=" + dataDir(t)}
	ok := func(stdin string, args ...string) string {
		t.Helper()
		out, stderr, code := run(t, env, stdin, args...)
		if code != 0 {
			t.Fatalf("parley %s exited with %d: %s", strings.Join(args, " "), code, stderr)
		}
		return strings.TrimSpace(out)
	}
	fails := func(want, stdin string, args ...string) {
		t.Helper()
		_, stderr, code := run(t, env, stdin, args...)
		if why := lastLine(stderr); code != 1 || !strings.Contains(why, want) {
			t.Errorf("parley %s exited with %d: %s; want %q", strings.Join(args, " "), code, why, want)
		}
	}
	type account struct {
		ID, Username, Email, DisplayName, DisabledAt string
		Admin                                        bool
	}
	decode := func(text string) account {
		t.Helper()
		var a account
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		return a
	}

	// Before there ever was a server. A wrong directory must not look like an empty database.
	for _, args := range [][]string{{"verify"}, {"user", "list"}, {"user", "add", "ann", "--password-stdin"}, {"token", "ann"}} {
		fails("there is no database in", password+"\n", args...)
	}
	if got := ok("", "migrate"); !strings.HasPrefix(got, "The schema went from version 0 to ") {
		t.Errorf("migrate printed %q", got)
	}
	if got := ok("", "migrate"); !strings.HasPrefix(got, "The schema is up to date") {
		t.Errorf("migrate printed %q the second time", got)
	}
	if got := ok(password+"\n", "user", "add", "ann", "--password-stdin"); !strings.HasPrefix(got, "Added ann (") {
		t.Errorf("user add printed %q", got)
	}
	bob := decode(ok(password, "user", "add", "bob", "--email=bob@example.com", "--display-name=Bob & Co", "--admin", "--password-stdin", "--json"))
	if bob.ID == "" || bob.Email != "bob@example.com" || bob.DisplayName != "Bob & Co" || !bob.Admin {
		t.Errorf("user add --json printed %+v", bob)
	}
	token := ok("", "token", "ann")

	// The server takes what was made without it.
	s := serve(t, env)
	s.rest(t, token, http.MethodGet, "/api/users/me", nil, http.StatusOK, nil)
	logIn := func(name, pass string, want int) {
		t.Helper()
		s.rest(t, "", http.MethodPost, "/api/sessions", map[string]string{"username": name, "password": pass}, want, nil)
	}
	logIn("ann", password, http.StatusCreated)

	// Beside the server.
	ok(password, "user", "add", "carol", "--password-stdin")
	logIn("carol", password, http.StatusCreated)
	var names []string
	for line := range strings.Lines(ok("", "user", "list", "--json")) {
		names = append(names, decode(line).Username)
	}
	if got := strings.Join(names, " "); got != "ann bob carol" {
		t.Errorf("user list --json has %s", got)
	}
	if got := ok("", "user", "list"); strings.Count(got, "\n") != 3 || !strings.Contains(got, "USERNAME") || !strings.Contains(got, "admin") {
		t.Errorf("user list printed\n%s", got)
	}
	ok("battery staple\n", "user", "passwd", "carol", "--password-stdin")
	logIn("carol", password, http.StatusUnauthorized)
	logIn("carol", "battery staple", http.StatusCreated)

	var issued struct{ AccessToken, ExpiresAt string }
	if err := json.Unmarshal([]byte(ok("", "token", "carol", "--ttl=2h", "--json")), &issued); err != nil || issued.ExpiresAt == "" {
		t.Errorf("token --json: %v, %+v", err, issued)
	}
	s.rest(t, issued.AccessToken, http.MethodGet, "/api/users/me", nil, http.StatusOK, nil)

	// Disabling cuts a connection that is open and refuses the next.
	programtest.Path(t, "mosquitto_sub")
	l := s.listen(t, "-V", "5", "-u", "x", "-P", issued.AccessToken, "-q", "1", "-t", "conv/#")
	if got := ok("", "user", "disable", "carol"); got != "carol is disabled." {
		t.Errorf("user disable printed %q", got)
	}
	l.Disconnected(t)
	logIn("carol", "battery staple", http.StatusUnauthorized)
	s.rest(t, issued.AccessToken, http.MethodGet, "/api/users/me", nil, http.StatusUnauthorized, nil)
	fails("disabled", "", "token", "carol")
	ok("", "user", "enable", "carol")
	logIn("carol", "battery staple", http.StatusCreated)

	// After it.
	s.Stop(syscall.SIGTERM)
	if got := ok("", "user", "list"); strings.Count(got, "\n") != 3 {
		t.Errorf("user list printed\n%s", got)
	}
}
