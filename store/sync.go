package store

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// A sync cursor is a snapshot, and what has changed since is what that snapshot does
// not see: the rows whose xid, the id of the transaction that wrote them, had not ended
// then. SYNC.md has the argument that nothing is missed or sent twice.
//
// A run is the pages of what one snapshot (seen) does not see and a later one (until) does.
// Its first page sets until to the snapshot that it reads in. Rows that change again during
// the run have xids that until does not see either: they are left to the next run. If this
// run needs such a row all the same (a conversation before its events), it is sent in its
// present state, and again in the next run.
const (
	seenSnapshot  = `(SELECT @seen::text::pg_snapshot)` // in a SELECT: read once, not for each row
	untilSnapshot = `(SELECT @until::text::pg_snapshot)`
)

// isNew is the condition that an xid belongs to the run; false for NULL.
func isNew(xid string) string {
	return `(NOT pg_visible_in_snapshot(` + xid + `, ` + seenSnapshot + `) AND pg_visible_in_snapshot(` + xid + `, ` + untilSnapshot + `))`
}

// isMine is the condition that p is the user's own participants row, as of until: a user who
// joins, or rejoins, after the run has begun gets everything in the next run.
func isMine(p string) string {
	return p + `.user_id = @user_id AND pg_visible_in_snapshot(` + p + `.joined_xid, ` + untilSnapshot + `)`
}

// isSmall is the condition that a conversation makes its members contacts.
func isSmall(conversation string) string {
	return `(SELECT count(*) FROM (SELECT FROM participants n WHERE n.conversation_id = ` + conversation +
		` LIMIT ` + strconv.Itoa(chat.MaxContactMembers+1) + `) AS few) <= ` + strconv.Itoa(chat.MaxContactMembers)
}

// logEnd is the seq up to which a snapshot sees the log of c, for the member p. A snapshot
// sees a prefix of each log, so that a binary search finds its end.
func logEnd(snapshot string) string {
	return `(
  WITH RECURSIVE search (low, high) AS (
    SELECT p.joined_seq - 1, c.last_seq
    UNION ALL
    SELECT CASE WHEN probe.seen THEN probe.seq ELSE low END, CASE WHEN probe.seen THEN high ELSE probe.seq - 1 END
    FROM search CROSS JOIN LATERAL (
      SELECT e.seq, pg_visible_in_snapshot(e.xid, ` + snapshot + `) AS seen FROM events e
      WHERE e.conversation_id = p.conversation_id AND e.seq = (low + high + 1) / 2
    ) probe
    WHERE low < high
  ) SELECT low FROM search WHERE low >= high
)`
}

const nowSQL = `SELECT pg_current_snapshot()::text, (SELECT id FROM sync_origin)`

var (
	// Profiles of users who share a small conversation, blocked or not, as
	// GET /api/conversations/{id} shows them. That includes new members, and all members of
	// a conversation that the user has joined; nobody joins without an event. Changed
	// profiles are searched for among all users if few have changed, and otherwise among
	// those who share a conversation with the user.
	syncProfilesSQL = [...]string{profilesSQL(syncFewChangedSQL), profilesSQL(syncKnownChangedSQL)}

	syncFewChangedSQL = `
  SELECT u.id FROM users u
  WHERE u.profile_xid >= @xmin::text::xid8 AND ` + isNew("u.profile_xid") + ` AND EXISTS (
    SELECT FROM participants them JOIN participants me ON me.conversation_id = them.conversation_id
    WHERE them.user_id = u.id AND ` + isMine("me") + ` AND ` + isSmall("me.conversation_id") + `
  )`
	syncKnownChangedSQL = `
  SELECT u.id FROM (
    SELECT DISTINCT them.user_id FROM participants me JOIN participants them ON them.conversation_id = me.conversation_id
    WHERE ` + isMine("me") + ` AND ` + isSmall("me.conversation_id") + `
  ) them CROSS JOIN LATERAL (SELECT id, profile_xid FROM users WHERE id = them.user_id OFFSET 0) u
  WHERE ` + isNew("u.profile_xid")

	syncDeparturesSQL = `
SELECT d.conversation_id, d.left_at FROM departures d
WHERE d.user_id = @user_id AND d.conversation_id > @id AND ` + isNew("d.xid") + `
  AND NOT EXISTS (SELECT FROM participants p WHERE p.conversation_id = d.conversation_id AND p.user_id = d.user_id)
ORDER BY d.conversation_id LIMIT @limit`

	// joined_seq is 0 if the user was a participant already, in another role.
	syncJoinedSQL = `
SELECT p.conversation_id, CASE WHEN ` + isNew("p.joined_xid") + ` THEN p.joined_seq ELSE 0 END
FROM participants p
WHERE ` + isMine("p") + ` AND p.conversation_id > @id AND (` + isNew("p.joined_xid") + ` OR ` + isNew("p.xid") + `)
ORDER BY p.conversation_id LIMIT @limit`

	syncConversationsSQL = `
WITH page AS MATERIALIZED (
  SELECT c.*, p.joined_seq, p.read_seq, p.read_at
  FROM participants p JOIN conversations c ON c.id = p.conversation_id
  WHERE p.user_id = @user_id AND p.conversation_id = ANY(@ids)
)` + conversationSQL

	// For each conversation that may have new events, the part of its log between the two
	// snapshots. A run continues within the conversation that the last page ended in.
	syncLogPartsSQL = `
SELECT p.conversation_id,
  CASE WHEN p.conversation_id = @id THEN greatest(@seq, p.joined_seq - 1)
       WHEN ` + isNew("p.joined_xid") + ` THEN p.joined_seq - 1
       ELSE ` + logEnd(seenSnapshot) + ` END,
  CASE WHEN pg_visible_in_snapshot(c.last_xid, ` + untilSnapshot + `) THEN c.last_seq ELSE ` + logEnd(untilSnapshot) + ` END
FROM participants p JOIN conversations c ON c.id = p.conversation_id
WHERE ` + isMine("p") + ` AND p.conversation_id >= @id
  AND (NOT pg_visible_in_snapshot(c.last_xid, ` + seenSnapshot + `) OR ` + isNew("p.joined_xid") + `)
ORDER BY p.conversation_id LIMIT @limit`

	syncEventsSQL = `
SELECT e.* FROM unnest(@ids::uuid[], @after::bigint[], @last::bigint[]) AS s (id, after, last)
CROSS JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events
  WHERE conversation_id = s.id AND seq > s.after AND seq <= s.last
  ORDER BY seq
) e
ORDER BY e.conversation_id, e.seq`

	// The user's own reads, and in small conversations those of the others; in one that the
	// user has joined, all of them. A participant for whom the log counts as read from before
	// they joined has no read_at: others are not notified of that.
	syncReadsSQL = `
SELECT p.conversation_id, p.user_id, p.read_seq, p.read_at
FROM participants me CROSS JOIN LATERAL (SELECT * FROM participants WHERE conversation_id = me.conversation_id OFFSET 0) p
WHERE ` + isMine("me") + ` AND me.conversation_id >= @id AND (p.conversation_id, p.user_id) > (@id, @reader)
  AND p.read_seq > 0 AND (` + isNew("p.read_xid") + ` OR ` + isNew("me.joined_xid") + `)
  AND (p.user_id = me.user_id OR p.read_at IS NOT NULL AND ` + isSmall("me.conversation_id") + `)
ORDER BY p.conversation_id, p.user_id LIMIT @limit`
)

func profilesSQL(changed string) string {
	return `
WITH moved AS MATERIALIZED (
  SELECT me.conversation_id, ` + isNew("me.joined_xid") + ` AS came
  FROM participants me JOIN conversations c ON c.id = me.conversation_id
  WHERE ` + isMine("me") + ` AND (` + isNew("me.joined_xid") + ` OR NOT pg_visible_in_snapshot(c.last_xid, ` + seenSnapshot + `))
), wanted (id) AS (
  SELECT them.user_id FROM moved JOIN participants them ON them.conversation_id = moved.conversation_id
  WHERE them.user_id <> @user_id AND (moved.came OR ` + isNew("them.joined_xid") + `) AND ` + isSmall("moved.conversation_id") + `
  UNION` + changed + `
  UNION SELECT u.id FROM users u WHERE u.id = @user_id AND ` + isNew("u.profile_xid") + `
)
SELECT ` + accountColumns + ` 
FROM (SELECT wanted.id AS wanted_id FROM wanted WHERE wanted.id > @id) w CROSS JOIN LATERAL (SELECT * FROM users WHERE id = wanted_id OFFSET 0) u
ORDER BY id LIMIT @limit`
}

// manyChanged is the number of changed profiles from which the second of syncProfilesSQL is used.
const manyChanged = 1000

const countChangedSQL = `SELECT count(*) FROM (SELECT FROM users WHERE profile_xid >= @xmin::text::xid8 LIMIT @many) AS few`

// maxSyncBytes is the size of contents at which a page ends.
const maxSyncBytes = 1 << 20

// syncStep is how many events are read at once: by these a page may exceed maxSyncBytes.
const syncStep = 100

// Sync implements chat.SyncStore. The sections of a run come in this order: profiles,
// departures, conversations, events (by conversation, in the order of their log),
// reads. A page has at most q.Limit items, and fewer where contents are large. It reads
// in one snapshot, with a round trip for each section and a few more.
//
// It must read from the primary: the snapshots of a standby do not show running transactions.
func (s *Store) Sync(ctx context.Context, q chat.SyncQuery) (*chat.SyncPage, error) {
	const op = "store.Sync"
	c := syncCursor{seen: nothing}
	if len(q.Cursor) > 0 {
		var ok bool
		if c, ok = parseSyncCursor(q.Cursor); !ok {
			return nil, badSyncCursor(op)
		}
	}
	page := &chat.SyncPage{Items: []chat.SyncItem{}}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		now, origin, err := syncNow(ctx, tx)
		if err != nil {
			return err
		}
		if len(q.Cursor) == 0 {
			c.origin = origin
		}
		if c.origin != origin || c.seen.xmax > now.xmax || c.section != syncDone && c.until.xmax > now.xmax {
			return badSyncCursor(op)
		}
		if q.Now {
			c.seen = now
			return nil
		}
		if c.section == syncDone {
			c.section, c.until = syncProfiles, now
		}
		r := syncRun{tx: tx, user: q.UserID, cursor: &c, page: page, limit: min(max(q.Limit, 1), chat.MaxSyncPage)}
		return r.run(ctx)
	})
	if err != nil {
		return nil, translate(op, err)
	}
	page.More = c.section != syncDone
	newest := max(c.seen.xmax, c.until.xmax)
	if err := s.flushed.wait(ctx, s.pool, newest); err != nil {
		return nil, translate(op, err)
	}
	page.Next = c.encode()
	return page, nil
}

func badSyncCursor(op string) error {
	return &chat.Error{Code: chat.Invalid, Op: op, Field: "cursor", Msg: "is not of this database: sync from the beginning, without a cursor"}
}

func syncNow(ctx context.Context, tx pgx.Tx) (now snapshot, origin chat.ID, err error) {
	const op = "store.Sync"
	var text string
	if err := tx.QueryRow(ctx, nowSQL).Scan(&text, &origin); err != nil {
		return now, origin, err
	}
	now, ok := parseSnapshot(text)
	switch {
	case !ok:
		return now, origin, &chat.Error{Code: chat.Unavailable, Op: op, Msg: "too many transactions are running; try again"}
	case origin.IsZero():
		return now, origin, &chat.Error{Code: chat.Unavailable, Op: op, Msg: "the database was replaced while the server was running; restart the server"}
	}
	return now, origin, nil
}

// syncRun reads one page of a run and advances the cursor.
type syncRun struct {
	tx     pgx.Tx
	user   chat.ID
	cursor *syncCursor
	page   *chat.SyncPage
	limit  int
	bytes  int // of contents in the page
}

// run reads sections until the page is full or the run ends.
func (r *syncRun) run(ctx context.Context) error {
	sections := [...]func(context.Context, pgx.NamedArgs) (int, error){
		syncProfiles: r.profiles, syncDepartures: r.departures, syncConversations: r.conversations, syncEvents: r.events, syncReads: r.reads,
	}
	c := r.cursor
	for {
		limit := r.limit - len(r.page.Items)
		if limit <= 0 || r.bytes >= maxSyncBytes {
			return nil
		}
		found, err := sections[c.section](ctx, pgx.NamedArgs{
			"user_id": r.user, "seen": c.seen.String(), "until": c.until.String(), "limit": limit,
			"id": c.id.String(), "seq": c.seq, "reader": c.reader.String(), // as text: the zero id is before all others, and not NULL
		})
		switch {
		case err != nil:
			return err
		case found == limit:
			continue // there may be more of them
		case c.section+1 < syncEnd:
			*c = syncCursor{origin: c.origin, seen: c.seen, section: c.section + 1, until: c.until}
		default:
			*c = syncCursor{origin: c.origin, seen: c.until}
			return nil
		}
	}
}

// add puts an item on the page.
func (r *syncRun) add(item chat.SyncItem) { r.page.Items = append(r.page.Items, item) }

// Each section adds the items after the cursor to the page, advances the cursor, and returns
// how many it found: fewer than the limit means that the section is complete.

func (r *syncRun) profiles(ctx context.Context, args pgx.NamedArgs) (int, error) {
	args["xmin"], args["many"] = strconv.FormatUint(r.cursor.seen.xmin, 10), manyChanged // no xid below xmin is new
	changed, err := collectOne(ctx, r.tx, pgx.RowTo[int], countChangedSQL, args)
	if err != nil {
		return 0, err
	}
	sql := syncProfilesSQL[0]
	if changed == manyChanged {
		sql = syncProfilesSQL[1]
	}
	users, err := collect(ctx, r.tx, scanUser, sql, args)
	for i := range users {
		r.add(chat.SyncItem{Type: chat.SyncProfile, User: &users[i]})
		r.cursor.id = users[i].ID
	}
	return len(users), err
}

func (r *syncRun) departures(ctx context.Context, args pgx.NamedArgs) (int, error) {
	if r.cursor.seen.xmax == nothing.xmax {
		return 0, nil // a first run: the client knows of no conversation
	}
	left, err := collect(ctx, r.tx, func(row pgx.CollectableRow) (chat.SyncItem, error) {
		i := chat.SyncItem{Type: chat.SyncLeft}
		err := row.Scan(&i.ConversationID, &i.At)
		return i, err
	}, syncDeparturesSQL, args)
	for _, i := range left {
		r.add(i)
		r.cursor.id = i.ConversationID
	}
	return len(left), err
}

func (r *syncRun) conversations(ctx context.Context, args pgx.NamedArgs) (int, error) {
	type joined struct {
		id  chat.ID
		seq int64
	}
	limit := args["limit"].(int)
	args["limit"] = min(limit, chat.MaxPageSize) // each costs a few index look-ups
	found, err := collect(ctx, r.tx, fields(func(j *joined) []any { return []any{&j.id, &j.seq} }), syncJoinedSQL, args)
	if err != nil || len(found) == 0 {
		return 0, err
	}
	ids := make([]chat.ID, len(found))
	for i, j := range found {
		ids[i] = j.id
	}
	all, err := collect(ctx, r.tx, scanConversation, syncConversationsSQL, pgx.NamedArgs{"user_id": r.user, "ids": ids})
	if err != nil {
		return 0, err
	}
	if err := addParticipants(ctx, r.tx, all, chat.MaxListedMembers); err != nil {
		return 0, err
	}
	byID := make(map[chat.ID]*chat.Conversation, len(all))
	for i := range all {
		byID[all[i].ID] = &all[i]
	}
	for n, j := range found {
		c := byID[j.id]
		if c == nil {
			return 0, noConversation("store.Sync", j.id) // not in one snapshot
		}
		r.add(chat.SyncItem{Type: chat.SyncConversation, Conversation: c, JoinedSeq: j.seq})
		r.cursor.id = j.id
		if c.LastMessage != nil {
			r.bytes += len(c.LastMessage.Content)
		}
		if r.bytes >= maxSyncBytes && n+1 < len(found) {
			return limit, nil
		}
	}
	if len(found) == args["limit"] {
		return limit, nil
	}
	return len(found), nil
}

// logPart is the events of a conversation's log after after, up to last.
type logPart struct {
	id          chat.ID
	after, last int64
}

func (s *logPart) events() int64 { return max(s.last-s.after, 0) }

func (r *syncRun) events(ctx context.Context, args pgx.NamedArgs) (int, error) {
	limit := args["limit"].(int)
	args["limit"] = limit + 1 // the one that the last page ended in may have nothing left
	parts, err := collect(ctx, r.tx, fields(func(s *logPart) []any { return []any{&s.id, &s.after, &s.last} }), syncLogPartsSQL, args)
	if err != nil {
		return 0, err
	}
	full := len(parts) > limit
	for room := limit; len(parts) > 0; {
		if room == 0 || r.bytes >= maxSyncBytes {
			return limit, nil
		}
		var n int
		if parts, n, err = r.readEvents(ctx, parts, min(room, syncStep)); err != nil {
			return 0, err
		}
		room -= n
	}
	if full {
		return limit, nil
	}
	return 0, nil
}

// readEvents reads up to limit events of the parts, and returns the parts that are left and
// how many events it has read.
func (r *syncRun) readEvents(ctx context.Context, parts []logPart, limit int) ([]logPart, int, error) {
	var ids []chat.ID
	var after, last []int64
	wanted := 0
	for len(parts) > 0 && wanted < limit {
		s := &parts[0]
		n := min(s.events(), int64(limit-wanted))
		if n > 0 {
			ids, after, last = append(ids, s.id), append(after, s.after), append(last, s.after+n)
		}
		s.after += n
		wanted += int(n)
		r.cursor.id, r.cursor.seq = s.id, s.after
		if s.events() > 0 {
			break
		}
		parts = parts[1:]
	}
	if wanted == 0 {
		return parts, 0, nil
	}
	events, err := collectEvents(ctx, r.tx, wanted, syncEventsSQL, pgx.NamedArgs{"ids": ids, "after": after, "last": last})
	if err != nil {
		return nil, 0, err
	}
	if len(events) != wanted {
		return nil, 0, fmt.Errorf("%d events where the logs have %d", len(events), wanted)
	}
	for i := range events {
		r.add(chat.SyncItem{Type: chat.SyncEvent, Event: &events[i]})
		r.bytes += len(events[i].Content)
	}
	return parts, wanted, nil
}

func (r *syncRun) reads(ctx context.Context, args pgx.NamedArgs) (int, error) {
	reads, err := collect(ctx, r.tx, func(row pgx.CollectableRow) (chat.SyncItem, error) {
		i := chat.SyncItem{Type: chat.SyncRead}
		err := row.Scan(&i.ConversationID, &i.UserID, &i.UpTo, scanTime(&i.At))
		return i, err
	}, syncReadsSQL, args)
	for _, i := range reads {
		r.add(i)
		r.cursor.id, r.cursor.reader = i.ConversationID, i.UserID
	}
	return len(reads), err
}
