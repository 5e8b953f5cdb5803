package cluster

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
)

const (
	helloEvery    = 2 * time.Second
	busWorkers    = 8
	busQueue      = 4096 // frames of other nodes that wait for each worker
	lookupQueue   = 8192 // frames that wait for it to be known where they go
	lookupBatch   = 4096 // users looked up at once
	lookupTimeout = 2 * time.Second
)

// Rules act on what other nodes send: *chat.Service does. Its methods may wait for the
// database, for a few seconds.
type Rules interface {
	// ReceiveEvent hands an event that another node has stored to the sessions here.
	ReceiveEvent(ctx context.Context, e *chat.Event, membersVersion int64)
	// ReceiveNotice acts on a notice of the node with the id from.
	ReceiveNotice(ctx context.Context, from string, n chat.Notice)
	// MembersChanged acts on a change of a conversation's members, from the outbox.
	MembersChanged(ctx context.Context, conversation chat.ID, seq, membersVersion int64)
}

// Receiver is what a Bus hands frames of other nodes to.
type Receiver struct {
	Rules Rules
	// Publication delivers a publication to a device topic to the sessions here. It does
	// not block.
	Publication func(*chat.Publication)
	// Asking reports whether a session here has asked for what was delivered.
	Asking func() bool
}

// BusOptions configures a Bus.
type BusOptions struct {
	Link       Link
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Bus carries events and notices to the other nodes, and theirs to the sessions here.
// It implements chat.Peers. A frame goes once to each node where one of those concerned is
// connected, and to no other. Nothing waits for it: where there is no room, or Redis is
// away, frames are dropped, and what they said is read from the outbox.
type Bus struct {
	logger   *slog.Logger
	metrics  *metrics
	link     Link
	receiver Receiver // set by Run

	locations *locations
	lookups   chan lookup
	workers   [busWorkers]chan arrival

	mu       sync.RWMutex
	peers    peers // mu guards; replaced as a whole, but for asks
	asks     atomic.Pointer[nodeSet]
	hello    chan struct{} // holds a value when a hello is due
	newcomer chan struct{} // holds a value when a hello came from a node that Keeper has not found in the database yet
}

// peers are the nodes that can be reached, by their numbers here.
type peers struct {
	live    nodeSet
	numbers map[string]int
	nodes   [maxPeers]Node
}

// lookup is a frame whose users have to be looked up first.
type lookup struct {
	frame []byte
	users []chat.ID
	among nodeSet
}

// arrival is a frame from another node.
type arrival struct {
	from  string
	frame frame
}

// NewBus returns a bus that has not begun. Until Run, frames go nowhere.
func NewBus(o BusOptions) *Bus {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bus{
		link: o.Link, logger: o.Logger.With("component", "cluster"), locations: newLocations(), lookups: make(chan lookup, lookupQueue),
		hello: make(chan struct{}, 1), newcomer: make(chan struct{}, 1),
	}
	b.metrics = newMetrics(o.Registerer, b)
	b.peers.numbers = map[string]int{}
	b.asks.Store(&nodeSet{})
	for i := range b.workers {
		b.workers[i] = make(chan arrival, busQueue)
	}
	return b
}

var _ chat.Peers = (*Bus)(nil)

// Run carries frames until ctx ends, those of other nodes to r. It runs the link, too. It
// is called once.
func (b *Bus) Run(ctx context.Context, r Receiver) error {
	b.receiver = r
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, queue := range b.workers {
		wg.Go(func() { b.work(ctx, queue) })
	}
	wg.Go(func() { b.look(ctx) })
	wg.Go(func() { _ = b.link.Run(ctx, b.receive) }) // it ends with ctx only, and returns nil then
	hello := time.NewTicker(helloEvery)
	defer hello.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.link.Changed():
			b.meet()
		case <-hello.C:
		case <-b.hello:
		}
		b.send(appendHello(nil, b.receiver.Asking()), b.live())
	}
}

// setNodes takes from the Keeper which other nodes the database knows.
func (b *Bus) setNodes(nodes []chat.NodeState) {
	var alive []Node
	for _, n := range nodes {
		if n.Alive {
			alive = append(alive, Node{ID: n.ID, Name: n.Name})
		}
	}
	b.link.SetPeers(alive)
}

// Hello sends a hello to the other nodes now: what is asked for here has changed. It does
// not block.
func (b *Bus) Hello() { signal(b.hello) }

// signal puts a value into a channel of one place, if there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// meet takes over which nodes can be reached. Cached locations of users are dropped: they
// may name nodes that are gone, or lack what was sent while the link was down.
func (b *Bus) meet() {
	fresh := peers{numbers: map[string]int{}}
	b.mu.Lock()
	old := b.peers
	var list []Node
	for _, n := range b.link.Peers() {
		if number, ok := old.numbers[n.ID]; ok { // keeps its number
			fresh.live.add(number)
			fresh.numbers[n.ID], fresh.nodes[number] = number, n
		} else {
			list = append(list, n)
		}
	}
	for number := 0; number < maxPeers && len(list) > 0; number++ {
		if fresh.nodes[number].ID == "" {
			fresh.live.add(number)
			fresh.numbers[list[0].ID], fresh.nodes[number] = number, list[0]
			list = list[1:]
		}
	}
	b.peers = fresh
	asks := *b.asks.Load()
	asks.and(fresh.live)
	b.asks.Store(&asks)
	b.mu.Unlock()
	b.locations.clear()
}

func (b *Bus) live() nodeSet {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.peers.live
}

// Peers returns how many other nodes can be reached.
func (b *Bus) Peers() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.peers.numbers)
}

// number returns a node's number here.
func (b *Bus) number(id string) (int, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	n, ok := b.peers.numbers[id]
	return n, ok
}

// Asking reports whether a session at another node has asked for what was delivered.
func (b *Bus) Asking() bool { return !b.asks.Load().empty() }

// Here says to all nodes, present and future, whether a user has a connection at this
// one. It does not block.
func (b *Bus) Here(user chat.ID, here bool) {
	kind := frameGone
	if here {
		kind = frameHere
		b.link.Register(user)
	} else {
		b.link.Unregister(user)
	}
	if live := b.live(); !live.empty() {
		b.send(appendUser(nil, kind, user), live)
	}
}

// Event implements chat.Peers.
func (b *Bus) Event(e *chat.Event, membersVersion int64, users []chat.ID) {
	live := b.live()
	if live.empty() {
		return
	}
	at, unknown := b.locations.find(users, live)
	if at.empty() && len(unknown) == 0 {
		return
	}
	frame := appendEvent(make([]byte, 0, eventHeader+512+len(e.Content)), e, membersVersion)
	b.route(frame, at, unknown, live)
}

// Notify implements chat.Peers.
func (b *Bus) Notify(n chat.Notice, users []chat.ID) {
	among := b.live()
	if n.Received != nil {
		among.and(*b.asks.Load())
	}
	if among.empty() {
		return
	}
	at, unknown := among, []chat.ID(nil)
	if users != nil {
		if at, unknown = b.locations.find(users, among); at.empty() && len(unknown) == 0 {
			return
		}
	}
	frame, err := appendNotice(nil, &n)
	if err != nil {
		b.logger.Error("a notice cannot be encoded", "err", err)
		return
	}
	b.route(frame, at, unknown, among)
}

// Publication sends a publication to a device topic to every node. It does not block, and
// p must not be changed afterwards.
func (b *Bus) Publication(p *chat.Publication) {
	live := b.live()
	if live.empty() {
		return
	}
	frame, err := p.AppendBinary([]byte{byte(framePublication)})
	if err != nil || len(frame) > MaxFrame {
		b.metrics.dropped.Inc()
		return
	}
	b.send(frame, live)
}

// NotifyNode implements chat.Peers.
func (b *Bus) NotifyNode(node string, n chat.Notice) {
	b.mu.RLock()
	var to nodeSet
	for id, number := range b.peers.numbers {
		if b.peers.nodes[number].Name == node {
			to.add(b.peers.numbers[id])
		}
	}
	b.mu.RUnlock()
	if frame, err := appendNotice(nil, &n); err == nil {
		b.send(frame, to)
	}
}

// route sends a frame to the nodes that are known, and has the unknown users looked up.
func (b *Bus) route(frame []byte, at nodeSet, unknown []chat.ID, among nodeSet) {
	b.send(frame, at)
	if len(unknown) == 0 {
		return
	}
	among.without(at)
	select {
	case b.lookups <- lookup{frame, unknown, among}:
	default:
		b.metrics.dropped.Inc()
	}
}

func (b *Bus) send(frame []byte, to nodeSet) {
	to.each(func(number int) {
		b.mu.RLock()
		id := b.peers.nodes[number].ID
		b.mu.RUnlock()
		if id == "" || !b.link.Send(id, frame) {
			b.metrics.dropped.Inc()
			return
		}
		b.metrics.sent[frame[0]].Inc()
	})
}

// look looks users up, all that have gathered during the last look-up in one round trip,
// and sends the frames that waited for it.
func (b *Bus) look(ctx context.Context) {
	for {
		var batch []lookup
		select {
		case <-ctx.Done():
			return
		case l := <-b.lookups:
			batch = append(batch, l)
		}
		asked := map[chat.ID]struct{}{}
		for more := true; more; {
			for _, user := range batch[len(batch)-1].users {
				asked[user] = struct{}{}
			}
			if more = len(asked) < lookupBatch; more {
				select {
				case l := <-b.lookups:
					batch = append(batch, l)
				default:
					more = false
				}
			}
		}
		users := make([]chat.ID, 0, len(asked))
		for user := range asked {
			users = append(users, user)
		}
		found := b.locate(ctx, users)
		for _, l := range batch {
			var at nodeSet
			for _, user := range l.users {
				at.or(found[user])
			}
			at.and(l.among)
			b.send(l.frame, at)
		}
	}
}

// locate looks users up and caches the answer. If that fails, none is anywhere.
func (b *Bus) locate(ctx context.Context, users []chat.ID) map[chat.ID]nodeSet {
	ctx, cancel := chat.WithDeadline(ctx, lookupTimeout, "cluster.locate")
	defer cancel()
	clears := b.locations.begin(users)
	b.metrics.lookups.Add(float64(len(users)))
	ids, err := b.link.Locate(ctx, users)
	if err != nil {
		b.locations.finish(users, nil, clears)
		b.metrics.dropped.Inc()
		return nil
	}
	sets := make([]nodeSet, len(users))
	found := make(map[chat.ID]nodeSet, len(users))
	b.mu.RLock()
	for i, list := range ids {
		for _, id := range list {
			if number, ok := b.peers.numbers[id]; ok {
				sets[i].add(number)
			}
		}
		found[users[i]] = sets[i]
	}
	b.mu.RUnlock()
	b.locations.finish(users, sets, clears)
	return found
}

// receive takes a frame of another node, and keeps it. It does not block: what there is no
// room for is dropped.
func (b *Bus) receive(from string, raw []byte) {
	f, err := readFrame(raw)
	if err != nil {
		b.metrics.malformed.Inc()
		return
	}
	b.metrics.received[f.kind].Inc()
	switch f.kind {
	case frameHere, frameGone:
		if number, ok := b.number(from); ok {
			b.locations.note(f.user, number, f.kind == frameHere)
		}
	case frameHello:
		b.setAsks(from, f.asks)
	case frameEvent:
		b.enqueue(f.event.ConversationID, arrival{from, f})
	case frameNotice:
		b.enqueue(about(&f.notice), arrival{from, f})
	case framePublication:
		b.enqueueAt(int(f.publication.Origin%busWorkers), arrival{from, f}) // those of one publisher in order
	}
}

// about returns whom or what a notice is about: those about the same are acted upon in
// order.
func about(n *chat.Notice) chat.ID {
	switch {
	case n.Hint != nil:
		return n.Hint.ConversationID
	case n.Typing != nil:
		return n.Typing.ConversationID
	case n.Read != nil:
		return n.Read.ConversationID
	case n.Received != nil:
		return n.Received.ConversationID
	case n.Presence != nil:
		return n.Presence.UserID
	case n.Superseded != nil:
		return n.Superseded.UserID
	case n.Device != nil:
		return n.Device.UserID
	}
	return chat.ID{}
}

func (b *Bus) enqueue(key chat.ID, a arrival) { b.enqueueAt(key.Shard(busWorkers), a) }

func (b *Bus) enqueueAt(worker int, a arrival) {
	select {
	case b.workers[worker] <- a:
	default:
		b.metrics.dropped.Inc()
	}
}

func (b *Bus) setAsks(from string, asks bool) {
	number, ok := b.number(from)
	if !ok {
		signal(b.newcomer)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	set := *b.asks.Load()
	if set.remove(number); asks {
		set.add(number)
	}
	b.asks.Store(&set)
}

// work acts on frames, one after the other.
func (b *Bus) work(ctx context.Context, queue chan arrival) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-queue:
			switch {
			case a.frame.event != nil:
				b.receiver.Rules.ReceiveEvent(ctx, a.frame.event, a.frame.membersVersion)
			case a.frame.publication != nil:
				b.receiver.Publication(a.frame.publication)
			default:
				b.receiver.Rules.ReceiveNotice(ctx, a.from, a.frame.notice)
			}
		}
	}
}
