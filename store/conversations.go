package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

var _ chat.Store = (*Store)(nil)

// conversationSQL completes a query after a CTE "page" of conversations with the asking
// member's own row: it selects what that member sees. Unread messages are counted in the log.
const conversationSQL = `
SELECT page.id, page.kind, page.title, page.history, page.created_by, page.created_at, page.last_seq, page.last_event_at, page.read_at,
  (SELECT count(*) FROM participants p WHERE p.conversation_id = page.id),
  ` + unreadSQL + `,
  m.*
FROM page LEFT JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events
  WHERE conversation_id = page.id AND seq >= page.joined_seq AND type = 'message'
  ORDER BY seq DESC LIMIT 1
) m ON true
ORDER BY page.last_event_at DESC, page.id DESC`

// unreadSQL counts the messages of others after the member's read position and joining,
// without deleted ones. More than 1,000 events are not counted one by one: from their number
// are subtracted those that do not count, which are few, and the member's own, which are
// found by the key of client_msg_id. Otherwise a page of 50 conversations with 100,000 unread
// messages each took seconds.
const unreadSQL = `(
    SELECT CASE WHEN page.last_seq - seen.seq <= 1000 THEN (
      SELECT count(*) FROM events u
      WHERE u.conversation_id = page.id AND u.seq > seen.seq AND u.type = 'message' AND u.sender_id <> @user_id AND u.deleted_at IS NULL
    ) ELSE page.last_seq - seen.seq - (
      SELECT count(*) FROM events u
      WHERE u.conversation_id = page.id AND u.seq > seen.seq AND (u.type <> 'message' OR u.deleted_at IS NOT NULL)
        AND NOT (u.sender_id = @user_id AND u.client_msg_id IS NOT NULL)
    ) - (
      SELECT count(*) FROM events u
      WHERE u.conversation_id = page.id AND u.sender_id = @user_id AND u.client_msg_id IS NOT NULL AND u.seq + 0 > seen.seq
    ) END
    FROM (SELECT greatest(page.read_seq, page.joined_seq - 1) AS seq) seen
  )`

const (
	getConversationSQL = `
WITH page AS MATERIALIZED (
  SELECT c.*, p.joined_seq, p.read_seq, p.read_at
  FROM participants p JOIN conversations c ON c.id = p.conversation_id
  WHERE p.user_id = @user_id AND p.conversation_id = @id
)` + conversationSQL

	// There is no index on last_event_at, to keep storing messages cheap: a page reads all
	// conversations of its user.
	listConversationsSQL = `
WITH page AS MATERIALIZED (
  SELECT c.*, p.joined_seq, p.read_seq, p.read_at
  FROM participants p JOIN conversations c ON c.id = p.conversation_id
  WHERE p.user_id = @user_id AND (@id::uuid IS NULL OR (c.last_event_at, c.id) < (@last_event_at::timestamptz, @id))
  ORDER BY c.last_event_at DESC, c.id DESC LIMIT @limit
)` + conversationSQL

	listParticipantsSQL = `
SELECT p.conversation_id, p.user_id, coalesce(u.username, ''), coalesce(u.display_name, ''), p.role, p.joined_at
FROM unnest(@ids::uuid[]) AS page (id)
CROSS JOIN LATERAL (
  SELECT * FROM participants WHERE conversation_id = page.id ORDER BY user_id LIMIT @limit
) p
LEFT JOIN users u ON u.id = p.user_id
ORDER BY p.conversation_id, p.user_id`
)

func scanConversation(row pgx.CollectableRow) (chat.Conversation, error) {
	var c chat.Conversation
	var last eventRow
	err := row.Scan(append([]any{
		&c.ID, &c.Kind, &c.Title, &c.History, &c.CreatedBy, &c.CreatedAt, &c.LastSeq, &c.LastEventAt, scanTime(&c.LastReadAt), &c.ParticipantCount, &c.UnreadCount,
	}, last.targets()...)...)
	if err != nil || last.event.Seq == 0 {
		return c, err
	}
	e, err := last.toEvent()
	c.LastMessage = &e
	return c, err
}

// GetConversation implements chat.Store; all participants are in the answer.
func (s *Store) GetConversation(ctx context.Context, user, conversation chat.ID) (*chat.Conversation, error) {
	const op = "store.GetConversation"
	c, err := getConversation(ctx, s.pool, op, user, conversation)
	return c, translate(op, err)
}

func getConversation(ctx context.Context, q querier, op string, user, id chat.ID) (*chat.Conversation, error) {
	found, err := collect(ctx, q, scanConversation, getConversationSQL, pgx.NamedArgs{"user_id": user, "id": id})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, noConversation(op, id)
	}
	if err := addParticipants(ctx, q, found, chat.MaxGroupMembers); err != nil {
		return nil, err
	}
	return &found[0], nil
}

// ListConversations implements chat.Store. It makes two round trips. A
// conversation that gets an event between two pages moves to the front, out of
// the pages still to come; all others are in exactly one page.
func (s *Store) ListConversations(ctx context.Context, user chat.ID, after chat.ConversationCursor, limit int) (*chat.ConversationPage, error) {
	const op = "store.ListConversations"
	limit = min(max(limit, 1), chat.MaxPageSize)
	items, err := collect(ctx, s.pool, scanConversation, listConversationsSQL, pgx.NamedArgs{
		"user_id": user, "id": after.ID, "last_event_at": nullTime(after.LastEventAt), "limit": limit + 1,
	})
	if err != nil {
		return nil, translate(op, err)
	}
	var page chat.ConversationPage
	if len(items) > limit {
		items = items[:limit]
		last := &items[limit-1]
		page.Next = chat.ConversationCursor{LastEventAt: last.LastEventAt, ID: last.ID}
	}
	if err := addParticipants(ctx, s.pool, items, chat.MaxListedMembers); err != nil {
		return nil, translate(op, err)
	}
	page.Items = items
	return &page, nil
}

// addParticipants fills in the first participants of each conversation.
func addParticipants(ctx context.Context, q querier, conversations []chat.Conversation, limit int) error {
	if len(conversations) == 0 {
		return nil
	}
	ids := make([]chat.ID, len(conversations))
	place := make(map[chat.ID]*chat.Conversation, len(conversations))
	for i := range conversations {
		ids[i] = conversations[i].ID
		place[ids[i]] = &conversations[i]
	}
	var id chat.ID
	var p chat.Participant
	return forEach(ctx, q, []any{&id, &p.UserID, &p.Username, &p.DisplayName, &p.Role, &p.JoinedAt}, func() {
		c := place[id]
		c.Participants = append(c.Participants, p)
	}, listParticipantsSQL, pgx.NamedArgs{"ids": ids, "limit": limit})
}

// CreateConversation implements chat.Store. The users must be enabled; the first
// in the order of n.Users who is not there, or disabled, is named by NotFound
// with Field "otherUserId" or "userIds"; of the others, the first whom the creator
// has blocked, or who has blocked the creator, by Forbidden. Unauthenticated if the
// creator is not there.
// After Unavailable it may have been stored: a repeat finds a direct conversation
// (Conflict), and makes a second group.
func (s *Store) CreateConversation(ctx context.Context, n chat.NewConversation, now time.Time) (*chat.Conversation, *chat.Event, error) {
	const op = "store.CreateConversation"
	users := append([]chat.ID{n.Creator}, n.Users...)
	if n.ID.IsZero() {
		n.ID = chat.NewID()
	}
	e := &chat.Event{
		ConversationID: n.ID, Seq: 1, Type: chat.EventConversation, ID: chat.NewID(), SenderID: n.Creator, CreatedAt: now,
		EventDetail: chat.EventDetail{Op: chat.OpCreated, Kind: n.Kind, Title: n.Title, UserIDs: users[:min(len(users), chat.MaxEventUsers)]},
	}
	var c *chat.Conversation
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if n.Kind == chat.Direct {
			if err := claimPair(ctx, tx, op, n, e.ConversationID); err != nil {
				return err
			}
		}
		if err := requireUsers(ctx, tx, op, n); err != nil {
			return err
		}
		if err := insertConversation(ctx, tx, n, users, e); err != nil {
			return err
		}
		if err := s.writeOutbox(ctx, tx, e.ConversationID, e.Seq, 1, true); err != nil {
			return err
		}
		var err error
		c, err = getConversation(ctx, tx, op, n.Creator, e.ConversationID)
		return err
	})
	if err != nil {
		return nil, nil, translate(op, err)
	}
	return c, e, nil
}

const (
	claimPairSQL = `
INSERT INTO direct_conversations (low_user_id, high_user_id, conversation_id) VALUES (@low, @high, @id)
ON CONFLICT ON CONSTRAINT direct_conversations_pair DO NOTHING`
	getPairSQL = `SELECT conversation_id FROM direct_conversations WHERE low_user_id = @low AND high_user_id = @high`
)

// claimPair claims the pair's direct conversation for this transaction to create, or returns
// Conflict with the existing one. Of concurrent callers the first succeeds, and the others
// wait for its commit.
func claimPair(ctx context.Context, tx pgx.Tx, op string, n chat.NewConversation, id chat.ID) error {
	if len(n.Users) != 1 {
		return &chat.Error{Code: chat.Invalid, Op: op, Field: "otherUserId", Msg: "must be one user"}
	}
	pair := pairArgs(n.Creator, n.Users[0])
	pair["id"] = id
	if _, err := tx.Exec(ctx, lockPairSQL, pair); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, claimPairSQL, pair)
	if err != nil || tag.RowsAffected() == 1 {
		return err
	}
	existing, err := collectOne(ctx, tx, pgx.RowTo[chat.ID], getPairSQL, pair)
	if err != nil {
		return err
	}
	return &chat.Error{Code: chat.Conflict, Op: op, Field: "otherUserId", Existing: existing, Msg: "you have a direct conversation already"}
}

// A look-up for each user, not a join: without statistics, as after an import, the
// planner takes a loop over both sides, which for 10,000 users takes seconds.
const missingUserSQL = `
SELECT wanted.id FROM unnest(@ids::uuid[]) WITH ORDINALITY AS wanted (id, place)
WHERE (SELECT u.disabled_at IS NULL FROM users u WHERE u.id = wanted.id) IS NOT TRUE
ORDER BY wanted.place LIMIT 1`

func requireUsers(ctx context.Context, tx pgx.Tx, op string, n chat.NewConversation) error {
	field := "userIds"
	if n.Kind == chat.Direct {
		field = "otherUserId"
	}
	if err := requireReachable(ctx, tx, op, n.Creator, n.Users, field); err != nil {
		return err
	}
	missing, err := collect(ctx, tx, pgx.RowTo[chat.ID], missingUserSQL, pgx.NamedArgs{"ids": []chat.ID{n.Creator}})
	if err != nil || len(missing) == 0 {
		return err
	}
	return &chat.Error{Code: chat.Unauthenticated, Op: op, Msg: "there is no user " + n.Creator.String()}
}

const (
	insertConversationSQL = `
INSERT INTO conversations (id, kind, title, created_by, created_at, last_seq, last_event_at)
VALUES (@conversation_id, @kind, @title, @sender_id, @created_at, @seq, @created_at)`

	insertParticipantsSQL = `
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq)
SELECT @conversation_id, u.id, CASE WHEN @kind::text = 'group' AND u.id = @sender_id THEN 'owner' ELSE 'member' END, @created_at, @seq
FROM unnest(@user_ids::uuid[]) AS u (id)`

	insertEventSQL = `
INSERT INTO events (conversation_id, seq, id, sender_id, created_at, type, detail)
VALUES (@conversation_id, @seq, @id, @sender_id, @created_at, @type, @detail)`
)

func insertConversation(ctx context.Context, tx pgx.Tx, n chat.NewConversation, users []chat.ID, created *chat.Event) error {
	detail, err := detailJSON(&created.EventDetail)
	if err != nil {
		return err
	}
	args := pgx.NamedArgs{
		"conversation_id": created.ConversationID, "seq": created.Seq, "id": created.ID, "sender_id": created.SenderID, "created_at": created.CreatedAt,
		"type": created.Type, "kind": n.Kind, "title": n.Title, "user_ids": users, "detail": detail,
	}
	for _, sql := range []string{insertConversationSQL, insertParticipantsSQL, insertEventSQL} {
		if _, err := tx.Exec(ctx, sql, args); err != nil {
			return err
		}
	}
	return nil
}
