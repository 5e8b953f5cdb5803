package store_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func retained(user, space chat.ID, topic, payload string) chat.RetainedChange {
	return chat.RetainedChange{UserID: user, Publication: &chat.Publication{Space: space, Topic: topic, QoS: 1, Origin: 1<<48 - 7, Payload: []byte(payload)}}
}

func putRetained(t *testing.T, s *store.Store, changes ...chat.RetainedChange) []error {
	t.Helper()
	refused, err := s.PutRetained(t.Context(), changes, false, now)
	if err != nil || len(refused) != len(changes) {
		t.Fatal(refused, err)
	}
	return refused
}

// A retained message is what was last put on its topic, in its space, whole.
func TestRetained(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u, other, all := chat.NewID(), chat.NewID(), chat.ID{}
	full := retained(u, all, "a/b", "1")
	full.Properties, full.Expires, full.QoS = []byte("\x03\x00\x01c"), now.Add(time.Hour), 2
	putRetained(t, s, full, retained(u, u, "a/b", "mine"), retained(other, all, "a", "2"))
	got, err := s.GetRetained(t.Context(), all, []string{"a/b", "none"}, now)
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	p := got[0]
	if !p.Space.IsZero() || p.Topic != "a/b" || p.QoS != 2 || !p.Retain || p.Origin != 1<<48-7 || !p.Expires.Equal(full.Expires) ||
		string(p.Properties) != "\x03\x00\x01c" || string(p.Payload) != "1" {
		t.Errorf("got %+v", p)
	}
	if got, _ := s.GetRetained(t.Context(), all, []string{"a/b"}, now.Add(time.Hour)); len(got) != 0 {
		t.Error("an expired one was read")
	}
	putRetained(t, s, retained(other, all, "a/b", "3"), retained(u, u, "a/b", ""))
	if got, _ := s.GetRetained(t.Context(), all, []string{"a/b"}, now.Add(2*time.Hour)); len(got) != 1 || string(got[0].Payload) != "3" || !got[0].Expires.IsZero() {
		t.Errorf("got %+v", got)
	}
	if got, _ := s.GetRetained(t.Context(), u, []string{"a/b"}, now); len(got) != 0 {
		t.Errorf("one that was removed was read: %+v", got)
	}
	if n, err := s.CountRetained(t.Context()); n != 2 || err != nil {
		t.Errorf("there are %d, %v, want 2", n, err)
	}
}

// Topics are listed in the order of their bytes, those below a level and no others, by
// pages.
func TestListRetainedTopics(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := chat.NewID()
	for _, topic := range []string{"a", "a/", "a/b", "a/B", "a/b/c", "a/é", "a/\U0010ffff", "a-b", "a0", "aa", "b", "/", "/a", "Ä"} {
		putRetained(t, s, retained(u, chat.ID{}, topic, "x"), retained(u, u, "other"+topic, "x"))
	}
	for _, tt := range []struct {
		below string
		want  []string
	}{
		{"", []string{"/", "/a", "a", "a-b", "a/", "a/B", "a/b", "a/b/c", "a/é", "a/\U0010ffff", "a0", "aa", "b", "Ä"}},
		{"a", []string{"a/", "a/B", "a/b", "a/b/c", "a/é", "a/\U0010ffff"}},
		{"a/b", []string{"a/b/c"}},
		{"x", nil},
	} {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			page, err := s.ListRetainedTopics(t.Context(), chat.ID{}, tt.below, after, 3)
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, page...); len(page) < 3 {
				break
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("below %q: got %q, want %q", tt.below, got, tt.want)
		}
	}
}

// A user may have so many, whoever's space they are in; what is there may always be
// replaced and removed.
func TestRetainedQuota(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u, other := chat.NewID(), chat.NewID()
	exec(t, s, `
INSERT INTO retained_messages (space, topic, user_id, origin, qos, properties, payload, stored_at)
SELECT '00000000-0000-0000-0000-000000000000', 't' || i, $1, 0, 0, '', 'x', now() FROM generate_series(1, $2::int) AS i`, u, chat.MaxRetainedByUser-1)
	refused := putRetained(t, s, retained(u, u, "new", "x"), retained(u, chat.ID{}, "newer", "x"), retained(other, chat.ID{}, "other's", "x"), retained(u, chat.ID{}, "t1", "y"), retained(u, chat.ID{}, "t2", ""))
	if refused[0] != nil || chat.CodeOf(refused[1]) != chat.Quota || refused[2] != nil || refused[3] != nil || refused[4] != nil {
		t.Errorf("got %v", refused)
	}
	if refused := putRetained(t, s, retained(u, chat.ID{}, "newer", "x")); refused[0] != nil {
		t.Errorf("with room again: %v", refused)
	}
	some, err := s.PutRetained(t.Context(), []chat.RetainedChange{retained(other, chat.ID{}, "one more", "x"), retained(other, chat.ID{}, "t1", "z")}, true, now)
	if err != nil || chat.CodeOf(some[0]) != chat.Quota || some[1] != nil {
		t.Errorf("with too many altogether: %v, %v", some, err)
	}
}

func TestDeleteExpiredRetained(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for i := range 10 {
		c := retained(chat.NewID(), chat.ID{}, fmt.Sprint(i), "x")
		if i > 0 {
			c.Expires = now.Add(time.Duration(i) * time.Minute)
		}
		putRetained(t, s, c)
	}
	for _, want := range []int64{3, 2, 0} {
		if n, err := s.DeleteExpiredRetained(t.Context(), now.Add(5*time.Minute), 3); n != want || err != nil {
			t.Errorf("%d were removed, %v, want %d", n, err, want)
		}
	}
}

// Transactions about the same topics wait for each other in one order.
func TestRetainedAtOnce(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := chat.NewID()
	errs := make(chan error, 8)
	for w := range cap(errs) {
		go func() {
			var err error
			for i := range 30 {
				var changes []chat.RetainedChange
				for j := range 20 {
					payload := "x"
					if (i+j+w)%3 == 0 {
						payload = ""
					}
					changes = append(changes, retained(u, chat.ID{}, fmt.Sprint((j*7+w*3)%20), payload))
				}
				if _, e := s.PutRetained(t.Context(), changes, false, now); e != nil {
					err = e
				}
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A database that is away is Unavailable.
func TestRetainedAway(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	s.Close()
	for name, call := range map[string]func() error{
		"put": func() error {
			_, err := s.PutRetained(t.Context(), []chat.RetainedChange{retained(chat.NewID(), chat.ID{}, "a", "x")}, false, now)
			return err
		},
		"list":   func() error { _, err := s.ListRetainedTopics(t.Context(), chat.ID{}, "", "", 1); return err },
		"get":    func() error { _, err := s.GetRetained(t.Context(), chat.ID{}, []string{"a"}, now); return err },
		"count":  func() error { _, err := s.CountRetained(t.Context()); return err },
		"expire": func() error { _, err := s.DeleteExpiredRetained(t.Context(), now, 1); return err },
	} {
		t.Run(name, func(t *testing.T) { wantError(t, call(), chat.Unavailable, "") })
	}
}

// Where there are several nodes, what came over a connection that a newer one of the same
// device has superseded is left out, and counts for nothing.
func TestRetainedOfASupersededConnection(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	s.UseOutbox("a1")
	u := chat.NewID()
	var epochs []int64
	for _, node := range []string{"a", "b"} {
		st, err := s.TakeSession(t.Context(), chat.SessionTake{UserID: u, ClientID: "lamp", Node: node, Now: now, Note: true})
		if err != nil {
			t.Fatal(err)
		}
		epochs = append(epochs, st.Epoch)
	}
	from := func(epoch int64, client, topic, payload string) chat.RetainedChange {
		c := retained(u, u, topic, payload)
		c.ClientID, c.Epoch = client, epoch
		return c
	}
	only := from(epochs[0], "lamp", "check", "x")
	only.CheckOnly = true
	fine := from(epochs[1], "lamp", "check", "x")
	fine.CheckOnly = true
	changes := []chat.RetainedChange{
		from(epochs[1], "lamp", "state", "new"), from(epochs[0], "lamp", "state", "old"), only, fine,
		from(epochs[0], "another", "other", "x"), from(0, "lamp", "unnumbered", "x"), from(epochs[1], "lamp", "twice", "1"), from(epochs[1], "lamp", "twice", "2"),
	}
	for i, err := range putRetained(t, s, changes...) {
		if superseded := i == 1 || i == 2; (chat.CodeOf(err) == chat.Unavailable) != superseded || !superseded && err != nil {
			t.Errorf("change %d: %v", i, err)
		}
	}
	got, err := s.GetRetained(t.Context(), u, []string{"state", "check", "other", "unnumbered", "twice"}, now)
	payloads := map[string]string{}
	for _, p := range got {
		payloads[p.Topic] = string(p.Payload)
	}
	if want := (map[string]string{"state": "new", "other": "x", "unnumbered": "x", "twice": "2"}); err != nil || !maps.Equal(payloads, want) {
		t.Errorf("retained are %v, %v, want %v", payloads, err, want)
	}
	alone := storetest.New(t) // which has no other node to be superseded by
	for _, err := range putRetained(t, alone, changes...) {
		if err != nil {
			t.Error(err)
		}
	}
}
