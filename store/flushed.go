package store

import (
	"context"
	"fmt"
	"sync/atomic"
)

// PostgreSQL assigns transaction ids without logging that. After a crash it continues
// after the last id in the write-ahead log on disk; ids of transactions that were rolled
// back, or had not ended, may be assigned again. A snapshot that has seen such a
// transaction end would then see a future one as well. So no snapshot leaves the store
// before its ids are safe: before a later one is on disk.

// flushed knows up to which id that is so.
type flushed struct {
	xid  atomic.Uint64 // a transaction whose commit is on the disk
	turn chan struct{} // has room for one: the caller that commits the next
}

func newFlushed() *flushed { return &flushed{turn: make(chan struct{}, 1)} }

// A logical message that nobody reads is the smallest thing to commit. The setting is for
// databases with synchronous_commit off: what a cursor counts as delivered must not be
// undone.
const flushSQL = `SELECT pg_current_xact_id()::text, pg_logical_emit_message(true, 'parley', ''), set_config('synchronous_commit', 'on', true)`

// wait returns when no id below xmax can be assigned again. Where nothing has been
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
		return fmt.Errorf("%q is not a transaction id", text)
	}
	f.xid.Store(max(xid, f.xid.Load()))
	return nil
}
