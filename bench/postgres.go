package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database is the server's PostgreSQL, read beside it. Its methods are called from one goroutine at a time.
type Database struct {
	conn    *pgx.Conn
	dsn     string
	Version string   // "15.18"
	Notes   []string // settings that a figure would be misread without
}

// OpenDatabase connects, and reads the version and the settings that decide how durable a commit is.
func OpenDatabase(ctx context.Context, dsn string) (*Database, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	d := &Database{conn: conn, dsn: dsn}
	var fsync, commit string
	err = conn.QueryRow(ctx, `SELECT split_part(current_setting('server_version'), ' ', 1), current_setting('fsync'), current_setting('synchronous_commit')`).Scan(&d.Version, &fsync, &commit)
	if err != nil {
		d.Close()
		return nil, err
	}
	if fsync == "off" {
		d.Notes = append(d.Notes, "PostgreSQL has fsync off: a commit waits for no disk")
	}
	if commit == "off" {
		d.Notes = append(d.Notes, "PostgreSQL has synchronous_commit off: a commit waits for no disk")
	}
	return d, nil
}

// Close closes the connection.
func (d *Database) Close() { _ = d.conn.Close(context.Background()) }

// Written is what PostgreSQL has written since it was made, the whole cluster with other databases.
type Written struct {
	WAL       int64 // bytes of write-ahead log
	FullPages int64 // pages that were logged whole, after a checkpoint
	Size      int64 // bytes of the database
	Commits   int64 // transactions in the database, a second late at most
}

func (w Written) minus(v Written) Written {
	return Written{w.WAL - v.WAL, w.FullPages - v.FullPages, w.Size - v.Size, w.Commits - v.Commits}
}

// Read reads it.
func (d *Database) Read(ctx context.Context) (w Written, err error) {
	err = d.conn.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, (SELECT wal_fpi FROM pg_stat_wal),
		pg_database_size(current_database()), (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database())`).
		Scan(&w.WAL, &w.FullPages, &w.Size, &w.Commits)
	return w, err
}

// StatementOptions says how rows are stored by StatementLimit.
type StatementOptions struct {
	Connections int
	Rows        int // in a transaction
	Size        int // bytes of text in each
	Duration    time.Duration
}

// limitsSchema holds the table of StatementLimit meanwhile.
const limitsSchema = "parley_bench"

// StatementLimit measures the least that a server must have PostgreSQL do to store messages: an INSERT of rows
// with a key, a time and a text, and a commit. What is counted are statements. It makes the schema parley_bench for
// that, and removes it.
func (d *Database) StatementLimit(ctx context.Context, o StatementOptions) (res *RepeatResult, err error) {
	if _, err := d.conn.Exec(ctx, `DROP SCHEMA IF EXISTS `+limitsSchema+` CASCADE`); err != nil {
		return nil, err
	}
	if _, err := d.conn.Exec(ctx, `CREATE SCHEMA `+limitsSchema+`
		CREATE TABLE rows (room int, seq bigint, created_at timestamptz NOT NULL, content text NOT NULL, PRIMARY KEY (room, seq))`); err != nil {
		return nil, err
	}
	defer func() {
		if _, e := d.conn.Exec(context.WithoutCancel(ctx), `DROP SCHEMA `+limitsSchema+` CASCADE`); e != nil {
			err = errors.Join(err, e)
		}
	}()
	conns := make([]*pgx.Conn, o.Connections)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close(context.Background())
			}
		}
	}()
	for i := range conns {
		if conns[i], err = pgx.Connect(ctx, d.dsn); err != nil {
			return nil, fmt.Errorf("connection %d of %d: %w", i+1, o.Connections, err)
		}
	}
	content := slices.Repeat(texts(1, o.Size), o.Rows)
	seqs := make([][]int64, o.Connections)
	for i := range seqs {
		seqs[i] = make([]int64, o.Rows)
	}
	return Repeat(ctx, RepeatOptions{Workers: o.Connections, Duration: o.Duration, Warmup: o.Duration / 10, Do: func(ctx context.Context, worker, n int) error {
		if o.Rows == 1 {
			_, err := conns[worker].Exec(ctx, `INSERT INTO `+limitsSchema+`.rows VALUES ($1, $2, now(), $3)`, worker, n, content[0])
			return err
		}
		for i := range seqs[worker] {
			seqs[worker][i] = int64(n*o.Rows + i)
		}
		_, err := conns[worker].Exec(ctx, `INSERT INTO `+limitsSchema+`.rows SELECT $1, s, now(), c FROM unnest($2::bigint[], $3::text[]) AS u (s, c)`, worker, seqs[worker], content)
		return err
	}})
}
