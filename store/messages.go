package store

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// Pages of messages are stretches of the log's primary key, read from one end:
// as fast at any depth, which TestPagesUseTheKey holds them to. A page is read
// with one message more, to know whether there are more.
const (
	olderMessagesSQL = `
SELECT e.* FROM participants p LEFT JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events
  WHERE conversation_id = p.conversation_id AND seq >= p.joined_seq AND seq < @before AND type = 'message'
  ORDER BY seq DESC LIMIT @limit
) e ON true
WHERE p.conversation_id = @conversation_id AND p.user_id = @user_id
ORDER BY e.seq DESC`

	newerMessagesSQL = `
SELECT e.* FROM participants p LEFT JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events
  WHERE conversation_id = p.conversation_id AND seq >= p.joined_seq AND seq > @after AND type = 'message'
  ORDER BY seq LIMIT @limit
) e ON true
WHERE p.conversation_id = @conversation_id AND p.user_id = @user_id
ORDER BY e.seq`

	// IS TRUE keeps the planner from looking for the message in the whole conversation.
	messagesAroundSQL = `
WITH target AS MATERIALIZED (
  SELECT p.conversation_id, p.joined_seq, (
    SELECT m.seq FROM events m
    WHERE m.id = @around AND (m.conversation_id = p.conversation_id) IS TRUE AND m.type = 'message' AND m.seq >= p.joined_seq
  ) AS seq
  FROM participants p WHERE p.conversation_id = @conversation_id AND p.user_id = @user_id
)
SELECT e.* FROM target t LEFT JOIN LATERAL (
  (SELECT ` + eventColumns + ` FROM events
   WHERE conversation_id = t.conversation_id AND seq > t.seq AND type = 'message'
   ORDER BY seq LIMIT @limit)
  UNION ALL
  (SELECT ` + eventColumns + ` FROM events
   WHERE conversation_id = t.conversation_id AND seq BETWEEN t.joined_seq AND t.seq AND type = 'message'
   ORDER BY seq DESC LIMIT @limit)
) e ON true
ORDER BY e.seq DESC`
)

// ListMessages implements chat.Store. Tombstones are among the items. Around
// fills the page from the other side where one side has too few; NotFound with
// Field "around" if the message is not one of the conversation's.
func (s *Store) ListMessages(ctx context.Context, q chat.MessageQuery) (*chat.MessagePage, error) {
	const op = "store.ListMessages"
	limit := min(max(q.Limit, 1), chat.MaxPageSize)
	args := pgx.NamedArgs{"conversation_id": q.ConversationID, "user_id": q.UserID, "limit": limit + 1}
	if !q.Around.IsZero() {
		return s.listAround(ctx, op, q, limit)
	}
	sql := olderMessagesSQL
	switch {
	case q.HasAfter:
		sql, args["after"] = newerMessagesSQL, q.After
	case q.Before > 0:
		args["before"] = q.Before
	default:
		args["before"] = int64(math.MaxInt64)
	}
	rows, err := collect(ctx, s.pool, scanEvent, sql, args)
	if err != nil {
		return nil, translate(op, err)
	}
	items, err := memberEvents(op, q.ConversationID, rows)
	if err != nil {
		return nil, err
	}
	more := len(items) > limit
	return &chat.MessagePage{Items: items[:min(limit, len(items))], More: more}, nil
}

func (s *Store) listAround(ctx context.Context, op string, q chat.MessageQuery, limit int) (*chat.MessagePage, error) {
	rows, err := collect(ctx, s.pool, scanEvent, messagesAroundSQL, pgx.NamedArgs{
		"conversation_id": q.ConversationID, "user_id": q.UserID, "around": q.Around, "limit": limit + 1,
	})
	if err != nil {
		return nil, translate(op, err)
	}
	items, err := memberEvents(op, q.ConversationID, rows)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, notFound(op, "around", "message", q.Around)
	}
	target := 0
	for items[target].ID != q.Around {
		target++
	}
	begin := max(0, target-limit/2)
	begin = max(0, min(begin, len(items)-limit)) // too few older ones: more of the newer
	end := min(begin+limit, len(items))
	return &chat.MessagePage{Items: items[begin:end], More: end < len(items)}, nil
}

// OFFSET 0 keeps the planner from beginning with the conversations of the user.
const getMessageSQL = `
SELECT e.* FROM (SELECT ` + eventColumns + ` FROM events WHERE id = @id AND type = 'message' OFFSET 0) e
WHERE EXISTS (SELECT FROM participants p WHERE p.conversation_id = e.conversation_id AND p.user_id = @user_id AND p.joined_seq <= e.seq OFFSET 0)`

// GetMessage implements chat.Store.
func (s *Store) GetMessage(ctx context.Context, user, message chat.ID) (*chat.Event, error) {
	e, err := collectOne(ctx, s.pool, scanEvent, getMessageSQL, pgx.NamedArgs{"id": message, "user_id": user})
	return found(e, err, "store.GetMessage", "messageId", "message", message)
}
