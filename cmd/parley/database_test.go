package main_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

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
