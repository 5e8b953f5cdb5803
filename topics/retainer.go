package topics

import (
	"context"
	"sync"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

const (
	retainQueue      = 4096             // publications that wait for their commit; then publishers wait
	retainQueueBytes = 16 << 20         // of those
	retainBatch      = 500              // in one transaction
	retainBatchBytes = 1 << 20          // of those
	retainPatience   = 10 * time.Second // of publishers, and for an unavailable database
	retainTimeout    = 5 * time.Second  // of one statement
	tidyStep         = 10 * time.Second
	expireSteps      = 3 // expired messages are removed in every third step
	expireBatch      = 1000
	countSteps       = 6 // messages are counted in every sixth step or, when there are many, in each
)

// outcome is how a publication's transaction has ended.
type outcome struct {
	w   *publishing
	err error
}

// Run stores retained messages and publishes $SYS, until ctx ends; what is queued then is
// still stored.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stored := make(chan []outcome, 4) // full: the next transaction waits
	defer close(stored)
	wg.Go(func() { // settles beside the next transaction; ends when stored is closed
		for outcomes := range stored {
			for _, o := range outcomes {
				e.settle(o.w, o.err)
			}
		}
	})
	wg.Go(func() { e.tidy(ctx) })
	wg.Go(func() { e.runSys(ctx) })
	context.AfterFunc(ctx, e.queue.Close)
	for b := range e.queue.All() {
		stored <- e.store(ctx, b)
	}
	return nil
}

// store stores a batch.
func (e *Engine) store(ctx context.Context, b []*publishing) []outcome {
	changes := make([]chat.RetainedChange, len(b))
	for i, w := range b {
		changes[i] = chat.RetainedChange{Publication: w.pub, UserID: w.user, ClientID: w.from.ClientID, Epoch: w.from.Epoch, CheckOnly: !w.pub.Retain}
	}
	refused, err := e.commit(ctx, changes)
	out := make([]outcome, len(b))
	for i, w := range b {
		out[i] = outcome{w, err}
		if err == nil {
			out[i].err = refused[i]
		}
	}
	return out
}

// commit stores changes, and returns for each whether it was refused. While the database
// is unavailable it tries again.
func (e *Engine) commit(ctx context.Context, changes []chat.RetainedChange) (refused []error, err error) {
	start := time.Now()
	defer func() { e.metrics.store.Observe(time.Since(start).Seconds()) }()
	for wait := backoff.New(10*time.Millisecond, time.Second); ; wait.Sleep(ctx) {
		refused, err = e.try(ctx, changes)
		switch unavailable := chat.CodeOf(err) == chat.Unavailable; {
		case err == nil, unavailable && (time.Since(start) > retainPatience || ctx.Err() != nil):
			return refused, err
		case !unavailable:
			return e.oneByOne(ctx, changes, err)
		}
		e.logger.Warn("retained messages could not be stored; trying again", "messages", len(changes), "err", err)
	}
}

// oneByOne stores changes alone, after the database has refused them together: only the
// one at fault fails.
func (e *Engine) oneByOne(ctx context.Context, changes []chat.RetainedChange, err error) ([]error, error) {
	e.logger.Error("retained messages were refused by the database", "messages", len(changes), "err", err)
	if len(changes) == 1 {
		return nil, err
	}
	refused := make([]error, len(changes))
	for i := range changes {
		one, err := e.try(ctx, changes[i:i+1])
		if refused[i] = err; err == nil {
			refused[i] = one[0]
		}
	}
	return refused, nil
}

// try stores on a context that outlives ctx: what is queued when the process stops is
// still stored.
func (e *Engine) try(ctx context.Context, changes []chat.RetainedChange) ([]error, error) {
	ctx, cancel := chat.WithDeadline(context.WithoutCancel(ctx), retainTimeout, "topics.retain")
	defer cancel()
	return e.o.Store.PutRetained(ctx, changes, e.retained.Load() >= e.o.MaxRetained, time.Now())
}

// tidy removes what has expired and counts what there is, until ctx ends.
func (e *Engine) tidy(ctx context.Context) {
	tick := time.NewTicker(tidyStep)
	defer tick.Stop()
	for step := 0; ; step++ {
		if step%expireSteps == 0 {
			e.expire(ctx)
		}
		if step%countSteps == 0 || e.retained.Load() > e.o.MaxRetained/2 {
			e.recount(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (e *Engine) recount(ctx context.Context) {
	ctx, cancel := chat.WithDeadline(ctx, retainTimeout, "topics.count")
	defer cancel()
	if n, err := e.o.Store.CountRetained(ctx); err == nil {
		e.retained.Store(n)
	} else if ctx.Err() == nil {
		e.logger.Warn("retained messages could not be counted; trying again", "err", err)
	}
}

func (e *Engine) expire(ctx context.Context) {
	ctx, cancel := chat.WithDeadline(ctx, retainTimeout, "topics.expire")
	defer cancel()
	for {
		n, err := e.o.Store.DeleteExpiredRetained(ctx, time.Now(), expireBatch)
		if err != nil {
			e.logger.Warn("expired retained messages could not be removed; trying again", "err", err)
			return
		}
		if n < expireBatch {
			return
		}
	}
}
