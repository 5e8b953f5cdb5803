package store

import (
	"context"

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
SELECT r.message_id, r.emoji, count(*), bool_or(r.user_id = @user_id)
FROM unnest(@conversations::uuid[], @messages::uuid[]) AS m (conversation_id, id)
JOIN reactions r ON r.conversation_id = m.conversation_id AND r.message_id = m.id
GROUP BY r.message_id, r.emoji ORDER BY r.message_id, min(r.created_at), r.emoji`

// CountReactions implements chat.MessageStore.
func (s *Store) CountReactions(ctx context.Context, user chat.ID, messages []chat.Event) (map[chat.ID][]chat.ReactionCount, error) {
	if len(messages) == 0 {
		return nil, nil
	}
	conversations, ids := make([]chat.ID, len(messages)), make([]chat.ID, len(messages))
	for i := range messages {
		conversations[i], ids[i] = messages[i].ConversationID, messages[i].ID
	}
	counts := map[chat.ID][]chat.ReactionCount{}
	var message chat.ID
	var c chat.ReactionCount
	err := forEach(ctx, s.pool, []any{&message, &c.Emoji, &c.Users, &c.Mine}, func() {
		counts[message] = append(counts[message], c)
	}, countReactionsSQL, pgx.NamedArgs{"user_id": user, "conversations": conversations, "messages": ids})
	return counts, translate("store.CountReactions", err)
}

// The order is by bytes, whatever the database's collation, as the key's is not: a
// message has so few that they are sorted here.
const listReactionsSQL = `
SELECT r.emoji, r.user_id, r.created_at
FROM (
  SELECT * FROM (SELECT id, conversation_id, seq FROM events WHERE id = @message_id AND type = 'message' OFFSET 0) e
  WHERE EXISTS (SELECT FROM participants p WHERE p.conversation_id = e.conversation_id AND p.user_id = @user_id AND p.joined_seq <= e.seq OFFSET 0)
) m
LEFT JOIN LATERAL (
  SELECT * FROM reactions
  WHERE conversation_id = m.conversation_id AND message_id = m.id AND (emoji COLLATE "C", user_id) > (@emoji, coalesce(@after_user::uuid, ` + leastID + `))
  ORDER BY emoji COLLATE "C", user_id LIMIT @limit
) r ON true
ORDER BY r.emoji COLLATE "C", r.user_id`

// ListReactions implements chat.MessageStore.
func (s *Store) ListReactions(ctx context.Context, user, message chat.ID, after chat.Reaction, limit int) ([]chat.Reaction, error) {
	const op = "store.ListReactions"
	seen := false
	list := []chat.Reaction{}
	var emoji *string
	var r chat.Reaction
	err := forEach(ctx, s.pool, []any{&emoji, &r.UserID, scanTime(&r.CreatedAt)}, func() {
		if seen = true; emoji != nil {
			list = append(list, chat.Reaction{Emoji: *emoji, UserID: r.UserID, CreatedAt: r.CreatedAt})
		}
	}, listReactionsSQL, pgx.NamedArgs{
		"user_id": user, "message_id": message, "emoji": after.Emoji, "after_user": after.UserID, "limit": limit,
	})
	switch {
	case err != nil:
		return nil, translate(op, err)
	case !seen:
		return nil, notFound(op, "messageId", "message", message)
	}
	return list, nil
}
