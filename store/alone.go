package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// aloneKey is the key of the advisory lock that a node without others holds, and that
// nodes that know of each other share: the letters "parley" as a number.
const aloneKey = 0x7061726c6579

const aloneCheck = 2 * time.Second

// Alone holds the place of the only node on a database, by an advisory lock. Two nodes
// that do not hear of each other would deliver nothing of what the other one stores.
type Alone struct{ seat seat }

// TakeAlone takes the place of the only node. It waits so long for another node
// that is stopping, then answers Conflict; at least one attempt is made. A node that
// has died without closing its connection is noticed by the database within about
// 15 s.
func (s *Store) TakeAlone(ctx context.Context, wait time.Duration) (*Alone, error) {
	a := &Alone{newSeat(s, "store.TakeAlone", []advisoryLock{{
		sql: "SELECT pg_try_advisory_lock($1)", args: []any{int64(aloneKey)},
		taken: "another parley serve is running on it; to have several nodes on one database, give each of them the same REDIS_URL; " +
			"otherwise stop that one first, or give each its own database",
	}})}
	return a, a.seat.take(ctx, wait)
}

// Run keeps the place until ctx ends, and gives it up then. If the database was
// away, it takes it again; Conflict if another node was faster.
func (a *Alone) Run(ctx context.Context) error {
	defer a.seat.close()
	tick := time.NewTicker(aloneCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		check, cancel := chat.WithDeadline(ctx, aloneCheck, "store.Alone")
		err := a.seat.check(check)
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

// seat holds advisory locks on a connection of its own. It is used by one goroutine.
type seat struct {
	op     string
	locks  []advisoryLock
	config *pgx.ConnConfig
	name   string    // of its connections at the database, and of no other node's
	conn   *pgx.Conn // nil: none
}

// advisoryLock is an advisory lock, and what to say to whom it is refused.
type advisoryLock struct {
	sql   string
	args  []any
	taken string
}

func newSeat(s *Store, op string, locks []advisoryLock) seat {
	config := s.pool.Config().ConnConfig.Copy()
	name := "parley node " + chat.NewID().String()
	config.RuntimeParams["application_name"] = name
	for name, value := range map[string]string{"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "3", "tcp_keepalives_count": "3"} {
		config.RuntimeParams[name] = value // no effect on a unix socket
	}
	return seat{op: op, locks: locks, config: config, name: name}
}

// take takes the locks; Conflict if another node does not give them up in time.
func (s *seat) take(ctx context.Context, wait time.Duration) error {
	for until := time.Now().Add(wait); ; {
		err := s.try(ctx)
		if err == nil {
			return nil
		}
		if chat.CodeOf(err) != chat.Conflict || time.Now().After(until) {
			s.close()
			return err
		}
		select {
		case <-ctx.Done():
			s.close()
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// try connects, if need be, and takes the locks.
func (s *seat) try(ctx context.Context) error {
	if s.conn == nil {
		conn, err := pgx.ConnectConfig(ctx, s.config)
		if err != nil {
			return translate(s.op, err)
		}
		s.conn = conn
	}
	for _, l := range s.locks {
		if err := s.tryLock(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

func (s *seat) tryLock(ctx context.Context, l advisoryLock) error {
	for former := true; ; {
		var got bool
		if err := s.conn.QueryRow(ctx, l.sql, l.args...).Scan(&got); err != nil {
			s.close()
			return translate(s.op, err)
		}
		switch {
		case got:
			return nil
		case !former:
			s.close() // with what was taken already
			return &chat.Error{Code: chat.Conflict, Op: s.op, Field: "database", Msg: l.taken}
		}
		// A line that went silent is noticed by the database much later than by us:
		// it may still have a former connection of ours, with the lock.
		var ended int
		if err := s.conn.QueryRow(ctx, endFormerSQL, s.name).Scan(&ended); err != nil {
			s.close()
			return translate(s.op, err)
		}
		if former = ended > 0; former {
			return &chat.Error{Code: chat.Unavailable, Op: s.op, Msg: "a connection of our own that was lost still holds the place"}
		} // there is none; there may have been one when the lock was asked for, so ask again
	}
}

const endFormerSQL = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()`

// check makes sure that the connection is there, with its locks.
func (s *seat) check(ctx context.Context) error {
	if s.conn != nil {
		if s.conn.Ping(ctx) == nil {
			return nil
		}
		s.close()
	}
	return s.try(ctx)
}

func (s *seat) close() {
	if s.conn == nil {
		return
	}
	ctx, cancel := chat.WithDeadline(context.Background(), time.Second, "store.seat.close")
	defer cancel()
	_ = s.conn.Close(ctx) // the locks go with it
	s.conn = nil
}
