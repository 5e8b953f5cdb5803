package store

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// MaxNodes is how many nodes may work on one database at once.
const MaxNodes = 128

// Place is a node's place among those that share a database: its name, which no other
// has, its heartbeat, by which the others know that it lives, and its reading of the
// journal. It has a connection of its own and is used by one goroutine.
type Place struct {
	seat  seat
	node  string
	id    string
	lease time.Duration

	cursor string    // snapshot of the last reading of the journal; "": none, or not to be trusted
	read   time.Time // when that was
}

// TakePlace takes the place of the node, waiting so long for another one of that name
// that is stopping, or for a node alone; then it is Conflict. id names the process.
// lease is how long it counts as alive after a heartbeat.
func (s *Store) TakePlace(ctx context.Context, node, id string, lease, wait time.Duration) (*Place, error) {
	const op = "store.TakePlace"
	p := &Place{node: node, id: id, lease: lease, seat: newSeat(s, op, []advisoryLock{
		{
			sql: "SELECT pg_try_advisory_lock_shared($1)", args: []any{int64(aloneKey)},
			taken: "a parley serve without REDIS_URL is running on it, which does not know of other nodes; give it the same REDIS_URL as this one, or stop it first",
		},
		{
			sql: "SELECT pg_try_advisory_lock(hashtextextended('parley node ' || $1, 0))", args: []any{node},
			taken: "another node named " + strconv.Quote(node) + " is running on it; give each node a name of its own with PARLEY_NODE",
		},
	})}
	if err := p.seat.take(ctx, wait); err != nil {
		return nil, err
	}
	var others int
	err := p.seat.conn.QueryRow(ctx, beginNodeSQL, pgx.NamedArgs{"node": node, "id": id, "lease": lease.Seconds()}).Scan(&others)
	if err == nil && others >= MaxNodes {
		err = &chat.Error{Code: chat.Quota, Op: op, Field: "database", Msg: "has " + strconv.Itoa(others) + " nodes, limit " + strconv.Itoa(MaxNodes)}
	}
	if err != nil {
		p.seat.close()
		return nil, translate(op, err)
	}
	return p, nil
}

const beginNodeSQL = `
WITH begun AS (
  INSERT INTO nodes (name, seen_at, id, beat_at, released) VALUES (@node, now(), @id, clock_timestamp(), false)
  ON CONFLICT (name) DO UPDATE SET id = excluded.id, beat_at = excluded.beat_at, released = false
)
SELECT count(*) FROM nodes WHERE id IS NOT NULL AND name <> @node AND beat_at > clock_timestamp() - make_interval(secs => @lease)`

const (
	beatSQL = `
UPDATE nodes SET beat_at = clock_timestamp() WHERE name = @node AND id = @id`

	// Who was given up long ago and never came back is of no interest.
	listNodesSQL = `
SELECT name, coalesce(id, ''), coalesce(id IS NOT NULL AND beat_at > clock_timestamp() - make_interval(secs => @lease), false),
  NOT released AND (id IS NULL OR beat_at < clock_timestamp() - make_interval(secs => 2 * @lease))
FROM nodes WHERE name <> @node AND (id IS NOT NULL OR NOT released)`

	buryNodeSQL = `
UPDATE nodes SET id = NULL WHERE name = @node AND id = @id AND beat_at <= clock_timestamp() - make_interval(secs => @lease)`

	releasedNodeSQL = `UPDATE nodes SET released = true WHERE name = @node AND id IS NULL`
	// What it had stays, for as long as its users may come back elsewhere; then another
	// node releases it.
	endNodeSQL = `UPDATE nodes SET id = NULL, released = false WHERE name = @node AND id = @id`
)

// Beat says that the node lives, and asks for the others. It takes the place again if
// the connection was lost: Conflict if another node of the same name was faster.
func (p *Place) Beat(ctx context.Context) (chat.Heartbeat, error) {
	const op = "store.Beat"
	if err := p.connected(ctx); err != nil {
		return chat.Heartbeat{}, err
	}
	var found chat.Heartbeat
	args := pgx.NamedArgs{"node": p.node, "id": p.id, "lease": p.lease.Seconds()}
	tag, err := p.seat.conn.Exec(ctx, beatSQL, args)
	if err == nil {
		found.Lost = tag.RowsAffected() == 0
		var rows pgx.Rows
		if rows, err = p.seat.conn.Query(ctx, listNodesSQL, args); err == nil {
			var n chat.NodeState
			var left bool
			_, err = pgx.ForEachRow(rows, []any{&n.Name, &n.ID, &n.Alive, &left}, func() error {
				if n.ID != "" {
					found.Others = append(found.Others, n)
				} else if left {
					found.Left = append(found.Left, n.Name)
				}
				return nil
			})
		}
	}
	return found, p.broken(op, err)
}

// Begin takes the place again, after Beat has said that it was lost. Nothing may be
// left by then of what the node had.
func (p *Place) Begin(ctx context.Context) error {
	const op = "store.Begin"
	if err := p.connected(ctx); err != nil {
		return err
	}
	var others int
	err := p.seat.conn.QueryRow(ctx, beginNodeSQL, pgx.NamedArgs{"node": p.node, "id": p.id, "lease": p.lease.Seconds()}).Scan(&others)
	return p.broken(op, err)
}

// Bury gives up a node that has not been heard of for longer than its lease, and
// reports whether it was this call that did: of several nodes one does.
func (p *Place) Bury(ctx context.Context, n chat.NodeState) (bool, error) {
	const op = "store.Bury"
	if err := p.connected(ctx); err != nil {
		return false, err
	}
	tag, err := p.seat.conn.Exec(ctx, buryNodeSQL, pgx.NamedArgs{"node": n.Name, "id": n.ID, "lease": p.lease.Seconds()})
	return tag.RowsAffected() > 0, p.broken(op, err)
}

// Released notes that everything of a node that was given up has been released.
func (p *Place) Released(ctx context.Context, node string) error {
	const op = "store.Released"
	if err := p.connected(ctx); err != nil {
		return err
	}
	_, err := p.seat.conn.Exec(ctx, releasedNodeSQL, pgx.NamedArgs{"node": node})
	return p.broken(op, err)
}

// End gives the place up, after everything of the node has been released.
func (p *Place) End(ctx context.Context) error {
	defer p.seat.close()
	if p.seat.conn == nil {
		return nil
	}
	_, err := p.seat.conn.Exec(ctx, endNodeSQL, pgx.NamedArgs{"node": p.node, "id": p.id})
	return translate("store.End", err)
}

func (p *Place) connected(ctx context.Context) error {
	if p.seat.conn != nil && !p.seat.conn.IsClosed() {
		return nil
	}
	p.seat.close()
	p.cursor = "" // transaction numbers may have been given out again
	return p.seat.try(ctx)
}

// broken closes a connection that has failed.
func (p *Place) broken(op string, err error) error {
	if err == nil {
		return nil
	}
	p.seat.close()
	p.cursor = ""
	return translate(op, err)
}

// journalKeeps is how long the lines of the journal are kept, and journalTrusts how
// old the last reading may be for the next one to find all that came since.
const (
	journalKeeps  = time.Minute
	journalTrusts = 45 * time.Second
)

// Everything that the last snapshot did not see, or without one all that is kept.
const readJournalSQL = `
SELECT pg_current_snapshot()::text, j.conversations, j.seqs, j.versions, j.members, j.user_id, coalesce(j.client_id, ''), coalesce(j.epoch, 0), coalesce(j.resumed, false)
FROM (SELECT) AS one LEFT JOIN journal j ON j.node <> @id AND CASE
  WHEN @cursor = '' THEN j.at > clock_timestamp() - make_interval(secs => @keeps)
  ELSE j.xid >= pg_snapshot_xmin(nullif(@cursor, '')::pg_snapshot) AND NOT pg_visible_in_snapshot(j.xid, nullif(@cursor, '')::pg_snapshot)
END`

// ReadJournal returns what the other nodes have stored since the last reading. whole
// is false if there may have been more than is kept: after a pause, or at first.
func (p *Place) ReadJournal(ctx context.Context) (list []chat.OutboxEntry, whole bool, err error) {
	const op = "store.ReadJournal"
	if err := p.connected(ctx); err != nil {
		return nil, false, err
	}
	start := time.Now()
	if start.Sub(p.read) > journalTrusts {
		p.cursor = ""
	}
	whole = !p.read.IsZero() && start.Sub(p.read) <= journalTrusts
	rows, err := p.seat.conn.Query(ctx, readJournalSQL, pgx.NamedArgs{"id": p.id, "cursor": p.cursor, "keeps": journalKeeps.Seconds()})
	if err != nil {
		return nil, false, p.broken(op, err)
	}
	var cursor string
	var ids []chat.ID
	var seqs, versions []int64
	var members *bool
	var user *chat.ID
	var taken chat.SupersededNotice
	_, err = pgx.ForEachRow(rows, []any{&cursor, &ids, &seqs, &versions, &members, &user, &taken.ClientID, &taken.Epoch, &taken.Resumed}, func() error {
		if user != nil {
			t := taken
			t.UserID = *user
			list = append(list, chat.OutboxEntry{Superseded: &t})
		}
		for i := range min(len(ids), len(seqs), len(versions)) {
			list = append(list, chat.OutboxEntry{ConversationID: ids[i], Seq: seqs[i], MembersVersion: versions[i], Members: *members})
		}
		return nil
	})
	if err != nil {
		return nil, false, p.broken(op, err)
	}
	p.cursor, p.read = cursor, start
	return list, whole, nil
}

const pruneJournalSQL = `
DELETE FROM journal WHERE node = @id AND at < clock_timestamp() - make_interval(secs => @keeps)`

const pruneOldJournalSQL = `
DELETE FROM journal WHERE at < clock_timestamp() - make_interval(secs => 10 * @keeps)`

// PruneJournal removes what nobody reads any more: this node's lines, and those that
// nodes have left which are gone. It may be repeated.
func (p *Place) PruneJournal(ctx context.Context) error {
	const op = "store.PruneJournal"
	if err := p.connected(ctx); err != nil {
		return err
	}
	for _, sql := range []string{pruneJournalSQL, pruneOldJournalSQL} {
		if _, err := p.seat.conn.Exec(ctx, sql, pgx.NamedArgs{"id": p.id, "keeps": journalKeeps.Seconds()}); err != nil {
			return p.broken(op, err)
		}
	}
	return nil
}
