package store

import (
	"context"
	"fmt"
	"sync/atomic"
)

// PostgreSQL does not log the assignment of transaction ids. After a crash it continues
// after the last id in the write-ahead log on disk, so ids of transactions that were rolled
// back, or had not ended, may be assigned again. A snapshot that saw such a transaction end
// would then also see a future one. So no snapshot leaves the store before a later id than
// its own is on disk.

// flushed is the highest transaction id that is known to be on disk.
type flushed struct {
	xid  atomic.Uint64 // of a transaction whose commit is on disk
	turn chan struct{} // a semaphore of one: its holder commits
}

func newFlushed() *flushed { return &flushed{turn: make(chan struct{}, 1)} }

// A logical message that nobody reads is the smallest possible commit.
const flushSQL = `SELECT pg_current_xact_id()::text, pg_logical_emit_message(true, 'parley', '')`

// wait returns when no id below xmax can be assigned again. It is free if nothing has been
// written since the last call, and concurrent callers share a commit.
func (f *flushed) wait(ctx context.Context, q querier, xmax uint64) error {
	if f.xid.Load()+1 >= xmax {
		return nil
	}
	select {
	case f.turn <- struct{}{}:
		defer func() { <-f.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if f.xid.Load()+1 >= xmax {
		return nil
	}
	var text string
	if err := q.QueryRow(ctx, flushSQL).Scan(&text, nil); err != nil {
		return err
	}
	xid, ok := parseXID(text)
	if !ok {
		return fmt.Errorf("%q is not a transaction id", text)
	}
	f.xid.Store(max(xid, f.xid.Load()))
	return nil
}
