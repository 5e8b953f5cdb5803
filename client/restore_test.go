package client_test

import (
	"context"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
	"github.com/parleymq/parley/store/storetest"
)

// A client has handled all events of a conversation, and remembers that. The server is
// restored to an earlier moment and gives the numbers out again: the client, the same or a
// new one with the same positions, handles the new events with the old numbers.
func TestPositionsAfterRestore(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	kept, got := &positions{}, make(chan *client.Event, 100)
	bobs := func(a *apptest.App) client.Options {
		o := options(a, bob, "phone")
		o.Positions = kept
		o.OnEvent = func(_ context.Context, e *client.Event) error { got <- e; return nil }
		return o
	}
	talk := func(a *apptest.App, texts ...string) {
		t.Helper()
		c := dial(t, options(a, ann, ""))
		for _, text := range texts {
			if _, err := c.Send(patient(t), conv, client.Message{Content: text}); err != nil {
				t.Fatal(err)
			}
		}
		for _, text := range texts {
			if e := expect(t, text, got); e.Content != text {
				t.Errorf("%q came, want %q", e.Content, text)
			}
		}
	}
	c := dial(t, bobs(a))
	talk(a, "two", "three")
	dump := storetest.Dump(t, dsn)
	talk(a, "old four", "old five")
	apptest.Eventually(t, "the position is saved", func() bool { at, _ := kept.Load(t.Context(), conv); return at.Seq == 5 })
	was, _ := kept.Load(t.Context(), conv)
	if err := c.Close(patient(t)); err != nil {
		t.Fatal(err)
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.Restore(t, dsn, dump)
	a = apptest.StartOn(t, dsn)
	dial(t, bobs(a))
	c2 := dial(t, options(a, ann, ""))
	for _, text := range []string{"new four", "new five", "new six"} {
		if _, err := c2.Send(patient(t), conv, client.Message{Content: text}); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"new four", "new five", "new six"} {
		e := expect(t, text, got)
		for e.Seq < 4 { // the dump may be from before the acknowledgements of these
			e = expect(t, text, got)
		}
		if e.Content != text || e.Epoch == was.Epoch {
			t.Errorf("%q came in epoch %s, want %q in another epoch", e.Content, e.Epoch, text)
		}
	}
}
