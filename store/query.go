package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/parleymq/parley/chat"
)

// querier is what a pool, a connection and a transaction have in common.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// leastID stands for no id, NULL, where a list goes on after one: before all others.
const leastID = `'00000000-0000-0000-0000-000000000000'::uuid`

// collect runs a query and returns its rows as scan makes them of each; none is
// an empty slice.
func collect[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, error) {
	rows, _ := q.Query(ctx, sql, args...) // rows has the error, too
	return pgx.CollectRows(rows, scan)
}

// collectOne is collect for the first row; pgx.ErrNoRows if there is none.
func collectOne[T any](ctx context.Context, q querier, scan pgx.RowToFunc[T], sql string, args ...any) (T, error) {
	rows, _ := q.Query(ctx, sql, args...)
	return pgx.CollectOneRow(rows, scan)
}

// found is the result of collectOne for something with an id: NotFound if it is not there.
func found[T any](v T, err error, op, field, what string, id chat.ID) (*T, error) {
	switch {
	case err == nil:
		return &v, nil
	case errors.Is(err, pgx.ErrNoRows):
		return nil, notFound(op, field, what, id)
	}
	return nil, translate(op, err)
}

// forEach runs a query, and calls f after each of its rows has been scanned into targets.
func forEach(ctx context.Context, q querier, targets []any, f func(), sql string, args ...any) error {
	rows, _ := q.Query(ctx, sql, args...)
	return scanEach(rows, targets, f)
}

func scanEach(rows pgx.Rows, targets []any, f func()) error {
	_, err := pgx.ForEachRow(rows, targets, func() error { f(); return nil })
	return err
}

// queue adds a query to a batch. Its rows, as scan makes them of each, are put into list.
func queue[T any](b *pgx.Batch, list *[]T, scan pgx.RowToFunc[T], sql string, args pgx.NamedArgs) {
	b.Queue(sql, args).Query(func(rows pgx.Rows) (err error) {
		*list, err = pgx.CollectRows(rows, scan)
		return err
	})
}

// fields makes of a row a T: it scans the columns into what list names of it.
func fields[T any](list func(*T) []any) pgx.RowToFunc[T] {
	return func(row pgx.CollectableRow) (v T, err error) {
		err = row.Scan(list(&v)...)
		return v, err
	}
}
