// Package apptest starts the whole server for a test: on ports of its own, over a
// database of its own, with cheap password hashes and no rate limits. When the
// test ends the server is stopped, which must go well, and the oracle reads what
// it has left in the database (storetest.Check). For tests only.
package apptest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/rest/openapitest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// Password is the password of every user that User makes.
const Password = "correct horse battery"

// Option changes what is started.
type Option func(*app.Options)

// App is a server that runs until its test ends.
type App struct {
	*app.App
	// DB is another connection to the server's database, for what a test wants to
	// see or do behind the server's back. It outlives Stop.
	DB *store.Store
	// Identity makes accounts and tokens that the server takes.
	Identity *identity.Service

	t     testing.TB
	names atomic.Int64

	crashed bool

	document     sync.Once
	documentedBy *openapitest.Checker // document guards; nil: nothing is checked
}

// Start starts a server on a new database.
func Start(t testing.TB, options ...Option) *App {
	t.Helper()
	return StartOn(t, storetest.DSN(t), options...)
}

// StartOn is Start on the database at dsn: for several servers at once, or one
// after the other.
func StartOn(t testing.TB, dsn string, options ...Option) *App {
	t.Helper()
	a := &App{t: t, DB: storetest.Open(t, dsn)}
	o := app.Options{
		DatabaseURL: dsn, MQTTAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", AdminAddr: "127.0.0.1:0", Logger: newLogger(t),
		Identity:   identity.Options{Passwords: identity.PasswordParams{MemoryKiB: 8, Passes: 1, Threads: 1}},
		SignupRate: identity.Rate{Every: -1}, LoginRate: identity.Rate{Every: -1},
	}
	o.Limits.Linger = 500 * time.Millisecond
	for _, option := range options {
		option(&o)
	}
	i := o.Identity
	i.Store = a.DB
	var err error
	if a.Identity, err = identity.New(i); err != nil {
		t.Fatal("apptest:", err)
	}
	a.App = app.New(o)
	if err := a.Start(t.Context()); err != nil {
		t.Fatal("apptest: start:", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := a.Stop(ctx); err != nil && !a.crashed {
			t.Error("apptest: stop:", err)
		}
		storetest.Check(t, a.DB)
	})
	return a
}

// Crash takes the server's node lease from it. Another server may then be started on its database, and
// finds what a crash of this one would have left.
func (a *App) Crash(t testing.TB) {
	t.Helper()
	a.crashed = true
	giveUp := storetest.TakeNodeLease(t, a.DSN())
	select {
	case err := <-a.Failed(): // its next heartbeat finds that it has lost the lease
		t.Log("apptest: the server ends:", err)
	case <-time.After(time.Minute):
		t.Error("apptest: the server still has its node lease")
	}
	giveUp()
}

// User is somebody who can connect.
type User struct {
	ID       chat.ID
	Username string
	Token    string // good for an hour
}

// Topic returns a topic of the user's own, such as "errors" or "presence".
func (u User) Topic(what string) string { return "user/" + u.ID.String() + "/" + what }

// User makes an account whose name begins with name, and has not been used in
// this database.
func (a *App) User(t testing.TB, name string) User {
	t.Helper()
	n := identity.NewUser{Username: fmt.Sprintf("%s-%d-%s", name, a.names.Add(1), chat.NewID().String()[28:]), Password: Password}
	u, err := a.Identity.Register(t.Context(), n)
	if err != nil {
		t.Fatalf("apptest: register %q: %v", n.Username, err)
	}
	return User{ID: u.ID, Username: u.Username, Token: a.Token(t, u.Username)}
}

// Token makes another access token of the user's, without a login.
func (a *App) Token(t testing.TB, username string) string {
	t.Helper()
	token, _, err := a.Identity.IssueToken(t.Context(), username, time.Hour)
	if err != nil {
		t.Fatalf("apptest: token for %q: %v", username, err)
	}
	return token
}

// Conv is a conversation's id.
type Conv string

// Topic returns one of the conversation's topics, such as "messages".
func (c Conv) Topic(what string) string { return "conv/" + string(c) + "/" + what }

// ID returns the id.
func (c Conv) ID() chat.ID { return chat.MustParseID(string(c)) }

// Direct makes the direct conversation of two users. Its log begins with the
// event of that.
func (a *App) Direct(t testing.TB, from, to User) Conv {
	t.Helper()
	return a.converse(t, from, map[string]any{"otherUserId": to.ID})
}

// Group makes a group of the owner and the others. Its log begins with the event
// of that.
func (a *App) Group(t testing.TB, owner User, others ...User) Conv {
	t.Helper()
	ids := make([]chat.ID, 0, len(others))
	for _, u := range others {
		ids = append(ids, u.ID)
	}
	return a.converse(t, owner, map[string]any{"userIds": ids, "title": "group"})
}

func (a *App) converse(t testing.TB, u User, body map[string]any) Conv {
	t.Helper()
	var c struct{ ID Conv }
	if r := a.REST(t, u, http.MethodPost, "/api/conversations", body).Into(&c); r.Status != http.StatusCreated {
		t.Fatalf("apptest: make a conversation: %s", r)
	}
	return c.ID
}

// Response is what REST answered.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	JSON   map[string]any // Body, if it is an object

	t testing.TB
}

// String returns the response in one line, for messages.
func (r *Response) String() string { return fmt.Sprintf("%d %s", r.Status, r.Body) }

// Into decodes the body, if the request was successful.
func (r *Response) Into(v any) *Response {
	r.t.Helper()
	if r.Status/100 != 2 {
		return r
	}
	if err := json.Unmarshal(r.Body, v); err != nil {
		r.t.Fatalf("apptest: decode %s: %v", r.Body, err)
	}
	return r
}

// REST makes a request as u (zero: as nobody) with a JSON body (nil: none; a
// string: as it is).
func (a *App) REST(t testing.TB, u User, method, path string, body any) *Response {
	t.Helper()
	var reader io.Reader = http.NoBody
	switch b := body.(type) {
	case nil:
	case string:
		reader = bytes.NewReader([]byte(b))
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal("apptest:", err)
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+a.HTTPAddr()+path, reader)
	if err != nil {
		t.Fatal("apptest:", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return a.Do(t, u, req)
}

// Do makes a request as u, as REST does, that is made by hand.
func (a *App) Do(t testing.TB, u User, req *http.Request) *Response {
	t.Helper()
	if u.Token != "" {
		req.Header.Set("Authorization", "Bearer "+u.Token)
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		t.Fatalf("apptest: %s %s: %v", req.Method, req.URL, err)
	}
	defer resp.Body.Close()
	r := &Response{Status: resp.StatusCode, Header: resp.Header, t: t}
	if r.Body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("apptest: read the answer to %s %s: %v", req.Method, req.URL, err)
	}
	_ = json.Unmarshal(r.Body, &r.JSON)
	a.check(t, req, r)
	return r
}

// httpClient keeps no connection, so that none outlives its test.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: brokertest.Patience}

// Metrics returns what the server's admin address has at /metrics.
func (a *App) Metrics(t testing.TB) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.AdminAddr()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := httpClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("GET /metrics: %s, %v", r.Status, err)
	}
	return string(text)
}

// LastSeq returns how far a conversation's log reaches.
func (a *App) LastSeq(t testing.TB, member User, c Conv) int64 {
	t.Helper()
	list, err := a.DB.ListPositions(t.Context(), member.ID)
	if err != nil {
		t.Fatal("apptest:", err)
	}
	for _, p := range list {
		if p.ConversationID == c.ID() {
			return p.LastSeq
		}
	}
	t.Fatalf("apptest: %s is not in conversation %s", member.Username, c)
	return 0
}

// Log returns the events of a conversation after seq, as the member may see them.
func (a *App) Log(t testing.TB, member User, c Conv, after int64) []chat.Event {
	t.Helper()
	var events []chat.Event
	for {
		page, err := a.DB.ReadLog(t.Context(), member.ID, c.ID(), after, store.MaxLogPage)
		if err != nil {
			t.Fatal("apptest:", err)
		}
		if len(page) == 0 {
			return events
		}
		events = append(events, page...)
		after = page[len(page)-1].Seq
	}
}

// Device is a user's MQTT connection.
type Device struct {
	*brokertest.Client
	User User

	t testing.TB
}

// As returns o with the user's token as the password.
func (u User) As(o brokertest.Connect) brokertest.Connect {
	o.Password = u.Token
	return o
}

// Device connects as the user over TCP, with AutoAck.
func (a *App) Device(t testing.TB, u User, o brokertest.Connect) *Device {
	t.Helper()
	c := a.Dial(t)
	c.MustConnect(u.As(o))
	c.AutoAck = true
	return &Device{Client: c, User: u, t: t}
}

// Dial opens a TCP connection and sends nothing.
func (a *App) Dial(t testing.TB) *brokertest.Client {
	t.Helper()
	return checked(t, brokertest.Dial(t, a.MQTTAddr()))
}

// DialWebSocket opens MQTT over WebSocket and sends nothing.
func (a *App) DialWebSocket(t testing.TB) *brokertest.Client {
	t.Helper()
	return checked(t, brokertest.DialWebSocket(t, a.WebSocketURL()))
}

// WebSocketURL is where MQTT over WebSocket is.
func (a *App) WebSocketURL() string { return "ws://" + a.HTTPAddr() + "/mqtt" }

// Send publishes a payload to a conversation's messages at QoS 1 and returns the
// acknowledgement, which in MQTT 5 must say that it was stored.
func (d *Device) Send(c Conv, payload string) brokertest.Ack {
	d.t.Helper()
	ack := d.Publish(1, c.Topic("messages"), payload)
	if ack.Code != 0 || d.Version == 5 && ack.Seq == 0 {
		d.t.Fatalf("apptest: send %.100q: acknowledged with %+v", payload, ack)
	}
	return ack
}

// Event is an event as it is received.
type Event struct {
	Type           string
	ConversationID Conv
	Seq            int64
	SenderID       string
	CreatedAt      string
	ID             string
	ClientMsgID    string
	Content        string
	ReplyTo        string
	Mentions       []string
	EditedAt       string
	DeletedAt      string
	MessageID      string
	Emoji          string
	Op             string
	UserIDs        []string
	Epoch          string

	Packet packets.Packet
}

// Event returns the next event. The next packet must be one.
func (d *Device) Event() Event {
	d.t.Helper()
	return EventOf(d.t, d.Expect(packets.Publish))
}

// EventOf reads a PUBLISH on conv/{id}/messages.
func EventOf(t testing.TB, pk packets.Packet) Event {
	t.Helper()
	e := Event{Packet: pk}
	if err := json.Unmarshal(pk.Payload, &e); err != nil {
		t.Fatalf("apptest: %s: %v", brokertest.Describe(pk), err)
	}
	if pk.TopicName != e.ConversationID.Topic("messages") {
		t.Fatalf("apptest: an event of conversation %s came on %s", e.ConversationID, pk.TopicName)
	}
	return e
}

// ExpectEvent is Event for one whose place in the log is known.
func (d *Device) ExpectEvent(c Conv, seq int64) Event {
	d.t.Helper()
	e := d.Event()
	if e.ConversationID != c || e.Seq != seq {
		d.t.Fatalf("apptest: got event %d of %s, want %d of %s", e.Seq, e.ConversationID, seq, c)
	}
	return e
}

// Eventually waits until cond is true, looking again and again; what says what
// is waited for. It is for states that nothing on the wire tells of.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(brokertest.Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("apptest: gave up waiting until %s", what)
		}
	}
}

// newLogger writes the server's log to the test's: it is shown when the test
// fails. What is logged after the test has ended is dropped.
func newLogger(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB // mu guards; nil: the test has ended
}

func (w *testWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = nil
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(string(bytes.TrimRight(p, "\n")))
	}
	return len(p), nil
}
