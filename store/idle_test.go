package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/store/storetest"
)

// A process that was stopped in the middle of a transaction kept the conversation's row
// locked for as long as it stood still: on no other node could anybody write there. The
// campaign over several nodes found it. PostgreSQL ends such a transaction now.
func TestTransactionIsForgotten(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	stopped, other := storetest.Open(t, dsn), storetest.Open(t, dsn)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const lock = `SELECT pg_advisory_xact_lock(1)` // as good as a row
	pool, err := pgxpool.NewWithConfig(ctx, stopped.WriterConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	tx, err := pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, lock); err != nil {
		t.Fatal(err)
	}
	waiting, err := pgxpool.NewWithConfig(ctx, other.WriterConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	if _, err := waiting.Exec(ctx, lock); err != nil { // while tx does nothing
		t.Error("the lock of a process that stands still is not given up:", err)
	}
	if err := tx.Commit(ctx); err == nil {
		t.Error("a transaction that was given up was committed")
	}
}
