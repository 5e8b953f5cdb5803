package cluster

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
)

const (
	// Lease is how long a node counts as alive after a heartbeat: after that it is given
	// up by the others.
	Lease = 8 * time.Second
	// PauseLimit is how long a process may stand still before it has to find out what has
	// become of its sessions. It is less than Lease.
	PauseLimit = 2 * time.Second

	beatEvery    = 2 * time.Second
	steadyGap    = 2 * beatEvery // between two heartbeats that follow each other
	pruneEvery   = 15 * time.Second
	keeperStep   = time.Second
	placeTimeout = 5 * time.Second
	movedQueue   = 4096 // changes of members that wait to be acted upon
	othersRound  = 5    // heartbeats after which another node than the one that gave a node up releases what it had
)

// Place is a node's place in the database: *store.Place is one. It is used by one
// goroutine. All methods block for a round trip or a few; an error other than Conflict
// may be repeated.
type Place interface {
	Beat(ctx context.Context) (chat.Heartbeat, error)
	Begin(ctx context.Context) error
	Bury(ctx context.Context, n chat.NodeState) (bool, error)
	Released(ctx context.Context, node string) error
	ReadJournal(ctx context.Context) (list []chat.OutboxEntry, whole bool, err error)
	PruneJournal(ctx context.Context) error
	End(ctx context.Context) error
}

// Sessions are the sessions of this node: *delivery.Router is one.
type Sessions interface {
	// HintFollowers tells the sessions that follow a conversation that its log reaches
	// seq.
	HintFollowers(conversation chat.ID, seq int64)
	// Recheck asks the database how far the logs of all connected users reach.
	Recheck(ctx context.Context) (int, error)
	// DropSuperseded ends the connection of a device that has connected at another node, and
	// reports whether that one is the newer.
	DropSuperseded(n chat.SupersededNotice) bool
	// DisconnectAll ends every connection: the sessions may have moved.
	DisconnectAll()
}

// KeeperOptions configures a Keeper. All but Logger and Registerer are required.
type KeeperOptions struct {
	Place    Place
	Link     Link
	Sessions Sessions
	Rules    Rules
	// Renewed is told when this node, which was given up by the others, begins anew. It does
	// not block.
	Renewed func()
	// Release gives up what a node has had: its sessions, and that its users are here. It
	// may be called again, and for a node that has had nothing.
	Release    func(ctx context.Context, node string) error
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Keeper keeps a node's place among the others: it says that it lives, gives up those
// that are not heard of any more, and reads in the journal what the others have stored,
// for whatever was lost on the way through the Bus.
type Keeper struct {
	o       KeeperOptions
	logger  *slog.Logger
	metrics *keeperMetrics
	looks   chan chan error // from Look
	moved   chan move       // changes of members; full: all sessions are looked at instead

	// Owned by Run.
	steady    time.Time // since when heartbeats follow each other
	beaten    time.Time // the last one
	last      []chat.OutboxEntry
	left      map[string]int // nodes that were given up and are not released: how often they were seen so
	away      bool           // the last heartbeat has failed
	owed      bool           // a recheck has failed
	rechecked chan error     // nil: no recheck runs
	releasing map[string]bool
	released  chan released
	wg        sync.WaitGroup // rechecks and releases
}

// move is a change of members, or with looked the end of those that a Look has found.
type move struct {
	entry  chat.OutboxEntry
	looked chan<- error
}

// released is how the release of a node has ended.
type released struct {
	node string
	err  error
}

// NewKeeper returns a keeper that has not begun.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{
		o: o, logger: o.Logger.With("component", "cluster"), metrics: newKeeperMetrics(o.Registerer),
		looks: make(chan chan error), moved: make(chan move, movedQueue), left: map[string]int{}, releasing: map[string]bool{}, released: make(chan released),
	}
}

// Look beats the heart and reads the journal at once, and returns when both are done:
// from then on everything is known that the other nodes have done to the sessions of
// this one before. It is what opens a chat.Fence.
func (k *Keeper) Look(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case k.looks <- done:
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

// Run keeps the place until ctx ends, and gives it up then. It returns Conflict if the
// database was away and the place is another node's meanwhile.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.wg.Wait()
	defer func() {
		end, cancel := chat.WithDeadline(context.WithoutCancel(ctx), placeTimeout, "cluster.End")
		defer cancel()
		if err := k.o.Place.End(end); err != nil {
			k.logger.Warn("could not take leave of the other nodes; they will find out", "err", err)
		}
	}()
	k.wg.Go(func() { k.followMembers(ctx) }) // ends with ctx; Run waits for it
	step := time.NewTicker(keeperStep)
	defer step.Stop()
	var beat, read, prune time.Time
	for {
		var asked chan error
		select {
		case <-ctx.Done():
			return nil
		case asked = <-k.looks:
		case err := <-k.rechecked:
			if k.rechecked, k.owed = nil, err != nil; err != nil && ctx.Err() == nil {
				k.logger.Warn("could not look at all sessions; trying again", "err", err)
			}
			continue
		case r := <-k.released:
			k.report(k.noteReleased(ctx, r))
			continue
		case <-step.C:
		}
		now := time.Now()
		var err error
		if asked != nil || now.Sub(beat) >= beatEvery {
			if err = k.beat(ctx); err == nil {
				beat = now
			}
		}
		every := beatEvery
		if !k.o.Link.Healthy() {
			every = keeperStep // it is the only way that is left
		}
		if err == nil && (asked != nil || now.Sub(read) >= every) {
			if err = k.read(ctx); err == nil {
				read = now
			}
		}
		if err == nil && asked == nil && now.Sub(prune) >= pruneEvery {
			prune = now
			err = k.try(ctx, k.o.Place.PruneJournal)
		}
		if asked != nil {
			k.answer(asked, err)
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

// report says once that the database is away, and that it is back.
func (k *Keeper) report(err error) {
	if err != nil {
		k.metrics.failures.Inc()
	}
	switch {
	case err != nil && !k.away:
		k.logger.Warn("the database does not answer: this node hears nothing of the others but through Redis", "err", err)
	case err == nil && k.away:
		k.logger.Info("the database answers again")
	}
	k.away = err != nil
}

func (k *Keeper) try(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := chat.WithDeadline(ctx, placeTimeout, "cluster.Place")
	defer cancel()
	return f(ctx)
}

// beat says that the node lives, and looks after those that do not.
func (k *Keeper) beat(ctx context.Context) error {
	var found chat.Heartbeat
	err := k.try(ctx, func(ctx context.Context) (err error) {
		found, err = k.o.Place.Beat(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if found.Lost {
		if err := k.lost(ctx); err != nil {
			return err
		}
	}
	now := time.Now()
	if now.Sub(k.beaten) > steadyGap {
		k.steady = now
	}
	k.beaten = now
	if now.Sub(k.steady) < Lease { // who was away itself does not judge: the database may have been
		return nil
	}
	for _, n := range found.Others {
		if n.Alive {
			continue
		}
		if err := k.bury(ctx, n); err != nil {
			return err
		}
	}
	k.releaseLeft(ctx, found.Left)
	return nil
}

// lost begins anew after the node was given up by the others: its devices connect
// again, here or elsewhere.
func (k *Keeper) lost(ctx context.Context) error {
	k.metrics.lost.Inc()
	k.logger.Error("this node was given up by the others, because it was not heard of for too long; its connections are ended, and it begins anew")
	k.o.Sessions.DisconnectAll()
	if err := k.try(ctx, k.o.Place.Begin); err != nil {
		return err
	}
	k.o.Renewed()
	return nil
}

// bury gives up a node that has not been heard of.
func (k *Keeper) bury(ctx context.Context, n chat.NodeState) error {
	won := false
	err := k.try(ctx, func(ctx context.Context) (err error) {
		won, err = k.o.Place.Bury(ctx, n)
		return err
	})
	if err != nil || !won {
		return err
	}
	k.metrics.buried.Inc()
	k.logger.Warn("a node was not heard of any more, and is given up", "lost_node", n.Name)
	k.release(ctx, n.Name)
	return nil
}

// release gives up what a node had, beside everything else: it may take longer than
// this node's own lease.
func (k *Keeper) release(ctx context.Context, node string) {
	if k.releasing[node] {
		return
	}
	k.releasing[node] = true
	k.wg.Go(func() { // ends with ctx at the latest; Run waits for it
		r := released{node, k.o.Release(ctx, node)}
		select {
		case k.released <- r:
		case <-ctx.Done():
		}
	})
}

// noteReleased notes that a node is released; after an error another heartbeat tries
// again.
func (k *Keeper) noteReleased(ctx context.Context, r released) error {
	delete(k.releasing, r.node)
	if r.err != nil {
		return r.err
	}
	return k.try(ctx, func(ctx context.Context) error { return k.o.Place.Released(ctx, r.node) })
}

// releaseLeft releases what nodes had that were given up by one which has not come so
// far.
func (k *Keeper) releaseLeft(ctx context.Context, names []string) {
	seen := map[string]int{}
	for _, name := range names {
		if seen[name] = k.left[name] + 1; seen[name] >= othersRound {
			k.release(ctx, name)
		}
	}
	k.left = seen
}

// read acts on what the other nodes have stored. What is read is acted upon twice, the
// second time with the next reading: a session that was being made the first time has
// missed it.
func (k *Keeper) read(ctx context.Context) error {
	var list []chat.OutboxEntry
	var whole bool
	err := k.try(ctx, func(ctx context.Context) (err error) {
		list, whole, err = k.o.Place.ReadJournal(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if !whole || k.owed {
		k.recheck(ctx)
	}
	k.metrics.journal.Add(float64(len(list)))
	for _, entries := range [2][]chat.OutboxEntry{k.last, list} {
		for i := range entries {
			k.act(ctx, &entries[i])
		}
	}
	k.last = list
	return nil
}

func (k *Keeper) act(ctx context.Context, e *chat.OutboxEntry) {
	switch {
	case e.Superseded != nil:
		if k.o.Sessions.DropSuperseded(*e.Superseded) {
			k.o.Rules.ReceiveNotice(ctx, "", chat.Notice{Superseded: e.Superseded})
		}
	case e.Members:
		select {
		case k.moved <- move{entry: *e}:
		default:
			k.owed = true
		}
	default:
		k.o.Sessions.HintFollowers(e.ConversationID, e.Seq)
	}
}

// followMembers acts on changes of members, beside everything else: each may wait for the
// database, and a heartbeat must not wait for many of them.
func (k *Keeper) followMembers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-k.moved:
			if m.looked != nil {
				m.looked <- nil // it has room
				continue
			}
			k.o.Rules.MembersChanged(ctx, m.entry.ConversationID, m.entry.Seq, m.entry.MembersVersion)
		}
	}
}

// answer answers a Look, when the changes of members that it has found are acted upon.
func (k *Keeper) answer(asked chan<- error, err error) {
	if err != nil {
		asked <- err
		return
	}
	select {
	case k.moved <- move{looked: asked}:
	default:
		asked <- &chat.Error{Code: chat.Unavailable, Op: "cluster.Look", Msg: "too many changes of members wait; try again"}
	}
}

// recheck looks at all sessions, beside everything else.
func (k *Keeper) recheck(ctx context.Context) {
	if k.rechecked != nil {
		return
	}
	k.metrics.rechecks.Inc()
	done := make(chan error, 1)
	k.rechecked = done
	k.wg.Go(func() { // ends with ctx at the latest; Run waits for it
		_, err := k.o.Sessions.Recheck(ctx)
		done <- err
	})
}
