package app_test

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/pgchild"
)

// synced is an answer of GET /api/sync.
type synced struct {
	Data []struct {
		Type  string
		Event apptest.Event
	}
	NextCursor string
	HasMore    bool
}

// contents are what the messages say.
func (s *synced) contents() []string {
	var out []string
	for _, i := range s.Data {
		if i.Event.Type == "message" {
			out = append(out, i.Event.Content)
		}
	}
	return out
}

func syncAs(t *testing.T, a *apptest.App, u apptest.User, query string) *synced {
	t.Helper()
	s := &synced{}
	if r := a.REST(t, u, http.MethodGet, "/api/sync?"+query, nil).Into(s); r.Status != http.StatusOK {
		t.Fatalf("sync %s: %s", query, r)
	}
	return s
}

// What came over MQTT, in both versions, is in the answer as it was received there.
func TestSync(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	alice, bob := a.User(t, "alice"), a.User(t, "bob")
	c := a.Direct(t, alice, bob)
	cursor := syncAs(t, a, alice, "").NextCursor
	phone := a.Device(t, alice, brokertest.Connect{ClientID: "phone"})
	phone.MustSubscribe(1, "conv/+/messages")
	for n, version := range versions {
		d := a.Device(t, bob, brokertest.Connect{ClientID: versionName(version)[:6] + fmt.Sprint(n), Version: version})
		d.Send(c, "from "+versionName(version))
		received := phone.Event()
		got := syncAs(t, a, alice, "limit=1&cursor="+cursor)
		if len(got.Data) != 1 || got.Data[0].Type != "event" {
			t.Fatalf("%s: %+v", versionName(version), got)
		}
		e := got.Data[0].Event
		e.Packet = received.Packet
		if fmt.Sprint(e) != fmt.Sprint(received) {
			t.Errorf("%s: the answer has %+v, the device received %+v", versionName(version), e, received)
		}
		cursor = got.NextCursor
		for more := got.HasMore; more; {
			got = syncAs(t, a, alice, "cursor="+cursor)
			cursor, more = got.NextCursor, got.HasMore
		}
	}
}

// What becomes of a message is told as events, in the order of the log.
func TestSyncCommands(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	alice, bob := a.User(t, "alice"), a.User(t, "bob")
	c := a.Direct(t, alice, bob)
	cursor := syncAs(t, a, alice, "from=now").NextCursor
	d := a.Device(t, bob, brokertest.Connect{ClientID: "phone"})
	id := d.Send(c, "hello").ID
	d.Send(c, `{"type":"edit","messageId":"`+id+`","content":"hullo"}`)
	d.Send(c, `{"type":"reaction","messageId":"`+id+`","emoji":"👍","op":"add"}`)
	d.Send(c, `{"type":"delete","messageId":"`+id+`"}`)
	got := syncAs(t, a, alice, "cursor="+cursor)
	var types []string
	for n, i := range got.Data {
		if types = append(types, i.Event.Type); i.Type != "event" || i.Event.Seq != int64(2+n) {
			t.Errorf("item %d is %+v", n, i)
		}
	}
	if fmt.Sprint(types) != "[message edit reaction delete]" || got.HasMore {
		t.Errorf("told of %v: %+v", types, got)
	}
}

// PostgreSQL that is killed may give the numbers of transactions out again which were
// rolled back just before. A cursor that has counted them as seen would leave out what
// they are used for next (see store/flushed.go).
func TestSyncAfterDatabaseCrash(t *testing.T) {
	t.Parallel()
	db, err := pgchild.New(pgchild.Options{Dir: t.TempDir()})
	if err != nil {
		t.Skip(err)
	}
	if err := db.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	a := apptest.StartOn(t, db.DSN())
	alice, bob := a.User(t, "alice"), a.User(t, "bob")
	c := a.Direct(t, alice, bob)
	send := func(key int, content string) int {
		return a.REST(t, bob, http.MethodPost, "/api/messages", map[string]any{"conversationId": c, "content": content, "clientMsgId": uuid(key)}).Status
	}
	cursor := syncAs(t, a, alice, "").NextCursor
	for round := range 3 {
		base := 1000 * round
		send(base, "first")
		for range 20 {
			if status := send(base, "first"); status != http.StatusOK { // rolled back: it is there already
				t.Fatal(status)
			}
		}
		cursor = syncAs(t, a, alice, "cursor="+cursor).NextCursor
		restarts := db.Restarts()
		if err := syscall.Kill(db.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		apptest.Eventually(t, "PostgreSQL is back", func() bool { return db.Restarts() > restarts && a.DB.Ping(t.Context()) == nil })
		var want []string
		for n := 1; n <= 30; n++ {
			want = append(want, fmt.Sprint("message ", base+n))
			apptest.Eventually(t, "a message is stored", func() bool { return send(base+n, want[n-1])/100 == 2 })
		}
		got := &synced{}
		apptest.Eventually(t, "a connection to PostgreSQL is good again", func() bool { // each that was there before fails once
			return a.REST(t, alice, http.MethodGet, "/api/sync?cursor="+cursor, nil).Into(got).Status == http.StatusOK
		})
		if fmt.Sprint(got.contents()) != fmt.Sprint(want) {
			t.Errorf("round %d: told of %v, want %v", round, got.contents(), want)
		}
		cursor = got.NextCursor
	}
}
