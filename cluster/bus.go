package cluster

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
)

const (
	helloEvery    = 2 * time.Second
	busWorkers    = 8
	busQueue      = 4096 // received frames that may wait for each worker
	lookupQueue   = 8192 // frames that may wait until their users are looked up
	lookupBatch   = 4096 // users looked up at once, about
	lookupTimeout = 2 * time.Second
)

// Rules act on what other nodes send; *chat.Service implements it. The methods may wait for
// the database, for a few seconds.
type Rules interface {
	// ReceiveEvent hands an event that another node has stored to the sessions here.
	ReceiveEvent(ctx context.Context, e *chat.Event, membersVersion int64)
	// ReceiveNotice acts on a notice of the node with the id from.
	ReceiveNotice(ctx context.Context, from string, n chat.Notice)
	// MembersChanged acts on a change of a conversation's members, from the outbox.
	MembersChanged(ctx context.Context, conversation chat.ID, seq, membersVersion int64)
}

// Receiver is what a Bus passes frames of other nodes on to.
type Receiver struct {
	Rules Rules
	// Publication delivers a publication to a device topic to the sessions here. It does
	// not block.
	Publication func(*chat.Publication)
	// ReceiptsWanted reports whether a session here subscribes to delivery receipts.
	ReceiptsWanted func() bool
}

// BusOptions configures a Bus.
type BusOptions struct {
	Link       Link
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Bus carries events and notices to the other nodes, and theirs to the sessions here.
// It implements chat.Peers. A frame goes once to each node where a user concerned is
// connected, and to no other. Nothing blocks: frames are dropped when a queue is full or
// Redis is unavailable, and what they said is read from the outbox.
type Bus struct {
	logger   *slog.Logger
	metrics  *metrics
	link     Link
	receiver Receiver // set by Run

	lookups  chan lookup               // full: drop and count
	workers  [busWorkers]chan received // full: drop and count
	view     atomic.Pointer[view]      // set by Run
	hello    chan struct{}             // of one value: a hello is due
	newcomer chan struct{}             // of one value: a hello came from a node that Keeper has not found in the database yet
}

// view is the other nodes that can be reached, and what is known about them. Sets of nodes
// hold their numbers in it. When the nodes change, a new view replaces it, whose locations
// are empty: those before may name nodes that are gone, or lack notices lost while the link
// was down.
type view struct {
	nodes     []peer // at most maxPeers
	numbers   map[string]int
	all       nodeSet
	locations *locations
}

type peer struct {
	Node
	wantsReceipts *atomic.Bool // a session there subscribes to delivery receipts
}

// lookup is a frame whose users have to be looked up first.
type lookup struct {
	view  *view
	frame []byte
	users []chat.ID
	among nodeSet
}

// received is a frame from another node.
type received struct {
	from  string
	frame frame
}

// NewBus returns a bus. It starts nothing: until Run, frames are dropped.
func NewBus(o BusOptions) *Bus {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	b := &Bus{
		link: o.Link, logger: o.Logger.With("component", "cluster"), lookups: make(chan lookup, lookupQueue),
		hello: make(chan struct{}, 1), newcomer: make(chan struct{}, 1),
	}
	b.view.Store(&view{locations: newLocations()})
	b.metrics = newMetrics(o.Registerer, b)
	for i := range b.workers {
		b.workers[i] = make(chan received, busQueue)
	}
	return b
}

var _ chat.Peers = (*Bus)(nil)

// Run runs the link and carries frames until ctx ends, those of other nodes to r. It is
// called once.
func (b *Bus) Run(ctx context.Context, r Receiver) error {
	b.receiver = r
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, queue := range b.workers {
		wg.Go(func() { b.work(ctx, queue) })
	}
	wg.Go(func() { b.lookUp(ctx) })
	wg.Go(func() { _ = b.link.Run(ctx, b.receive) }) // it ends with ctx only, and returns nil then
	hello := time.NewTicker(helloEvery)
	defer hello.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.link.Changed():
			b.refresh()
		case <-hello.C:
		case <-b.hello:
		}
		v := b.view.Load()
		b.send(v, appendHello(nil, b.receiver.ReceiptsWanted()), v.all)
	}
}

// setNodes informs the link which other nodes are alive, by the database.
func (b *Bus) setNodes(nodes []chat.NodeState) {
	var alive []Node
	for _, n := range nodes {
		if n.Alive {
			alive = append(alive, Node{ID: n.ID, Name: n.Name})
		}
	}
	b.link.SetPeers(alive)
}

// Hello sends the other nodes whether a session here subscribes to delivery receipts, as it
// does every two seconds; call it when that has changed. It does not block.
func (b *Bus) Hello() { signal(b.hello) }

// signal puts a value into a channel of one value, unless it holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// refresh reads from the link which nodes can be reached.
func (b *Bus) refresh() {
	old, v := b.view.Load(), &view{numbers: map[string]int{}, locations: newLocations()}
	list := b.link.Peers()
	for number, n := range list[:min(len(list), maxPeers)] {
		p := peer{n, new(atomic.Bool)}
		if before, ok := old.numbers[n.ID]; ok {
			p.wantsReceipts = old.nodes[before].wantsReceipts
		}
		v.nodes, v.numbers[n.ID] = append(v.nodes, p), number
		v.all.add(number)
	}
	b.view.Store(v)
}

// Peers returns how many other nodes can be reached.
func (b *Bus) Peers() int { return len(b.view.Load().nodes) }

// ReceiptsWanted reports whether a session at another node subscribes to delivery receipts.
func (b *Bus) ReceiptsWanted() bool { return !b.view.Load().wantReceipts().empty() }

// wantReceipts returns the nodes where a session subscribes to delivery receipts.
func (v *view) wantReceipts() (s nodeSet) {
	for number, p := range v.nodes {
		if p.wantsReceipts.Load() {
			s.add(number)
		}
	}
	return s
}

// SetConnected says to all nodes, those that will join too, whether a user has a connection
// at this one. It does not block.
func (b *Bus) SetConnected(user chat.ID, connected bool) {
	kind := frameGone
	if connected {
		kind = frameHere
		b.link.Register(user)
	} else {
		b.link.Unregister(user)
	}
	v := b.view.Load()
	b.send(v, appendUser(nil, kind, user), v.all)
}

// Event implements chat.Peers.
func (b *Bus) Event(e *chat.Event, membersVersion int64, users []chat.ID) {
	v := b.view.Load()
	if len(v.nodes) == 0 {
		return
	}
	at, unknown := v.locations.find(users, v.all)
	if at.empty() && len(unknown) == 0 {
		return
	}
	frame := appendEvent(make([]byte, 0, eventHeader+512+len(e.Content)), e, membersVersion)
	b.route(v, frame, at, unknown, v.all)
}

// Notify implements chat.Peers.
func (b *Bus) Notify(n chat.Notice, users []chat.ID) {
	v := b.view.Load()
	among := v.all
	if n.Received != nil {
		among = v.wantReceipts()
	}
	if among.empty() {
		return
	}
	at, unknown := among, []chat.ID(nil)
	if users != nil {
		if at, unknown = v.locations.find(users, among); at.empty() && len(unknown) == 0 {
			return
		}
	}
	frame, err := appendNotice(nil, &n)
	if err != nil {
		b.logger.Error("a notice cannot be encoded", "err", err)
		return
	}
	b.route(v, frame, at, unknown, among)
}

// Publication sends a publication to a device topic to every node. It does not block, and
// p must not be changed afterwards.
func (b *Bus) Publication(p *chat.Publication) {
	v := b.view.Load()
	if len(v.nodes) == 0 {
		return
	}
	frame, err := p.AppendBinary([]byte{byte(framePublication)})
	if err != nil || len(frame) > MaxFrame {
		b.metrics.dropped.Inc()
		return
	}
	b.send(v, frame, v.all)
}

// NotifyNode implements chat.Peers.
func (b *Bus) NotifyNode(node string, n chat.Notice) {
	var to nodeSet
	v := b.view.Load()
	for number, p := range v.nodes {
		if p.Name == node {
			to.add(number)
		}
	}
	if frame, err := appendNotice(nil, &n); err == nil {
		b.send(v, frame, to)
	}
}

// route sends a frame to the nodes at, and has the unknown users looked up.
func (b *Bus) route(v *view, frame []byte, at nodeSet, unknown []chat.ID, among nodeSet) {
	b.send(v, frame, at)
	if len(unknown) == 0 {
		return
	}
	among.without(at)
	select {
	case b.lookups <- lookup{v, frame, unknown, among}:
	default:
		b.metrics.dropped.Inc()
	}
}

func (b *Bus) send(v *view, frame []byte, to nodeSet) {
	to.each(func(number int) {
		if !b.link.Send(v.nodes[number].ID, frame) {
			b.metrics.dropped.Inc()
			return
		}
		b.metrics.sent[frame[0]].Inc()
	})
}

// lookUp looks up users and sends the frames that wait for it, until ctx ends. One look-up
// is for all frames that have gathered during the one before.
func (b *Bus) lookUp(ctx context.Context) {
	for {
		var next lookup
		select {
		case <-ctx.Done():
			return
		case next = <-b.lookups:
		}
		batch, users := []lookup{next}, slices.Clone(next.users)
		for len(users) < lookupBatch && len(b.lookups) > 0 { // no other goroutine receives from it
			next = <-b.lookups
			batch, users = append(batch, next), append(users, next.users...)
		}
		slices.SortFunc(users, chat.ID.Compare)
		v := b.view.Load()
		found := b.locate(ctx, v, slices.Compact(users))
		for _, l := range batch {
			if l.view != v { // its numbers are others: a node may get the frame twice
				l.among = v.all
			}
			var at nodeSet
			for _, user := range l.users {
				at.or(found[user])
			}
			at.and(l.among)
			b.send(v, l.frame, at)
		}
	}
}

// locate looks users up and caches the answer. It returns nil if that fails.
func (b *Bus) locate(ctx context.Context, v *view, users []chat.ID) (found map[chat.ID]nodeSet) {
	ctx, cancel := chat.WithDeadline(ctx, lookupTimeout, "cluster.locate")
	defer cancel()
	v.locations.begin(users)
	defer func() { v.locations.finish(users, found) }()
	b.metrics.lookups.Add(float64(len(users)))
	ids, err := b.link.Locate(ctx, users)
	if err != nil {
		b.metrics.dropped.Inc()
		return nil
	}
	found = make(map[chat.ID]nodeSet, len(users))
	for i, list := range ids {
		var at nodeSet
		for _, id := range list {
			if number, ok := v.numbers[id]; ok {
				at.add(number)
			}
		}
		found[users[i]] = at
	}
	return found
}

// receive takes a frame of another node, and keeps it. It does not block: a frame is dropped
// if its worker's queue is full. Frames of nodes that the database does not know are not
// acted on, since they may be about another database.
func (b *Bus) receive(from string, raw []byte) {
	f, ok := readFrame(raw)
	if !ok {
		b.metrics.malformed.Inc()
		return
	}
	b.metrics.received[f.kind].Inc()
	v := b.view.Load()
	number, ok := v.numbers[from]
	if !ok { // not in the database: it has just come, or left, or is of another database
		b.metrics.strange.Inc()
		if f.kind == frameHello {
			signal(b.newcomer)
		}
		return
	}
	switch f.kind {
	case frameHere, frameGone:
		v.locations.update(f.user, number, f.kind == frameHere)
	case frameHello:
		v.nodes[number].wantsReceipts.Store(f.wantsReceipts)
	case frameEvent:
		b.enqueue(f.event.ConversationID.Shard(busWorkers), received{from, f})
	case frameNotice:
		b.enqueue(subject(&f.notice).Shard(busWorkers), received{from, f})
	case framePublication:
		b.enqueue(int(f.publication.Origin%busWorkers), received{from, f}) // those of one publisher in order
	}
}

// subject returns the conversation or user that a notice is about. Notices about the same
// one are handled in order.
func subject(n *chat.Notice) chat.ID {
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
	case n.Refusal != nil:
		return n.Refusal.UserID
	}
	return chat.ID{}
}

func (b *Bus) enqueue(worker int, r received) {
	select {
	case b.workers[worker] <- r:
	default:
		b.metrics.dropped.Inc()
	}
}

// work handles received frames, one after the other, until ctx ends.
func (b *Bus) work(ctx context.Context, queue chan received) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-queue:
			switch {
			case r.frame.event != nil:
				b.receiver.Rules.ReceiveEvent(ctx, r.frame.event, r.frame.membersVersion)
			case r.frame.publication != nil:
				b.receiver.Publication(r.frame.publication)
			default:
				b.receiver.Rules.ReceiveNotice(ctx, r.from, r.frame.notice)
			}
		}
	}
}
