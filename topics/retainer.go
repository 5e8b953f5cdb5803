package topics

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	retainQueue      = 4096     // publications that wait for their commit; then publishers wait
	retainQueueBytes = 16 << 20 // of those
	retainBatch      = 500      // in one transaction
	retainBatchBytes = 1 << 20  // of those
	retainPatience   = 10 * time.Second
	retainTimeout    = 5 * time.Second // of one statement
	expireEvery      = 30 * time.Second
	expireBatch      = 1000
	countEvery       = 10 * time.Second
)

// retainer stores retained messages: those that come while a transaction runs go
// together with the next one.
type retainer struct {
	e     *Engine
	count atomic.Int64 // of all that there are, as of a while ago

	mu      sync.Mutex
	waiting []*publishing // mu guards: for a transaction, oldest first
	bytes   int           // mu guards: of those
	wake    chan struct{} // holds a value if there is something to do
	room    chan struct{} // mu guards: closed when there is room again; nil: there is
	stored  chan []outcome
}

// outcome is how a publication's transaction has ended.
type outcome struct {
	w   *publishing
	err error
}

func (r *retainer) init(e *Engine) {
	r.e, r.wake = e, make(chan struct{}, 1)
	r.stored = make(chan []outcome, 4) // full: the next transaction waits
}

// put queues a publication.
func (r *retainer) put(ctx context.Context, w *publishing) error {
	timeout := time.After(retainPatience)
	for {
		r.mu.Lock()
		if len(r.waiting) < retainQueue && r.bytes < retainQueueBytes {
			r.waiting = append(r.waiting, w)
			r.bytes += w.pub.Cost()
			r.mu.Unlock()
			select {
			case r.wake <- struct{}{}:
			default:
			}
			return nil
		}
		if r.room == nil {
			r.room = make(chan struct{})
		}
		room := r.room
		r.mu.Unlock()
		select {
		case <-room:
		case <-timeout:
			return &chat.Error{Code: chat.Unavailable, Op: "topics.Publish", Msg: "too many retained messages wait to be stored; send it again"}
		case <-ctx.Done():
			return &chat.Error{Code: chat.Unavailable, Op: "topics.Publish", Err: context.Cause(ctx)}
		}
	}
}

// take returns what the next transaction stores.
func (r *retainer) take() []*publishing {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, bytes := 0, 0
	for n < len(r.waiting) && n < retainBatch && bytes < retainBatchBytes {
		bytes += r.waiting[n].pub.Cost()
		n++
	}
	batch := slices.Clone(r.waiting[:n])
	clear(r.waiting[:n])
	r.waiting = r.waiting[n:]
	r.bytes -= bytes
	if r.room != nil && n > 0 {
		close(r.room)
		r.room = nil
	}
	return batch
}

// run stores what is queued until ctx ends, and then what is still there.
func (r *retainer) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { // hands out what is stored; ends when stored is closed
		for batch := range r.stored {
			for _, o := range batch {
				r.e.settle(o.w, o.err)
			}
		}
	})
	defer wg.Wait()
	defer close(r.stored)
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
		}
		for batch := r.take(); len(batch) > 0; batch = r.take() {
			r.stored <- r.store(ctx, batch)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// store stores a batch. While the database is away it tries again, with pauses.
func (r *retainer) store(ctx context.Context, batch []*publishing) []outcome {
	last := map[retainedKey]int{} // of several to one topic the last one counts
	var changes []chat.RetainedChange
	for _, w := range batch {
		key := retainedKey{w.pub.Space, w.pub.Topic}
		c := chat.RetainedChange{Publication: w.pub, UserID: w.user}
		if i, ok := last[key]; ok {
			changes[i] = c
			continue
		}
		last[key] = len(changes)
		changes = append(changes, c)
	}
	refused, err := r.commit(ctx, changes)
	out := make([]outcome, len(batch))
	for i, w := range batch {
		out[i] = outcome{w, err}
		if err == nil {
			out[i].err = refused[last[retainedKey{w.pub.Space, w.pub.Topic}]]
		}
	}
	return out
}

func (r *retainer) commit(ctx context.Context, changes []chat.RetainedChange) (refused []error, err error) {
	start := time.Now()
	defer func() { r.e.metrics.store.Observe(time.Since(start).Seconds()) }()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		refused, err = r.try(ctx, changes)
		if err == nil || chat.CodeOf(err) != chat.Unavailable || time.Since(start) > retainPatience || ctx.Err() != nil {
			break
		}
		r.e.logger.Warn("retained messages could not be stored; trying again", "messages", len(changes), "err", err)
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
	}
	if err == nil || chat.CodeOf(err) == chat.Unavailable {
		return refused, err
	}
	r.e.logger.Error("retained messages were refused by the database", "messages", len(changes), "err", err)
	if len(changes) == 1 {
		return nil, err
	}
	refused = make([]error, len(changes)) // one by one, so that the one at fault fails alone
	for i := range changes {
		one, err := r.try(ctx, changes[i:i+1])
		if refused[i] = err; err == nil {
			refused[i] = one[0]
		}
	}
	return refused, nil
}

// try stores on a context that outlives ctx: what is queued when the process stops is
// still stored.
func (r *retainer) try(ctx context.Context, changes []chat.RetainedChange) ([]error, error) {
	ctx, cancel := chat.WithDeadline(context.WithoutCancel(ctx), retainTimeout, "topics.retain")
	defer cancel()
	return r.e.o.Store.PutRetained(ctx, changes, r.count.Load() >= r.e.o.MaxRetained, time.Now())
}

// tidy removes what has expired and counts what there is, until ctx ends.
func (r *retainer) tidy(ctx context.Context) {
	expire, count := time.NewTicker(expireEvery), time.NewTicker(countEvery)
	defer expire.Stop()
	defer count.Stop()
	r.recount(ctx)
	for due := 0; ; {
		select {
		case <-expire.C:
			r.expire(ctx)
		case <-count.C:
			if due++; due%6 == 0 || r.count.Load() > r.e.o.MaxRetained/2 {
				r.recount(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *retainer) recount(ctx context.Context) {
	ctx, cancel := chat.WithDeadline(ctx, retainTimeout, "topics.count")
	defer cancel()
	if n, err := r.e.o.Store.CountRetained(ctx); err == nil {
		r.count.Store(n)
	} else if ctx.Err() == nil {
		r.e.logger.Warn("retained messages could not be counted; trying again", "err", err)
	}
}

func (r *retainer) expire(ctx context.Context) {
	ctx, cancel := chat.WithDeadline(ctx, retainTimeout, "topics.expire")
	defer cancel()
	for {
		n, err := r.e.o.Store.DeleteExpiredRetained(ctx, time.Now(), expireBatch)
		if err != nil {
			r.e.logger.Warn("expired retained messages could not be removed; trying again", "err", err)
			return
		}
		if n < expireBatch {
			return
		}
	}
}

// Run stores retained messages and publishes $SYS, until ctx ends; what was accepted
// until then is still stored.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { e.retain.tidy(ctx) })
	wg.Go(func() { e.runSys(ctx) })
	e.retain.run(ctx)
	wg.Wait()
	return nil
}
