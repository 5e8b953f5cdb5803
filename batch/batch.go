// Package batch is the queue of a group commit: callers queue items, and whoever commits
// takes all that has gathered while the last transaction ran, up to a limit, for the next.
//
// A queue is bounded by items and by bytes. When it is full, callers wait; those who come
// later wait behind them. Close ends it: what is queued then is still taken.
//
// Together is for reads, and for what callers wait for: those who come at the same time share a
// round trip.
//
// What becomes of a batch (retries, the item that the database refuses, who is told) is the
// committer's affair: a log of events, retained messages and read receipts differ in it.
package batch

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"
)

// Why Put has not queued an item.
var (
	ErrFull   = errors.New("the queue is full")
	ErrClosed = errors.New("the queue is closed")
)

// Limits bound a queue and its batches. A single item may exceed the bytes of either.
type Limits struct {
	Items, Bytes           int           // queued at once; further ones wait
	Patience               time.Duration // how long they wait; then ErrFull
	BatchItems, BatchBytes int           // in one batch
}

// Queue holds the items that wait for their commit. Its methods but Gather, C and All are
// safe for concurrent use; those are for the one goroutine that commits.
type Queue[T any] struct {
	limits Limits
	size   func(T) int
	items  chan T // full: Put blocks
	budget budget // for the bytes of items; none left: Put blocks

	mu     sync.RWMutex // held for reading while items is sent to
	closed bool         // mu guards
}

// NewQueue returns an empty queue of items that have the size, in bytes; it is asked twice
// for each item and must answer the same.
func NewQueue[T any](l Limits, size func(T) int) *Queue[T] {
	return &Queue[T]{limits: l, size: size, items: make(chan T, l.Items), budget: newBudget(l.Bytes)}
}

// Put queues an item. While the queue is full it blocks, until ctx ends or the patience is
// over (ErrFull, with the cause of ctx). After Close it returns ErrClosed.
func (q *Queue[T]) Put(ctx context.Context, item T) error {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return ErrClosed
	}
	n := q.size(item)
	if q.budget.tryTake(n) {
		select {
		case q.items <- item:
			return nil
		default:
			q.budget.give(n)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, q.limits.Patience)
	defer cancel()
	if !q.budget.take(ctx, n) {
		return fmt.Errorf("%w: %w", ErrFull, context.Cause(ctx))
	}
	select {
	case q.items <- item:
		return nil
	case <-ctx.Done():
		q.budget.give(n)
		return fmt.Errorf("%w: %w", ErrFull, context.Cause(ctx))
	}
}

// Close ends the queue. It waits for each Put under way to have queued its item or given
// up, so somebody must still take them.
func (q *Queue[T]) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.items)
	}
}

// Len returns how many items wait.
func (q *Queue[T]) Len() int { return len(q.items) }

// C returns the channel that the first item of a batch comes from, which has to be handed to
// Gather. It is closed when the queue is closed and empty.
func (q *Queue[T]) C() <-chan T { return q.items }

// Gather appends to batch the first item and what else is queued, up to the limits of a
// batch. It does not block.
func (q *Queue[T]) Gather(batch []T, first T) []T {
	for item, bytes := first, 0; ; {
		n := q.size(item)
		q.budget.give(n)
		batch, bytes = append(batch, item), bytes+n
		if len(batch) >= q.limits.BatchItems || bytes >= q.limits.BatchBytes {
			return batch
		}
		select {
		case next, ok := <-q.items:
			if !ok {
				return batch
			}
			item = next
		default:
			return batch
		}
	}
}

// All returns batches until the queue is closed and empty. A batch is good until the next.
func (q *Queue[T]) All() iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		var batch []T
		for first := range q.items {
			if batch = q.Gather(batch[:0], first); !yield(batch) {
				return
			}
			clear(batch)
		}
	}
}
