package store

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// Witness remembers some of the events that a node has stored, so that it can tell whether
// the database still has all of them: the last one of each of a fixed number of groups of
// conversations. Conversations of one group are stored by one connection, one commit after
// the other, and what a database loses are its last commits; so where an event is lost, so
// is the last one of its group. It is safe for concurrent use.
type Witness struct {
	mu   sync.Mutex
	last [witnessGroups]struct { // mu guards
		conversation, id chat.ID
		seq              int64
	}
}

const witnessGroups = 64

// Note says that an event is stored. Events of a conversation come in their order.
func (w *Witness) Note(e *chat.Event) {
	l := &w.last[e.ConversationID.Shard(witnessGroups)]
	w.mu.Lock()
	l.conversation, l.id, l.seq = e.ConversationID, e.ID, e.Seq
	w.mu.Unlock()
}

const witnessSQL = `
SELECT EXISTS (SELECT FROM unnest(@conversations::uuid[], @seqs::int8[], @ids::uuid[]) AS w (conversation_id, seq, id)
WHERE NOT EXISTS (SELECT FROM events e WHERE e.conversation_id = w.conversation_id AND e.seq = w.seq AND e.id = w.id))`

// missing reports whether the database lacks one of the events.
func (w *Witness) missing(ctx context.Context, q querier) (bool, error) {
	var conversations, ids []chat.ID
	var seqs []int64
	w.mu.Lock()
	for _, l := range w.last {
		if l.seq > 0 {
			conversations, ids, seqs = append(conversations, l.conversation), append(ids, l.id), append(seqs, l.seq)
		}
	}
	w.mu.Unlock()
	if len(ids) == 0 {
		return false, nil
	}
	return collectOne(ctx, q, pgx.RowTo[bool], witnessSQL, pgx.NamedArgs{"conversations": conversations, "ids": ids, "seqs": seqs})
}
