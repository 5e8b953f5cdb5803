package store

import (
	"cmp"
	"context"
	"math"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// Pages of messages are stretches of the log's primary key, read from one end: as fast at any
// depth, which TestPagesUseTheKey holds them to. A page is read with one message more, to know
// whether there are more, and with the reactions to its messages (splitPage).
const (
	olderMessagesSQL = `
WITH page AS MATERIALIZED (
  SELECT e.* FROM participants p LEFT JOIN LATERAL (
    SELECT ` + eventColumns + ` FROM events
    WHERE conversation_id = p.conversation_id AND seq >= p.joined_seq AND seq < @before AND type = 'message'
    ORDER BY seq DESC LIMIT @limit
  ) e ON true
  WHERE p.conversation_id = @conversation_id AND p.user_id = @user_id
)` + pageSQL

	newerMessagesSQL = `
WITH page AS MATERIALIZED (
  SELECT e.* FROM participants p LEFT JOIN LATERAL (
    SELECT ` + eventColumns + ` FROM events
    WHERE conversation_id = p.conversation_id AND seq >= p.joined_seq AND seq > @after AND type = 'message'
    ORDER BY seq LIMIT @limit
  ) e ON true
  WHERE p.conversation_id = @conversation_id AND p.user_id = @user_id
)` + pageSQL

	// IS TRUE keeps the planner from looking for the message in the whole conversation.
	messagesAroundSQL = `
WITH target AS MATERIALIZED (
  SELECT p.conversation_id, p.joined_seq, (
    SELECT m.seq FROM events m
    WHERE m.id = @around AND (m.conversation_id = p.conversation_id) IS TRUE AND m.type = 'message' AND m.seq >= p.joined_seq
  ) AS seq
  FROM participants p WHERE p.conversation_id = @conversation_id AND p.user_id = @user_id
), page AS MATERIALIZED (
  SELECT e.* FROM target t LEFT JOIN LATERAL (
    (SELECT ` + eventColumns + ` FROM events
     WHERE conversation_id = t.conversation_id AND seq > t.seq AND type = 'message'
     ORDER BY seq LIMIT @limit)
    UNION ALL
    (SELECT ` + eventColumns + ` FROM events
     WHERE conversation_id = t.conversation_id AND seq BETWEEN t.joined_seq AND t.seq AND type = 'message'
     ORDER BY seq DESC LIMIT @limit)
  ) e ON true
)` + pageSQL

	// Of reactions, which have no conversation here, seq is how many users, type the emoji, id
	// the message, created_at the first, and content whether the asking user is among them. Ids are
	// made in the order of the log, or almost: one stretch of the index has the reactions to a page.
	// Looking for those to each of its messages cost as much as the rest of the statement.
	pageSQL = `
SELECT * FROM page
UNION ALL
SELECT NULL, count(*), r.emoji, r.message_id, NULL, NULL, min(r.created_at), bool_or(r.user_id = @user_id)::text, NULL, NULL, NULL
FROM reactions r
WHERE r.conversation_id = @conversation_id
  AND r.message_id BETWEEN (SELECT id FROM page ORDER BY id LIMIT 1) AND (SELECT id FROM page ORDER BY id DESC NULLS LAST LIMIT 1)
GROUP BY r.message_id, r.emoji`
)

// splitPage separates the rows of pageSQL. The messages stay as memberEvents expects them, newest
// first or, with up, oldest first.
func splitPage(rows []chat.Event, up bool) ([]chat.Event, map[chat.ID][]chat.ReactionCount) {
	isReaction := func(e chat.Event) bool { return e.ConversationID.IsZero() && !e.ID.IsZero() }
	reacted := rows[len(rows):]
	if first := slices.IndexFunc(rows, isReaction); first >= 0 {
		rows, reacted = rows[:first], rows[first:]
	}
	slices.SortFunc(rows, func(a, b chat.Event) int {
		if up {
			a, b = b, a
		}
		return cmp.Compare(b.Seq, a.Seq)
	})
	if len(reacted) == 0 {
		return rows, nil
	}
	slices.SortFunc(reacted, func(a, b chat.Event) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Type, b.Type))
	})
	counts := map[chat.ID][]chat.ReactionCount{}
	for i := range reacted {
		r := &reacted[i]
		counts[r.ID] = append(counts[r.ID], chat.ReactionCount{Emoji: string(r.Type), Users: int(r.Seq), Mine: r.Content == "true"})
	}
	return rows, counts
}

// ListMessages implements chat.Store. Tombstones are among the items. Around
// fills the page from the other side where one side has too few; NotFound with
// Field "around" if the message is not one of the conversation's.
func (s *Store) ListMessages(ctx context.Context, q chat.MessageQuery) (*chat.MessagePage, error) {
	const op = "store.ListMessages"
	limit := min(max(q.Limit, 1), chat.MaxPageSize)
	args := pgx.NamedArgs{"conversation_id": q.ConversationID, "user_id": q.UserID, "limit": limit + 1}
	sql := olderMessagesSQL
	switch {
	case !q.Around.IsZero():
		sql, args["around"] = messagesAroundSQL, q.Around
	case q.HasAfter:
		sql, args["after"] = newerMessagesSQL, q.After
	case q.Before > 0:
		args["before"] = q.Before
	default:
		args["before"] = int64(math.MaxInt64)
	}
	rows, err := collectEvents(ctx, s.pool, limit+1, sql, args)
	if err != nil {
		return nil, translate(op, err)
	}
	rows, reactions := splitPage(rows, q.HasAfter)
	items, err := memberEvents(op, q.ConversationID, rows)
	if err != nil {
		return nil, err
	}
	page := &chat.MessagePage{Reactions: reactions}
	if q.Around.IsZero() {
		page.Items, page.More = items[:min(limit, len(items))], len(items) > limit
		return page, nil
	}
	target := slices.IndexFunc(items, func(e chat.Event) bool { return e.ID == q.Around })
	if target < 0 {
		return nil, notFound(op, "around", "message", q.Around)
	}
	begin := max(0, target-limit/2)
	begin = max(0, min(begin, len(items)-limit)) // too few older ones: more of the newer
	end := min(begin+limit, len(items))
	page.Items, page.More = items[begin:end], end < len(items)
	return page, nil
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
