package presence_test

import (
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
)

// both are two sessions that are to hear the same.
type both [2]*session

func (b both) expect(of chat.ID, want string) {
	b[0].n.c.Helper()
	b[0].expect(of, want)
	b[1].expect(of, want)
}

const nodesGrace = 400 * time.Millisecond

// Presence acts over several nodes as on one. ben listens at w and at b all the time.
func TestPresenceOverNodes(t *testing.T) {
	t.Parallel()
	gone, cut := presence.End{Gone: true}, presence.End{}
	for _, tt := range []struct {
		name string
		do   func(c *cluster, a, b *node, ann, ben chat.ID, bens both)
		want string // what ben hears of ann, at either node
	}{
		{"comes and goes", func(c *cluster, a, b *node, ann, ben chat.ID, bens both) {
			s := a.connect(ann, "phone")
			bens.expect(ann, "offline online")
			s.end(gone)
		}, "offline online offline"},
		{"the last of two, at two nodes", func(c *cluster, a, b *node, ann, ben chat.ID, bens both) {
			phone := a.connect(ann, "phone")
			bens.expect(ann, "offline online")
			laptop := b.connect(ann, "laptop")
			laptop.expect(ann, "online")
			phone.say(chat.Away)
			laptop.say(chat.Away)
			bens.expect(ann, "offline online away")
			phone.expect(ann, "online away")
			laptop.say(chat.Online)
			bens.expect(ann, "offline online away online")
			phone.expect(ann, "online away online")
			laptop.end(gone)
			bens.expect(ann, "offline online away online away")
			phone.end(gone)
		}, "offline online away online away offline"},
		{"is cut off, and back at the other node", func(c *cluster, a, b *node, ann, ben chat.ID, bens both) {
			for range 3 {
				s := b.connect(ann, "phone")
				bens.expect(ann, "offline online")
				s.end(cut)
				s = a.connect(ann, "phone")
				c.placesAt("a", true)
				s.end(cut)
			}
			s := b.connect(ann, "phone")
			c.placesAt("a", false) // the grace has passed there
			bens.expect(ann, "offline online")
			s.end(gone)
		}, "offline online offline"},
		{"is away, cut off, and back at the other node", func(c *cluster, a, b *node, ann, ben chat.ID, bens both) {
			s := a.connect(ann, "phone")
			bens.expect(ann, "offline online")
			s.say(chat.Away)
			bens.expect(ann, "offline online away")
			s.end(cut)
			s = b.attach(ann, "phone")
			a.move(s.Device) // as by the notice of the session's being taken
			c.await("b knows how the phone was", func() bool { return presence.Carried(b.Engine) == 1 })
			s.come()
			c.placesAt("a", false)
			c.await("the phone is away as before", func() bool { return s.last(ann) == chat.Away })
			bens.expect(ann, "offline online away")
			s.end(gone)
		}, "offline online away offline"},
		{"is taken over while connected", func(c *cluster, a, b *node, ann, ben chat.ID, bens both) {
			s := a.connect(ann, "phone")
			bens.expect(ann, "offline online")
			s.say(chat.Away)
			bens.expect(ann, "offline online away")
			now := b.attach(ann, "phone")
			a.move(s.Device)
			c.await("b knows how the phone was", func() bool { return presence.Carried(b.Engine) == 1 })
			now.come()
			if a.Disconnected(s.Device, s.stay, cut) {
				t.Error("the older connection is taken for the newest")
			}
			c.placesAt("a", false)
			c.await("the phone is away as before", func() bool { return now.last(ann) == chat.Away })
			bens.expect(ann, "offline online away")
			now.end(gone)
		}, "offline online away offline"},
		{"invisible at one, visible by the other", func(c *cluster, a, b *node, ann, ben chat.ID, bens both) {
			phone := a.connect(ann, "phone")
			bens.expect(ann, "offline online")
			laptop := b.connect(ann, "laptop")
			laptop.expect(ann, "online")
			phone.say(chat.Invisible)
			bens.expect(ann, "offline online offline")
			laptop.expect(ann, "online invisible")
			laptop.say(chat.Away)
			bens.expect(ann, "offline online offline online")
			phone.expect(ann, "online invisible online")
			phone.end(gone)
			bens.expect(ann, "offline online offline online away")
			laptop.say(chat.Invisible)
			bens.expect(ann, "offline online offline online away offline")
			phone = a.connect(ann, "phone")
			phone.expect(ann, "invisible")
			list, err := a.List(t.Context(), ann, []chat.ID{ann, ben})
			if err != nil || len(list) != 2 || list[0].Status == list[1].Status {
				t.Errorf("ann sees %+v, %v", list, err)
			}
		}, "offline online offline online away offline"},
		{"blocked at one node, and heard of at the other", func(c *cluster, a, b *node, ann, ben chat.ID, bens both) {
			a.connect(ann, "phone")
			bens.expect(ann, "offline online")
			if err := b.rules.BlockUser(t.Context(), ben, ann); err != nil {
				t.Fatal(err)
			}
			bens.expect(ann, "offline online offline")
			if err := a.rules.UnblockUser(t.Context(), ben, ann); err != nil {
				t.Fatal(err)
			}
		}, "offline online offline online"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, nodesGrace, "a", "b", "w")
			a, b := c.nodes["a"], c.nodes["b"]
			u := c.users(2)
			ann, ben := u[0], u[1]
			a.befriend(ann, ben)
			bens := both{c.nodes["w"].connect(ben, "watcher"), b.connect(ben, "other")}
			bens.expect(ben, "online")
			tt.do(c, a, b, ann, ben, bens)
			bens.expect(ann, tt.want)
		})
	}
}

// Where no notice arrives, the database is looked into.
func TestPresenceWithoutNotices(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nodesGrace, "a", "b")
	c.loss.Store(100)
	u := c.users(3)
	ann, ben, eve := u[0], u[1], u[2]
	a, b := c.nodes["a"], c.nodes["b"]
	room := a.befriend(ann, ben, eve)
	bens, anns := b.connect(ben, "watcher"), b.connect(ann, "own")
	bens.expect(ann, "offline online")
	phone := a.connect(ann, "phone")
	a.connect(eve, "phone")
	bens.expect(eve, "offline online")
	phone.say(chat.Invisible)
	bens.expect(ann, "offline online offline")
	anns.expect(ann, "online invisible")
	phone.say(chat.Online)
	bens.expect(ann, "offline online offline online")
	if err := a.rules.RemoveParticipant(t.Context(), chat.ParticipantChange{Actor: ann, ConversationID: room.ID, UserID: eve}); err != nil {
		t.Fatal(err)
	}
	bens.expect(eve, "offline online offline")
	a.befriend(ann, ben, eve)
	bens.expect(eve, "offline online offline online")
	anns.end(presence.End{Gone: true})
	phone.end(presence.End{Gone: true})
	bens.expect(ann, "offline online offline online offline")
}

// A notice that comes late does not bring back what was.
func TestPresenceNoticesLate(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nodesGrace, "a", "b")
	u := c.users(2)
	ann, ben := u[0], u[1]
	a, b := c.nodes["a"], c.nodes["b"]
	a.befriend(ann, ben)
	bens := b.connect(ben, "watcher")
	bens.expect(ann, "offline")
	phone := a.connect(ann, "phone")
	bens.expect(ann, "offline online")
	phone.end(presence.End{Gone: true})
	bens.expect(ann, "offline online offline")
	st, err := c.db.GetPresences(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	b.Receive(chat.Notice{Presence: &chat.PresenceNotice{UserID: ann, Status: chat.Online, Version: st[ann].Version - 1, To: []chat.ID{ben}}})
	a.connect(ann, "phone").say(chat.Away) // is heard after it
	c.await("ann is away", func() bool { return bens.last(ann) == chat.Away })
	if got := bens.says(ann); got != "offline online offline away" && got != "offline online offline online away" {
		t.Errorf("heard %q", got)
	}

	// Nor does one whose sender did not know that they are no contacts any more.
	if err := b.rules.BlockUser(t.Context(), ben, ann); err != nil {
		t.Fatal(err)
	}
	c.await("ben does not see ann any more", func() bool { return bens.last(ann) == chat.Offline })
	st, err = c.db.GetPresences(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	before := bens.says(ann)
	b.Receive(chat.Notice{Presence: &chat.PresenceNotice{UserID: ann, Status: chat.Online, Version: st[ann].Version + 1, To: []chat.ID{ben}}})
	own := a.connect(ben, "own")
	own.expect(ben, "online")
	b.connect(ben, "own").expect(ben, "online") // Run has been through all that came
	if got := bens.says(ann); got != before {
		t.Errorf("heard %q, and %q before that notice", got, before)
	}
}

// A node is killed. Those of its users who have come back elsewhere are online all the
// time, the others are offline since it was seen last, also if the node that tells it
// is killed in the middle.
func TestNodeDied(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nodesGrace, "a", "b", "w")
	u := c.users(40)
	a, b, w := c.nodes["a"], c.nodes["b"], c.nodes["w"]
	ben := u[0]
	w.befriend(u...)
	bens := w.connect(ben, "watcher")
	for _, id := range u[1:] {
		a.connect(id, "phone")
	}
	for _, id := range u[1:] {
		bens.expect(id, "offline online")
	}
	a.kill()
	for _, id := range u[1:20] {
		b.connect(id, "phone")
	}
	c.placesAt("b", true)
	died := make(chan error, 2)
	for _, n := range []*node{b, w} { // more than one, and again
		for range 2 {
			go func() { died <- n.ReleaseNode(t.Context(), presence.DeadNode{NodeID: a.id}) }() // is received below
		}
	}
	for range 4 {
		if err := <-died; err != nil {
			t.Fatal(err)
		}
	}
	c.placesAt("a", false)
	for i, id := range u[1:] {
		want := "offline online"
		if i+1 >= 20 {
			want += " offline"
		}
		bens.expect(id, want)
	}
	seen, _, err := c.db.NodeSeen(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	st, err := c.db.GetPresences(t.Context(), u)
	for _, id := range u[20:] {
		if last := st[id].LastOnlineAt; err != nil || !last.Equal(chat.Timestamp(seen)) {
			t.Errorf("online last at %v, %v; want %v, when the node was seen", last, err, seen)
		}
	}

	// b dies, and so does the node that has released its places, before it tells.
	c.loss.Store(100)
	b.kill()
	if _, _, err := c.db.ReleaseNode(t.Context(), presence.DeadNode{NodeID: b.id, SeenAt: time.Now()}, 7); err != nil {
		t.Fatal(err)
	}
	if err := presence.ReleaseDead(w.Engine, -time.Hour); err != nil { // which all are by that
		t.Fatal(err)
	}
	c.placesAt("b", false)
	for _, id := range u[1:20] {
		bens.expect(id, "offline online offline")
	}
}

// A node that was killed starts again, and its users come back within the grace: nobody
// hears of it. A device that does not come is offline when the grace has passed.
func TestNodeRestarts(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2*time.Second, "a", "w")
	u := c.users(3)
	ann, ben, eve := u[0], u[1], u[2]
	a, w := c.nodes["a"], c.nodes["w"]
	w.befriend(u...)
	bens := w.connect(ben, "watcher")
	a.connect(ann, "phone")
	a.connect(eve, "phone")
	bens.expect(ann, "offline online")
	bens.expect(eve, "offline online")
	a.kill()
	killed := time.Now()
	a = c.start("a")
	died := make(chan error, 1)
	go func() {
		died <- a.ReleaseNode(t.Context(), presence.DeadNode{NodeID: presence.NodeID{Name: "a"}, SeenAt: killed})
	}() // is received below
	phone := a.connect(ann, "phone")
	phone.expect(ann, "online")
	bens.expect(eve, "offline online offline")
	if err := <-died; err != nil {
		t.Fatal(err)
	}
	bens.expect(ann, "offline online")
	if age := time.Since(killed); age < 2*time.Second {
		t.Errorf("eve was offline after %v", age)
	}
	phone.end(presence.End{Gone: true})
	bens.expect(ann, "offline online offline")
}

// A node was declared dead, wakes, and goes on under a new id: those who are still
// here are online again.
func TestNodeRenewed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nodesGrace, "a", "w")
	u := c.users(3)
	ann, ben, eve := u[0], u[1], u[2]
	a, w := c.nodes["a"], c.nodes["w"]
	w.befriend(u...)
	bens := w.connect(ben, "watcher")
	phone := a.connect(ann, "phone")
	eves := a.connect(eve, "phone")
	bens.expect(ann, "offline online")
	bens.expect(eve, "offline online")
	if err := w.ReleaseNode(t.Context(), presence.DeadNode{NodeID: a.id}); err != nil {
		t.Fatal(err)
	}
	bens.expect(ann, "offline online offline")
	bens.expect(eve, "offline online offline")
	eves.end(presence.End{Gone: true})
	a.Rejoined("another")
	bens.expect(ann, "offline online offline online")
	if err := w.ReleaseNode(t.Context(), presence.DeadNode{NodeID: a.id}); err != nil { // once more: it is not that one
		t.Fatal(err)
	}
	phone.say(chat.Away)
	bens.expect(ann, "offline online offline online away")
	bens.expect(eve, "offline online offline")
}

// A node that stops in good order leaves its users their places: they come back to
// another one.
func TestNodeStops(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nodesGrace, "a", "b", "w")
	u := c.users(3)
	ann, ben, eve := u[0], u[1], u[2]
	a, b, w := c.nodes["a"], c.nodes["b"], c.nodes["w"]
	w.befriend(u...)
	bens := w.connect(ben, "watcher")
	phone, eves := a.connect(ann, "phone"), a.connect(eve, "phone")
	bens.expect(ann, "offline online")
	bens.expect(eve, "offline online")
	phone.end(presence.End{})
	eves.end(presence.End{Gone: true}) // and this is stored, and told
	a.stop()
	c.mu.Lock()
	delete(c.nodes, "a")
	c.mu.Unlock()
	bens.expect(eve, "offline online offline")
	phone = b.connect(ann, "phone")
	c.placesAt("b", true)
	if err := w.ReleaseNode(t.Context(), presence.DeadNode{NodeID: a.id}); err != nil {
		t.Fatal(err)
	}
	phone.say(chat.Away)
	bens.expect(ann, "offline online away")
}
