package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// One statement, one snapshot: the members are those of that version. uuid sorts
// by its bytes, as chat.ID.Compare does, and participants_key gives that order.
const getRosterSQL = `
SELECT c.id, c.members_version, c.kind, c.last_seq, m.users, c.kind = 'direct' AND (
  EXISTS (SELECT FROM blocks b WHERE b.user_id = m.users[1] AND b.blocked_id = m.users[2])
  OR EXISTS (SELECT FROM blocks b WHERE b.user_id = m.users[2] AND b.blocked_id = m.users[1])
)
FROM conversations c
CROSS JOIN LATERAL (SELECT ARRAY(SELECT user_id FROM participants WHERE conversation_id = c.id ORDER BY user_id) AS users OFFSET 0) m
WHERE c.id = @id`

// GetRoster implements chat.Store.
func (s *Store) GetRoster(ctx context.Context, conversation chat.ID) (*chat.Roster, error) {
	return getRoster(ctx, s.pool, "store.GetRoster", conversation)
}

func getRoster(ctx context.Context, q querier, op string, conversation chat.ID) (*chat.Roster, error) {
	r, err := collectOne(ctx, q, fields(func(r *chat.Roster) []any {
		return []any{&r.ConversationID, &r.Version, &r.Kind, &r.LastSeq, &r.Members, &r.Blocked}
	}), getRosterSQL, pgx.NamedArgs{"id": conversation})
	return found(r, err, op, "conversationId", "conversation", conversation)
}
