package store

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// The journal is how nodes hear, in the end, of what the others have stored: a commit
// that moves logs leaves a line of it, in the same transaction. It is written where
// there are several nodes; see Place.ReadJournal.

// KeepJournal has what is stored from now on written into the journal, in the name of
// the node with this id. It must be called before anything is stored, and may be
// repeated with another id.
func (s *Store) KeepJournal(id string) { s.node.Store(&id) }

// JournalNode returns the id given to KeepJournal; "": there is no journal.
func (s *Store) JournalNode() string {
	if id := s.node.Load(); id != nil {
		return *id
	}
	return ""
}

const noteJournalSQL = `
INSERT INTO journal (node, conversations, seqs, versions, members) VALUES (@node, ARRAY[@id::uuid], ARRAY[@seq::int8], ARRAY[@version::int8], @members)`

// noteJournal writes that a log has moved, or that its members have changed.
func (s *Store) noteJournal(ctx context.Context, q querier, conversation chat.ID, seq, version int64, members bool) error {
	node := s.JournalNode()
	if node == "" {
		return nil
	}
	_, err := q.Exec(ctx, noteJournalSQL, pgx.NamedArgs{"node": node, "id": conversation, "seq": seq, "version": version, "members": members})
	return err
}

const noteTakenSQL = `
INSERT INTO journal (node, user_id, client_id, epoch, resumed) VALUES (@node, @user_id, @client_id, @epoch, false)`

// appendJournaledSQL is appendSQL with a line in the journal of node $13. It stores
// nothing if one of the connections (users $14, devices $15, epochs $16) is not its
// device's newest any more: those are the rows with a negative base, which counts them
// from -1.
var appendJournaledSQL = strings.NewReplacer(
	"), moved AS (", `), passed AS MATERIALIZED (
  SELECT f.user_id, f.place FROM unnest($14::uuid[], $15::text[], $16::int8[]) WITH ORDINALITY AS f (user_id, client_id, epoch, place)
  JOIN sessions s ON s.user_id = f.user_id AND s.client_id = f.client_id AND s.epoch > f.epoch
), moved AS (`,
	"WHERE c.id = n.id AND c.members_version = n.members_version", "WHERE c.id = n.id AND c.members_version = n.members_version AND NOT EXISTS (SELECT FROM passed)",
	"c.last_event_at\n), stored AS (", `c.last_event_at, c.last_seq, c.members_version
), noted AS (
  INSERT INTO journal (node, conversations, seqs, versions)
  SELECT $13, array_agg(m.id), array_agg(m.last_seq), array_agg(m.members_version) FROM moved m HAVING count(*) > 0
), stored AS (`,
	"SELECT id, base, last_event_at FROM moved", `SELECT id, base, last_event_at FROM moved
UNION ALL SELECT user_id, -place, '-infinity' FROM passed`,
).Replace(appendSQL)
