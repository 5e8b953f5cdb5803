package client_test

import (
	"slices"
	"testing"
	"time"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
)

func TestReads(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	reads, delivered := make(chan client.Read, 10), make(chan client.Delivered, 10)
	o := options(a, ann, "")
	o.OnRead, o.OnDelivered = func(r client.Read) { reads <- r }, func(d client.Delivered) { delivered <- d }
	c := dial(t, o)
	got := make(chan *client.Event, 10)
	o = options(a, bob, "phone")
	o.OnEvent = events(got)
	reader := dial(t, o)
	ctx := patient(t)
	sent, err := c.Send(ctx, conv, client.Message{Content: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	for d := expect(t, "delivered", delivered); d.UserID != reader.Me().ID || d.UpTo < sent.Seq; d = expect(t, "delivered", delivered) {
		if d.ConversationID != conv || d.At.IsZero() {
			t.Errorf("delivered: %+v", d)
		}
	}
	if err := reader.MarkRead(ctx, conv, sent.Seq); err != nil {
		t.Fatal(err)
	}
	if err := reader.MarkRead(ctx, conv, 1); err != nil { // changes nothing
		t.Error(err)
	}
	if r := expect(t, "read", reads); r.UserID != reader.Me().ID || r.UpTo != sent.Seq || r.ConversationID != conv || r.At.IsZero() {
		t.Errorf("read: %+v", r)
	}
	if err := reader.MarkRead(ctx, conv, 1000); client.CodeOf(err) != client.Invalid {
		t.Errorf("reading beyond the end: %v", err)
	}
	m, err := c.GetMessage(ctx, sent.ID)
	if err != nil || m.ReadCount != 1 || m.ReadBy[0].UserID != reader.Me().ID || m.ReadBy[0].At.IsZero() || m.DeliveredCount != 1 || m.DeliveredTo[0].UserID != reader.Me().ID {
		t.Errorf("the message is %+v, %v", m, err)
	}
}

func TestPresence(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	a.Direct(t, ann, bob)
	heard := make(chan client.Presence, 100)
	o := options(a, ann, "")
	o.OnPresence = func(p client.Presence) { heard <- p }
	watcher := dial(t, o)
	wait := func(user client.ID, status client.Status) client.Presence {
		t.Helper()
		for {
			if p := expect(t, string(status), heard); p.UserID == user && p.Status == status {
				return p
			}
		}
	}
	wait(client.ID(bob.ID.String()), client.Offline) // the state so far
	l := newLine(t, a.MQTTAddr())
	connects := make(chan client.Connection, 10)
	o = options(a, bob, "phone")
	o.MQTTURL, o.OnConnect = "mqtt://"+l.addr(), func(c client.Connection) { connects <- c }
	c := dial(t, o)
	expect(t, "a connection", connects)
	wait(c.Me().ID, client.Online)
	if err := c.SetPresence(patient(t), client.Away); err != nil {
		t.Fatal(err)
	}
	wait(c.Me().ID, client.Away)
	l.cut()
	expect(t, "a connection", connects)
	for p, err := range watcher.Presences(patient(t), c.Me().ID, client.ID("0198c0de-0000-7000-8000-000000000001")) {
		if err != nil || p.UserID != c.Me().ID || p.Status != client.Away {
			t.Errorf("after a reconnect: %+v, %v", p, err)
		}
	}
	shut(t, c)
	if p := wait(c.Me().ID, client.Offline); p.LastOnlineAt.IsZero() || time.Since(p.LastOnlineAt) > time.Minute {
		t.Errorf("after the end: %+v", p)
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	c := dial(t, options(a, ann, ""))
	for _, text := range []string{"the rowing club", "Rowing again", "sailing"} {
		if _, err := c.Send(patient(t), conv, client.Message{Content: text}); err != nil {
			t.Fatal(err)
		}
	}
	for _, byRank := range []bool{false, true} {
		n := 0
		for hit, err := range c.Search(patient(t), client.Search{Q: "row", Conversation: conv, From: c.Me().ID, Before: time.Now().Add(time.Hour), ByRank: byRank}) {
			if err != nil || !slices.ContainsFunc(hit.Excerpt, func(s client.Segment) bool { return s.Match }) || hit.Message.ConversationID != conv {
				t.Fatal(hit, err)
			}
			n++
		}
		if n != 2 {
			t.Errorf("by rank %v, %d messages are found", byRank, n)
		}
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	c := dial(t, options(a, ann, ""))
	ctx := patient(t)
	now, err := c.SyncNow(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const n = 250
	for range n {
		if _, err := c.Send(ctx, conv, client.Message{Content: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	count := func(cursor string) (events int, types map[client.ChangeType]bool, last string) {
		types = map[client.ChangeType]bool{}
		for page, err := range c.Sync(ctx, cursor) {
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range page.Changes {
				types[change.Type] = true
				switch change.Type {
				case client.ChangeEvent:
					if events++; change.Event.ConversationID != conv || change.Event.Seq == 0 {
						t.Errorf("an event is %+v", change.Event)
					}
				case client.ChangeConversation:
					if change.Conversation.ID != conv || change.JoinedSeq != 1 {
						t.Errorf("a conversation is %+v, from %d", change.Conversation, change.JoinedSeq)
					}
				case client.ChangeProfile:
					if change.User.Username == "" {
						t.Errorf("a profile is %+v", change.User)
					}
				}
			}
			last = page.Cursor
		}
		return events, types, last
	}
	if events, types, last := count(""); events != n+1 || !types[client.ChangeConversation] || !types[client.ChangeProfile] || last == "" {
		t.Errorf("from the beginning there are %d events, and %v", events, types)
	}
	events, types, last := count(now)
	if events != n || types[client.ChangeConversation] {
		t.Errorf("since then there are %d events, and %v", events, types)
	}
	if events, _, _ := count(last); events != 0 {
		t.Errorf("afterwards there are %d events", events)
	}
	for _, err := range c.Sync(ctx, "forged") {
		if client.CodeOf(err) != client.Invalid {
			t.Errorf("with a forged cursor: %v", err)
		}
	}
}
