package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
)

// network stands in for Redis: it counts, and loses the frames that the test tells it to.
type network struct {
	mu        sync.Mutex
	links     map[string]*link
	users     map[chat.ID]map[string]bool
	lookups   int
	lose      func(from, to string) bool
	reachable bool
}

func newNetwork() *network {
	return &network{links: map[string]*link{}, users: map[chat.ID]map[string]bool{}, lose: func(string, string) bool { return false }, reachable: true}
}

// link is a cluster.Link over a network.
type link struct {
	n       *network
	node    cluster.Node
	receive func(from string, frame []byte)
	changed chan struct{}
	sent    map[string][][]byte // n.mu guards
}

func (n *network) join(id string) *link {
	return &link{n: n, node: cluster.Node{ID: id, Name: "name of " + id}, changed: make(chan struct{}, 1), sent: map[string][][]byte{}}
}

func (n *network) leave(id string) {
	n.mu.Lock()
	delete(n.links, id)
	n.mu.Unlock()
	n.change()
}

func (n *network) change() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
}

func (l *link) Run(ctx context.Context, receive func(string, []byte)) error {
	l.n.mu.Lock()
	l.receive = receive
	l.n.links[l.node.ID] = l
	l.n.mu.Unlock()
	l.n.change()
	<-ctx.Done()
	return nil
}

func (l *link) SetPeers([]cluster.Node)  {} // they are those of the network
func (l *link) Changed() <-chan struct{} { return l.changed }
func (l *link) Healthy() bool            { return true }

func (l *link) Peers() (list []cluster.Node) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	for id, other := range l.n.links {
		if id != l.node.ID {
			list = append(list, other.node)
		}
	}
	slices.SortFunc(list, func(a, b cluster.Node) int { return compare(a.ID, b.ID) })
	return list
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (l *link) Send(to string, frame []byte) bool {
	l.n.mu.Lock()
	other := l.n.links[to]
	lost := other == nil || l.n.lose(l.node.ID, to)
	if !lost {
		l.sent[to] = append(l.sent[to], frame)
	}
	l.n.mu.Unlock()
	if lost {
		return other != nil
	}
	other.receive(l.node.ID, frame)
	return true
}

func (l *link) Locate(_ context.Context, users []chat.ID) ([][]string, error) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	l.n.lookups++
	if !l.n.reachable {
		return nil, &chat.Error{Code: chat.Unavailable}
	}
	found := make([][]string, len(users))
	for i, user := range users {
		found[i] = []string{}
		for id := range l.n.users[user] {
			found[i] = append(found[i], id)
		}
	}
	return found, nil
}

func (l *link) Register(user chat.ID)   { l.register(user, true) }
func (l *link) Unregister(user chat.ID) { l.register(user, false) }

func (l *link) register(user chat.ID, here bool) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if l.n.users[user] == nil {
		l.n.users[user] = map[string]bool{}
	}
	if here {
		l.n.users[user][l.node.ID] = true
	} else {
		delete(l.n.users[user], l.node.ID)
	}
}

// events counts the frames of events that went to a node.
func (l *link) events(to string) (n int) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	for _, f := range l.sent[to] {
		if f[0] == 1 {
			n++
		}
	}
	return n
}

func (n *network) lookedUp() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lookups
}

// rules ignores everything.
type rules struct{}

func (rules) ReceiveEvent(context.Context, *chat.Event, int64)      {}
func (rules) ReceiveNotice(context.Context, string, chat.Notice)    {}
func (rules) MembersChanged(context.Context, chat.ID, int64, int64) {}

// startBus runs a bus over the network until the test ends.
func startBus(t *testing.T, n *network, id string) (*cluster.Bus, *link) {
	t.Helper()
	l := n.join(id)
	b := cluster.NewBus(cluster.BusOptions{Link: l})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- b.Run(ctx, cluster.Receiver{Rules: rules{}, Publication: func(*chat.Publication) {}, ReceiptsWanted: func() bool { return false }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b, l
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("gave up waiting until", what)
		}
	}
}

// An event goes once to each node where a member is, to no other, and looks up nobody
// whose location is cached.
func TestRouting(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	const nodes = 4
	buses, links := make([]*cluster.Bus, nodes), make([]*link, nodes)
	for i := range nodes {
		buses[i], links[i] = startBus(t, n, fmt.Sprint(i))
	}
	for _, b := range buses {
		eventually(t, "all know of each other", func() bool { return b.Peers() == nodes-1 })
	}
	members := make([]chat.ID, 1000)
	for i := range members {
		members[i] = chat.NewID()
		buses[i%2].SetConnected(members[i], true) // nodes 0 and 1
	}
	e := &chat.Event{ConversationID: chat.NewID(), Seq: 1, Content: "hello"}
	for range 10 {
		before := links[0].events("1")
		buses[0].Event(e, 1, members)
		eventually(t, "node 1 has the event", func() bool { return links[0].events("1") == before+1 })
	}
	first := n.lookedUp()
	if first > 10 || links[0].events("2")+links[0].events("3") != 0 {
		t.Errorf("%d look-ups; %d and %d events to nodes without members", first, links[0].events("2"), links[0].events("3"))
	}
	// A member comes to another node: that is known at once, without a look-up.
	buses[2].SetConnected(members[0], true)
	buses[0].Event(e, 1, members)
	eventually(t, "node 2 has the event", func() bool { return links[0].events("2") == 1 })
	buses[2].SetConnected(members[0], false)
	for range 3 {
		buses[0].Event(e, 1, members)
	}
	if got := links[0].events("2"); got != 1 || n.lookedUp() != first {
		t.Errorf("%d events to a node that its only member has left, %d look-ups", got, n.lookedUp()-first)
	}
}

// A node that comes or goes makes everything be looked up again; one that cannot be
// reached costs nothing but its frames.
func TestRoutingChanges(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	a, la := startBus(t, n, "a")
	b, _ := startBus(t, n, "b")
	eventually(t, "a and b know of each other", func() bool { return a.Peers() == 1 && b.Peers() == 1 })
	user := chat.NewID()
	b.SetConnected(user, true)
	e := &chat.Event{ConversationID: chat.NewID(), Seq: 1}
	a.Event(e, 1, []chat.ID{user})
	eventually(t, "b has the event", func() bool { return la.events("b") == 1 })
	c, _ := startBus(t, n, "c")
	eventually(t, "all know of c", func() bool { return a.Peers() == 2 && c.Peers() == 2 })
	c.SetConnected(user, true)
	a.Event(e, 1, []chat.ID{user})
	eventually(t, "c has the event", func() bool { return la.events("b") == 2 && la.events("c") == 1 })
	n.leave("b")
	eventually(t, "b is gone", func() bool { return a.Peers() == 1 })
	n.mu.Lock()
	n.reachable = false
	n.mu.Unlock()
	a.Event(e, 1, []chat.ID{user}) // lost
	eventually(t, "it was looked up", func() bool { return n.lookedUp() >= 3 })
	n.mu.Lock()
	n.reachable = true
	n.mu.Unlock()
	a.Event(e, 1, []chat.ID{user})
	eventually(t, "c has another event", func() bool { return la.events("c") == 2 })
	a.Notify(chat.Notice{Block: &chat.BlockNotice{UserID: user, OtherID: user}}, nil)
	a.NotifyNode("name of c", chat.Notice{Superseded: &chat.SupersededNotice{UserID: user, ClientID: "x", Epoch: 1}})
	a.NotifyNode("nobody", chat.Notice{})
	for _, bad := range [][]byte{nil, {0}, {200}, {1, 2, 3}, {2, 'x'}} {
		cluster.Receive(a, "c", bad)
		cluster.Receive(a, "nobody", bad)
	}
}

// counted counts what it is given to act on.
type counted struct {
	rules
	events, notices atomic.Int64
}

func (c *counted) ReceiveEvent(context.Context, *chat.Event, int64)   { c.events.Add(1) }
func (c *counted) ReceiveNotice(context.Context, string, chat.Notice) { c.notices.Add(1) }

// Frames of a node that the database does not know are not acted on: it may be of a copy of
// the database, which knows this node from before.
func TestFramesOfStrangers(t *testing.T) {
	t.Parallel()
	n := newNetwork()
	l := n.join("a")
	b := cluster.NewBus(cluster.BusOptions{Link: l})
	var got counted
	var publications atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- b.Run(ctx, cluster.Receiver{Rules: &got, Publication: func(*chat.Publication) { publications.Add(1) }, ReceiptsWanted: func() bool { return false }})
	}()
	t.Cleanup(func() { cancel(); <-done })
	known, _ := startBus(t, n, "known")
	eventually(t, "both know of each other", func() bool { return b.Peers() == 1 && known.Peers() == 1 })
	user := chat.NewID()
	b.SetConnected(user, true)
	send := func(from string) {
		for _, frame := range n.framesTo("a") {
			cluster.Receive(b, from, frame)
		}
	}
	known.Event(&chat.Event{ConversationID: chat.NewID(), Seq: 1}, 1, []chat.ID{user})
	known.Notify(chat.Notice{Block: &chat.BlockNotice{UserID: user, OtherID: user}}, nil)
	known.Publication(&chat.Publication{Topic: "dev/x"})
	eventually(t, "all has come", func() bool { return got.events.Load() == 1 && got.notices.Load() == 1 && publications.Load() == 1 })
	send("stranger")
	send("known") // in order with what came before, so that this shows that the stranger's was dropped
	eventually(t, "the repeat has come", func() bool { return got.events.Load() == 2 && got.notices.Load() == 2 && publications.Load() == 2 })
}

// framesTo returns all frames that were sent to a node.
func (n *network) framesTo(id string) (frames [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		frames = append(frames, l.sent[id]...)
	}
	return frames
}
