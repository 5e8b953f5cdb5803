package store

import (
	"context"
	"encoding/json"
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
	last [witnessGroups]witnessed // mu guards
}

type witnessed struct {
	ConversationID chat.ID `json:"conversationId"`
	Seq            int64   `json:"seq"`
	ID             chat.ID `json:"id"`
}

const witnessGroups = 64

// Note says that an event is stored. Events of a conversation come in their order.
func (w *Witness) Note(e *chat.Event) {
	w.mu.Lock()
	w.last[e.ConversationID.Shard(witnessGroups)] = witnessed{e.ConversationID, e.Seq, e.ID}
	w.mu.Unlock()
}

func (w *Witness) list() []witnessed {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := []witnessed{}
	for _, l := range w.last {
		if l.Seq > 0 {
			all = append(all, l)
		}
	}
	return all
}

// MarshalJSON implements json.Marshaler.
func (w *Witness) MarshalJSON() ([]byte, error) { return json.Marshal(w.list()) }

// UnmarshalJSON implements json.Unmarshaler, for what MarshalJSON returns. Of several events
// of one group the last one counts.
func (w *Witness) UnmarshalJSON(b []byte) error {
	var all []witnessed
	if err := json.Unmarshal(b, &all); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range all {
		w.last[l.ConversationID.Shard(witnessGroups)] = l
	}
	return nil
}

// Misses reports whether the database lacks one of the events of a witness.
func (s *Store) Misses(ctx context.Context, w *Witness) (bool, error) {
	missing, err := w.missing(ctx, s.pool)
	return missing, translate("store.Misses", err)
}

const witnessSQL = `
SELECT EXISTS (SELECT FROM unnest(@conversations::uuid[], @seqs::int8[], @ids::uuid[]) AS w (conversation_id, seq, id)
WHERE NOT EXISTS (SELECT FROM events e WHERE e.conversation_id = w.conversation_id AND e.seq = w.seq AND e.id = w.id))`

// missing reports whether the database lacks one of the events.
func (w *Witness) missing(ctx context.Context, q querier) (bool, error) {
	var conversations, ids []chat.ID
	var seqs []int64
	for _, l := range w.list() {
		conversations, seqs, ids = append(conversations, l.ConversationID), append(seqs, l.Seq), append(ids, l.ID)
	}
	if len(ids) == 0 {
		return false, nil
	}
	return collectOne(ctx, q, pgx.RowTo[bool], witnessSQL, pgx.NamedArgs{"conversations": conversations, "ids": ids, "seqs": seqs})
}
