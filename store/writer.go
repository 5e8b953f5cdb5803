package store

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/batch"
	"github.com/parleymq/parley/chat"
)

// WriterOptions configures a Writer. Zero values mean the defaults.
type WriterOptions struct {
	Shards        int           // commits under way at once; each conversation always takes the same one. 4
	MaxBatch      int           // events in one transaction. 1000
	MaxBatchBytes int           // bytes of content in one transaction. 1 MiB
	QueueLen      int           // events waiting for each shard; when full, Append blocks. 4096
	QueueBytes    int           // bytes of their content; when full, Append blocks. 16 MiB
	Patience      time.Duration // how long an event waits for an unavailable database before it is given up. 10 s

	// Recheck decides again whether an event's sender may write, after the
	// conversation's members changed; it sets MembersVersion or returns an error.
	Recheck func(context.Context, *chat.Append) error
	// Committed is called with each stored event, in seq order for each conversation. While it
	// blocks, commits wait: the next one, or a few of them later.
	Committed func(ctx context.Context, e *chat.Event, membersVersion int64)
	// GivenUp is called for an event of the conversation that was given up and may be
	// stored all the same, now or when a statement that still waits in the server ends.
	// Committed is not called for it. It must not block. nil: it is not called.
	GivenUp func(conversation chat.ID)

	// Node returns the id of this node, under which commits are written to the outbox.
	// nil: there is no outbox, as for a lone node.
	Node func() string
	// Commits returns how many commits may be under way at once: fewer than Shards where
	// other nodes commit too. It is called before each. nil: as many as Shards.
	Commits func() int

	// Fence is waited for before each commit; nil: none.
	Fence *chat.Fence

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

func (o *WriterOptions) setDefaults() {
	o.Shards = cmp.Or(o.Shards, 4)
	o.MaxBatch = cmp.Or(o.MaxBatch, 1000)
	o.MaxBatchBytes = cmp.Or(o.MaxBatchBytes, 1<<20)
	o.QueueLen = cmp.Or(o.QueueLen, 4096)
	o.QueueBytes = cmp.Or(o.QueueBytes, 16<<20)
	o.Patience = cmp.Or(o.Patience, 10*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.GivenUp == nil {
		o.GivenUp = func(chat.ID) {}
	}
}

// Writer stores messages by group commit: everything that has gathered while the last
// commit ran is stored by one statement in one transaction. It implements
// chat.Log. Several shards commit side by side; a conversation's events always
// go through the same shard, so they are stored in the order of their Append.
//
// A commit whose outcome is unknown is repeated: rows carry the sender's key, so
// nothing is stored twice.
type Writer struct {
	opts    WriterOptions
	config  *pgxpool.Config
	metrics *writerMetrics
	slots   *commitSlots
	shards  []*shard
	ready   readiness
}

// NewWriter returns a writer that will use connections of its own, one for each
// shard and one for Ready, made as config says. It starts nothing; Run does.
func NewWriter(config *pgxpool.Config, opts WriterOptions) *Writer {
	opts.setDefaults()
	config.MaxConns = int32(opts.Shards) + 1
	w := &Writer{opts: opts, config: config, metrics: newWriterMetrics(opts.Registerer), slots: newCommitSlots(opts.Commits)}
	w.ready.began, w.ready.turn, w.ready.stmt.node = make(chan struct{}), make(chan struct{}, 1), opts.Node
	for range opts.Shards {
		w.shards = append(w.shards, newShard(w))
	}
	return w
}

var _ chat.Log = (*Writer)(nil)

// Connections returns how many connections the writer may have at once.
func (w *Writer) Connections() int { return int(w.config.MaxConns) }

// Append implements chat.Log.
func (w *Writer) Append(ctx context.Context, a *chat.Append) error {
	err := w.shards[a.Event.ConversationID.Shard(len(w.shards))].queue.Put(ctx, a)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, batch.ErrClosed):
		return &chat.Error{Code: chat.Unavailable, Op: "store.Append", Msg: "the server is stopping; send it again"}
	}
	return &chat.Error{Code: chat.Unavailable, Op: "store.Append", Msg: "too much is waiting to be stored; send it again", Err: err}
}

// Run commits until ctx ends, then stores what is queued (each event has its
// Patience) and returns. Events appended after that are refused.
func (w *Writer) Run(ctx context.Context) error {
	pool, err := pgxpool.NewWithConfig(ctx, w.config)
	if err != nil {
		return translate("store.Writer", err)
	}
	defer pool.Close()
	w.ready.use(pool)
	defer w.ready.use(nil)
	var wg sync.WaitGroup
	for _, s := range w.shards {
		wg.Go(func() { s.publish(context.WithoutCancel(ctx)) })
		wg.Go(func() { s.run(context.WithoutCancel(ctx), pool) })
	}
	<-ctx.Done()
	for _, s := range w.shards {
		s.queue.Close()
	}
	wg.Wait()
	return nil
}

// shard commits the events of its share of the conversations.
type shard struct {
	w      *Writer
	queue  *batch.Queue[*chat.Append]
	stored chan []stored // full: the next commit waits for publish
	handed atomic.Int64  // batches that publish has not done with

	stmt statement // owned by run
}

// stored is an event that is in the log now, and the version of the roster it goes to.
type stored struct {
	event          *chat.Event
	membersVersion int64
}

func newShard(w *Writer) *shard {
	o := &w.opts
	return &shard{
		w: w, stored: make(chan []stored, 4), stmt: statement{node: o.Node},
		queue: batch.NewQueue(batch.Limits{
			Items: o.QueueLen, Bytes: o.QueueBytes, Patience: o.Patience, BatchItems: o.MaxBatch, BatchBytes: o.MaxBatchBytes,
		}, func(a *chat.Append) int { return len(a.Event.Content) }),
	}
}

// publish hands stored events on, in order, while run commits the next ones.
func (s *shard) publish(ctx context.Context) {
	for batch := range s.stored {
		s.publishBatch(ctx, batch)
		s.handed.Add(-1)
	}
}

// handOn has the stored events of a batch published. One that is alone, with nothing waiting to
// be committed, is published here: waking publish would cost more.
func (s *shard) handOn(ctx context.Context, b *group) {
	switch {
	case len(b.stored) == 0:
		return
	case len(b.stored) == 1 && s.queue.Len() == 0 && s.handed.Load() == 0:
		s.publishBatch(ctx, b.stored)
		b.stored[0] = stored{}
		b.stored = b.stored[:0]
	default:
		s.handed.Add(1)
		s.stored <- b.stored
		b.stored = nil
	}
}

// publishBatch has a deadline for all of its events together, because Committed
// may wait for the database, and commits wait behind it. For one it has its own.
func (s *shard) publishBatch(ctx context.Context, batch []stored) {
	if len(batch) > 1 {
		var cancel context.CancelFunc
		ctx, cancel = chat.WithDeadline(ctx, 3*s.w.opts.Patience, "store.publish")
		defer cancel()
	}
	for _, st := range batch {
		s.w.opts.Committed(ctx, st.event, st.membersVersion)
	}
}

func (s *shard) run(ctx context.Context, pool *pgxpool.Pool) {
	defer close(s.stored)
	defer s.stmt.release()
	s.stmt.pool = pool
	b := newGroup()
	var next []*chat.Append
	for a := range s.queue.C() {
		s.w.slots.take(ctx)
		b.reset()
		next = s.queue.Gather(next[:0], a)
		for _, a := range next {
			b.add(a)
		}
		clear(next)
		s.w.metrics.queued.Set(float64(s.queue.Len()))
		s.commit(ctx, b)
		s.w.slots.give()
		s.handOn(ctx, b)
	}
}

// commit stores the batch and notifies every waiter of the outcome.
func (s *shard) commit(ctx context.Context, b *group) {
	ctx, cancel := chat.WithDeadline(ctx, s.w.opts.Patience, "store.commit")
	defer cancel()
	start := time.Now()
	s.w.metrics.batch.Observe(float64(len(b.pending)))
	s.store(ctx, b)
	s.w.metrics.commit.Observe(time.Since(start).Seconds())
	if b.unanswered { // what an unanswered attempt had stored was found after what came later
		slices.SortStableFunc(b.stored, func(a, b stored) int { return cmp.Compare(a.event.Seq, b.event.Seq) })
	}
	s.w.metrics.events.Add(float64(len(b.stored)))
}

// store tries until nothing is pending any more; once ctx has ended, what is left
// is given up. Each round ends with fewer events pending, or with a pause.
func (s *shard) store(ctx context.Context, b *group) {
	for wait := backoff.New(5*time.Millisecond, time.Second); len(b.pending) > 0; {
		err := s.round(ctx, b)
		if err == nil {
			s.w.ready.note(nil)
			continue
		}
		unavailable := chat.CodeOf(err) == chat.Unavailable
		if unavailable {
			s.w.ready.note(err)
			b.unanswered = true
			s.stmt.release()
		}
		switch {
		case unavailable && ctx.Err() == nil:
			s.w.metrics.retries.Inc()
			s.w.opts.Logger.Warn("commit failed; trying again", "component", "writer", "events", len(b.pending), "err", err)
			wait.Sleep(ctx)
		case !unavailable && len(b.pending) > 1:
			s.oneByOne(ctx, b)
		default:
			s.w.opts.Logger.Error("events given up", "component", "writer", "events", len(b.pending), "err", err)
			for _, a := range b.pending {
				if unavailable {
					s.w.opts.GivenUp(a.Event.ConversationID)
				}
				b.refuse(a, err)
			}
			b.pending = b.pending[:0]
		}
	}
}

// oneByOne finds the event that the database refuses, so that it alone fails.
func (s *shard) oneByOne(ctx context.Context, b *group) {
	all := b.pending
	for _, a := range all {
		b.pending = []*chat.Append{a}
		s.store(ctx, b)
	}
}

// round tries to store what is pending. It returns nil after any progress.
func (s *shard) round(ctx context.Context, b *group) error {
	if err := s.w.opts.Fence.Wait(ctx); err != nil {
		return err
	}
	if b.hasResent {
		if err := s.resolveResent(ctx, b); err != nil || len(b.pending) == 0 {
			return err
		}
	}
	err := s.insert(ctx, b)
	var superseded *supersededError
	switch {
	case errors.Is(err, errRepeat):
		return s.resolveRepeats(ctx, b)
	case errors.As(err, &superseded):
		b.dropSuperseded(superseded.events)
		return nil
	}
	return err
}

// insert runs the statement and settles all events of conversations whose roster
// was the one they were checked against; the senders of the others are checked again.
func (s *shard) insert(ctx context.Context, b *group) error {
	now := chat.Timestamp(time.Now())
	clear(b.decided)
	var bases map[chat.ID]logBase
	var err error
	if b.commands {
		bases, err = s.stmt.insertCommands(ctx, b, now)
	} else {
		b.rank()
		bases, err = s.stmt.insert(ctx, b, now)
	}
	if err != nil {
		return err
	}
	stale := b.pending[:0:0]
	for i, a := range b.pending {
		if d, ok := b.decided[a]; ok {
			b.settleDecision(a, d, s.w.metrics)
			continue
		}
		base, ok := bases[a.Event.ConversationID]
		if !ok || b.ranks[i] == 0 {
			stale = append(stale, a)
			continue
		}
		a.Event.Seq, a.Event.CreatedAt = base.seq+int64(b.ranks[i]), base.at
		b.settle(a, a.MembersVersion)
	}
	b.pending = stale
	return s.recheck(ctx, b)
}

// recheck decides again whether senders may write, where a conversation's members have
// changed since they were checked.
func (s *shard) recheck(ctx context.Context, b *group) error {
	var keep, refused []*chat.Append
	var why []error
	for i, a := range b.pending {
		err := s.w.opts.Recheck(ctx, a)
		switch {
		case err == nil:
			keep = append(keep, a)
		case chat.CodeOf(err) == chat.Unavailable:
			b.pending = slices.Concat(keep, refused, b.pending[i:])
			return err
		default:
			refused, why = append(refused, a), append(why, err)
		}
	}
	if err := s.refuse(ctx, b, refused, why); err != nil {
		b.pending = append(keep, refused...)
		return err
	}
	b.pending = keep
	return nil
}

// refuse notifies the waiters of events that are refused, and why; except those that an
// unanswered attempt has stored, while their senders still might write.
func (s *shard) refuse(ctx context.Context, b *group, refused []*chat.Append, why []error) error {
	var found map[eventKey]chat.Event
	if b.unanswered && len(refused) > 0 {
		var err error
		if found, err = s.stmt.lookup(ctx, refused); err != nil {
			return err
		}
	}
	for i, a := range refused {
		if first, ok := found[keyOf(&a.Event)]; ok && first.ID == a.Event.ID {
			b.settleRepeat(a, &first, s.w.metrics)
			continue
		}
		b.refuse(a, why[i])
	}
	return nil
}

// resolveRepeats takes those events out of the batch whose key is in the log.
func (s *shard) resolveRepeats(ctx context.Context, b *group) error {
	found, err := s.stmt.lookup(ctx, b.pending)
	if err != nil {
		return err
	}
	before := len(b.pending)
	b.pending = slices.DeleteFunc(b.pending, func(a *chat.Append) bool {
		first, ok := found[keyOf(&a.Event)]
		if ok {
			b.settleRepeat(a, &first, s.w.metrics)
		}
		return ok
	})
	if len(b.pending) == before { // the transaction that held the key has rolled back meanwhile
		return &chat.Error{Code: chat.Unavailable, Op: "store.resolveRepeats", Msg: "the key was taken and is free again"}
	}
	return nil
}

// resolveResent takes the events out of the batch that are packets sent again
// and have been stored before. It runs once for a batch: an error leaves the batch
// as it was.
func (s *shard) resolveResent(ctx context.Context, b *group) error {
	first := make(map[*chat.Append]*chat.Event)
	for _, a := range b.pending {
		if !a.Resent {
			continue
		}
		e, err := s.stmt.findResent(ctx, &a.Event, a.Since)
		if err != nil {
			return err
		}
		if e != nil && sameContent(&a.Event, e) {
			first[a] = e
		}
	}
	b.pending = slices.DeleteFunc(b.pending, func(a *chat.Append) bool {
		e := first[a]
		if e != nil {
			b.settleRepeat(a, e, s.w.metrics)
		}
		return e != nil
	})
	b.hasResent = false
	return nil
}
