package store

import (
	"context"
	"fmt"
	"sync/atomic"
)

// PostgreSQL hands out the numbers of transactions without writing that down. After a
// crash it goes on behind the last number that is in the log on its disk; those of
// transactions that were rolled back, or had not ended, may be given out once more. A
// snapshot that has seen such a transaction end would then count another one, still to
// come, among those it sees. So no snapshot leaves the store before its numbers are
// safe: before a later one is on the disk.

// flushed says up to which number that is so.
type flushed struct {
	xid  atomic.Uint64 // a transaction whose commit is on the disk
	turn chan struct{} // has room for one: who writes the next
}

func newFlushed() *flushed { return &flushed{turn: make(chan struct{}, 1)} }

// A message in the write-ahead log that nobody reads is the smallest thing to commit.
// This is for whoever has turned synchronous_commit off: what a cursor counts as told
// must not be undone.
const flushSQL = `SELECT pg_current_xact_id()::text, pg_logical_emit_message(true, 'parley', ''), set_config('synchronous_commit', 'on', true)`

// wait returns when no number below xmax can be given out again. Where nothing has been
// written since the last time it costs nothing, and callers at the same time share a
// commit.
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
	if err := q.QueryRow(ctx, flushSQL).Scan(&text, nil, nil); err != nil {
		return err
	}
	xid, ok := parseXID(text)
	if !ok {
		return fmt.Errorf("%q is no transaction", text)
	}
	f.xid.Store(max(xid, f.xid.Load()))
	return nil
}
