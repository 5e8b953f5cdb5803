package store

import (
	"context"

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
