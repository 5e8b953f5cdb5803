package store_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

var nodeA, nodeB = presence.NodeID{Name: "a", ID: "a1"}, presence.NodeID{Name: "b", ID: "b1"}

func putPlace(t *testing.T, s *store.Store, node presence.NodeID, list ...presence.NodePresence) []presence.Outcome {
	t.Helper()
	storetest.Heartbeat(t, s, node.Name)
	outcomes, err := s.PutNodePresences(t.Context(), node, list)
	if err != nil || len(outcomes) != len(list) {
		t.Fatalf("PutNodePresences = %+v, %v; want %d", outcomes, err, len(list))
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
	was := chat.Offline
	for i, step := range []struct {
		node    presence.NodeID
		place   presence.NodePresence
		want    chat.Status
		changed bool
		last    time.Time
	}{
		{nodeA, presence.NodePresence{Status: chat.Online}, chat.Online, true, time.Time{}},
		{nodeA, presence.NodePresence{Status: chat.Online}, chat.Online, false, time.Time{}},
		{nodeB, presence.NodePresence{Status: chat.Away}, chat.Online, false, time.Time{}},
		{nodeA, presence.NodePresence{Status: chat.Offline, LastOnlineAt: now}, chat.Away, true, now},
		{nodeB, presence.NodePresence{Status: chat.Away, Invisible: &yes, LastOnlineAt: now.Add(time.Second)}, chat.Offline, true, time.Time{}}, // since this very moment
		{nodeA, presence.NodePresence{Status: chat.Online}, chat.Offline, false, time.Time{}},
		{nodeA, presence.NodePresence{Status: chat.Offline, LastOnlineAt: time.Now().Add(time.Hour)}, chat.Offline, false, time.Time{}}, // nobody has seen them
		{nodeA, presence.NodePresence{Status: chat.Online, Invisible: &no}, chat.Online, true, time.Time{}},
		{nodeA, presence.NodePresence{Status: chat.Offline}, chat.Away, true, time.Time{}},
		{nodeB, presence.NodePresence{Status: chat.Offline}, chat.Offline, true, time.Time{}},
	} {
		step.place.UserID = u
		got := putPlace(t, s, step.node, step.place)[0]
		if got.Status != step.want || got.Changed != step.changed || got.Was != was || got.Changed != (got.Version > version) || got.Version < version {
			t.Errorf("step %d: %+v, want %q, changed %v; the version before was %d", i, got, step.want, step.changed, version)
		}
		if !step.last.IsZero() && !got.LastOnlineAt.Equal(step.last) {
			t.Errorf("step %d: online last at %v, want %v", i, got.LastOnlineAt, step.last)
		}
		version, was = got.Version, got.Status
		stored, err := s.GetPresences(t.Context(), []chat.ID{u})
		if err != nil || stored[u] != got.State {
			t.Errorf("step %d: stored is %+v, %v; want %+v", i, stored[u], err, got.State)
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
		storetest.Heartbeat(t, s, n)
	}
	seed := seedtest.Seed(t)
	var wg sync.WaitGroup
	for actor, name := range []string{"0", "1", "2"} {
		random := seedtest.New(seed, actor)
		wg.Go(func() {
			for i := range 60 {
				node := presence.NodeID{Name: name, ID: "x"}
				if i%20 == 19 {
					if _, _, err := s.ReleaseNode(t.Context(), presence.DeadNode{NodeID: node, SeenAt: now}, 7); err != nil {
						t.Error(err)
					}
				}
				var list []presence.NodePresence
				for _, k := range random.Perm(len(u))[:1+random.IntN(len(u)-1)] {
					p := presence.NodePresence{UserID: u[k], Status: []chat.Status{chat.Online, chat.Away, chat.Offline}[random.IntN(3)], LastOnlineAt: now}
					if says := random.IntN(2) == 0; random.IntN(3) == 0 {
						p.Invisible = &says
					}
					list = append(list, p)
				}
				if _, err := s.PutNodePresences(t.Context(), node, list); err != nil {
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
	all := make([]presence.NodePresence, len(u))
	for i := range all {
		all[i] = presence.NodePresence{UserID: u[i], Status: chat.Online}
	}
	putPlace(t, s, nodeA, all...)
	putPlace(t, s, nodeB, all[0], presence.NodePresence{UserID: u[1], Status: chat.Away})
	next := presence.NodeID{Name: "a", ID: "a2"}
	putPlace(t, s, next, all[2])
	dead := presence.DeadNode{NodeID: nodeA, SeenAt: seen}
	told := map[chat.ID]presence.State{}
	for done := false; !done; {
		changed, ended, err := s.ReleaseNode(t.Context(), dead, 2)
		if err != nil || len(changed) > 2 {
			t.Fatal(changed, err)
		}
		done = ended
		for _, st := range changed {
			if _, twice := told[st.UserID]; twice {
				t.Errorf("%v was released twice", st.UserID)
			}
			told[st.UserID] = st
		}
	}
	for i, want := range []chat.Status{chat.Online, chat.Away, chat.Online, chat.Offline, chat.Offline, chat.Offline} {
		st, wasTold := told[u[i]]
		if wasTold != (want != chat.Online) || wasTold && st.Status != want || want == chat.Offline && !st.LastOnlineAt.Equal(seen) {
			t.Errorf("user %d is %+v, %v; want %q", i, st, wasTold, want)
		}
	}
	storetest.Check(t, s)
	dead.NodeID = next
	if changed, done, err := s.ReleaseNode(t.Context(), dead, 100); err != nil || done || len(changed) != 1 {
		t.Errorf("its next life: %v, %v, %v", changed, done, err)
	}
	storetest.Check(t, s)

	// A node of an older Parley that was alone knew of no places.
	exec(t, s, `INSERT INTO nodes (name, seen_at) VALUES ('old', now())`)
	exec(t, s, `UPDATE presences SET node = 'old' WHERE user_id = $1`, u[5])
	old := presence.DeadNode{NodeID: presence.NodeID{Name: "old"}, SeenAt: seen.Add(time.Second)}
	if _, done, err := s.ReleaseNode(t.Context(), old, 100); err != nil || !done {
		t.Error(done, err)
	}
	if st, err := s.GetPresences(t.Context(), u[5:]); err != nil || !st[u[5]].LastOnlineAt.Equal(old.SeenAt) {
		t.Errorf("of the old node's user stored is %+v, %v", st[u[5]], err)
	}
	storetest.Check(t, s)
}

// A node that is alone knows of no others, whatever they or its former life have left.
func TestReleaseAllPresences(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	yes := true
	putPlace(t, s, nodeA, presence.NodePresence{UserID: u[0], Status: chat.Online}, presence.NodePresence{UserID: u[1], Status: chat.Away, Invisible: &yes, LastOnlineAt: now})
	putPlace(t, s, nodeB, presence.NodePresence{UserID: u[0], Status: chat.Online}, presence.NodePresence{UserID: u[2], Status: chat.Away})
	exec(t, s, `UPDATE nodes SET seen_at = $1`, now.Add(time.Minute))
	for range 2 {
		if err := s.ReleaseAllPresences(t.Context()); err != nil {
			t.Fatal(err)
		}
		storetest.Check(t, s)
	}
	st, err := s.GetPresences(t.Context(), u)
	for i, last := range []time.Time{now.Add(time.Minute), now, now.Add(time.Minute)} {
		if got := st[u[i]]; err != nil || got.Status != chat.Offline || got.Invisible != (i == 1) || !got.LastOnlineAt.Equal(last) {
			t.Errorf("user %d is %+v, %v; want offline since %v", i, got, err, last)
		}
	}
	if dead, err := s.ListDeadNodes(t.Context(), nodeA, -time.Hour); len(dead) > 0 || err != nil {
		t.Errorf("left are %v, %v", dead, err)
	}
}

func TestDeadNodes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	for _, user := range u {
		putPlace(t, s, nodeA, presence.NodePresence{UserID: user, Status: chat.Online})
		putPlace(t, s, nodeB, presence.NodePresence{UserID: user, Status: chat.Away})
	}
	putPlace(t, s, presence.NodeID{Name: "b", ID: "b0"}, presence.NodePresence{UserID: u[0], Status: chat.Away})
	putPlace(t, s, presence.NodeID{Name: "c", ID: "c1"}, presence.NodePresence{UserID: u[0], Status: chat.Away})
	list := func(own presence.NodeID, silent time.Duration) (found []string) {
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
	exec(t, s, `UPDATE nodes SET seen_at = now() - interval '1 minute', beat_at = now() - interval '1 minute' WHERE name = 'a'`)
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
	look := func(c *presence.Cursor) (states map[chat.ID]chat.Status, contacts []chat.ID) {
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
	putPlace(t, s, nodeA, presence.NodePresence{UserID: u[0], Status: chat.Online})
	var c presence.Cursor
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
	var list []presence.NodePresence
	for _, id := range u[1:] {
		list = append(list, presence.NodePresence{UserID: id, Status: chat.Away})
	}
	top := putPlace(t, s, nodeA, list...)
	ids := []chat.ID{chat.NewID(), chat.NewID(), chat.NewID()}
	for _, id := range append(ids, ids[0]) { // one is repeated
		if err := s.PutContactChange(t.Context(), presence.ContactChange{ID: id, A: u[:2], B: u[2:]}); err != nil {
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
	c = presence.Cursor{Since: "3:3:"}
	if _, contacts := look(&c); len(contacts) != 2 {
		t.Errorf("%d changes of contacts are kept, want 2", len(contacts))
	}
}
