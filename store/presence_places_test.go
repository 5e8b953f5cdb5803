package store_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

var nodeA, nodeB = chat.NodeID{Name: "a", ID: "a1"}, chat.NodeID{Name: "b", ID: "b1"}

func putPlace(t *testing.T, s *store.Store, node chat.NodeID, list ...chat.Place) []chat.PlaceOutcome {
	t.Helper()
	if err := s.SeeNode(t.Context(), node.Name, time.Now()); err != nil {
		t.Fatal(err)
	}
	outcomes, err := s.PutPlaces(t.Context(), node, list)
	if err != nil || len(outcomes) != len(list) {
		t.Fatalf("PutPlaces = %+v, %v; want %d", outcomes, err, len(list))
	}
	return outcomes
}

// How a user is shown is the best of their places, unless they are invisible.
func TestPlaces(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)[0]
	yes, no := true, false
	var version int64
	for i, step := range []struct {
		node    chat.NodeID
		place   chat.Place
		want    chat.Status
		changed bool
		last    time.Time
	}{
		{nodeA, chat.Place{Status: chat.Online}, chat.Online, true, time.Time{}},
		{nodeA, chat.Place{Status: chat.Online}, chat.Online, false, time.Time{}},
		{nodeB, chat.Place{Status: chat.Away}, chat.Online, false, time.Time{}},
		{nodeA, chat.Place{Status: chat.Offline, LastOnlineAt: now}, chat.Away, true, now},
		{nodeB, chat.Place{Status: chat.Away, Invisible: &yes, LastOnlineAt: now.Add(time.Second)}, "", true, time.Time{}}, // since this very moment
		{nodeA, chat.Place{Status: chat.Online}, "", false, time.Time{}},
		{nodeA, chat.Place{Status: chat.Offline, LastOnlineAt: time.Now().Add(time.Hour)}, "", false, time.Time{}}, // nobody has seen them
		{nodeA, chat.Place{Status: chat.Online, Invisible: &no}, chat.Online, true, time.Time{}},
		{nodeA, chat.Place{Status: chat.Offline}, chat.Away, true, time.Time{}},
		{nodeB, chat.Place{Status: chat.Offline}, "", true, time.Time{}},
	} {
		step.place.UserID = u
		got := putPlace(t, s, step.node, step.place)[0]
		if got.Status != step.want || got.Changed != step.changed || got.Online != (step.want != "") || got.Changed != (got.Version > version) || got.Version < version {
			t.Errorf("step %d: %+v, want %q, changed %v; the version before was %d", i, got, step.want, step.changed, version)
		}
		if !step.last.IsZero() && !got.LastOnlineAt.Equal(step.last) {
			t.Errorf("step %d: online last at %v, want %v", i, got.LastOnlineAt, step.last)
		}
		version = got.Version
		stored, err := s.GetPresences(t.Context(), []chat.ID{u})
		if err != nil || stored[u] != got.PresenceState {
			t.Errorf("step %d: stored is %+v, %v; want %+v", i, stored[u], err, got.PresenceState)
		}
		storetest.Check(t, s)
	}
	stored, err := s.GetPresences(t.Context(), []chat.ID{u})
	if last := stored[u].LastOnlineAt; err != nil || last.After(time.Now()) || time.Since(last) > time.Minute {
		t.Errorf("online last at %v, %v; want when they became invisible", last, err)
	}
}

// Nodes that put the same users at the same time see each other's places.
func TestPlacesTogether(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 40)
	for _, n := range []string{"0", "1", "2"} {
		if err := s.SeeNode(t.Context(), n, now); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for _, name := range []string{"0", "1", "2"} {
		wg.Go(func() {
			for i := range 60 {
				node := chat.NodeID{Name: name, ID: "x"}
				if i%20 == 19 {
					if _, _, err := s.ReleasePlaces(t.Context(), chat.DeadNode{Name: name, SeenAt: now}, nodeA, 7); err != nil {
						t.Error(err)
					}
				}
				var list []chat.Place
				for _, k := range rand.Perm(len(u))[:1+rand.N(len(u)-1)] {
					p := chat.Place{UserID: u[k], Status: []chat.Status{chat.Online, chat.Away, chat.Offline}[rand.N(3)], LastOnlineAt: now}
					if says := rand.N(2) == 0; rand.N(3) == 0 {
						p.Invisible = &says
					}
					list = append(list, p)
				}
				if _, err := s.PutPlaces(t.Context(), node, list); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	storetest.Check(t, s)
}

// A dead node's places go, but not those of its next life, nor of other nodes.
func TestReleasePlaces(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 6)
	seen := time.Now().Add(-time.Minute).Truncate(time.Millisecond).UTC()
	all := make([]chat.Place, len(u))
	for i := range all {
		all[i] = chat.Place{UserID: u[i], Status: chat.Online}
	}
	putPlace(t, s, nodeA, all...)
	putPlace(t, s, nodeB, all[0], chat.Place{UserID: u[1], Status: chat.Away})
	next := chat.NodeID{Name: "a", ID: "a2"}
	putPlace(t, s, next, all[2])
	dead := chat.DeadNode{Name: "a", ID: "a1", SeenAt: seen}
	told := map[chat.ID]chat.PresenceState{}
	for more := true; more; {
		outcomes, again, err := s.ReleasePlaces(t.Context(), dead, nodeB, 2)
		if err != nil || len(outcomes) > 2 {
			t.Fatal(outcomes, err)
		}
		more = again
		for _, o := range outcomes {
			if _, twice := told[o.UserID]; twice {
				t.Errorf("%v was released twice", o.UserID)
			}
			told[o.UserID] = o.PresenceState
		}
	}
	for i, want := range []chat.Status{chat.Online, chat.Away, chat.Online, "", "", ""} {
		st, wasTold := told[u[i]]
		if wasTold != (want != chat.Online) || wasTold && st.Status != want || want == "" && !st.LastOnlineAt.Equal(seen) {
			t.Errorf("user %d is %+v, %v; want %q", i, st, wasTold, want)
		}
	}
	storetest.Check(t, s)
	// Its former lives are released when it starts, and not the present one.
	if _, more, err := s.ReleasePlaces(t.Context(), chat.DeadNode{Name: "a", SeenAt: seen}, next, 100); err != nil || more {
		t.Errorf("its own life is released: %v, %v", more, err)
	}
	if outcomes, more, err := s.ReleasePlaces(t.Context(), chat.DeadNode{Name: "a", SeenAt: seen}, nodeB, 100); err != nil || !more || len(outcomes) != 1 {
		t.Errorf("all lives of another one: %v, %v, %v", outcomes, more, err)
	}
	storetest.Check(t, s)

	// A node that was alone, or older, knew of no places.
	put(t, s, "old", chat.PresenceState{UserID: u[5], Online: true})
	if _, more, err := s.ReleasePlaces(t.Context(), chat.DeadNode{Name: "old", SeenAt: seen.Add(time.Second)}, nodeB, 100); err != nil || more {
		t.Error(more, err)
	}
	if st, err := s.GetPresences(t.Context(), u[5:]); err != nil || st[u[5]].Online || !st[u[5]].LastOnlineAt.Equal(seen.Add(time.Second)) {
		t.Errorf("of the old node's user stored is %+v, %v", st[u[5]], err)
	}
	// And one that is alone next knows of none.
	putPlace(t, s, nodeB, all...)
	if n, err := s.ReleasePresences(t.Context(), ""); err != nil || n != int64(len(u)) {
		t.Error(n, err)
	}
	storetest.Check(t, s)
}

func TestDeadNodes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	for _, user := range u {
		putPlace(t, s, nodeA, chat.Place{UserID: user, Status: chat.Online})
		putPlace(t, s, nodeB, chat.Place{UserID: user, Status: chat.Away})
	}
	putPlace(t, s, chat.NodeID{Name: "b", ID: "b0"}, chat.Place{UserID: u[0], Status: chat.Away})
	putPlace(t, s, chat.NodeID{Name: "c", ID: "c1"}, chat.Place{UserID: u[0], Status: chat.Away})
	list := func(own chat.NodeID, silent time.Duration) (found []string) {
		dead, err := s.ListDeadNodes(t.Context(), own, silent)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dead {
			found = append(found, d.Name+d.ID)
			if d.SeenAt.IsZero() {
				t.Errorf("%+v was never seen", d)
			}
		}
		return found
	}
	if got := list(nodeB, time.Hour); !slices.Equal(got, []string{"bb0"}) {
		t.Errorf("while all live, %v are dead; want the former life of b", got)
	}
	exec(t, s, `DELETE FROM nodes WHERE name = 'c'`)
	exec(t, s, `UPDATE nodes SET seen_at = now() - interval '1 minute' WHERE name = 'a'`)
	if got := list(nodeB, 30*time.Second); !slices.Equal(got, []string{"aa1", "bb0", "cc1"}) {
		t.Errorf("%v are dead", got)
	}
	if seen, at, err := s.NodeSeen(t.Context(), "a"); err != nil || at.Sub(seen) < 59*time.Second {
		t.Errorf("NodeSeen = %v, %v, %v", seen, at, err)
	}
	if seen, at, err := s.NodeSeen(t.Context(), "c"); err != nil || !seen.IsZero() || at.IsZero() {
		t.Errorf("NodeSeen of nobody = %v, %v, %v", seen, at, err)
	}
}

// Whatever commits is found by the next look or the one after it, in however many
// pages, and whatever was running while it looked.
func TestPresenceChanges(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 7)
	look := func(c *chat.PresenceCursor) (states map[chat.ID]chat.Status, contacts []chat.ID) {
		states = map[chat.ID]chat.Status{}
		for {
			changes, err := s.ListPresenceChanges(t.Context(), *c, 2)
			if err != nil {
				t.Fatal(err)
			}
			*c = changes.Cursor
			for _, st := range changes.States {
				states[st.UserID] = st.Status
			}
			for _, cc := range changes.Contacts {
				contacts = append(contacts, cc.ID)
				if !slices.Equal(cc.A, u[:2]) || !slices.Equal(cc.B, u[2:]) {
					t.Errorf("the change is %+v", cc)
				}
			}
			if !changes.More {
				return states, contacts
			}
		}
	}
	putPlace(t, s, nodeA, chat.Place{UserID: u[0], Status: chat.Online})
	var c chat.PresenceCursor
	if states, contacts := look(&c); len(states)+len(contacts) > 0 {
		t.Errorf("from now on begins with %v, %v", states, contacts)
	}
	slow, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = slow.Rollback(t.Context()) }()
	if _, err := slow.Exec(t.Context(), `UPDATE presences SET version = nextval('presence_versions'), changed = pg_current_xact_id() WHERE user_id = $1`, u[0]); err != nil {
		t.Fatal(err)
	}
	var list []chat.Place
	for _, id := range u[1:] {
		list = append(list, chat.Place{UserID: id, Status: chat.Away})
	}
	top := putPlace(t, s, nodeA, list...)
	ids := []chat.ID{chat.NewID(), chat.NewID(), chat.NewID()}
	for _, id := range append(ids, ids[0]) { // one is repeated
		if err := s.PutContactChange(t.Context(), chat.ContactChange{ID: id, A: u[:2], B: u[2:]}); err != nil {
			t.Fatal(err)
		}
	}
	states, contacts := look(&c)
	if len(states) != 6 || states[u[1]] != chat.Away || !slices.Equal(contacts, ids) {
		t.Errorf("found %v, %v", states, contacts)
	}
	for _, o := range top {
		if o.Version > c.Version {
			t.Errorf("%d was found, and the highest is said to be %d", o.Version, c.Version)
		}
	}
	if states, contacts := look(&c); len(states)+len(contacts) > 0 {
		t.Errorf("found again %v, %v", states, contacts)
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if states, contacts := look(&c); len(states) != 1 || states[u[0]] != chat.Online || len(contacts) > 0 {
		t.Errorf("after the slow one found %v, %v", states, contacts)
	}
	exec(t, s, `UPDATE contact_changes SET created_at = now() - interval '11 minutes' WHERE id = $1`, ids[0])
	if err := s.DeleteContactChanges(t.Context()); err != nil {
		t.Fatal(err)
	}
	c = chat.PresenceCursor{Since: "3:3:"}
	if _, contacts := look(&c); len(contacts) != 2 {
		t.Errorf("%d changes of contacts are kept, want 2", len(contacts))
	}
}
