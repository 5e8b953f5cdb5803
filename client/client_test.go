package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
	"github.com/parleymq/parley/store/storetest"
)

func TestSendAndReceive(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, over := range []string{"TCP", "WebSocket"} {
		t.Run(over, func(t *testing.T) {
			ann, bob := a.User(t, "ann"), a.User(t, "bob")
			url := "mqtt://" + a.MQTTAddr()
			if over == "WebSocket" {
				url = "" // what comes of itself
			}
			got := make(chan *client.Event, 100)
			o := options(a, bob, "phone")
			o.MQTTURL, o.OnEvent = url, events(got)
			dial(t, o)
			o = options(a, ann, "laptop")
			o.MQTTURL = url
			c := dial(t, o)
			if c.Me().Username != ann.Username || c.ClientID() != "laptop" {
				t.Errorf("connected as %+v, %s", c.Me(), c.ClientID())
			}

			ctx := patient(t)
			conv, created, err := c.CreateDirect(ctx, client.ID(bob.ID.String()))
			if err != nil || !created {
				t.Fatal(created, err)
			}
			if again, created, err := c.CreateDirect(ctx, client.ID(bob.ID.String())); again != conv || created || err != nil {
				t.Errorf("the second time: %s, %v, %v; want %s", again, created, err, conv)
			}
			r, err := c.Send(ctx, conv, client.Message{Content: "hello"})
			if err != nil || r.Seq != 2 || r.ID == "" || r.ClientMsgID == "" || time.Since(r.CreatedAt) > time.Minute {
				t.Fatalf("Send = %+v, %v", r, err)
			}
			if again, err := c.Send(ctx, conv, client.Message{Content: "hello", ClientMsgID: r.ClientMsgID}); again != r || err != nil {
				t.Errorf("sent again: %+v, %v; want %+v", again, err, r)
			}
			reply, err := c.Send(ctx, conv, client.Message{Content: "hello, @" + bob.Username, ReplyTo: r.ID})
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{
				c.Edit(ctx, conv, r.ID, "hello!"), c.React(ctx, conv, r.ID, "👍"), c.React(ctx, conv, r.ID, "👍"),
				c.Unreact(ctx, conv, r.ID, "👍"), c.Delete(ctx, conv, r.ID), c.Delete(ctx, conv, r.ID),
			} {
				if err != nil {
					t.Error(err)
				}
			}
			if e := expect(t, "created", got); e.Type != client.EventConversation || e.Op != "created" || e.Kind != client.Direct || e.Message() != nil {
				t.Errorf("first came %+v", e)
			}
			if e := expect(t, "the message", got); e.Content != "hello" || e.ID != r.ID || e.Seq != 2 || !e.CreatedAt.Equal(r.CreatedAt) || e.Message().Content != "hello" {
				t.Errorf("then came %+v", e)
			}
			if e := expect(t, "the reply", got); e.ID != reply.ID || e.ReplyTo != r.ID || len(e.Mentions) != 1 || e.Mentions[0] != client.ID(bob.ID.String()) {
				t.Errorf("then came %+v", e)
			}
			if e := expect(t, "the edit", got); e.Type != client.EventEdit || e.Content != "hello!" || e.MessageID != r.ID {
				t.Errorf("then came %+v", e)
			}
			for _, op := range []string{"add", "remove"} {
				if e := expect(t, op, got); e.Type != client.EventReaction || e.Emoji != "👍" || e.Op != op {
					t.Errorf("then came %+v", e)
				}
			}
			if e := expect(t, "the deletion", got); e.Type != client.EventDelete || e.MessageID != r.ID || e.Seq != 7 {
				t.Errorf("then came %+v", e)
			}
		})
	}
}

// What the server refuses comes as errors that a program can tell apart, at once.
func TestRefusals(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	conv := client.ID(a.Direct(t, ann, bob))
	refused := make(chan *client.Error, 1)
	o := options(a, eve, "")
	o.OnRefused = func(e *client.Error) { refused <- e }
	stranger, c := dial(t, o), dial(t, options(a, ann, ""))
	ctx := patient(t)
	first, err := c.Send(ctx, conv, client.Message{Content: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	nobody := client.ID("0198c0de-0000-7000-8000-000000000001")
	for _, test := range []struct {
		name  string
		do    func() error
		code  client.Code
		field string
	}{
		{"empty", func() error { _, err := c.Send(ctx, conv, client.Message{}); return err }, client.Invalid, "content"},
		{"long", func() error {
			_, err := c.Send(ctx, conv, client.Message{Content: strings.Repeat("x", 65537)})
			return err
		}, client.TooLarge, "content"},
		{"huge", func() error {
			_, err := c.Send(ctx, conv, client.Message{Content: strings.Repeat("x", 1<<20)})
			return err
		}, client.TooLarge, "content"},
		{"other content", func() error {
			_, err := c.Send(ctx, conv, client.Message{Content: "bye", ClientMsgID: first.ClientMsgID})
			return err
		}, client.Conflict, "clientMsgId"},
		{"stranger", func() error { _, err := stranger.Send(ctx, conv, client.Message{Content: "x"}); return err }, client.Forbidden, "conversationId"},
		{"edit", func() error { return c.Edit(ctx, conv, nobody, "x") }, client.NotFound, "messageId"},
		{"emoji", func() error { return c.React(ctx, conv, first.ID, "x") }, client.Invalid, "emoji"},
		{"get", func() error { _, err := stranger.GetMessage(ctx, first.ID); return err }, client.NotFound, "messageId"},
		{"direct", func() error { _, _, err := c.CreateDirect(ctx, nobody); return err }, client.NotFound, "otherUserId"},
		{"no id", func() error { _, err := c.GetConversation(ctx, "../users/me"); return err }, client.Invalid, "id"},
	} {
		err := test.do()
		var e *client.Error
		if !errors.As(err, &e) || !errors.Is(err, test.code) || e.Field != test.field || e.Detail == "" || client.CodeOf(err) != test.code {
			t.Errorf("%s: %v, want %s about %q", test.name, err, test.code, test.field)
		}
	}
	if err := stranger.Typing(ctx, conv, true); err != nil {
		t.Error(err)
	}
	if e := expect(t, "a refusal", refused); e.Code != client.Forbidden {
		t.Errorf("typing was refused with %v", e)
	}
}

// While 1,000 messages are being sent, the server is stopped and started again: each is
// stored once, in the order of its sender, and a receiver misses none.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	const senders, each = 10, 100
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	mqtt, http := a.MQTTAddr(), a.HTTPAddr()
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))

	got := make(chan *client.Event, 2*senders*each)
	o := options(a, bob, "phone")
	o.OnEvent = events(got)
	dial(t, o)
	c := dial(t, options(a, ann, "laptop"))
	var sent atomic.Int64
	var wg sync.WaitGroup
	ctx := patient(t)
	for s := range senders {
		wg.Go(func() {
			var last int64
			for n := range each {
				r, err := c.Send(ctx, conv, client.Message{Content: fmt.Sprintf("%d %d", s, n)})
				if err != nil || r.Seq <= last {
					t.Errorf("message %d of sender %d: %+v, %v, after %d", n, s, r, err, last)
					return
				}
				last = r.Seq
				sent.Add(1)
			}
		})
	}
	for _, at := range []int64{200, 600} {
		apptest.Eventually(t, fmt.Sprint(at, " are sent"), func() bool { return sent.Load() >= at || t.Failed() })
		stop, cancel := context.WithTimeout(t.Context(), time.Minute)
		if err := a.Stop(stop); err != nil {
			t.Error(err)
		}
		cancel()
		a = apptest.StartOn(t, dsn, func(o *app.Options) { o.MQTTAddr, o.HTTPAddr = mqtt, http })
	}
	wg.Wait()

	next := make([]int, senders)
	for seq := int64(2); seq <= senders*each+1; seq++ {
		e := expect(t, fmt.Sprint("event ", seq), got)
		var s, n int
		if _, err := fmt.Sscan(e.Content, &s, &n); err != nil || e.Seq != seq || n != next[s] {
			t.Fatalf("event %d is %q, seq %d, %v; the next of that sender is %d", seq, e.Content, e.Seq, err, next[s])
		}
		next[s]++
	}
	if seq := a.LastSeq(t, bob, apptest.Conv(conv)); seq != senders*each+1 || len(got) != 0 {
		t.Errorf("the log has %d events, and %d came twice; want %d and none", seq, len(got), senders*each+1)
	}
}

// The same with a line that is cut without a goodbye, again and again, on both sides.
func TestLineIsCut(t *testing.T) {
	t.Parallel()
	const senders, each = 4, 60
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	l := newLine(t, a.MQTTAddr())
	got := make(chan *client.Event, 2*senders*each)
	connects, losses := make(chan client.Connection, 100), make(chan error, 100)
	o := options(a, bob, "phone")
	o.MQTTURL, o.OnEvent = "mqtt://"+l.addr(), events(got)
	o.OnConnect, o.OnDisconnect = func(c client.Connection) { connects <- c }, func(err error) { losses <- err }
	dial(t, o)
	o = options(a, ann, "laptop")
	o.MQTTURL = "mqtt://" + l.addr()
	c := dial(t, o)
	if conn := expect(t, "the first connection", connects); conn != (client.Connection{}) {
		t.Errorf("the first connection is %+v", conn)
	}
	ctx, stop := context.WithCancel(patient(t))
	defer stop()
	var cutting sync.WaitGroup
	cutting.Go(func() {
		for range 5 {
			expect(t, "a connection", connects)
			l.cut()
		}
	})
	l.cut()
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for n := range each {
				if _, err := c.Send(ctx, conv, client.Message{Content: fmt.Sprintf("%d %d", s, n)}); err != nil {
					t.Errorf("message %d of sender %d: %v", n, s, err)
					return
				}
			}
		})
	}
	wg.Wait()
	cutting.Wait()
	next := make([]int, senders)
	for seq := int64(2); seq <= senders*each+1; seq++ {
		e := expect(t, fmt.Sprint("event ", seq), got)
		var s, n int
		if _, err := fmt.Sscan(e.Content, &s, &n); err != nil || e.Seq != seq || n != next[s] {
			t.Fatalf("event %d is %q, seq %d, %v; the next of that sender is %d", seq, e.Content, e.Seq, err, next[s])
		}
		next[s]++
	}
	if err := expect(t, "a loss", losses); !errors.Is(err, client.Unavailable) {
		t.Errorf("a connection was lost: %v", err)
	}
}

// Two programs with one client id do not fight: the first one ends.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	first := dial(t, options(a, ann, "laptop"))
	second := dial(t, options(a, ann, "laptop"))
	expect(t, "the end of the first", first.Done())
	if err := first.Err(); !errors.Is(err, client.TakenOver) {
		t.Errorf("the first ended with %v", err)
	}
	if _, err := first.Send(patient(t), conv, client.Message{Content: "x"}); !errors.Is(err, client.TakenOver) {
		t.Errorf("sending by the first: %v", err)
	}
	if _, err := second.Send(patient(t), conv, client.Message{Content: "x"}); err != nil || second.Err() != nil {
		t.Errorf("sending by the second: %v, %v", err, second.Err())
	}
}

// An event is acknowledged when it has been handled, and not before: whoever ends
// before gets it again.
func TestClosedBeforeHandled(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	sender := dial(t, options(a, ann, ""))

	began, ended := make(chan *client.Event, 10), make(chan error, 10)
	o := options(a, bob, "phone")
	o.OnEvent = func(ctx context.Context, e *client.Event) error {
		began <- e
		<-ctx.Done()
		ended <- ctx.Err()
		return nil // too late
	}
	c := dial(t, o)
	for _, text := range []string{"one", "two"} {
		if _, err := sender.Send(patient(t), conv, client.Message{Content: text}); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "the handler", began)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close while an event is handled: %v", err)
	}
	expect(t, "the end of the handler", ended)
	expect(t, "the end of the client", c.Done())
	if !errors.Is(c.Err(), client.Closed) {
		t.Errorf("after Close: %v", c.Err())
	}

	got := make(chan *client.Event, 10)
	o.OnEvent = events(got)
	c = dial(t, o)
	for _, text := range []string{"one", "two"} {
		if e := expect(t, text, got); e.Content != text {
			t.Errorf("%q came, want %q", e.Content, text)
		}
	}
	shut(t, c)

	// What was handled does not come again.
	dial(t, o)
	if _, err := sender.Send(patient(t), conv, client.Message{Content: "three"}); err != nil {
		t.Fatal(err)
	}
	if e := expect(t, "three", got); e.Content != "three" {
		t.Errorf("%q came, want three", e.Content)
	}
}

// A handler that fails gets the same event again, and the next one only afterwards.
func TestHandlerFails(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	got := make(chan *client.Event, 10)
	o := options(a, bob, "phone")
	failures := 2
	o.OnEvent = func(_ context.Context, e *client.Event) error {
		got <- e
		if failures--; failures >= 0 {
			return errors.New("the disk is full")
		}
		return nil
	}
	kept := &positions{}
	o.Positions = kept
	dial(t, o)
	c := dial(t, options(a, ann, ""))
	for _, text := range []string{"one", "two"} {
		if _, err := c.Send(patient(t), conv, client.Message{Content: text}); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"one", "one", "one", "two"} {
		if e := expect(t, text, got); e.Content != text {
			t.Errorf("%q came, want %q", e.Content, text)
		}
	}
	apptest.Eventually(t, "the position is saved", func() bool { at, _ := kept.Load(t.Context(), conv); return at.Seq == 3 && at.Epoch != "" })
}

type positions struct {
	mu sync.Mutex
	at map[client.ID]client.Position
}

func (p *positions) Load(_ context.Context, id client.ID) (client.Position, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at[id], nil
}

func (p *positions) Save(_ context.Context, id client.ID, at client.Position) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at == nil {
		p.at = map[client.ID]client.Position{}
	}
	p.at[id] = at
	return nil
}

const crashEnv = "PARLEY_TEST_CRASH"

// crash is what the process of TestHandlerPanics does.
func crash() {
	handled := make(chan struct{})
	parts := strings.Split(os.Getenv(crashEnv), " ")
	_, err := client.Dial(context.Background(), client.Options{
		URL: parts[0], MQTTURL: parts[1], ClientID: "phone",
		Token:   func(context.Context) (string, error) { return parts[2], nil },
		OnEvent: func(_ context.Context, e *client.Event) error { panic("cannot bear " + e.Content) },
	})
	fmt.Fprintln(os.Stderr, "dialed:", err)
	<-handled
}

// A handler's panic ends the program, and the event comes again.
func TestHandlerPanics(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	got := make(chan *client.Event, 10)
	o := options(a, bob, "phone")
	o.OnEvent = events(got)
	shut(t, dial(t, o)) // so that there is a session
	if _, err := dial(t, options(a, ann, "")).Send(patient(t), conv, client.Message{Content: "Mondays"}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+o.URL+" "+o.MQTTURL+" "+bob.Token)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot bear Mondays") {
		t.Errorf("the program ended with %v:\n%s", err, out)
	}
	dial(t, o)
	if e := expect(t, "the event", got); e.Content != "Mondays" {
		t.Errorf("%q came", e.Content)
	}
}
