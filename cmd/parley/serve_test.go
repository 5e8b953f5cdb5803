package main_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/store/storetest"
)

// One data directory through its life: made, stopped by either signal, opened
// again; and refused to a second server while the first runs.
func TestServe(t *testing.T) {
	t.Parallel()
	env := []string{"PARLEY_DATA=" + dataDir(t)}
	s := serve(t, env)
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/metrics": 404, "/openapi.json": 200, "/asyncapi.json": 200, "/docs": 200, "/.well-known/jwks.json": 200, "/nothing": 404,
	} {
		s.rest(t, "", http.MethodGet, path, nil, want, nil)
	}
	ann := s.user(t, "ann")

	_, stderr, code := run(t, env, "", "serve", "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0")
	if why := lastLine(stderr); code != 1 || !strings.Contains(why, "another parley") || !strings.Contains(why, "stop it, or use another directory") {
		t.Errorf("a second server on the data directory exited with %d: %s", code, why)
	}

	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		begun := time.Now()
		s.Stop(sig)
		if banner := s.Banner(); !strings.Contains(banner, "Parley is ready") || !strings.Contains(banner, s.HTTP[strings.LastIndexByte(s.HTTP, ':'):]) {
			t.Errorf("the banner is %q", banner)
		}
		s = serve(t, env)
		t.Logf("%v stopped it in %v; listening again after %v", sig, time.Since(begun)-s.started, s.started)
		var me struct{ ID string }
		s.rest(t, ann.Token, http.MethodGet, "/api/users/me", nil, 200, &me)
		if me.ID != ann.ID {
			t.Errorf("after a restart ann is %q, was %q", me.ID, ann.ID)
		}
	}
}

// A server that is asked to stop while it starts stops.
func TestServeStoppedWhileStarting(t *testing.T) {
	t.Parallel()
	cmd := command(t, []string{"DATABASE_URL=postgres://nobody@127.0.0.1:" + silentPort(t) + "/none"}, "serve", "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--log-format=json")
	waiting := make(chan struct{})
	var log notifyBuffer
	log.when("waiting for the database", waiting)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-waiting:
	case <-time.After(patience):
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, log.String())
	}
}

// notifyBuffer is a syncBuffer that tells when something was written.
type notifyBuffer struct {
	syncBuffer
	text string
	c    chan struct{}
}

func (b *notifyBuffer) when(text string, c chan struct{}) { b.text, b.c = text, c }

func (b *notifyBuffer) Write(p []byte) (int, error) {
	n, err := b.syncBuffer.Write(p)
	if b.c != nil && strings.Contains(b.String(), b.text) {
		close(b.c)
		b.c = nil
	}
	return n, err
}

// silentPort is a port of this machine on which nobody listens.
func silentPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// What keeps a server from starting is said in its last line, with what to do
// about it and without secrets; the exit code is 1, or 2 for a bad command line.
func TestServeRefused(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	const secret = "s3cr3t"
	otherMajor := func(t *testing.T) []string {
		dir := dataDir(t)
		data := filepath.Join(dir, "postgres", "data")
		if err := os.MkdirAll(data, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("11\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"PARLEY_DATA=" + dir}
	}
	newer := func(t *testing.T) []string {
		dsn := storetest.DSN(t)
		execSQL(t, dsn, `INSERT INTO parley_schema_version (version_id, is_applied) VALUES (99999, true)`)
		return []string{"DATABASE_URL=" + dsn}
	}
	url := func(url string) func(*testing.T) []string {
		return func(*testing.T) []string { return []string{"DATABASE_URL=" + url} }
	}
	for _, tt := range []struct {
		name string
		env  func(*testing.T) []string
		args []string
		code int
		want []string // of the last line
	}{
		{"port", func(t *testing.T) []string {
			return []string{"PARLEY_DATA=" + t.TempDir(), "PARLEY_MQTT_ADDR=" + taken.Addr().String()}
		}, nil, 1, []string{taken.Addr().String(), "address already in use", "PARLEY_MQTT_ADDR"}},
		{"http port", func(t *testing.T) []string {
			return []string{"PARLEY_DATA=" + t.TempDir(), "PARLEY_HTTP_ADDR=" + taken.Addr().String()}
		}, nil, 1, []string{"address already in use", "PARLEY_HTTP_ADDR"}},
		{"newer schema", newer, nil, 1, []string{"schema version 99999", "newer parley"}},
		{"other major version", otherMajor, nil, 1, []string{"PostgreSQL 11"}},
		{"no such folder for programs", func(t *testing.T) []string {
			return []string{"PARLEY_DATA=" + t.TempDir(), "PARLEY_POSTGRES_BIN=/nonexistent"}
		}, nil, 1, []string{"/nonexistent"}},
		{"not a URL", url("postgres://parley:" + secret + "@[::1/parley"), nil, 1, []string{"database", "postgres://user:password@host"}},
		{"bad parameter", url("postgres://parley:" + secret + "@localhost/parley?sslmode=perhaps"), nil, 1, []string{"database", "sslmode"}},
		{"wrong password", func(t *testing.T) []string {
			return url("postgres://parley:" + secret + "@" + refusing(t) + "/parley?sslmode=disable")(t)
		}, nil, 1, []string{"password authentication failed"}},
		{"signing key", func(t *testing.T) []string {
			return []string{"DATABASE_URL=" + storetest.DSN(t), "PARLEY_SIGNING_KEY=/nonexistent/key.pem"}
		}, nil, 1, []string{"signing key", "/nonexistent/key.pem"}},
		{"no network", url("x"), []string{"--proxy-protocol-from=10.0.0.1,10.0.0.0/33"}, 1, []string{"--proxy-protocol-from", `"10.0.0.0/33"`}},
		{"drain", url("x"), []string{"--drain=2h"}, 1, []string{"--drain", "1h"}},
		{"server reference", url("x"), []string{"--server-reference=" + strings.Repeat("b", 300)}, 1, []string{"--server-reference", "256 bytes"}},
		{"origins", url("x"), []string{"--allowed-origins=https://ok.example.com,chat.example.com"}, 1, []string{"--allowed-origins", `"chat.example.com" is not an origin`}},
		{"variable", func(*testing.T) []string { return []string{"PARLEY_HTP_ADDR=:80"} }, nil, 2, []string{"unknown environment variable PARLEY_HTP_ADDR, did you mean PARLEY_HTTP_ADDR?"}},
		{"variable in lower case", func(*testing.T) []string { return []string{"parley_node=a"} }, nil, 2, []string{"parley_node, did you mean PARLEY_NODE?"}},
		{"variable of the database", func(*testing.T) []string { return []string{"PARLEY_DATABASE_URL=x"} }, nil, 2, []string{"did you mean DATABASE_URL?"}},
		{"variable like nothing", func(*testing.T) []string { return []string{"PARLEY_MQTT_PORT=1883"} }, nil, 2, []string{"PARLEY_MQTT_PORT"}},
		{"variables of others", func(*testing.T) []string {
			return []string{
				"DATABASE_URL=x", "PARLEY_SERVICE_HOST=10.0.0.1", "PARLEY_SERVICE_PORT=1883", "PARLEY_SERVICE_PORT_MQTT=1883", "PARLEY_PORT=tcp://10.0.0.1:1883",
				"PARLEY_PORT_1883_TCP=tcp://10.0.0.1:1883", "PARLEY_PORT_1883_TCP_PROTO=tcp", "PARLEY_PORT_1883_TCP_PORT=1883", "PARLEY_PORT_1883_TCP_ADDR=10.0.0.1",
				"PARLEY_WEB_SERVICE_HOST=10.0.0.2", "PARLEY_WEB_PORT=tcp://10.0.0.2:80", "PARLEY_WEB_PORT_80_TCP=tcp://10.0.0.2:80", "PARLEY_TEST_SEED=1", "PARLEY_URL=http://localhost:8080",
			}
		}, []string{"--drain=2h"}, 1, []string{"--drain"}},
		{"connections", url("x"), []string{"--max-connections=-1"}, 1, []string{"--max-connections: -1 is not 1 or more"}},
		{"packets", url("x"), []string{"--max-packet-rate=-1"}, 1, []string{"--max-packet-rate: -1 is not 0 to 1000000"}},
		{"no connections", func(*testing.T) []string { return []string{"DATABASE_URL=x", "PARLEY_MAX_CONNECTIONS=0"} }, nil, 1, []string{"--max-connections"}},
		{"node", func(*testing.T) []string { return []string{"DATABASE_URL=x", "PARLEY_NODE=a\nb"} }, nil, 1, []string{"--node", `"a\nb"`}},
		{"long node", url("x"), []string{"--node=" + strings.Repeat("n", 129)}, 1, []string{"--node", "128 bytes"}},
		{"issuer", url("x"), []string{"--token-issuer="}, 1, []string{"--token-issuer"}},
		{"audience", url("x"), []string{"--token-audience=a\x07"}, 1, []string{"--token-audience"}},
		{"yes or no", func(*testing.T) []string { return []string{"DATABASE_URL=x", "PARLEY_NO_RATE_LIMITS=perhaps"} }, nil, 2, []string{"perhaps"}},
		{"flag", url("x"), []string{"--no-such-flag"}, 2, []string{"--no-such-flag", "parley --help"}},
		{"level", url("x"), []string{"--log-level=loud"}, 2, []string{"--log-level"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			env := append([]string{"PARLEY_MQTT_ADDR=127.0.0.1:0", "PARLEY_HTTP_ADDR=127.0.0.1:0", "PARLEY_LOG_FORMAT=json"}, tt.env(t)...)
			stdout, stderr, code := run(t, env, "", append([]string{"serve"}, tt.args...)...)
			why := lastLine(stderr)
			t.Log(why)
			if code != tt.code || !strings.HasPrefix(why, "parley: ") {
				t.Errorf("exit code %d, last line %q", code, why)
			}
			for _, want := range tt.want {
				if !strings.Contains(why, want) {
					t.Errorf("the last line lacks %q: %s", want, why)
				}
			}
			if strings.Contains(stdout+stderr, secret) {
				t.Errorf("the password is shown:\n%s%s", stdout, stderr)
			}
		})
	}
}

// What other programs have as commands, works as such.
func TestHelpAndVersion(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"help", "--help"}, {"version", "--version"}, {"help serve", "serve --help"}, {"help user add", "user add --help"}} {
		out, stderr, code := run(t, []string{"PARLEY_HTP_ADDR=x"}, "", strings.Fields(pair[0])...)
		want, _, _ := run(t, nil, "", strings.Fields(pair[1])...)
		if code != 0 || out != want || out == "" {
			t.Errorf("parley %s exited with %d: %s%s", pair[0], code, out, stderr)
		}
	}
}

// execSQL runs a statement behind the server's back.
func execSQL(t testing.TB, dsn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatal(err)
	}
}

// refusing is the address of a server that speaks just enough of PostgreSQL's
// protocol to refuse a password.
func refusing(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when the test closes the listener, and waits
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var startup [512]byte
			_, _ = c.Read(startup[:])
			fields := "SFATAL\x00VFATAL\x00C28P01\x00Mpassword authentication failed for user \"parley\"\x00\x00"
			_, _ = c.Write(append([]byte{'E', 0, 0, 0, byte(4 + len(fields))}, fields...))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// The first signal drains, the second one ends the drain: clients that are left are
// told, and the process ends in order.
func TestServeDrains(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t), "PARLEY_DRAIN=1h", "PARLEY_SERVER_REFERENCE=b.example.com"})
	ann := s.user(t, "ann")
	c := brokertest.Open(t, s.MQTT, brokertest.Connect{ClientID: "a", Password: ann.Token})
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !strings.Contains(s.Log(), "sending clients away"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not drain")
		}
	}
	c.Ping() // one of an hour's; it would be a rare chance that its turn has come
	s.rest(t, "", http.MethodGet, "/readyz", nil, http.StatusServiceUnavailable, nil)
	s.rest(t, ann.Token, http.MethodGet, "/api/users/me", nil, http.StatusOK, nil)
	s.Stop(syscall.SIGTERM)
	if pk := c.ExpectDisconnect(0x9C); pk.Properties.ServerReference != "b.example.com" {
		t.Errorf("the client hears of server %q", pk.Properties.ServerReference)
	}
	if !strings.Contains(s.Log(), "stopping at once") {
		t.Error("the second signal was not noticed")
	}
}
