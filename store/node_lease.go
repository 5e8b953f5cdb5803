package store

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

// MaxNodes is how many nodes may work on one database at once.
const MaxNodes = 128

// nodesKey is the key of the advisory lock that nodes share, and that a node without
// others holds alone: the letters "parley" as a number.
const nodesKey = 0x7061726c6579

const leaseTimeout = 5 * time.Second // of each method of NodeLease

// NodeLease is a node's membership of the nodes on a database: advisory locks, which
// keep its name from any other node; its heartbeat in the table nodes, by which the
// others know that it runs; and how far it has read the outbox. A node alone holds it
// exclusively. It has a database connection of its own, and is used by one goroutine. Its
// methods block for up to 5 s, and may be repeated after an error other than Conflict.
type NodeLease struct {
	o           NodeLeaseOptions
	config      *pgx.ConnConfig
	application string    // names its connections at the database, and those of no other node
	conn        *pgx.Conn // nil: none
	formerly    time.Time
	logger      *slog.Logger
	origin      chat.ID // what Epoch is of; zero: not read yet
	table       int64   // oid of sync_origin

	cursor string    // snapshot of the last reading of the outbox; "": none, or not to be trusted
	read   time.Time // when that was
}

// NodeLeaseOptions are what AcquireNodeLease needs.
type NodeLeaseOptions struct {
	Node      string        // name of the node
	ID        string        // of the process
	Exclusive bool          // there may be no other node: this one would not hear of it
	Duration  time.Duration // how long the node counts as running after a heartbeat

	// Epoch is that of the log when the node has started. Where the database has another one,
	// the node's methods fail with Conflict and chat.ErrSetBack. "": not compared.
	Epoch chat.LogEpoch
	// Witness are events that must be there when the connection was lost and there is another:
	// where one is not, the database was set back meanwhile, and Epoch ends. nil: none.
	Witness *Witness
}

// AcquireNodeLease acquires the lease of a node. If another node has its name, or excludes
// it, it waits so long for that one to end, then answers Conflict; it tries at least once.
// A node that has died without closing its connection is noticed by the database within
// about 15 s. Quota: there are MaxNodes already.
func (s *Store) AcquireNodeLease(ctx context.Context, o NodeLeaseOptions, wait time.Duration) (*NodeLease, error) {
	const op = "store.AcquireNodeLease"
	l := &NodeLease{o: o, config: s.pool.Config().ConnConfig.Copy(), application: "parley node " + chat.NewID().String(), logger: s.log}
	onConnect(l.config, setting{name: "application_name", value: l.application},
		// no effect on a unix socket
		setting{name: "tcp_keepalives_idle", value: "5"}, setting{name: "tcp_keepalives_interval", value: "3"}, setting{name: "tcp_keepalives_count", value: "3"})
	// The pool may have got the last connection there was.
	err := waitFor(ctx, 0, s.log, func(ctx context.Context) error { return l.dial(ctx, op) })
	until := time.Now().Add(wait)
	for chat.CodeOf(err) == chat.Conflict && time.Now().Before(until) && backoff.Sleep(ctx, 100*time.Millisecond) {
		err = l.connect(ctx, op)
	}
	if err != nil {
		return nil, err
	}
	others := 0
	err = l.do(ctx, op, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, joinNodesSQL, l.args()).Scan(&others, scanTime(&l.formerly))
	})
	if err == nil && others >= MaxNodes {
		err = &chat.Error{Code: chat.Quota, Op: op, Field: "database", Msg: "has " + strconv.Itoa(others) + " nodes, limit " + strconv.Itoa(MaxNodes)}
	}
	if err != nil {
		l.disconnect()
		return nil, err
	}
	return l, nil
}

// Formerly returns when a former process of the node was last known to run; zero: never.
func (l *NodeLease) Formerly() time.Time { return l.formerly }

func (l *NodeLease) args() pgx.NamedArgs {
	return pgx.NamedArgs{"node": l.o.Node, "id": l.o.ID, "lease": l.o.Duration}
}

// seen_at is written with beat_at by each heartbeat: how long the users of the node were
// online. Joining leaves it as it was at the node's former process.
const joinNodesSQL = `
WITH joined AS (
  INSERT INTO nodes (name, seen_at, id, beat_at, released) VALUES (@node, clock_timestamp(), @id, clock_timestamp(), false)
  ON CONFLICT (name) DO UPDATE SET id = excluded.id, beat_at = excluded.beat_at, released = false
)
SELECT count(*) FILTER (WHERE id IS NOT NULL AND name <> @node AND beat_at > clock_timestamp() - @lease::interval),
  max(greatest(seen_at, beat_at)) FILTER (WHERE name = @node)
FROM nodes`

// A node that was evicted long ago and never came back is of no interest. The lease is not
// renewed in a database of another epoch.
const heartbeatSQL = `
WITH renewed AS (
  UPDATE nodes SET beat_at = clock_timestamp(), seen_at = clock_timestamp()
  WHERE name = @node AND id = @id AND (@origin::uuid IS NULL OR EXISTS (SELECT FROM sync_origin o WHERE o.id = @origin AND o.tableoid = @table::bigint))
  RETURNING name
)
SELECT o.id, coalesce(o.tableoid::bigint, 0), EXISTS (SELECT FROM renewed),
  coalesce(n.name, ''), coalesce(n.id, ''), coalesce(n.beat_at, n.seen_at), coalesce(n.id IS NOT NULL AND n.beat_at > clock_timestamp() - @lease::interval, false)
FROM (SELECT) AS one LEFT JOIN sync_origin o ON true LEFT JOIN nodes n ON n.name <> @node AND (n.id IS NOT NULL OR NOT n.released)`

// Heartbeat renews the lease and returns the other nodes. It connects and takes the locks
// again if the connection was lost: Conflict if another node was faster. It is one round trip
// from the second time on.
func (l *NodeLease) Heartbeat(ctx context.Context) (found chat.Heartbeat, err error) {
	err = l.do(ctx, "store.Heartbeat", func(ctx context.Context, conn *pgx.Conn) error {
		args := l.args()
		if l.o.Epoch != "" {
			if l.origin.IsZero() {
				if err := l.checkEpoch(ctx, conn); err != nil {
					return err
				}
			}
			args["origin"], args["table"] = l.origin, l.table
		}
		var origin *chat.ID
		var table int64
		var renewed bool
		var n chat.NodeState
		var seen *time.Time
		err := forEach(ctx, conn, []any{&origin, &table, &renewed, &n.Name, &n.ID, &seen, &n.Alive}, func() {
			switch {
			case n.Name == "":
				return
			case seen != nil:
				n.SeenAt = *seen
			}
			if n.ID != "" {
				found.Others = append(found.Others, n)
			} else {
				found.Unreleased = append(found.Unreleased, n)
			}
		}, heartbeatSQL, args)
		if err == nil && l.o.Epoch != "" {
			err = l.judgeEpoch(ctx, conn, origin, table)
		}
		found.Evicted = !renewed
		return err
	})
	return found, err
}

// Rejoin begins the lease again after Heartbeat has said that the node was evicted. By
// then nothing may be left of what the node had.
func (l *NodeLease) Rejoin(ctx context.Context) error {
	_, err := l.exec(ctx, "store.Rejoin", joinNodesSQL, l.args())
	return err
}

const evictNodeSQL = `
UPDATE nodes SET id = NULL WHERE name = @node AND id = @id AND beat_at <= clock_timestamp() - @lease::interval`

// Evict ends the lease of a node whose heartbeats have stopped for longer than it lasts,
// and reports whether it was this call that did: of several nodes one does.
func (l *NodeLease) Evict(ctx context.Context, n chat.NodeState) (bool, error) {
	rows, err := l.exec(ctx, "store.Evict", evictNodeSQL, pgx.NamedArgs{"node": n.Name, "id": n.ID, "lease": l.o.Duration})
	return rows > 0, err
}

const releasedNodeSQL = `UPDATE nodes SET released = true WHERE name = @node AND id IS NULL`

// Released notes that everything of an evicted node has been released.
func (l *NodeLease) Released(ctx context.Context, node string) error {
	_, err := l.exec(ctx, "store.Released", releasedNodeSQL, pgx.NamedArgs{"node": node})
	return err
}

// What it had stays for as long as its users may come back elsewhere; then another node
// releases it.
const leaveNodesSQL = `
UPDATE nodes SET id = NULL, released = false, beat_at = clock_timestamp(), seen_at = clock_timestamp() WHERE name = @node AND id = @id`

// Close gives the lease up. It may be repeated.
func (l *NodeLease) Close(ctx context.Context) error {
	if l.conn == nil {
		return nil
	}
	defer l.disconnect()
	_, err := l.exec(ctx, "store.Close", leaveNodesSQL, l.args())
	return err
}

// outboxKept is how long rows of the outbox are kept, and outboxTrusted how old the last
// reading may be for the next one to find all that came since.
const (
	outboxKept    = time.Minute
	outboxTrusted = 45 * time.Second
)

const (
	outboxSQL = `
SELECT pg_current_snapshot()::text, j.conversations, j.seqs, j.versions, j.members, j.user_id, coalesce(j.client_id, ''), coalesce(j.epoch, 0), coalesce(j.resumed, false)
FROM (SELECT) AS one LEFT JOIN journal j ON j.node <> @id AND `

	// Everything that the last snapshot did not see.
	readOutboxSQL = outboxSQL + `j.xid >= pg_snapshot_xmin(@cursor::text::pg_snapshot) AND NOT pg_visible_in_snapshot(j.xid, @cursor::text::pg_snapshot)`
	// All that is kept.
	readWholeOutboxSQL = outboxSQL + `j.at > clock_timestamp() - @kept::interval`
)

// ReadOutbox returns what the other nodes have stored since the last reading. whole is
// false if there may have been more than is kept: after a pause, and the first time.
func (l *NodeLease) ReadOutbox(ctx context.Context) (list []chat.OutboxEntry, whole bool, err error) {
	start := time.Now()
	whole = !l.read.IsZero() && start.Sub(l.read) <= outboxTrusted
	if !whole {
		l.cursor = ""
	}
	err = l.do(ctx, "store.ReadOutbox", func(ctx context.Context, conn *pgx.Conn) error {
		sql := readOutboxSQL
		if l.cursor == "" {
			sql = readWholeOutboxSQL
		}
		var cursor string
		var ids []chat.ID
		var seqs, versions []int64
		var members *bool
		var user *chat.ID
		var n chat.SupersededNotice
		err := forEach(ctx, conn, []any{&cursor, &ids, &seqs, &versions, &members, &user, &n.ClientID, &n.Epoch, &n.Resumed}, func() {
			if user != nil {
				superseded := n
				superseded.UserID = *user
				list = append(list, chat.OutboxEntry{Superseded: &superseded})
			}
			for i := range min(len(ids), len(seqs), len(versions)) {
				list = append(list, chat.OutboxEntry{ConversationID: ids[i], Seq: seqs[i], MembersVersion: versions[i], Members: *members})
			}
		}, sql, pgx.NamedArgs{"id": l.o.ID, "cursor": l.cursor, "kept": outboxKept})
		if err == nil {
			l.cursor, l.read = cursor, start
		}
		return err
	})
	return list, whole, err
}

// Rows of this node, and those that nodes have left which are gone.
const pruneOutboxSQL = `
DELETE FROM journal WHERE at < clock_timestamp() - CASE WHEN node = @id THEN @kept::interval ELSE 10 * @kept::interval END`

// PruneOutbox removes rows that nobody reads any more. It may be repeated.
func (l *NodeLease) PruneOutbox(ctx context.Context) error {
	_, err := l.exec(ctx, "store.PruneOutbox", pruneOutboxSQL, pgx.NamedArgs{"id": l.o.ID, "kept": outboxKept})
	return err
}

func (l *NodeLease) exec(ctx context.Context, op, sql string, args pgx.NamedArgs) (rows int64, err error) {
	err = l.do(ctx, op, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, sql, args)
		rows = tag.RowsAffected()
		return err
	})
	return rows, err
}

// do connects if need be, and runs f. A connection that has failed is closed.
func (l *NodeLease) do(ctx context.Context, op string, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := chat.WithDeadline(ctx, leaseTimeout, op)
	defer cancel()
	if err := l.connect(ctx, op); err != nil {
		return err
	}
	if err := f(ctx, l.conn); err != nil {
		l.disconnect()
		return translate(op, err)
	}
	return nil
}

// connect makes sure that there is a connection that holds the locks.
func (l *NodeLease) connect(ctx context.Context, op string) error {
	if l.conn != nil && !l.conn.IsClosed() {
		return nil
	}
	return translate(op, l.dial(ctx, op))
}

// dial makes a connection and takes the locks: Conflict if another node holds one.
func (l *NodeLease) dial(ctx context.Context, op string) error {
	conn, err := pgx.ConnectConfig(ctx, l.config)
	if err != nil {
		return err
	}
	l.conn, l.cursor = conn, "" // transaction numbers may have been given out again
	err = l.checkWitness(ctx, conn)
	if err == nil {
		err = l.lock(ctx, op)
	}
	if err != nil {
		l.disconnect()
	}
	return err
}

// A dump that is restored brings the id of its time along, in another table.
const epochSQL = `SELECT id, tableoid::bigint FROM sync_origin`

// checkEpoch fails if the database has another epoch than the node.
func (l *NodeLease) checkEpoch(ctx context.Context, conn *pgx.Conn) error {
	if l.o.Epoch == "" {
		return nil
	}
	var id *chat.ID
	var table int64
	if err := conn.QueryRow(ctx, epochSQL).Scan(&id, &table); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	return l.judgeEpoch(ctx, conn, id, table)
}

// judgeEpoch is checkEpoch for what has been read; id nil: there is nothing.
func (l *NodeLease) judgeEpoch(ctx context.Context, conn *pgx.Conn, id *chat.ID, table int64) error {
	if l.table == 0 {
		l.table = table
	}
	switch {
	case id == nil:
	case table != l.table:
		if err := l.settle(ctx, conn, false); err != nil {
			return err
		}
	case chat.EpochOf(*id) == l.o.Epoch:
		l.origin = *id
		return nil
	}
	return &chat.Error{Code: chat.Conflict, Op: "store.NodeLease", Msg: chat.ErrSetBack.Error(), Err: chat.ErrSetBack}
}

// checkWitness looks for what this node has stored, on a new connection: it may lead to a
// server that has taken over without all of it, or to one that was restored.
func (l *NodeLease) checkWitness(ctx context.Context, conn *pgx.Conn) error {
	if l.o.Witness == nil {
		return nil
	}
	missing, err := l.o.Witness.missing(ctx, conn)
	if err != nil {
		return err
	}
	if err := l.settle(ctx, conn, missing); err != nil {
		return err
	}
	return l.checkEpoch(ctx, conn)
}

// setBackTimeout is how long ending an epoch may take: longer than a heartbeat.
const setBackTimeout = time.Minute

// settle ends the epoch if the database was set back, or is another one than before.
func (l *NodeLease) settle(ctx context.Context, conn *pgx.Conn, setBack bool) error {
	ctx, cancel := chat.WithDeadline(context.WithoutCancel(ctx), setBackTimeout, "store.NodeLease.settle")
	defer cancel()
	return settleOrigin(ctx, conn, l.logger, settling{setBack: setBack, sameTimeline: true})
}

const (
	lockExclusivelySQL = `SELECT pg_try_advisory_lock(@key)`
	lockSharedSQL      = `SELECT pg_try_advisory_lock_shared(@key)`
	lockNameSQL        = `SELECT pg_try_advisory_lock(hashtextextended('parley node ' || @node, 0))`
)

// lock takes the locks: Conflict if another node holds one.
func (l *NodeLease) lock(ctx context.Context, op string) error {
	first, holder := lockSharedSQL, "a parley serve without REDIS_URL is running on it, which does not know of other nodes; "+
		"give it the same REDIS_URL as this one, or stop it first"
	if l.o.Exclusive {
		first, holder = lockExclusivelySQL, "another parley serve is running on it; to have several nodes on one database, give each of them the same REDIS_URL; "+
			"otherwise stop that one first, or give each its own database"
	}
	if err := l.tryLock(ctx, op, first, holder); err != nil {
		return err
	}
	return l.tryLock(ctx, op, lockNameSQL, "another node named "+strconv.Quote(l.o.Node)+" is running on it; give each node a name of its own with PARLEY_NODE")
}

func (l *NodeLease) tryLock(ctx context.Context, op, sql, holder string) error {
	for former := true; ; {
		var got bool
		if err := l.conn.QueryRow(ctx, sql, pgx.NamedArgs{"key": int64(nodesKey), "node": l.o.Node}).Scan(&got); err != nil || got {
			return err
		}
		if !former {
			return &chat.Error{Code: chat.Conflict, Op: op, Field: "database", Msg: holder}
		}
		// The database notices a connection that was lost much later than we do: it may still
		// have a former one of ours, with the lock.
		var ended int
		if err := l.conn.QueryRow(ctx, endFormerSQL, l.application).Scan(&ended); err != nil {
			return err
		}
		if former = ended > 0; former {
			return &chat.Error{Code: chat.Unavailable, Op: op, Msg: "a former connection of this node still holds its lock; trying again"}
		} // there is none; there may have been one when the lock was asked for, so ask again
	}
}

const endFormerSQL = `
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()`

func (l *NodeLease) disconnect() {
	if l.conn == nil {
		return
	}
	ctx, cancel := chat.WithDeadline(context.Background(), time.Second, "store.NodeLease.disconnect")
	defer cancel()
	_ = l.conn.Close(ctx) // the locks go with it
	l.conn = nil
}
