package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// MaxLogPage is the most events that ReadLog returns at once.
const MaxLogPage = 1000

const readLogSQL = `
SELECT e.* FROM participants p LEFT JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events
  WHERE conversation_id = p.conversation_id AND seq >= p.joined_seq AND seq > @after
  ORDER BY seq LIMIT @limit
) e ON true
WHERE p.conversation_id = @conversation_id AND p.user_id = @user_id
ORDER BY e.seq`

// ReadLog implements chat.Store. A member for whom there is nothing new gets an
// empty slice. limit is cut to MaxLogPage.
func (s *Store) ReadLog(ctx context.Context, user, conversation chat.ID, after int64, limit int) ([]chat.Event, error) {
	const op = "store.ReadLog"
	limit = min(max(limit, 1), MaxLogPage)
	rows, err := collectEvents(ctx, s.pool, limit, readLogSQL, pgx.NamedArgs{"conversation_id": conversation, "user_id": user, "after": after, "limit": limit})
	if err != nil {
		return nil, translate(op, err)
	}
	return memberEvents(op, conversation, rows)
}

const listPositionsSQL = `
SELECT c.id, c.last_seq FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE p.user_id = @user_id
ORDER BY c.id`

// ListPositions implements chat.Store; the order is that of the conversations' ids.
func (s *Store) ListPositions(ctx context.Context, user chat.ID) ([]chat.Position, error) {
	all, err := collect(ctx, s.pool, scanPosition, listPositionsSQL, pgx.NamedArgs{"user_id": user})
	return all, translate("store.ListPositions", err)
}
