package rest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/rest"
)

// Every code has a status, and nothing internal gets out.
func TestEveryCodeHasAStatus(t *testing.T) {
	t.Parallel()
	want := map[chat.Code]int{
		chat.Invalid: 400, chat.Unauthenticated: 401, chat.Forbidden: 403, chat.NotFound: 404, chat.Conflict: 409, chat.TooLarge: 413,
		chat.Quota: 429, chat.Unsupported: 501, chat.Unavailable: 503, chat.Internal: 500,
	}
	secret := errors.New("dsn=postgres://root:secret@db")
	for _, code := range chat.Codes() {
		for _, err := range []error{
			code,
			&chat.Error{Code: code, Op: "store.Secret", Err: secret},
			fmt.Errorf("open secret: %w", &chat.Error{Code: code, Op: "store.Secret", Field: "content", Msg: "is wrong", Err: secret}),
		} {
			p := rest.ProblemOf(err)
			if p.Status != want[code] || p.Code != code || p.Title != http.StatusText(p.Status) || p.Detail == "" {
				t.Errorf("ProblemOf(%v) = %+v, want status %d", err, p, want[code])
			}
			if text := fmt.Sprintf("%+v", p); strings.Contains(strings.ToLower(text), "secret") {
				t.Errorf("ProblemOf(%v) tells secrets: %s", err, text)
			}
			h := p.GetHeaders()
			if got := h.Get("Retry-After") != ""; got != (code == chat.Quota || code == chat.Unavailable) {
				t.Errorf("%s: Retry-After %q", code, h.Get("Retry-After"))
			}
			if got := h.Get("WWW-Authenticate") != ""; got != (code == chat.Unauthenticated) {
				t.Errorf("%s: WWW-Authenticate %q", code, h.Get("WWW-Authenticate"))
			}
		}
	}
	if p := rest.ProblemOf(secret); p.Status != 500 || strings.Contains(p.Detail, "secret") {
		t.Errorf("an error without a code: %+v", p)
	}
	if p := rest.ProblemOf(&chat.Error{Code: chat.Quota, Msg: "x", RetryAfter: 1500 * time.Millisecond}); p.GetHeaders().Get("Retry-After") != "2" {
		t.Errorf("Retry-After %q, want 2: whole seconds, never too early", p.GetHeaders().Get("Retry-After"))
	}
	if p := rest.ProblemOf(context.DeadlineExceeded); p.Status != 503 {
		t.Errorf("a deadline: %+v", p)
	}
}

func TestRouter(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *rest.Options) { o.Version = "1.2.3" })
	for _, path := range []string{"/", "/api", "/api/", "/api/nothing", "/api/users/", "/api/users/me/", "/api/messages/a/b", "/schemas/User", "/openapi.yaml", "/metrics"} {
		s.problem(404, chat.NotFound, "", "GET", path, "", nil)
	}
	r := s.problem(405, "method_not_allowed", "", "PUT", "/api/messages", "", "{}")
	if got := strings.Join(r.header.Values("Allow"), ", "); got != "GET, POST" {
		t.Errorf("Allow %q", got)
	}
	for name, want := range map[string]string{
		"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if r := s.want(200, "GET", "/healthz", "", nil); r.text("status") != "ok" {
		t.Errorf("/healthz: %s", r.raw)
	}
	s.want(200, "HEAD", "/healthz", "", nil)
	s.want(200, "GET", "/readyz", "", nil)
	if r := s.want(200, "GET", "/openapi.json", "", nil); r.text("openapi") != "3.1.0" || r.text("info.version") != "1.2.3" {
		t.Errorf("/openapi.json: %.100s", r.raw)
	}
	alice := s.person("alice")
	jwks := s.want(200, "GET", "/.well-known/jwks.json", "", nil)
	if jwks.text("keys.0.kty") != "OKP" || jwks.text("keys.0.crv") != "Ed25519" || len(jwks.text("keys.0.x")) != 43 || strings.Contains(string(jwks.raw), `"d"`) {
		t.Errorf("JWKS: %s", jwks.raw)
	}
	if got := jwks.header.Values("Cache-Control"); len(got) != 1 || got[0] != "public, max-age=300" {
		t.Errorf("JWKS: Cache-Control %q", got)
	}
	// The scheme's name is in any case (RFC 9110, 11.1); no CORS by default.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/api/users/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "bearer "+alice.token)
	req.Header.Set("Origin", "https://app.example.org")
	req.Header.Set("Accept", "text/html")
	if r := s.send(req); r.status != 200 || r.header.Get("Access-Control-Allow-Origin") != "" || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("GET /api/users/me = %v %v", r, r.header)
	}
}

func TestNotReady(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *rest.Options) { o.Ready = func(context.Context) error { return errors.New("secret reason") } })
	r := s.problem(503, chat.Unavailable, "", "GET", "/readyz", "", nil)
	if strings.Contains(string(r.raw), "secret") || r.header.Get("Retry-After") == "" {
		t.Errorf("/readyz: %s %v", r.raw, r.header)
	}
	s.want(200, "GET", "/healthz", "", nil)
}

func TestPanicIsRecovered(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := newServer(t, func(o *rest.Options) {
		o.Ready = func(context.Context) error { panic("secret reason") }
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	r := s.problem(500, chat.Internal, "", "GET", "/readyz", "", nil)
	if strings.Contains(string(r.raw), "secret") {
		t.Errorf("a panic's reason is shown: %s", r.raw)
	}
	if !strings.Contains(log.String(), "secret reason") {
		t.Errorf("the panic is not in the log: %s", log.String())
	}
	if got := s.counter("parley_rest_panics_total"); got != 1 {
		t.Errorf("%v panics counted, want 1", got)
	}
	s.want(200, "GET", "/healthz", "", nil)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestSecretsAreNotLogged(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := newServer(t, func(o *rest.Options) {
		o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	alice := s.person("alice")
	s.say(alice, s.direct(alice, s.person("bob")), "whispered words")
	s.problem(401, chat.Unauthenticated, "", "GET", "/api/users/me", alice.token+"x", nil)
	for _, secret := range []string{alice.token, alice.refresh, password, "whispered"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	if !strings.Contains(log.String(), "route=/api/messages") {
		t.Errorf("requests are not in the debug log: %s", log.String())
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.org"
	s := newServer(t, func(o *rest.Options) {
		o.AllowOrigin = func(r *http.Request) bool { return r.Header.Get("Origin") == app }
	})
	for _, tt := range []struct {
		method, origin, asks string
		status               int
		allowed              string
	}{
		{"OPTIONS", app, "PATCH", 204, app},
		{"OPTIONS", "https://evil.example.org", "PATCH", 405, ""},
		{"OPTIONS", "null", "PATCH", 405, ""},
		{"GET", app, "", 401, app},
		{"GET", "https://evil.example.org", "", 401, ""},
		{"GET", "", "", 401, ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, s.url+"/api/users/me", nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if tt.asks != "" {
			r.Header.Set("Access-Control-Request-Method", tt.asks)
		}
		got := s.send(r)
		h := got.header
		if got.status != tt.status || h.Get("Access-Control-Allow-Origin") != tt.allowed || !strings.HasPrefix(h.Get("Vary"), "Origin") || h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s from %q = %d %v, want %d for %q", tt.method, tt.origin, got.status, h, tt.status, tt.allowed)
		}
	}
}

// Of two tokens only the first would count.
func TestTwoTokens(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	alice, bob := s.person("alice"), s.person("bob")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/api/users/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["Authorization"] = []string{"Bearer " + alice.token, "Bearer " + bob.token}
	checkProblem(t, "two tokens", s.send(r), 400, chat.Invalid, "Authorization")
}

func TestRateLimits(t *testing.T) {
	t.Parallel()
	clk := &clock{t: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}
	from := "192.0.2.1"
	s := newServer(t, func(o *rest.Options) {
		o.Signups = identity.NewLimiter(identity.Rate{Every: time.Minute, Burst: 1}, identity.Rate{}, clk)
		o.Logins = identity.NewLimiter(identity.Rate{Every: 4 * time.Second, Burst: 3}, identity.Rate{}, clk)
	})
	logIn := func() reply {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/api/sessions", strings.NewReader(`{"username":"nobody","password":"correct horse battery"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Forwarded-For", from)
		return s.send(r)
	}
	for range 3 {
		if r := logIn(); r.status != 401 {
			t.Fatalf("within the limit: %v", r)
		}
	}
	for range 5 {
		r := logIn()
		checkProblem(t, "over the limit", r, 429, chat.Quota, "")
		if got := r.header.Get("Retry-After"); got != "4" {
			t.Errorf("Retry-After %q, want 4", got)
		}
	}
	if got := s.counter("parley_rest_limited_total"); got != 5 {
		t.Errorf("%v counted, want 5", got)
	}
	clk.advance(4 * time.Second)
	if r := logIn(); r.status != 401 {
		t.Errorf("after the wait: %v", r)
	}
	from = "2001:db8::1"
	for range 3 {
		logIn()
	}
	from = "2001:db8::2"
	if r := logIn(); r.status != 429 {
		t.Errorf("from the same /64: %v", r)
	}
	from = "2001:db8:0:1::1"
	if r := logIn(); r.status != 401 {
		t.Errorf("from another /64: %v", r)
	}
	for range 3 { // what is invalid does not count, since nothing was looked up or hashed
		s.problem(400, chat.Invalid, "password", "POST", "/api/users", "", `{"username":"alice","email":"a@example.org","password":"short"}`)
	}
	s.want(201, "POST", "/api/users", "", `{"username":"alice","email":"a@example.org","password":"correct horse"}`)
	s.problem(429, chat.Quota, "", "POST", "/api/users", "", `{"username":"bob","email":"b@example.org","password":"correct horse"}`)
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// A client that goes away in the middle of its body is no error of ours.
func TestBodyCutOff(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	s := newServer(t, func(o *rest.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	addr := strings.TrimPrefix(s.url, "http://")
	for _, request := range []string{
		"POST /api/users HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
		"POST /api/users HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 12)
		if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 400" {
			t.Errorf("a cut body: %q, %v, want 400", answer, err)
		}
		conn.Close()
	}
	if log.String() != "" {
		t.Errorf("logged: %s", log.String())
	}
}
