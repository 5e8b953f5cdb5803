package rest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/rest"
	"github.com/parleymq/parley/rest/openapitest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestMain(m *testing.M) {
	// Connections of the shared client that nobody uses are no leak of ours.
	storetest.Main(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

const password = "correct horse battery"

var unlimited = identity.Rate{Every: -1}

// server is the handler behind a real socket, on a real database.
type server struct {
	t        *testing.T
	url      string
	dsn      string
	store    *store.Store
	chat     *chat.Service
	identity *identity.Service
	metrics  *prometheus.Registry
	client   *http.Client
	document *openapitest.Checker // its own; nil: not read yet
}

type silent struct{}

func (silent) Publish(*chat.Event, *chat.Roster)                        {}
func (silent) Signal(chat.Topic, []byte, []chat.ID, func(chat.ID) bool) {}

func newServer(t *testing.T, change ...func(*rest.Options)) *server {
	t.Helper()
	dsn := storetest.DSN(t)
	db := storetest.Open(t, dsn)
	accounts, err := identity.New(identity.Options{Store: db, Passwords: identity.PasswordParams{MemoryKiB: 8, Passes: 1, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	service := chat.NewService(db, chat.SystemClock{}, nil)
	w := store.NewWriter(db.WriterConfig(), store.WriterOptions{Shards: 1, Recheck: service.Recheck, Committed: service.Committed})
	service.Use(w, silent{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }() // ends with ctx, in the cleanup
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("writer: %v", err)
		}
		storetest.Check(t, db)
	})
	s := &server{t: t, dsn: dsn, store: db, chat: service, identity: accounts, metrics: prometheus.NewRegistry()}
	o := rest.Options{
		Epoch: "k3v9x2ab",
		Chat:  service, Identity: accounts, Registerer: s.metrics, Version: "dev",
		Logger: slog.New(slog.DiscardHandler), Ready: func(context.Context) error { return nil },
		Signups: identity.NewLimiter(unlimited, unlimited, nil), Logins: identity.NewLimiter(unlimited, unlimited, nil),
	}
	for _, f := range change {
		f(&o)
	}
	h := httptest.NewServer(rest.Forwarded([]netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, rest.New(o)))
	t.Cleanup(h.Close)
	s.url, s.client = h.URL, h.Client()
	document, err := openapitest.New(s.want(200, "GET", "/openapi.json", "", nil).raw)
	if err != nil {
		t.Fatal(err)
	}
	s.document = document
	return s
}

// reply is an answer with its JSON taken apart.
type reply struct {
	status int
	header http.Header
	raw    []byte
	json   map[string]any
}

func (r reply) String() string { return http.StatusText(r.status) + " " + string(r.raw) }

// at follows a path of keys, with numbers for places in arrays.
func (r reply) at(path string) any {
	var v any = r.json
	for _, key := range strings.Split(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[key]
		case []any:
			if i := int(key[0] - '0'); i < len(in) {
				v = in[i]
				continue
			}
			return nil
		default:
			return nil
		}
	}
	return v
}

func (r reply) text(path string) string {
	s, _ := r.at(path).(string)
	return s
}

func (r reply) list() []any {
	l, _ := r.json["data"].([]any)
	return l
}

// do sends a request; body is JSON text, or a value to be made JSON, or nil.
func (s *server) do(method, path, token string, body any) reply {
	s.t.Helper()
	var text io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		text = strings.NewReader(b)
	default:
		j, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		text = bytes.NewReader(j)
	}
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, text)
	if err != nil {
		s.t.Fatal(err)
	}
	if text != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return s.send(r)
}

func (s *server) send(r *http.Request) reply {
	s.t.Helper()
	res, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	out := reply{status: res.StatusCode, header: res.Header, raw: raw}
	if len(raw) > 0 && strings.Contains(res.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal(raw, &out.json); err != nil {
			s.t.Fatalf("%s %s: %v: %s", r.Method, r.URL, err, raw)
		}
	}
	s.check(r, out)
	return out
}

// check compares an answer, and the request if it was successful, with the OpenAPI document.
func (s *server) check(r *http.Request, a reply) {
	s.t.Helper()
	if s.document == nil || r.Method == http.MethodHead || r.Method == http.MethodOptions {
		return
	}
	var sent []byte
	if r.GetBody != nil {
		body, err := r.GetBody()
		if err != nil {
			s.t.Fatal(err)
		}
		if sent, err = io.ReadAll(body); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.document.Check(r.Method, r.URL.String(), sent, a.status, a.header.Get("Content-Type"), a.raw); err != nil {
		s.t.Error(err)
	}
}

// want is do for a request that must succeed with the status.
func (s *server) want(status int, method, path, token string, body any) reply {
	s.t.Helper()
	r := s.do(method, path, token, body)
	if r.status != status {
		s.t.Fatalf("%s %s = %d %v, want %d", method, path, r.status, r, status)
	}
	return r
}

// problem is do for a request that must be refused; field "" means that none is named.
func (s *server) problem(status int, code chat.Code, field, method, path, token string, body any) reply {
	s.t.Helper()
	r := s.do(method, path, token, body)
	checkProblem(s.t, method+" "+path, r, status, code, field)
	return r
}

func checkProblem(t *testing.T, what string, r reply, status int, code chat.Code, field string) {
	t.Helper()
	if r.status != status || r.text("code") != string(code) || r.text("errors.0.field") != field {
		t.Errorf("%s = %d %v, want %d %s for field %q", what, r.status, r, status, code, field)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s: content type %q", what, got)
	}
	if r.text("title") != http.StatusText(status) || r.text("detail") == "" || r.at("status") != float64(status) {
		t.Errorf("%s: title, detail or status are not right: %s", what, r.raw)
	}
	if field != "" && !strings.Contains(r.text("detail"), r.text("errors.0.message")) {
		t.Errorf("%s: the detail does not tell of the field: %s", what, r.raw)
	}
}

// person is a registered user who is logged in.
type person struct{ id, name, token, refresh, session string }

func (s *server) person(name string) person {
	s.t.Helper()
	u := s.want(201, "POST", "/api/users", "", map[string]string{"username": name, "email": name + "@example.org", "password": password})
	p := s.logIn(name)
	if p.id != u.text("id") {
		s.t.Fatalf("logged in as %q, registered as %q", p.id, u.text("id"))
	}
	return p
}

func (s *server) logIn(name string) person {
	s.t.Helper()
	r := s.want(201, "POST", "/api/sessions", "", map[string]string{"username": name, "password": password, "device": "phone"})
	return person{id: r.text("user.id"), name: name, token: r.text("accessToken"), refresh: r.text("refreshToken"), session: r.text("sessionId")}
}

// direct begins a conversation of two.
func (s *server) direct(a, b person) string {
	s.t.Helper()
	return s.want(201, "POST", "/api/conversations", a.token, map[string]string{"otherUserId": b.id}).text("id")
}

func (s *server) say(p person, conversation, content string) reply {
	s.t.Helper()
	return s.want(201, "POST", "/api/messages", p.token, map[string]string{"conversationId": conversation, "content": content})
}

const nothing = "0198c0de-0000-7000-8000-000000000000"

// isTime reports whether v is a time as the contract wants it.
func isTime(v any) bool {
	s, _ := v.(string)
	_, err := time.Parse(chat.TimeFormat, s)
	return err == nil
}

func (s *server) counter(name string) float64 {
	s.t.Helper()
	families, err := s.metrics.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// Hint implements chat.Publisher.
func (silent) Hint(chat.ID, int64, *chat.Roster) {}
