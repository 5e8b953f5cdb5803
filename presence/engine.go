package presence

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

const (
	batch        = 256 // users stored, and contacts notified of, at once
	sweepEvery   = 10 * time.Second
	storeWait    = 10 * time.Second // for an answer of the database
	stopWait     = 3 * time.Second  // when the node stops: for the statement under way, then for all others together
	maxQueuedIDs = 1_000_000        // users named in notices, and in changes of contacts, that wait
)

// Options configures an Engine. Store, Signal and Node are required; in brackets the
// defaults.
type Options struct {
	Store Store
	// Signal sends how a user is shown to the sessions of others, or of the user, at this node.
	// It must not block, and not call the Engine.
	Signal func(p chat.Presence, to []chat.ID)
	Node   NodeID
	// Notify carries a notice to those nodes where one of the users is connected; it does not
	// block, and the notice may be lost. nil: there are no other nodes.
	Notify func(n chat.Notice, users []chat.ID)
	Grace  time.Duration // for a device to come back before its user is shown as gone [10 s]
	Gather time.Duration // during which changes gather before they are stored together [50 ms]
	Heal   time.Duration // how often missed changes at other nodes are looked for [5 s]
	Logger *slog.Logger  // [none]
}

// Engine is the presence of the users who are connected to this node, and what they are
// shown of others. It is safe for concurrent use.
type Engine struct {
	o           Options
	shards      [shardCount]shard
	board       *board
	connections atomic.Uint64
	closed      atomic.Bool   // Run is ending: nothing more is queued
	here        chan struct{} // holds a value when something has changed here
	arrived     chan struct{} // holds a value when there are news
	reading     chan struct{} // bounds the pages read for sessions at once

	mu       sync.Mutex
	node     NodeID                  // mu guards
	changed  []*user                 // mu guards: each at most once
	contacts queue[contactChange]    // mu guards
	news     queue[news]             // mu guards: from other nodes, or about them
	working  int                     // mu guards: what Run has taken from changed and contacts, and is not done with
	carried  map[chat.Device]carried // mu guards: devices that moved from other nodes and have not connected yet

	// Owned by Run:
	resting   []*user               // who are gone, and are forgotten when their pace allows
	cursor    Cursor                // how far changes in the database were looked at
	looks     []look                // oldest first
	moved     map[chat.ID]time.Time // users whose contacts have changed, and when
	announced map[chat.ID]time.Time // changes of contacts that were announced, and when

	stale atomic.Int64 // notices up to this version come too late

	told, dropped, failures atomic.Int64
}

// look is a look into the database: no version was higher then.
type look struct {
	at      time.Time
	version int64
}

// queue is bounded by the users that its items name.
type queue[T any] struct {
	items []T
	ids   int
}

// add reports whether there was room.
func (q *queue[T]) add(item T, ids int) bool {
	if q.ids+ids > maxQueuedIDs {
		return false
	}
	q.items, q.ids = append(q.items, item), q.ids+ids
	return true
}

func (q *queue[T]) take() []T {
	items := q.items
	*q = queue[T]{}
	return items
}

// New returns an Engine that is not running.
func New(o Options) *Engine {
	o.Grace = cmp.Or(o.Grace, 10*time.Second)
	o.Gather = cmp.Or(o.Gather, 50*time.Millisecond)
	o.Heal = cmp.Or(o.Heal, 5*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "presence")
	e := &Engine{
		o: o, node: o.Node, board: newBoard(), here: make(chan struct{}, 1), arrived: make(chan struct{}, 1), reading: make(chan struct{}, 8),
		carried: map[chat.Device]carried{}, moved: map[chat.ID]time.Time{}, announced: map[chat.ID]time.Time{},
	}
	for i := range e.shards {
		e.shards[i].users = map[chat.ID]*user{}
	}
	return e
}

// alone reports whether there are no other nodes.
func (e *Engine) alone() bool { return e.o.Notify == nil }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Stats counts what presence has done, and holds.
type Stats struct {
	Users    int   // who are connected, or were a moment ago
	Queued   int   // of whom contacts may have to be notified, and changes of contacts
	Told     int64 // changes that contacts were notified of
	Dropped  int64 // changes of contacts, and notices of other nodes, for which there was no room
	Failures int64 // of the database
}

// Stats counts. It may be called at any time.
func (e *Engine) Stats() Stats {
	s := Stats{Told: e.told.Load(), Dropped: e.dropped.Load(), Failures: e.failures.Load()}
	e.mu.Lock()
	s.Queued = e.working + len(e.changed) + len(e.contacts.items)
	e.mu.Unlock()
	e.each(func(*user) { s.Users++ })
	return s
}

// each calls f with every user, under the lock of the user's shard.
func (e *Engine) each(f func(*user)) {
	for i := range e.shards {
		sh := &e.shards[i]
		sh.mu.Lock()
		for _, u := range sh.users {
			f(u)
		}
		sh.mu.Unlock()
	}
}

// Run stores what changes here and notifies contacts, here and at other nodes, until ctx
// ends; then it stores who has gone. While the database is unavailable it waits.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	heal := time.NewTimer(e.o.Heal)
	defer heal.Stop()
	if e.alone() {
		heal.Stop()
	} else {
		wg.Go(func() { e.releaseDead(ctx) })
		e.heal(ctx) // begins with what changes from now on
	}
	for {
		select {
		case <-e.here:
			backoff.Sleep(ctx, e.o.Gather)
			e.work(ctx, true)
		case <-e.arrived:
			e.work(ctx, false)
		case <-heal.C:
			next := e.o.Heal
			if e.heal(ctx) {
				next = 0
			}
			heal.Reset(next)
		case now := <-sweep.C:
			e.sweep(now)
		case <-ctx.Done():
			e.stop(ctx)
			return nil
		}
	}
}

// try calls f with a deadline, and reports whether it succeeded. A statement that is under
// way when ctx ends has stopWait to finish: the database may carry out one that is cut off
// after the next one, and so undo what stop stores.
func (e *Engine) try(ctx context.Context, what string, f func(context.Context) error) bool {
	limited, cancel := chat.WithDeadline(context.WithoutCancel(ctx), storeWait, "presence: "+what)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(stopWait, cancel) })()
	err := f(limited)
	if err != nil && ctx.Err() == nil {
		e.failures.Add(1)
		e.o.Logger.Warn("presence waits for the database", "doing", what, "err", err)
	}
	return err == nil
}

// retry calls f until it succeeds, and reports whether it did before ctx ended.
func (e *Engine) retry(ctx context.Context, what string, f func(context.Context) error) bool {
	wait := backoff.New(100*time.Millisecond, 5*time.Second)
	for ctx.Err() == nil {
		if e.try(ctx, what, f) {
			return true
		}
		wait.Sleep(ctx)
	}
	return false
}

// work does what there is to do; what happened here only if it has gathered.
func (e *Engine) work(ctx context.Context, gathered bool) {
	for ctx.Err() == nil {
		var users []*user
		var changes []contactChange
		e.mu.Lock()
		if gathered {
			n := min(len(e.changed), batch)
			users, e.changed = slices.Clone(e.changed[:n]), e.changed[n:]
			changes = e.contacts.take()
		}
		list := e.news.take()
		e.working = len(users) + len(changes)
		e.mu.Unlock()
		if len(users)+len(changes)+len(list) == 0 {
			return
		}
		e.share(ctx, users)
		for _, c := range changes {
			e.announceContacts(ctx, c)
		}
		e.announce(ctx, list)
	}
}

// sweep forgets what has become old.
func (e *Engine) sweep(now time.Time) {
	e.board.sweep(now)
	resting := e.resting
	e.resting = nil
	for _, u := range resting {
		e.forget(u, now)
	}
	e.mu.Lock()
	for d, c := range e.carried {
		if now.Sub(c.at) >= carriedKeeps {
			delete(e.carried, d)
		}
	}
	e.mu.Unlock()
	for _, m := range []map[chat.ID]time.Time{e.moved, e.announced} {
		for id, at := range m {
			if now.Sub(at) >= boardKeeps {
				delete(m, id)
			}
		}
	}
}

// forget drops a user who is gone, and of whom everybody was notified, when their pace
// allows: or the changes of one who comes and goes all the time would all be notified.
func (e *Engine) forget(u *user, now time.Time) {
	sh := e.shard(u.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case len(u.devices) > 0 || u.queued || u.paced || u.again || u.here != chat.Offline || u.says != nil:
	case u.pace.After(now):
		e.resting = append(e.resting, u)
	case sh.users[u.id] == u:
		delete(sh.users, u.id)
	}
}

// stop stores what was not stored yet. At one of several nodes those who have a device here
// keep their NodePresence: they come back to another node, or it is released like that of a
// dead node. At a lone node everybody is gone.
func (e *Engine) stop(ctx context.Context) {
	e.closed.Store(true)
	ctx, cancel := chat.WithDeadline(context.WithoutCancel(ctx), stopWait, "presence.stop")
	defer cancel()
	var users []*user
	e.each(func(u *user) {
		u.touch()
		for _, dev := range u.devices {
			if dev.timer != nil {
				dev.timer.Stop()
			}
		}
		if e.alone() {
			u.devices = nil
		}
		users = append(users, u)
	})
	e.share(ctx, users)
}
