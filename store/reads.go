package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// An index look-up for each participant, locked in order of conversation, then user.
// Conversations, which the writer locks, are not. The update evaluates its condition on the
// row as it is after any wait for its lock.
//
// A participant reaches a seq only once; ON CONFLICT keeps a violation of that from failing
// the moves of the others.
const moveReadsSQL = `
WITH wanted AS MATERIALIZED (
  SELECT conversation_id, user_id, array_agg(seq) AS seqs
  FROM unnest(@conversations::uuid[], @users::uuid[], @seqs::int8[]) AS w (conversation_id, user_id, seq)
  GROUP BY conversation_id, user_id ORDER BY conversation_id, user_id
), places AS MATERIALIZED (
  SELECT w.conversation_id, w.user_id, c.last_seq, c.members_version, (SELECT max(seq) FROM unnest(w.seqs) AS s (seq) WHERE seq <= c.last_seq) AS seq
  FROM wanted w
  CROSS JOIN LATERAL (
    SELECT FROM participants p WHERE p.conversation_id = w.conversation_id AND p.user_id = w.user_id FOR NO KEY UPDATE
  ) p
  CROSS JOIN LATERAL (SELECT last_seq, members_version FROM conversations WHERE id = w.conversation_id OFFSET 0) c
), moved AS (
  UPDATE participants p SET read_seq = l.seq, read_at = greatest(p.read_at, @now::timestamptz), read_xid = pg_current_xact_id()
  FROM places l WHERE p.conversation_id = l.conversation_id AND p.user_id = l.user_id AND p.read_seq < l.seq
  RETURNING p.conversation_id, p.user_id, p.read_seq, p.read_at
), recorded AS (
  INSERT INTO reads (conversation_id, user_id, seq, at) SELECT conversation_id, user_id, read_seq, read_at FROM moved
  ON CONFLICT ON CONSTRAINT reads_key DO NOTHING
)
SELECT l.conversation_id, l.user_id, l.last_seq, l.members_version, coalesce(m.read_seq, 0), m.read_at
FROM places l LEFT JOIN moved m ON m.conversation_id = l.conversation_id AND m.user_id = l.user_id`

// MoveReads implements chat.ReadStore. ReadSeq is set where the move changed it.
func (s *Store) MoveReads(ctx context.Context, moves []chat.ReadMove, now time.Time) ([]chat.ReadPlace, error) {
	const op = "store.MoveReads"
	var conversations, users []chat.ID
	var seqs []int64
	for i := range moves {
		m := &moves[i]
		for _, seq := range m.Places {
			conversations, users, seqs = append(conversations, m.ConversationID), append(users, m.UserID), append(seqs, seq)
		}
	}
	args := pgx.NamedArgs{"conversations": conversations, "users": users, "seqs": seqs, "now": now}
	places, err := collect(ctx, s.pool, fields(func(p *chat.ReadPlace) []any {
		return []any{&p.ConversationID, &p.UserID, &p.LastSeq, &p.MembersVersion, &p.ReadSeq, scanTime(&p.At)}
	}), moveReadsSQL, args)
	return places, translate(op, err) // a deadlock is Unavailable, too: the caller repeats it
}

// A look-up for each message, for the reason given at missingUserSQL; else the planner
// may begin with all conversations of the user.
const locateMessagesSQL = `
SELECT m.id, m.conversation_id, m.seq FROM unnest(@ids::uuid[]) AS wanted (id)
CROSS JOIN LATERAL (
  SELECT e.id, e.conversation_id, e.seq FROM events e WHERE e.id = wanted.id AND e.type = 'message' OFFSET 0
) m
WHERE EXISTS (SELECT FROM participants p WHERE p.conversation_id = m.conversation_id AND p.user_id = @user_id AND p.joined_seq <= m.seq OFFSET 0)`

// LocateMessages implements chat.ReadStore. A message that is named twice comes twice.
func (s *Store) LocateMessages(ctx context.Context, user chat.ID, messages []chat.ID) ([]chat.Event, error) {
	found, err := collect(ctx, s.pool,
		fields(func(e *chat.Event) []any { return []any{&e.ID, &e.ConversationID, &e.Seq} }),
		locateMessagesSQL, pgx.NamedArgs{"user_id": user, "ids": messages},
	)
	return found, translate("store.LocateMessages", err)
}

// receiptsOf selects the participants whose receipts of a message the user may see: only their
// own in a direct conversation in which one has blocked the other.
const receiptsOf = `
WHERE p.conversation_id = @conversation_id AND p.user_id <> @sender_id AND p.joined_seq <= @seq
  AND NOT EXISTS (
    SELECT FROM conversations c WHERE c.id = @conversation_id AND c.kind = 'direct' AND (
      EXISTS (SELECT FROM blocks b WHERE b.user_id = p.user_id AND b.blocked_id = @user_id)
      OR EXISTS (SELECT FROM blocks b WHERE b.user_id = @user_id AND b.blocked_id = p.user_id)
    )
  )`

// A participant read the message at their first move that reaches it. What counts as read from
// before they joined, without a move, they have not read.
const readBySQL = `
SELECT p.user_id, r.at, count(*) OVER ()
FROM participants p CROSS JOIN LATERAL (
  SELECT at FROM reads WHERE conversation_id = p.conversation_id AND user_id = p.user_id AND seq >= @seq ORDER BY seq LIMIT 1
) r` + receiptsOf + ` AND p.read_seq >= @seq
ORDER BY 2, 1 LIMIT @limit`

const deliveredToSQL = `
SELECT p.user_id, count(*) OVER () FROM participants p` + receiptsOf + ` AND (p.delivered_seq >= @seq OR p.read_seq >= @seq AND EXISTS (
  SELECT FROM reads r WHERE r.conversation_id = p.conversation_id AND r.user_id = p.user_id AND r.seq >= @seq
))
ORDER BY p.user_id LIMIT @limit`

// GetReceipts implements chat.ReadStore. It looks at every participant.
func (s *Store) GetReceipts(ctx context.Context, user chat.ID, message *chat.Event) (*chat.Receipts, error) {
	const op = "store.GetReceipts"
	args := pgx.NamedArgs{
		"user_id": user, "conversation_id": message.ConversationID, "sender_id": message.SenderID, "seq": message.Seq, "limit": chat.MaxListedReceipts,
	}
	var b pgx.Batch
	var out chat.Receipts
	queue(&b, &out.ReadBy, fields(func(r *chat.ReadReceipt) []any { return []any{&r.UserID, scanTime(&r.At), &out.ReadCount} }), readBySQL, args)
	queue(&b, &out.DeliveredTo, fields(func(id *chat.ID) []any { return []any{id, &out.DeliveredCount} }), deliveredToSQL, args)
	if err := s.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, translate(op, err)
	}
	return &out, nil
}

const moveDeliveredSQL = `
WITH wanted AS MATERIALIZED (
  SELECT conversation_id, user_id, max(seq) AS seq
  FROM unnest(@conversations::uuid[], @users::uuid[], @seqs::int8[]) AS w (conversation_id, user_id, seq)
  GROUP BY conversation_id, user_id ORDER BY conversation_id, user_id
), places AS MATERIALIZED (
  SELECT w.conversation_id, w.user_id, w.seq
  FROM wanted w
  CROSS JOIN LATERAL (
    SELECT FROM participants p
    WHERE p.conversation_id = w.conversation_id AND p.user_id = w.user_id AND p.delivered_seq < w.seq FOR NO KEY UPDATE
  ) p
)
UPDATE participants p SET delivered_seq = l.seq, delivered_at = greatest(p.delivered_at, @now::timestamptz)
FROM places l JOIN conversations c ON c.id = l.conversation_id
WHERE p.conversation_id = l.conversation_id AND p.user_id = l.user_id AND p.delivered_seq < l.seq
RETURNING p.conversation_id, p.user_id, p.delivered_seq, c.members_version`

// MoveDelivered implements chat.DeliveredStore. It locks like MoveReads.
func (s *Store) MoveDelivered(ctx context.Context, moves []chat.DeliveredMove, now time.Time) ([]chat.DeliveredPlace, error) {
	conversations, users, seqs := make([]chat.ID, len(moves)), make([]chat.ID, len(moves)), make([]int64, len(moves))
	for i, m := range moves {
		conversations[i], users[i], seqs[i] = m.ConversationID, m.UserID, m.UpTo
	}
	args := pgx.NamedArgs{"conversations": conversations, "users": users, "seqs": seqs, "now": now}
	places, err := collect(ctx, s.pool, fields(func(p *chat.DeliveredPlace) []any {
		return []any{&p.ConversationID, &p.UserID, &p.UpTo, &p.MembersVersion}
	}), moveDeliveredSQL, args)
	return places, translate("store.MoveDelivered", err)
}
