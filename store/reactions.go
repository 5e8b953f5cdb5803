package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// The first text of an edited message, then those of its edits. A message that was
// never edited says what it was sent with.
const listEditsSQL = `
SELECT m.seq, coalesce(o.content, m.content), m.created_at
FROM events m LEFT JOIN message_originals o ON o.conversation_id = m.conversation_id AND o.message_id = m.id
WHERE m.conversation_id = @conversation_id AND m.seq = @seq AND m.seq > @after AND m.deleted_at IS NULL
UNION ALL
(SELECT seq, content, created_at FROM events
 WHERE conversation_id = @conversation_id AND type = 'edit' AND detail ->> 'messageId' = @message_id AND seq > @after AND deleted_at IS NULL
 ORDER BY seq LIMIT @limit)
ORDER BY 1 LIMIT @limit`

// ListEdits implements chat.MessageStore, in two round trips.
func (s *Store) ListEdits(ctx context.Context, user, message chat.ID, after int64, limit int) ([]chat.MessageText, error) {
	const op = "store.ListEdits"
	m, err := s.GetMessage(ctx, user, message)
	if err != nil {
		return nil, err
	}
	texts, err := collect(ctx, s.pool,
		fields(func(t *chat.MessageText) []any { return []any{&t.Seq, &t.Content, &t.CreatedAt} }),
		listEditsSQL, pgx.NamedArgs{"conversation_id": m.ConversationID, "seq": m.Seq, "message_id": message.String(), "after": after, "limit": limit},
	)
	return texts, translate(op, err)
}

const countReactionsSQL = `
SELECT message_id, emoji, count(*), bool_or(user_id = @user_id)
FROM reactions WHERE conversation_id = @conversation_id AND message_id = ANY(@messages)
GROUP BY message_id, emoji ORDER BY message_id, min(created_at), emoji`

// CountReactions implements chat.MessageStore.
func (s *Store) CountReactions(ctx context.Context, user, conversation chat.ID, messages []chat.ID) (map[chat.ID][]chat.ReactionCount, error) {
	const op = "store.CountReactions"
	if len(messages) == 0 {
		return nil, nil
	}
	rows, err := s.pool.Query(ctx, countReactionsSQL, pgx.NamedArgs{"user_id": user, "conversation_id": conversation, "messages": messages})
	if err != nil {
		return nil, translate(op, err)
	}
	counts := map[chat.ID][]chat.ReactionCount{}
	var message chat.ID
	var c chat.ReactionCount
	_, err = pgx.ForEachRow(rows, []any{&message, &c.Emoji, &c.Users, &c.Mine}, func() error {
		counts[message] = append(counts[message], c)
		return nil
	})
	return counts, translate(op, err)
}

// The order is by bytes, whatever the database's collation, as the key's is not: a
// message has so few that they are sorted here.
const listReactionsSQL = `
SELECT r.emoji, r.user_id, r.created_at
FROM events m JOIN participants p ON p.conversation_id = m.conversation_id AND p.user_id = @user_id AND p.joined_seq <= m.seq
LEFT JOIN LATERAL (
  SELECT * FROM reactions
  WHERE conversation_id = m.conversation_id AND message_id = m.id AND (emoji COLLATE "C", user_id) > (@emoji, coalesce(@after_user::uuid, ` + leastID + `))
  ORDER BY emoji COLLATE "C", user_id LIMIT @limit
) r ON true
WHERE m.id = @message_id AND m.type = 'message'
ORDER BY r.emoji COLLATE "C", r.user_id`

// ListReactions implements chat.MessageStore.
func (s *Store) ListReactions(ctx context.Context, user, message chat.ID, after chat.Reaction, limit int) ([]chat.Reaction, error) {
	const op = "store.ListReactions"
	rows, err := s.pool.Query(ctx, listReactionsSQL, pgx.NamedArgs{
		"user_id": user, "message_id": message, "emoji": after.Emoji, "after_user": after.UserID, "limit": limit,
	})
	if err != nil {
		return nil, translate(op, err)
	}
	seen := false
	list := []chat.Reaction{}
	var emoji *string
	var r chat.Reaction
	_, err = pgx.ForEachRow(rows, []any{&emoji, &r.UserID, scanTime(&r.CreatedAt)}, func() error {
		if seen = true; emoji != nil {
			list = append(list, chat.Reaction{Emoji: *emoji, UserID: r.UserID, CreatedAt: r.CreatedAt})
		}
		return nil
	})
	if err == nil && !seen {
		err = pgx.ErrNoRows
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notFound(op, "messageId", "message", message)
	}
	return list, translate(op, err)
}
