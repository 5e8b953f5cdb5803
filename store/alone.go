package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// aloneKey is the key of the advisory lock that a node without others holds: the
// letters "parley" as a number.
const aloneKey = 0x7061726c6579

const aloneCheck = 2 * time.Second

// Alone holds the place of the only node on a database, by an advisory lock on a
// connection of its own. Two nodes that do not hear of each other would deliver
// nothing of what the other one stores.
type Alone struct {
	config *pgx.ConnConfig
	name   string    // of its connections at the database, and of no other node's
	conn   *pgx.Conn // owned by Run once it is called
}

// TakeAlone takes the place of the only node. It waits so long for another node
// that is stopping, then answers Conflict; at least one attempt is made. A node that
// has died without closing its connection is noticed by the database within about
// 15 s.
func (s *Store) TakeAlone(ctx context.Context, wait time.Duration) (*Alone, error) {
	config := s.pool.Config().ConnConfig.Copy()
	name := "parley alone " + chat.NewID().String()
	config.RuntimeParams["application_name"] = name
	for name, value := range map[string]string{"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "3", "tcp_keepalives_count": "3"} {
		config.RuntimeParams[name] = value // no effect on a unix socket
	}
	a := &Alone{config: config, name: name}
	for until := time.Now().Add(wait); ; {
		err := a.try(ctx)
		if err == nil {
			return a, nil
		}
		if chat.CodeOf(err) != chat.Conflict || time.Now().After(until) {
			a.close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			a.close()
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// try connects, if need be, and takes the lock.
func (a *Alone) try(ctx context.Context) error {
	const op = "store.TakeAlone"
	if a.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, a.config)
		if err != nil {
			return translate(op, err)
		}
		a.conn = conn
	}
	for former := true; ; {
		var got bool
		if err := a.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", int64(aloneKey)).Scan(&got); err != nil {
			a.close()
			return translate(op, err)
		}
		switch {
		case got:
			return nil
		case !former:
			return &chat.Error{
				Code: chat.Conflict, Op: op, Field: "database",
				Msg: "another parley serve is running on it; stop that one first, or give each its own database (several nodes on one database are not offered yet)",
			}
		}
		// A line that went silent is noticed by the database much later than by us:
		// it may still have a former connection of ours, with the lock.
		var ended int
		if err := a.conn.QueryRow(ctx, endFormerSQL, a.name).Scan(&ended); err != nil {
			a.close()
			return translate(op, err)
		}
		if former = ended > 0; former {
			return &chat.Error{Code: chat.Unavailable, Op: op, Msg: "a connection of our own that was lost still holds the place"}
		} // there is none; there may have been one when the lock was asked for, so ask again
	}
}

const endFormerSQL = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()`

// Run keeps the place until ctx ends, and gives it up then. If the database was
// away, it takes it again; Conflict if another node was faster.
func (a *Alone) Run(ctx context.Context) error {
	defer a.close()
	tick := time.NewTicker(aloneCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		check, cancel := chat.WithDeadline(ctx, aloneCheck, "store.Alone")
		err := a.check(check)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		if chat.CodeOf(err) == chat.Conflict {
			return err
		}
		// Any other error: the database is away, which others report; try again.
	}
}

func (a *Alone) check(ctx context.Context) error {
	if a.conn != nil {
		if a.conn.Ping(ctx) == nil {
			return nil
		}
		a.close()
	}
	return a.try(ctx)
}

func (a *Alone) close() {
	if a.conn == nil {
		return
	}
	ctx, cancel := chat.WithDeadline(context.Background(), time.Second, "store.Alone.close")
	defer cancel()
	_ = a.conn.Close(ctx) // the lock goes with it
	a.conn = nil
}
