package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// The outbox tells nodes what the others have stored, in case a notice over Redis is lost: a
// transaction that appends to logs, changes members or takes over a session also inserts a
// row. Only nodes that share their database write it; they read it with NodeLease.ReadOutbox,
// and rows are kept for a minute. Its table is named journal, for older binaries beside this one.

// UseOutbox makes commits from now on leave outbox rows, under the id of this node. It must
// be called before anything is stored, and may be repeated with another id.
func (s *Store) UseOutbox(id string) { s.node.Store(&id) }

// OutboxNode returns the id given to UseOutbox; "": there is no outbox.
func (s *Store) OutboxNode() string {
	if id := s.node.Load(); id != nil {
		return *id
	}
	return ""
}

const outboxLogSQL = `
INSERT INTO journal (node, conversations, seqs, versions, members) VALUES (@node, ARRAY[@id::uuid], ARRAY[@seq::int8], ARRAY[@version::int8], @members)`

// writeOutbox leaves a row that a log has moved, or that its members have changed.
func (s *Store) writeOutbox(ctx context.Context, q querier, conversation chat.ID, seq, version int64, members bool) error {
	node := s.OutboxNode()
	if node == "" {
		return nil
	}
	_, err := q.Exec(ctx, outboxLogSQL, pgx.NamedArgs{"node": node, "id": conversation, "seq": seq, "version": version, "members": members})
	return err
}

const outboxTakeOverSQL = `
INSERT INTO journal (node, user_id, client_id, epoch, resumed) VALUES (@node, @user_id, @client_id, @epoch, false)`
