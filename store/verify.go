package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/segment"
)

// Violation is a fact in the database that contradicts one of Parley's promises.
type Violation struct {
	Rule         string  // the name of the broken rule, such as "seq"; stable
	Conversation chat.ID // where; zero if it is not about one
	Detail       string  // what was found, for people
}

// String returns the violation in one line.
func (v Violation) String() string {
	if v.Conversation.IsZero() {
		return v.Rule + ": " + v.Detail
	}
	return fmt.Sprintf("%s: conversation %s: %s", v.Rule, v.Conversation, v.Detail)
}

const wholeTablesSQL = `SELECT set_config(name, 'on', true) FROM unnest('{enable_seqscan, enable_bitmapscan}'::text[]) AS s (name)`

// MaxViolations is how many violations of each rule Verify returns at most.
const MaxViolations = 100

// verifyRules are statements that find violations. Each returns the conversation and a
// description.
var verifyRules = []struct{ name, sql string }{
	{"seq", `
SELECT c.id, format('last_seq is %s, and the log has %s events from %s to %s', c.last_seq, e.n, e.low, e.high)
FROM conversations c LEFT JOIN (
  SELECT conversation_id, count(*) AS n, min(seq) AS low, max(seq) AS high FROM events GROUP BY conversation_id
) e ON e.conversation_id = c.id
WHERE (c.last_seq, c.last_seq, least(c.last_seq, 1)) IS DISTINCT FROM (coalesce(e.n, 0), coalesce(e.high, 0), coalesce(e.low, 0))`},
	{"event-conversation", `
SELECT e.conversation_id, format('there is none, but it has %s events', count(*)) FROM events e
WHERE NOT EXISTS (SELECT FROM conversations c WHERE c.id = e.conversation_id)
GROUP BY e.conversation_id`},
	{"event-id", `
SELECT NULL::uuid, format('%s events have the id %s', count(*), id) FROM events GROUP BY id HAVING count(*) > 1`},
	{"client-msg-id", `
SELECT conversation_id, format('%s messages of user %s have the clientMsgId %s', count(*), sender_id, client_msg_id)
FROM events WHERE client_msg_id IS NOT NULL
GROUP BY conversation_id, sender_id, client_msg_id HAVING count(*) > 1`},
	{"created-at", `
SELECT conversation_id, format('event %s is of %s, the one before of %s', seq, created_at, before)
FROM (SELECT conversation_id, seq, created_at, lag(created_at) OVER (PARTITION BY conversation_id ORDER BY seq) AS before FROM events) e
WHERE created_at < before`},
	{"last-event-at", `
SELECT c.id, format('last_event_at is %s, and event %s is of %s', c.last_event_at, e.seq, e.created_at)
FROM conversations c JOIN events e ON e.conversation_id = c.id AND e.seq = c.last_seq
WHERE c.last_event_at <> e.created_at`},
	{"last-xid", `
SELECT c.id, format('last_xid is %s, and event %s is of %s', c.last_xid, e.seq, e.xid)
FROM conversations c JOIN events e ON e.conversation_id = c.id AND e.seq = c.last_seq
WHERE c.last_xid <> e.xid`},
	{"stamp", `
SELECT w.conversation_id, format('%s of it is stamped %s, and that transaction is still to come', w.what, w.xid)
FROM (
  SELECT 'an event', conversation_id, xid FROM events
  UNION ALL SELECT 'a participant', conversation_id, greatest(xid, joined_xid, read_xid) FROM participants
  UNION ALL SELECT 'a departure', conversation_id, xid FROM departures
  UNION ALL SELECT 'a user', NULL, profile_xid FROM users
) w (what, conversation_id, xid), (SELECT pg_current_snapshot() AS snapshot OFFSET 0) s
WHERE NOT pg_visible_in_snapshot(w.xid, s.snapshot)`},
	{"sender", `
SELECT e.conversation_id, format('%s events are by user %s, who does not exist', count(*), e.sender_id) FROM events e
WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = e.sender_id)
GROUP BY e.conversation_id, e.sender_id`},
	{"refers", `
SELECT e.conversation_id, format('event %s (%s) refers to %s, which is no earlier message of the conversation', e.seq, e.type, r.id)
FROM events e CROSS JOIN LATERAL (VALUES (e.detail ->> 'messageId'), (e.detail ->> 'replyTo')) AS r (id)
WHERE r.id IS NOT NULL AND NOT EXISTS (
  SELECT FROM events m WHERE m.id = r.id::uuid AND m.conversation_id = e.conversation_id AND m.type = 'message' AND m.seq < e.seq
)`},
	{"tombstone", `
SELECT conversation_id, format('%s %s is of a deleted message and still has content', type, seq) FROM events
WHERE deleted_at IS NOT NULL AND content <> ''`},
	{"deleted", `
SELECT e.conversation_id, format('event %s deletes message %s, which is there', e.seq, m.seq)
FROM events e JOIN events m ON m.id = (e.detail ->> 'messageId')::uuid AND m.conversation_id = e.conversation_id
WHERE e.type = 'delete' AND m.deleted_at IS NULL`},
	{"edited", `
SELECT m.conversation_id, format('message %s says %s characters, its last edit %s', m.seq, length(m.content), length(e.content))
FROM events m CROSS JOIN LATERAL (
  SELECT content FROM events x WHERE x.conversation_id = m.conversation_id AND x.type = 'edit' AND x.detail ->> 'messageId' = m.id::text
  ORDER BY seq DESC LIMIT 1
) e
WHERE m.type = 'message' AND m.edited_at IS NOT NULL AND m.content <> e.content`},
	{"original", `
SELECT o.conversation_id, format('the first text of message %s is kept, which is not edited, or deleted, or not there', o.message_id)
FROM message_originals o
WHERE NOT EXISTS (SELECT FROM events m WHERE m.id = o.message_id AND m.conversation_id = o.conversation_id AND m.edited_at IS NOT NULL AND m.deleted_at IS NULL)`},
	{"no-original", `
SELECT m.conversation_id, format('message %s is edited, and its first text is gone', m.seq) FROM events m
WHERE m.type = 'message' AND m.edited_at IS NOT NULL AND m.deleted_at IS NULL
AND NOT EXISTS (SELECT FROM message_originals o WHERE o.conversation_id = m.conversation_id AND o.message_id = m.id)`},
	{"reaction", `
SELECT conversation_id, format('user %s reacts to message %s with %s: %s, and the last event about it says %s', user_id, message_id, emoji, a.n, b.op)
FROM (SELECT conversation_id, message_id, emoji, user_id, 1 AS n FROM reactions) a
FULL JOIN (
  SELECT DISTINCT ON (conversation_id, 2, 3, sender_id) conversation_id, (detail ->> 'messageId')::uuid, detail ->> 'emoji', sender_id, detail ->> 'op'
  FROM events e WHERE type = 'reaction' ORDER BY conversation_id, 2, 3, sender_id, seq DESC
) b (conversation_id, message_id, emoji, user_id, op) USING (conversation_id, message_id, emoji, user_id)
WHERE (a.n IS NOT NULL) <> (coalesce(b.op, 'remove') = 'add')
AND NOT EXISTS (SELECT FROM events m WHERE m.id = message_id AND m.deleted_at IS NOT NULL AND a.n IS NULL)`},
	{"participant", `
SELECT p.conversation_id, format('user %s takes part and %s does not exist', p.user_id, CASE WHEN c.id IS NULL THEN 'the conversation' ELSE 'the user' END)
FROM participants p LEFT JOIN conversations c ON c.id = p.conversation_id LEFT JOIN users u ON u.id = p.user_id
WHERE c.id IS NULL OR u.id IS NULL`},
	{"watermark", `
SELECT c.id, format('user %s joined at %s and has read to %s, and the log ends at %s', p.user_id, p.joined_seq, p.read_seq, c.last_seq)
FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE p.joined_seq NOT BETWEEN 1 AND c.last_seq + 1 OR p.read_seq NOT BETWEEN 0 AND c.last_seq`},
	{"read", `
SELECT p.conversation_id, format('user %s has read to %s at %s, and that is not where their last move leads', p.user_id, p.read_seq, p.read_at)
FROM participants p
WHERE p.read_at IS NOT NULL AND NOT EXISTS (
  SELECT FROM reads r WHERE r.conversation_id = p.conversation_id AND r.user_id = p.user_id AND r.seq = p.read_seq AND r.at <= p.read_at
) OR EXISTS (
  SELECT FROM reads r WHERE r.conversation_id = p.conversation_id AND r.user_id = p.user_id AND r.seq > p.read_seq
)`},
	{"reads", `
SELECT r.conversation_id, format('user %s moved to %s, and the log ends at %s', r.user_id, r.seq, c.last_seq)
FROM reads r LEFT JOIN conversations c ON c.id = r.conversation_id
WHERE c.id IS NULL OR r.seq > c.last_seq`},
	{"delivered", `
SELECT p.conversation_id, format('user %s was delivered it to %s, and the log ends at %s', p.user_id, p.delivered_seq, c.last_seq)
FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE p.delivered_seq NOT BETWEEN 0 AND c.last_seq OR (p.delivered_seq > 0) <> (p.delivered_at IS NOT NULL)`},
	{"direct", `
SELECT c.id, format('is direct, with the participants %s and %s pairs', p.users, d.n)
FROM conversations c
CROSS JOIN LATERAL (SELECT array_agg(user_id ORDER BY user_id) AS users FROM participants WHERE conversation_id = c.id) p
LEFT JOIN (
  SELECT conversation_id, count(*) AS n, min(ARRAY[low_user_id, high_user_id]) AS users FROM direct_conversations GROUP BY conversation_id
) d ON d.conversation_id = c.id
WHERE c.kind = 'direct' AND (p.users, d.n) IS DISTINCT FROM (d.users, 1::bigint)`},
	{"owner", `
SELECT p.conversation_id, format('has %s members and %s owners', count(*), count(*) FILTER (WHERE p.role = 'owner'))
FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE c.kind = 'group'
GROUP BY p.conversation_id HAVING count(*) FILTER (WHERE p.role = 'owner') <> 1`},
	{"direct-role", `
SELECT c.id, format('is direct, and user %s is its %s', p.user_id, p.role) FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE c.kind = 'direct' AND p.role <> 'member'`},
	{"departure", `
SELECT d.conversation_id, format('user %s has left, and %s', d.user_id, CASE WHEN p.user_id IS NULL THEN 'there is no such group' ELSE 'takes part' END)
FROM departures d LEFT JOIN conversations c ON c.id = d.conversation_id AND c.kind = 'group'
LEFT JOIN participants p ON p.conversation_id = d.conversation_id AND p.user_id = d.user_id
WHERE c.id IS NULL OR p.user_id IS NOT NULL`},
	{"block", `
SELECT NULL::uuid, format('user %s has blocked user %s, and one of the two does not exist', b.user_id, b.blocked_id) FROM blocks b
WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = b.user_id) OR NOT EXISTS (SELECT FROM users u WHERE u.id = b.blocked_id)`},
	{"pair", `
SELECT d.conversation_id, format('is that of users %s and %s, and there is no such direct conversation', d.low_user_id, d.high_user_id)
FROM direct_conversations d
WHERE NOT EXISTS (SELECT FROM conversations c WHERE c.id = d.conversation_id AND c.kind = 'direct')`},
	{"search-segments", `
SELECT g.conversation_id, CASE WHEN c.id IS NULL THEN 'there is none, and it has a search index'
  ELSE format('the search index has events %s to %s after %s, and the log ends at %s', first_seq, g.last_seq, before, c.last_seq) END
FROM (
  SELECT conversation_id, first_seq, last_seq, lag(last_seq, 1, 0::bigint) OVER (PARTITION BY conversation_id ORDER BY last_seq) AS before
  FROM search_segments WHERE first_term = ''
) g LEFT JOIN conversations c ON c.id = g.conversation_id
WHERE c.id IS NULL OR g.last_seq > c.last_seq OR first_seq <> before + 1 OR first_seq > g.last_seq`},
	// A guest, who has no account, has an id of version 8 (chat.Principal.HasAccount).
	{"session-user", `
SELECT NULL::uuid, format('session %s is of user %s, who does not exist', s.id, s.user_id) FROM sessions s
WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id) AND substr(s.user_id::text, 15, 1) <> '8'`},
	{"cursor", `
SELECT k.conversation_id, format('session %s has acknowledged it to %s, and the log ends at %s', k.session_id, k.seq, c.last_seq)
FROM session_cursors k LEFT JOIN conversations c ON c.id = k.conversation_id
WHERE c.id IS NULL OR k.seq NOT BETWEEN 0 AND c.last_seq`},
	{"cursor-session", `
SELECT k.conversation_id, format('has the cursor of session %s, which does not exist', k.session_id) FROM session_cursors k
WHERE NOT EXISTS (SELECT FROM sessions s WHERE s.id = k.session_id)`},
	{"inflight", `
SELECT i."conversationId", format('session %s has event %s on its way, and the log ends at %s', s.id, i.seq, c.last_seq)
FROM sessions s CROSS JOIN LATERAL jsonb_to_recordset(s.inflight) AS i ("conversationId" uuid, seq bigint)
LEFT JOIN conversations c ON c.id = i."conversationId"
WHERE (c.id IS NULL OR i.seq NOT BETWEEN 1 AND c.last_seq)
  AND (i."conversationId", i.seq) <> ('00000000-0000-0000-0000-000000000000', 0)`},
	{"presence", `
SELECT NULL::uuid, format('user %s is invisible, and shown as here at node %s', user_id, node) FROM presences
WHERE invisible AND node IS NOT NULL`},
	{"presence-node", `
SELECT NULL::uuid, format('%s users are here at node %s, which was never seen alive', count(*), node) FROM presences p
WHERE node IS NOT NULL AND NOT EXISTS (SELECT FROM nodes n WHERE n.name = p.node)
GROUP BY node`},
	// node is not checked: older binaries, which do not know presence_places, clear it.
	{"presence-places", `
SELECT NULL::uuid, format('user %s is shown as %s, and their places say %s', user_id, coalesce(status, 'offline'), coalesce(places, 'offline'))
FROM (SELECT p.*, (SELECT max(pp.status) FROM presence_places pp WHERE pp.user_id = p.user_id) AS places FROM presences p) p
WHERE status IS DISTINCT FROM CASE WHEN NOT invisible THEN places END`},
	{"presence-place-user", `
SELECT NULL::uuid, format('user %s has a place at node %s, and nothing else is stored of them', user_id, node) FROM presence_places pp
WHERE NOT EXISTS (SELECT FROM presences p WHERE p.user_id = pp.user_id)`},
	{"packet-id", `
SELECT NULL::uuid, format('session %s has the packet identifiers %s on their way, and %s comes next', s.id, jsonb_path_query_array(s.inflight, '$[*].packetId'), s.next_packet_id)
FROM sessions s WHERE EXISTS (
  SELECT FROM jsonb_array_elements(s.inflight || jsonb_build_object('packetId', s.next_packet_id)) WITH ORDINALITY AS i (entry, n)
  WHERE (i.entry ->> 'packetId')::bigint <> 1 + ((s.inflight -> 0 ->> 'packetId')::bigint + i.n - 2) % 65535
)`},
}

// Verify reads the whole database in one snapshot and returns what contradicts
// Parley's promises: each log is numbered 1 … last_seq without gaps, in order of
// time; a clientMsgId is stored once; what is referred to exists; a pair of users
// has one direct conversation; a group has one owner; nobody who has left is a participant;
// nobody has read, or was delivered, more than there is; a session has acknowledged no
// more than there is, and its packets in flight are numbered consecutively; the search index has
// the words of the texts that it covers. None is an empty slice.
//
// It may run beside writers, takes as long as reading every event, and returns at
// most MaxViolations of each rule. Errors are those of the connection.
func (s *Store) Verify(ctx context.Context) ([]Violation, error) {
	const op = "store.Verify"
	all := []Violation{}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		// Every rule reads whole tables, in another way than connectSettings demand.
		if _, err := tx.Exec(ctx, wholeTablesSQL); err != nil {
			return err
		}
		for _, rule := range verifyRules {
			found, err := collect(ctx, tx, func(row pgx.CollectableRow) (Violation, error) {
				v := Violation{Rule: rule.name}
				err := row.Scan(&v.Conversation, &v.Detail)
				return v, err
			}, rule.sql+" LIMIT @limit", pgx.NamedArgs{"limit": MaxViolations})
			if err != nil {
				return fmt.Errorf("rule %s: %w", rule.name, err)
			}
			all = append(all, found...)
		}
		found, err := verifySegments(ctx, tx)
		all = append(all, found...)
		return err
	})
	if err != nil {
		return nil, translate(op, err)
	}
	return all, nil
}

const (
	// The segments whose messages were not edited or deleted after the index ended, with their blocks.
	listSegmentsSQL = `
SELECT g.conversation_id, g.first_seq, g.last_seq, g.bytes, g.terms, g.data
FROM (
  SELECT conversation_id, last_seq, max(first_seq) AS first_seq, max(bytes) AS bytes, array_agg(first_term ORDER BY first_term) AS terms,
    array_agg(data ORDER BY first_term) AS data, max(last_seq) OVER (PARTITION BY conversation_id) AS indexed
  FROM search_segments GROUP BY conversation_id, last_seq
) g
WHERE (g.conversation_id, g.last_seq) > (@conversation_id, @last_seq) AND NOT EXISTS (
  SELECT FROM events e JOIN events t ON t.id = (e.detail ->> 'messageId')::uuid AND t.conversation_id = e.conversation_id
  WHERE e.conversation_id = g.conversation_id AND e.seq > g.indexed AND e.type IN ('edit', 'delete') AND t.seq BETWEEN g.first_seq AND g.last_seq
)
ORDER BY g.conversation_id, g.last_seq LIMIT @limit`

	segmentsAtOnce = 64
)

// verifySegments finds segments of the search index that are not what is made of their log now.
func verifySegments(ctx context.Context, tx pgx.Tx) ([]Violation, error) {
	type stored struct {
		indexed
		conversation chat.ID
		terms, data  [][]byte
	}
	var all []Violation
	last := stored{conversation: chat.ID{15: 1}} // zero would be NULL; no id is below this
	for {
		segments, err := collect(ctx, tx, fields(func(s *stored) []any {
			return []any{&s.conversation, &s.first, &s.last, &s.bytes, &s.terms, &s.data}
		}), listSegmentsSQL, pgx.NamedArgs{"conversation_id": last.conversation, "last_seq": last.last, "limit": segmentsAtOnce})
		if err != nil {
			return nil, fmt.Errorf("rule search-terms: %w", err)
		}
		for _, s := range segments {
			b := segment.NewBuilder(s.first)
			if _, err := readTexts(ctx, tx, s.conversation, s.first, s.last, b.Add); err != nil {
				return nil, fmt.Errorf("rule search-terms: %w", err)
			}
			same := b.Size() == s.bytes && slices.EqualFunc(b.Blocks(), s.terms, func(b segment.Block, first []byte) bool { return bytes.Equal(b.First, first) }) &&
				slices.EqualFunc(b.Blocks(), s.data, func(b segment.Block, data []byte) bool { return bytes.Equal(b.Data, data) })
			if !same {
				all = append(all, Violation{"search-terms", s.conversation, fmt.Sprintf("the search index of events %d to %d is not that of their texts", s.first, s.last)})
			}
			if len(all) == MaxViolations {
				return all, nil
			}
		}
		if len(segments) < segmentsAtOnce {
			return all, nil
		}
		last = segments[len(segments)-1]
	}
}
