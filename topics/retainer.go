package topics

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/batch"
	"github.com/parleymq/parley/chat"
)

const (
	retainQueue      = 4096             // publications that wait for their commit; then publishers wait
	retainQueueBytes = 16 << 20         // of those
	retainBatch      = 500              // in one transaction
	retainBatchBytes = 1 << 20          // of those
	retainPatience   = 10 * time.Second // of publishers, and for an unavailable database
	retainTimeout    = 5 * time.Second  // of one statement
	expireEvery      = 30 * time.Second
	expireBatch      = 1000
	countEvery       = 10 * time.Second
)

// retainer stores retained messages by group commit.
type retainer struct {
	e      *Engine
	count  atomic.Int64 // of all stored ones, as of a while ago
	queue  *batch.Queue[*publishing]
	stored chan []outcome // full: the next transaction waits
}

// outcome is how a publication's transaction has ended.
type outcome struct {
	w   *publishing
	err error
}

func (r *retainer) init(e *Engine) {
	r.e, r.stored = e, make(chan []outcome, 4)
	r.queue = batch.NewQueue(batch.Limits{
		Items: retainQueue, Bytes: retainQueueBytes, Patience: retainPatience, BatchItems: retainBatch, BatchBytes: retainBatchBytes,
	}, func(w *publishing) int { return w.pub.Cost() })
}

// put queues a publication.
func (r *retainer) put(ctx context.Context, w *publishing) error {
	if err := r.queue.Put(ctx, w); err != nil {
		return &chat.Error{Code: chat.Unavailable, Op: "topics.Publish", Msg: "too many retained messages wait to be stored; send it again", Err: err}
	}
	return nil
}

// run stores what is queued until ctx ends, and then what is still there.
func (r *retainer) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { // settles beside the next transaction; ends when stored is closed
		for outcomes := range r.stored {
			for _, o := range outcomes {
				r.e.settle(o.w, o.err)
			}
		}
	})
	defer wg.Wait()
	defer close(r.stored)
	context.AfterFunc(ctx, r.queue.Close)
	for b := range r.queue.All() {
		r.stored <- r.store(ctx, b)
	}
}

// store stores a batch.
func (r *retainer) store(ctx context.Context, b []*publishing) []outcome {
	last := map[retainedKey]int{} // of several to one topic the last one counts
	var changes []chat.RetainedChange
	for _, w := range b {
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
	out := make([]outcome, len(b))
	for i, w := range b {
		out[i] = outcome{w, err}
		if err == nil {
			out[i].err = refused[last[retainedKey{w.pub.Space, w.pub.Topic}]]
		}
	}
	return out
}

// commit stores changes, and returns for each whether it was refused. While the database
// is unavailable it tries again.
func (r *retainer) commit(ctx context.Context, changes []chat.RetainedChange) (refused []error, err error) {
	start := time.Now()
	defer func() { r.e.metrics.store.Observe(time.Since(start).Seconds()) }()
	for wait := backoff.New(10*time.Millisecond, time.Second); ; wait.Sleep(ctx) {
		refused, err = r.try(ctx, changes)
		switch unavailable := chat.CodeOf(err) == chat.Unavailable; {
		case err == nil, unavailable && (time.Since(start) > retainPatience || ctx.Err() != nil):
			return refused, err
		case !unavailable:
			return r.oneByOne(ctx, changes, err)
		}
		r.e.logger.Warn("retained messages could not be stored; trying again", "messages", len(changes), "err", err)
	}
}

// oneByOne stores changes alone, after the database has refused them together: only the
// one at fault fails.
func (r *retainer) oneByOne(ctx context.Context, changes []chat.RetainedChange, err error) ([]error, error) {
	r.e.logger.Error("retained messages were refused by the database", "messages", len(changes), "err", err)
	if len(changes) == 1 {
		return nil, err
	}
	refused := make([]error, len(changes))
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

// Run stores retained messages and publishes $SYS, until ctx ends; what is queued then is
// still stored.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { e.retain.tidy(ctx) })
	wg.Go(func() { e.runSys(ctx) })
	e.retain.run(ctx)
	wg.Wait()
	return nil
}
