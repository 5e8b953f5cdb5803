package main_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// Behind a PgBouncer in session mode everything works; in transaction mode nothing is begun.
// Before, the readers' connections were let in where their startup parameters were tolerated,
// the server called itself ready, and each message was refused after ten seconds.
func TestServeBehindPgBouncer(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	s := serve(t, []string{"DATABASE_URL=" + storetest.PgBouncer(t, dsn, "session")})
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	s.rest(t, ann.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": "hello"}, 201, nil)
	s.rest(t, "", http.MethodGet, "/readyz", nil, 200, nil)

	env := []string{"DATABASE_URL=" + storetest.PgBouncer(t, storetest.DSN(t), "transaction")}
	_, stderr, code := run(t, env, "", "serve", "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0")
	if why := lastLine(stderr); code != 1 || !strings.Contains(why, "pool_mode = session") {
		t.Errorf("in transaction mode it exited with %d: %s", code, why)
	}
}

// Ready is who can store a message. When the writer cannot, /readyz says so and names the
// setting; and it says so when the writer can again.
func TestReady(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, []string{"DATABASE_URL=" + dsn})
	await := func(want int, says string) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			r, err := http.Get("http://" + s.HTTP + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			switch {
			case err != nil:
				t.Fatal(err)
			case r.StatusCode == want && strings.Contains(string(body), says):
				return
			case time.Now().After(deadline):
				t.Fatalf("/readyz is %d: %s", r.StatusCode, body)
			}
		}
	}
	await(200, "ok")
	writable := dsn + " default_transaction_read_only=off"
	execSQL(t, writable, `ALTER DATABASE `+config.Database+` SET default_transaction_read_only = on`)
	execSQL(t, writable, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	await(503, "not ready: database: has default_transaction_read_only = on")
	execSQL(t, writable, `ALTER DATABASE `+config.Database+` RESET default_transaction_read_only`)
	await(200, "ok")
}

// limited is this commit's binary with a limit of open files.
func limited(t *testing.T, files int) string {
	t.Helper()
	path, err := parley()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "parley")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d && exec %s \"$@\"\n", files, path), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// Sockets of strangers that say nothing do not take the descriptors that the database needs.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	env := []string{"DATABASE_URL=" + dsn}
	s := serveBinary(t, limited(t, 128), env, "--max-connections=1000")
	if log := s.Log(); !strings.Contains(log, `"level":"WARN","msg":"the limit of open files (ulimit -n) allows fewer MQTT connections than --max-connections"`) {
		t.Errorf("nothing is said of the limit:\n%s", log)
	}
	strangers := func(addr string) {
		for range 150 {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	strangers(s.MQTT)
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	send := func() {
		t.Helper()
		var all sync.WaitGroup
		for range 8 { // at once, so that the pool of connections to the database grows
			all.Go(func() {
				s.rest(t, ann.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": "hello"}, 201, nil)
			})
		}
		all.Wait()
	}
	send()
	strangers(s.HTTP)
	execSQL(t, dsn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // until strangers have been closed
		r, err := http.Get("http://" + s.HTTP + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("it is not ready again:", err)
		}
	}
	send()
	if strings.Contains(s.Log(), "too many open files") {
		t.Errorf("there were no descriptors left:\n%s", s.Log())
	}

	cmd := command(t, []string{"DATABASE_URL=" + storetest.DSN(t)}, "serve", "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0")
	cmd.Path = limited(t, 64)
	out, _ := cmd.CombinedOutput()
	if why := lastLine(string(out)); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(why, "may open 64 files") || !strings.Contains(why, "ulimit -n") {
		t.Errorf("with too few it exited with %d: %s", cmd.ProcessState.ExitCode(), why)
	}
}

// A container may run with any uid, which has no line in /etc/passwd. initdb insists on one.
func TestServeWithoutName(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root may start a process with another uid")
	}
	dataDir(t) // skips where there is no PostgreSQL
	if found, _ := filepath.Glob("/usr/lib*/libnss_wrapper.so"); len(found) == 0 {
		if found, _ = filepath.Glob("/usr/lib/*/libnss_wrapper.so"); len(found) == 0 {
			programtest.Missing(t, "libnss-wrapper", "there is no libnss_wrapper.so here")
		}
	}
	path, err := parley()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "parley-uid-") // unlike t.TempDir, in a folder that others can walk to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(dir, "parley")
	if err := errors.Join(os.WriteFile(own, binary, 0o755), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	const uid = 12345
	start := func() *exec.Cmd {
		cmd := command(t, []string{"PARLEY_DATA=" + filepath.Join(dir, "data")}, "migrate")
		cmd.Path = own
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return cmd
	}
	for _, want := range []string{"The schema went from version 0", "The schema is up to date"} { // made, and opened again
		out, err := start().CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("parley migrate: %v\n%s", err, out)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "data", "postgres", "data.new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
