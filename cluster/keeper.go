package cluster

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
)

const (
	// LeaseDuration is how long a node counts as alive after a heartbeat. After that another
	// node evicts it.
	LeaseDuration = 8 * time.Second
	// PauseLimit is how long a process may be suspended before it has to check whether its
	// sessions were taken over. It is less than LeaseDuration.
	PauseLimit = 2 * time.Second

	heartbeatEvery = 2 * time.Second
	steadyGap      = 2 * heartbeatEvery // between two heartbeats that count as consecutive
	pruneEvery     = 15 * time.Second
	keeperStep     = time.Second
	membersQueue   = 4096 // changes of members that may wait to be handled
	releaseAfter   = 5    // heartbeats; then a node releases an evicted one that the node which evicted it has not
)

// Lease is a node's lease in the database; *store.NodeLease implements it. It is used by one
// goroutine. All methods block, for a few seconds at most, and may be repeated after an
// error other than Conflict.
type Lease interface {
	Heartbeat(ctx context.Context) (chat.Heartbeat, error)
	Rejoin(ctx context.Context) error
	Evict(ctx context.Context, n chat.NodeState) (bool, error)
	Released(ctx context.Context, node string) error
	ReadOutbox(ctx context.Context) (list []chat.OutboxEntry, whole bool, err error)
	PruneOutbox(ctx context.Context) error
	Close(ctx context.Context) error
}

// Sessions are the sessions of this node; *delivery.Router implements it.
type Sessions interface {
	// HintFollowers tells the sessions that follow a conversation that its log reaches
	// seq.
	HintFollowers(conversation chat.ID, seq int64)
	// Recheck reads from the database how far the logs of all connected users reach.
	Recheck(ctx context.Context) error
	// DisconnectAll ends every connection: the sessions may have been taken over.
	DisconnectAll()
}

// KeeperOptions configures a Keeper. Lease, Sessions, Rejoined and Release are required.
type KeeperOptions struct {
	Lease    Lease
	Sessions Sessions
	Rules    Rules // handles the outbox; unused without Bus
	Bus      *Bus  // carries frames to the other nodes; nil: a node alone, which has no outbox to read
	// Rejoined is called when this node was evicted and has joined the others again. It must
	// not block.
	Rejoined func()
	// Release ends the sessions and presence that a node has left behind. It may be called
	// again, and for a node that has left nothing.
	Release    func(ctx context.Context, n chat.NodeState) error
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Keeper keeps a node's lease: it sends heartbeats, evicts nodes whose heartbeats have
// stopped, gives the Bus the list of nodes, and reads from the outbox what the others
// have stored, which makes up for frames that the Bus has lost.
type Keeper struct {
	o       KeeperOptions
	logger  *slog.Logger
	metrics *keeperMetrics
	syncs   chan chan error // from Sync
	members chan func()     // to be done in this order, beside Run: what changes of members ask for; full: all sessions are rechecked instead
	ended   chan func()     // what Run is to do now that work in the background has ended

	// Owned by Run.
	steady     time.Time // since when heartbeats are consecutive
	beaten     time.Time // the last one
	last       []chat.OutboxEntry
	unreleased map[string]int // evicted nodes that are not released: in how many heartbeats
	failing    bool           // the last heartbeat, read or release failed
	recheckDue bool           // a recheck failed, or changes of members were dropped
	rechecking bool
	releasing  map[string]bool
	wg         sync.WaitGroup // rechecks and releases
}

// NewKeeper returns a keeper. It starts nothing.
func NewKeeper(o KeeperOptions) *Keeper {
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &Keeper{
		o: o, logger: o.Logger.With("component", "cluster"), metrics: newKeeperMetrics(o.Registerer),
		syncs: make(chan chan error), members: make(chan func(), membersQueue), ended: make(chan func()),
		unreleased: map[string]int{}, releasing: map[string]bool{},
	}
}

// Sync sends a heartbeat and reads the outbox now. When it returns nil, this node has handled
// everything that other nodes had done to its sessions when Sync was called. It is what opens
// a chat.Fence.
func (k *Keeper) Sync(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case k.syncs <- done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Run keeps the lease until ctx ends, and then gives it up. It returns Conflict if the
// connection to the database was lost and another node has acquired the lease meanwhile.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.wg.Wait()
	defer func() {
		if err := k.o.Lease.Close(context.WithoutCancel(ctx)); err != nil {
			k.logger.Warn("could not give up the node lease; it expires by itself", "err", err)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()                           // before Run waits
	k.wg.Go(func() { k.followMembers(ctx) }) // ends with ctx; Run waits for it
	healthy, newcomer := func() bool { return true }, (<-chan struct{})(nil)
	if k.o.Bus != nil {
		healthy, newcomer = k.o.Bus.link.Healthy, k.o.Bus.newcomer
	}
	step := time.NewTicker(keeperStep)
	defer step.Stop()
	var beat, read, prune time.Time
	for {
		var sync chan error
		select {
		case <-ctx.Done():
			return nil
		case sync = <-k.syncs:
		case <-newcomer:
			beat = time.Time{}
		case then := <-k.ended:
			then()
			continue
		case <-step.C:
		}
		now := time.Now()
		var err error
		if sync != nil || now.Sub(beat) >= heartbeatEvery {
			if err = k.heartbeat(ctx); err == nil {
				beat = now
			}
		}
		every := heartbeatEvery
		if !healthy() {
			every = keeperStep // frames do not arrive: only the outbox is left
		}
		if k.o.Bus != nil && err == nil && (sync != nil || now.Sub(read) >= every) {
			if err = k.read(ctx); err == nil {
				read = now
			}
		}
		if err == nil && sync == nil && now.Sub(prune) >= pruneEvery {
			prune = now
			err = k.o.Lease.PruneOutbox(ctx)
		}
		if sync != nil {
			k.answer(sync, err)
		}
		if ctx.Err() != nil {
			return nil
		}
		if chat.CodeOf(err) == chat.Conflict {
			return err
		}
		k.report(err)
	}
}

// report logs once that the database is unavailable, and once that it answers again.
func (k *Keeper) report(err error) {
	if err != nil {
		k.metrics.failures.Inc()
	}
	switch {
	case err != nil && !k.failing:
		k.logger.Warn("the database does not answer: the node lease is not renewed", "err", err)
	case err == nil && k.failing:
		k.logger.Info("the database answers again")
	}
	k.failing = err != nil
}

// heartbeat renews the lease, and evicts nodes whose lease has expired.
func (k *Keeper) heartbeat(ctx context.Context) error {
	found, err := k.o.Lease.Heartbeat(ctx)
	if err != nil {
		return err
	}
	if found.Evicted {
		if err := k.rejoin(ctx); err != nil {
			return err
		}
	}
	if k.o.Bus != nil {
		k.o.Bus.setNodes(found.Others)
	}
	now := time.Now()
	if now.Sub(k.beaten) > steadyGap {
		k.steady = now
	}
	k.beaten = now
	if now.Sub(k.steady) < LeaseDuration { // the outage may be the database's or this node's
		return nil
	}
	for _, n := range found.Others {
		if n.Alive {
			continue
		}
		if err := k.evict(ctx, n); err != nil {
			return err
		}
	}
	k.releaseUnreleased(ctx, found.Unreleased)
	return nil
}

// rejoin disconnects all devices of this node, which was evicted, and acquires its lease again.
func (k *Keeper) rejoin(ctx context.Context) error {
	k.metrics.lost.Inc()
	k.logger.Error("node evicted: heartbeat lease expired; ending its connections and rejoining")
	k.o.Sessions.DisconnectAll()
	if err := k.o.Lease.Rejoin(ctx); err != nil {
		return err
	}
	k.o.Rejoined()
	return nil
}

// evict evicts a node whose lease has expired, unless another node was faster, and releases it.
func (k *Keeper) evict(ctx context.Context, n chat.NodeState) error {
	won, err := k.o.Lease.Evict(ctx, n)
	if err != nil || !won {
		return err
	}
	k.metrics.evicted.Inc()
	k.logger.Warn("evicted a node: its heartbeat lease has expired", "evicted_node", n.Name)
	k.release(ctx, n)
	return nil
}

// background does work that may take longer than this node's own lease, and then has Run
// call then with its error.
func (k *Keeper) background(ctx context.Context, work func(context.Context) error, then func(error)) {
	k.wg.Go(func() { // ends with ctx at the latest; Run waits for it
		err := work(ctx)
		select {
		case k.ended <- func() { then(err) }:
		case <-ctx.Done():
		}
	})
}

// release releases a node in the background; after an error another heartbeat tries again.
func (k *Keeper) release(ctx context.Context, n chat.NodeState) {
	if k.releasing[n.Name] {
		return
	}
	k.releasing[n.Name] = true
	k.background(ctx, func(ctx context.Context) error { return k.o.Release(ctx, n) }, func(err error) {
		delete(k.releasing, n.Name)
		if err == nil {
			err = k.o.Lease.Released(ctx, n.Name)
		}
		k.report(err)
	})
}

// releaseUnreleased releases nodes that have left, or that the node which evicted them has
// not released in time.
func (k *Keeper) releaseUnreleased(ctx context.Context, nodes []chat.NodeState) {
	seen := map[string]int{}
	for _, n := range nodes {
		if seen[n.Name] = k.unreleased[n.Name] + 1; seen[n.Name] >= releaseAfter {
			k.release(ctx, n)
		}
	}
	k.unreleased = seen
}

// read handles what the other nodes have stored. It handles each entry twice, the second time
// with the next read: a session that was being opened the first time has missed it.
func (k *Keeper) read(ctx context.Context) error {
	list, whole, err := k.o.Lease.ReadOutbox(ctx)
	if err != nil {
		return err
	}
	if !whole || k.recheckDue {
		k.recheck(ctx)
	}
	k.metrics.entries.Add(float64(len(list)))
	for _, entries := range [2][]chat.OutboxEntry{k.last, list} {
		for _, e := range entries {
			k.handle(ctx, e)
		}
	}
	k.last = list
	return nil
}

func (k *Keeper) handle(ctx context.Context, e chat.OutboxEntry) {
	switch {
	case e.Superseded != nil:
		k.o.Rules.ReceiveNotice(ctx, "", chat.Notice{Superseded: e.Superseded})
	case e.Members:
		change := e // e itself must not escape: most entries are about logs
		select {
		case k.members <- func() { k.o.Rules.MembersChanged(ctx, change.ConversationID, change.Seq, change.MembersVersion) }:
		default:
			k.recheckDue = true
		}
	default:
		k.o.Sessions.HintFollowers(e.ConversationID, e.Seq)
	}
}

// followMembers handles changes of members, until ctx ends: each may wait for the database,
// and a heartbeat must not wait for many of them.
func (k *Keeper) followMembers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case do := <-k.members:
			do()
		}
	}
}

// answer answers a Sync, once the changes of members that it has read are handled.
func (k *Keeper) answer(sync chan<- error, err error) {
	if err != nil {
		sync <- err
		return
	}
	select {
	case k.members <- func() { sync <- nil }: // it has room
	default:
		sync <- &chat.Error{Code: chat.Unavailable, Op: "cluster.Sync", Msg: "too many changes of members are waiting; try again"}
	}
}

// recheck compares all sessions with their logs, in the background.
func (k *Keeper) recheck(ctx context.Context) {
	if k.rechecking {
		return
	}
	k.metrics.rechecks.Inc()
	k.rechecking = true
	k.background(ctx, k.o.Sessions.Recheck, func(err error) {
		if k.rechecking, k.recheckDue = false, err != nil; err != nil && ctx.Err() == nil {
			k.logger.Warn("could not recheck all sessions; trying again", "err", err)
		}
	})
}
