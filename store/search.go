package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/segment"
	"github.com/parleymq/parley/store/words"
)

// A search reads the logs of the user's conversations in parts, several at a time, those with
// the newest messages first: of what is in the index (indexer.go) a segment, by a few of its
// blocks; of what is not yet, the events themselves. So a message is found as soon as it is
// committed. Matches are candidates; one becomes a hit when the log confirms that the message
// exists, that the user may read it now, and that its present text matches.

const (
	// The conversations to search, each with how far it is indexed and with the seq to begin
	// at; 0: nothing in it is older than before. That is found by the first event of each
	// stretch: a few steps down the log's primary key.
	searchedSQL = `
SELECT c.id, p.joined_seq, c.last_seq, c.last_event_at, coalesce(i.last_seq, 0), coalesce(CASE
  WHEN @before::timestamptz IS NULL OR c.last_event_at <= @before THEN c.last_seq
  ELSE (
    SELECT least(c.last_seq, (s.n + 1) * @stretch - 1) FROM generate_series(c.last_seq / @stretch, p.joined_seq / @stretch, -1) AS s (n)
    WHERE (SELECT e.created_at <= @before FROM events e WHERE e.conversation_id = c.id AND e.seq = greatest(s.n * @stretch, 1))
    ORDER BY s.n DESC LIMIT 1
  ) END, 0)
FROM participants p JOIN conversations c ON c.id = p.conversation_id
LEFT JOIN LATERAL (SELECT last_seq FROM search_segments WHERE conversation_id = c.id ORDER BY conversation_id DESC, last_seq DESC LIMIT 1) i ON true
WHERE p.user_id = @user_id AND (@conversation_id::uuid IS NULL OR p.conversation_id = @conversation_id)`

	// Parts of logs, each with the event before it, whose time says how old what is left is at
	// most. Of an edit and a deletion the message that it is about is returned, as it is now. IS TRUE
	// keeps the planner from looking for it in the whole conversation.
	searchLogSQL = `
SELECT s.place - 1, e.seq, e.created_at, m.seq, m.sender_id, m.created_at, m.content
FROM unnest(@conversation_ids::uuid[], @afters::bigint[], @ends::bigint[]) WITH ORDINALITY AS s (conversation_id, after, up_to, place)
CROSS JOIN LATERAL (
  SELECT * FROM events WHERE conversation_id = s.conversation_id AND seq BETWEEN s.after AND s.up_to ORDER BY conversation_id, seq
) e
LEFT JOIN LATERAL (
  SELECT e.seq, e.sender_id, e.created_at, e.content WHERE e.type = 'message' AND e.deleted_at IS NULL
  UNION ALL
  SELECT t.seq, t.sender_id, t.created_at, t.content FROM events t
  WHERE e.type IN ('edit', 'delete') AND t.id = (e.detail ->> 'messageId')::uuid AND (t.conversation_id = s.conversation_id) IS TRUE AND t.type = 'message'
) m ON true`

	// The segment of each log that has an event, and the blocks of it that may have a term of a
	// range: that with the first of the range in it, and those that begin within it.
	searchSegmentsSQL = `
SELECT s.place - 1, g.first_seq, e.created_at, r.place - 1, b.data
FROM unnest(@conversation_ids::uuid[], @ends::bigint[]) WITH ORDINALITY AS s (conversation_id, up_to, place)
CROSS JOIN LATERAL (
  SELECT first_seq, last_seq FROM search_segments WHERE conversation_id = s.conversation_id AND last_seq >= s.up_to
  ORDER BY conversation_id, last_seq LIMIT 1
) g
LEFT JOIN events e ON e.conversation_id = s.conversation_id AND e.seq = g.first_seq - 1
CROSS JOIN unnest(@firsts::bytea[], @untils::bytea[]) WITH ORDINALITY AS r (first, until, place)
CROSS JOIN LATERAL (
  SELECT data FROM search_segments
  WHERE conversation_id = s.conversation_id AND last_seq = g.last_seq AND first_term < r.until AND first_term >= (
    SELECT first_term FROM search_segments WHERE conversation_id = s.conversation_id AND last_seq = g.last_seq AND first_term <= r.first
    ORDER BY conversation_id DESC, last_seq DESC, first_term DESC LIMIT 1
  )
  ORDER BY first_term
) b`

	getFoundSQL = `
SELECT e.* FROM unnest(@conversation_ids::uuid[], @seqs::bigint[]) WITH ORDINALITY AS found (conversation_id, seq, place)
JOIN participants p ON p.conversation_id = found.conversation_id AND p.user_id = @user_id AND p.joined_seq <= found.seq
CROSS JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events
  WHERE conversation_id = found.conversation_id AND seq = found.seq AND type = 'message' AND deleted_at IS NULL
) e
ORDER BY found.place`
)

const (
	firstParts   = 8    // read together at first; then twice as many each time
	maxParts     = 128  // at most
	searchPart   = 1024 // events of a part that is not indexed
	beginStretch = 1024 // between the events that are looked at for where to begin

	// What a part costs, about, in microseconds: of the log each event, of the index the segment
	// and each KiB of its blocks.
	logCost, segmentCost, blockCost = 10, 100, 20

	minLogPart = 16
)

// searchedLog is a conversation's log as the search proceeds through it.
type searchedLog struct {
	id      chat.ID
	joined  int64
	indexed int64          // up to which it is in the index
	begin   int64          // the newest event that may be a hit
	next    int64          // the newest that is not read; above begin, edits of indexed messages are looked for
	nextAt  time.Time      // nothing from there on that may be a hit is newer
	pending []candidate    // of the part that was read last, newest first
	upTo    time.Time      // nothing that is still to come is newer
	edited  map[int64]bool // messages before indexed that have changed after it: the index has them as they were
}

// candidate is a message that may be a hit.
type candidate struct {
	conversation chat.ID
	seq          int64
	at           chat.SearchCursor // its key, but for the ID
}

// SearchMessages implements chat.Store.
func (s *Store) SearchMessages(ctx context.Context, q chat.MessageSearch) (*chat.SearchPage, error) {
	query, err := words.ParseQuery(q.Text)
	if err != nil {
		return nil, err
	}
	r := &search{store: s, q: q, words: query, need: min(max(q.Limit, 1), chat.MaxPageSize) + 1}
	sender := ""
	if !q.SenderID.IsZero() {
		sender = segment.Sender(q.SenderID)
	}
	r.plan = segment.NewPlan(query, sender, q.ByRank)
	r.before = r.bound()
	err = r.begin(ctx)
	if err == nil && q.ByRank {
		err = r.ranked(ctx)
	} else if err == nil {
		err = r.newest(ctx)
	}
	if err != nil {
		return nil, translate("store.SearchMessages", err)
	}
	return r.page(), nil
}

// search is a search in progress.
type search struct {
	store  *Store
	q      chat.MessageSearch
	words  *words.Query
	plan   *segment.Plan
	before chat.SearchCursor // what all hits precede; zero: there is no such
	need   int               // hits for a page, and one more
	since  time.Time         // older matches are not wanted

	open       []*searchedLog // logs still to be read; first those whose next part is newest
	candidates []candidate    // from the parts read so far, in the order of the result
	hits       []chat.SearchHit

	seen, matched   int // events and matches of the parts read so far
	segments, bytes int // segments read so far, and of them
}

// begin finds the conversations to search.
func (r *search) begin(ctx context.Context) error {
	all, err := collect(ctx, r.store.pool, func(row pgx.CollectableRow) (*searchedLog, error) {
		var c searchedLog
		err := row.Scan(&c.id, &c.joined, &c.next, &c.nextAt, &c.indexed, &c.begin)
		return &c, err
	}, searchedSQL, pgx.NamedArgs{
		"user_id": r.q.UserID, "conversation_id": r.q.ConversationID, "before": nullTime(r.before.CreatedAt), "stretch": beginStretch,
	})
	switch {
	case err != nil:
		return err
	case len(all) == 0 && !r.q.ConversationID.IsZero():
		return noConversation("store.SearchMessages", r.q.ConversationID)
	}
	for _, c := range all {
		if c.begin < c.joined {
			continue
		}
		if c.next <= c.indexed || c.indexed == 0 {
			c.next = c.begin
		}
		r.reached(c, c.nextAt)
		c.upTo = c.nextAt
		r.open = append(r.open, c)
	}
	r.sortOpen()
	return nil
}

// reached sets the time of the next event to read.
func (r *search) reached(c *searchedLog, at time.Time) {
	if b := r.before.CreatedAt; !b.IsZero() && b.Before(at) {
		at = b
	}
	c.nextAt = at
}

func (r *search) sortOpen() {
	slices.SortFunc(r.open, func(a, b *searchedLog) int { return b.upTo.Compare(a.upTo) })
}

// bound is the key that all hits precede; zero: none. Without an ID, messages of exactly
// that time are excluded.
func (r *search) bound() chat.SearchCursor {
	var b chat.SearchCursor
	if !r.q.Before.IsZero() {
		b.CreatedAt = r.q.Before
	}
	after := r.q.After
	if r.q.ByRank {
		after = chat.SearchCursor{CreatedAt: after.Until.Add(time.Millisecond)} // inclusive
		if r.q.After.Until.IsZero() {
			return b
		}
	}
	if !after.CreatedAt.IsZero() && (b.CreatedAt.IsZero() || after.CreatedAt.Before(b.CreatedAt)) {
		b = after
	}
	return b
}

// newest collects hits, newest first, until there are enough.
func (r *search) newest(ctx context.Context) error {
	for n := firstParts; ; n = min(2*n, maxParts) {
		if err := r.confirm(ctx); err != nil {
			return err
		}
		if len(r.hits) >= r.need || len(r.open) == 0 {
			return nil
		}
		// Parts that are older than the candidates needed can wait.
		var since time.Time
		if more := r.need - len(r.hits); len(r.candidates) >= more {
			since = r.candidates[more-1].at.CreatedAt
		}
		if err := r.readOn(ctx, n, since, r.need); err != nil {
			return err
		}
		slices.SortFunc(r.candidates, func(a, b candidate) int { return compareNewest(b.at, a.at) })
	}
}

// confirm turns candidates into hits, as far as nothing unread can precede them.
func (r *search) confirm(ctx context.Context) error {
	for len(r.hits) < r.need {
		n := 0
		for n < len(r.candidates) && (len(r.open) == 0 || r.candidates[n].at.CreatedAt.After(r.open[0].upTo)) {
			// All that have the same key are loaded together, since only the log has their IDs.
			if n >= r.need-len(r.hits) && compareRank(r.candidates[n].at, r.candidates[n-1].at) != 0 {
				break
			}
			n++
		}
		if n == 0 {
			return nil
		}
		if err := r.load(ctx, r.candidates[:n]); err != nil {
			return err
		}
		r.candidates = r.candidates[n:]
	}
	return nil
}

// ranked collects the best of the chat.MaxRanked newest matches.
func (r *search) ranked(ctx context.Context) error {
	newest := func(a, b candidate) int {
		return cmp.Or(compareNewest(b.at, a.at), a.conversation.Compare(b.conversation), cmp.Compare(a.seq, b.seq))
	}
	for n := firstParts; len(r.open) > 0; n = min(2*n, maxParts) {
		if len(r.candidates) >= chat.MaxRanked {
			slices.SortFunc(r.candidates, newest)
			r.candidates = r.candidates[:chat.MaxRanked]
			if r.since = r.candidates[chat.MaxRanked-1].at.CreatedAt; r.since.After(r.open[0].upTo) {
				break
			}
		}
		if err := r.readOn(ctx, n, r.since, chat.MaxRanked); err != nil {
			return err
		}
	}
	slices.SortFunc(r.candidates, newest)
	r.candidates = r.candidates[:min(len(r.candidates), chat.MaxRanked)]
	slices.SortStableFunc(r.candidates, func(a, b candidate) int { return compareRank(b.at, a.at) })
	if after := r.q.After; !after.IsZero() {
		after.ID = chat.ID{}
		n := slices.IndexFunc(r.candidates, func(c candidate) bool { return compareRank(c.at, after) <= 0 })
		if n < 0 {
			n = len(r.candidates)
		}
		r.candidates = r.candidates[n:]
	}
	r.open = nil
	return r.confirm(ctx)
}

func compareNewest(a, b chat.SearchCursor) int {
	if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
		return c
	}
	return a.ID.Compare(b.ID)
}

func compareRank(a, b chat.SearchCursor) int {
	if c := cmp.Compare(a.Rank, b.Rank); c != 0 {
		return c
	}
	return compareNewest(a, b)
}

// readOn goes on with the first n logs that may have something at or after since: it reads the
// next part of each of which nothing is pending, adds to the candidates at most limit of
// what is, and drops the logs that are finished.
func (r *search) readOn(ctx context.Context, n int, since time.Time, limit int) error {
	n = min(n, len(r.open))
	if old := slices.IndexFunc(r.open[:n], func(c *searchedLog) bool { return c.upTo.Before(since) }); old >= 0 {
		n = old
	}
	now := r.open[:n]
	if err := r.readParts(ctx, now, limit); err != nil {
		return err
	}
	left := make([]*searchedLog, 0, len(r.open))
	for _, c := range now {
		some := min(len(c.pending), limit)
		r.candidates = append(r.candidates, c.pending[:some]...)
		c.pending, c.upTo = c.pending[some:], c.nextAt
		if len(c.pending) > 0 && c.pending[0].at.CreatedAt.After(c.upTo) { // an edited message may be older
			c.upTo = c.pending[0].at.CreatedAt
		}
		if len(c.pending) > 0 || c.next >= c.joined {
			left = append(left, c)
		}
	}
	r.open = append(left, r.open[n:]...)
	r.sortOpen()
	return nil
}

// readParts reads the next part of each log of which nothing is pending.
func (r *search) readParts(ctx context.Context, now []*searchedLog, limit int) error {
	part := r.logPart(limit)
	var batch pgx.Batch
	var logs []*searchedLog
	var indexed []*indexedPart
	for _, c := range now {
		switch {
		case len(c.pending) > 0:
		case c.next > c.indexed || part < searchPart:
			logs = append(logs, c)
		default:
			indexed = append(indexed, &indexedPart{log: c, end: c.next})
		}
	}
	if len(logs) > 0 {
		r.queueLogs(&batch, logs, part)
	}
	if len(indexed) > 0 {
		r.queueSegments(&batch, indexed)
	}
	if batch.Len() == 0 {
		return nil
	}
	if err := r.store.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	return r.match(ctx, indexed)
}

// logPart returns how many events of each log to read: as many as a page may take, where that
// costs less than to read of the index what it has of the query, because most messages match;
// otherwise searchPart, of what is not indexed.
func (r *search) logPart(limit int) int64 {
	if r.matched == 0 || r.segments == 0 {
		return searchPart
	}
	events := max(minLogPart, 2*limit*r.seen/r.matched/len(r.open))
	if events*logCost > segmentCost+r.bytes*blockCost/1024/r.segments {
		return searchPart
	}
	return int64(min(events, searchPart-1))
}

// queueLogs reads events: parts that are not indexed, and where most messages match.
func (r *search) queueLogs(batch *pgx.Batch, logs []*searchedLog, part int64) {
	var ids []chat.ID
	var afters, ends []int64
	for _, c := range logs {
		least := int64(0)
		if c.next > c.indexed {
			least = c.indexed
		}
		ids, ends = append(ids, c.id), append(ends, c.next)
		afters = append(afters, max(least, c.next-part, c.joined-1))
	}
	var place int
	var seq int64
	var at, messageAt time.Time
	var messageSeq *int64
	var sender chat.ID
	var content *string
	batch.Queue(searchLogSQL, pgx.NamedArgs{"conversation_ids": ids, "afters": afters, "ends": ends}).Query(func(rows pgx.Rows) error {
		err := scanEach(rows, []any{&place, &seq, &at, &messageSeq, &sender, scanTime(&messageAt), &content}, func() {
			c := logs[place]
			switch {
			case seq == afters[place]:
				r.reached(c, at)
				return
			case messageSeq == nil, c.edited[*messageSeq]:
				return
			case *messageSeq != seq: // it was edited or deleted
				if seq <= c.indexed || *messageSeq > c.indexed {
					return // its own row, or the index, says what it is now
				}
				if c.edited == nil {
					c.edited = map[int64]bool{}
				}
				c.edited[*messageSeq] = true
			}
			if *messageSeq < c.joined || !r.q.SenderID.IsZero() && sender != r.q.SenderID {
				return
			}
			if where, count, ok := r.words.Find(*content); ok {
				c.found(r, *messageSeq, messageAt, where, count)
			}
		})
		for i, c := range logs { // edits are older, those of one time may be in any order
			r.seen, r.matched = r.seen+int(ends[i]-afters[i]), r.matched+len(c.pending)
			slices.SortFunc(c.pending, func(a, b candidate) int { return compareNewest(b.at, a.at) })
		}
		return err
	})
	for i, c := range logs {
		if c.next = afters[i]; c.next == c.indexed {
			c.next = min(c.next, c.begin)
		}
	}
}

// found adds a message to what is pending, if it is asked for.
func (c *searchedLog) found(r *search, seq int64, at time.Time, where [][]uint32, count int) {
	if b := r.before; b.CreatedAt.IsZero() || at.Before(b.CreatedAt) || at.Equal(b.CreatedAt) && !b.ID.IsZero() {
		found := candidate{c.id, seq, chat.SearchCursor{CreatedAt: at}}
		if at.Before(r.since) {
			return
		}
		if r.q.ByRank {
			found.at.Rank = words.Rank(where, count)
		}
		c.pending = append(c.pending, found)
	}
}

// indexedPart is a part of a log that is read in the index.
type indexedPart struct {
	log    *searchedLog
	end    int64         // its last event
	first  int64         // its first
	at     time.Time     // of the event before that
	found  *segment.Part // nil: it is not in the index
	merged bool          // its segment was replaced by one that begins elsewhere
}

// queueSegments reads what the index has of the query's words.
func (r *search) queueSegments(batch *pgx.Batch, parts []*indexedPart) {
	queueBlocks(batch, parts, r.plan.Ranges, func(p *indexedPart, first int64, at time.Time, which int, data []byte) error {
		if p.found == nil {
			p.found, p.first, p.at = r.plan.Part(first), first, at
			r.segments++
		}
		r.bytes += len(data)
		return p.found.Add(which, data)
	})
}

// queueBlocks calls f with the blocks of the segments with the last events of parts that may
// have terms of some ranges.
func queueBlocks(batch *pgx.Batch, parts []*indexedPart, ranges []segment.Range,
	f func(p *indexedPart, first int64, before time.Time, which int, data []byte) error,
) {
	var ids []chat.ID
	var ends []int64
	for _, p := range parts {
		ids, ends = append(ids, p.log.id), append(ends, p.end)
	}
	firsts, untils := make([][]byte, len(ranges)), make([][]byte, len(ranges))
	for i := range ranges {
		firsts[i], untils[i] = []byte(ranges[i].From), []byte(ranges[i].Until)
	}
	args := pgx.NamedArgs{"conversation_ids": ids, "ends": ends, "firsts": firsts, "untils": untils}
	batch.Queue(searchSegmentsSQL, args).Query(func(rows pgx.Rows) error {
		var place, which int
		var first int64
		var at time.Time
		var data pgtype.DriverBytes
		_, err := pgx.ForEachRow(rows, []any{&place, &first, scanTime(&at), &which, &data}, func() error {
			return f(parts[place], first, at, which, data)
		})
		return err
	})
}

// match makes pending what was found in the index. Where a segment has become part of another
// one meanwhile, it is read again; and where the index is gone, the log is.
func (r *search) match(ctx context.Context, parts []*indexedPart) error {
	matches := map[*indexedPart][]segment.Match{}
	var some []*indexedPart
	for _, p := range parts {
		if p.found == nil {
			continue
		}
		found := p.found.Match()
		if r.seen, r.matched = r.seen+int(p.end-p.first)+1, r.matched+len(found); len(found) > 0 {
			matches[p], some = found, append(some, p)
		}
	}
	if len(some) > 0 {
		var batch pgx.Batch
		queueBlocks(&batch, some, []segment.Range{segment.About}, func(p *indexedPart, first int64, _ time.Time, _ int, data []byte) (err error) {
			if p.merged = first != p.first; !p.merged {
				r.bytes += len(data)
				matches[p], err = p.found.About(data)
			}
			return err
		})
		if err := r.store.pool.SendBatch(ctx, &batch).Close(); err != nil {
			return err
		}
	}
	for _, p := range parts {
		c := p.log
		switch {
		case p.found == nil:
			c.indexed = 0
			continue
		case p.merged:
			continue
		}
		for _, m := range slices.Backward(matches[p]) {
			if m.Seq >= c.joined && m.Seq <= p.end && !c.edited[m.Seq] {
				c.found(r, m.Seq, m.CreatedAt, m.At, m.Words)
			}
		}
		c.next = p.first - 1
		r.reached(c, p.at)
	}
	return nil
}

// load reads candidates from the log and adds those that are hits, in the order of the result.
func (r *search) load(ctx context.Context, some []candidate) error {
	type key struct {
		conversation chat.ID
		seq          int64
	}
	var ids []chat.ID
	var seqs []int64
	ranks := make(map[key]float32, len(some))
	for _, c := range some {
		ids, seqs = append(ids, c.conversation), append(seqs, c.seq)
		ranks[key{c.conversation, c.seq}] = c.at.Rank
	}
	found, err := collectEvents(ctx, r.store.pool, len(some), getFoundSQL, pgx.NamedArgs{"conversation_ids": ids, "seqs": seqs, "user_id": r.q.UserID})
	if err != nil {
		return err
	}
	hits := make([]chat.SearchHit, 0, len(found))
	keyOf := func(h *chat.SearchHit) chat.SearchCursor {
		return chat.SearchCursor{CreatedAt: h.Message.CreatedAt, ID: h.Message.ID, Rank: h.Rank}
	}
	for _, e := range found {
		excerpt, ok := r.words.Excerpt(e.Content)
		hit := chat.SearchHit{Message: e, Excerpt: excerpt, Rank: ranks[key{e.ConversationID, e.Seq}]}
		if k := keyOf(&hit); ok && (r.before.ID.IsZero() || compareNewest(k, r.before) < 0) && (!r.q.ByRank || r.q.After.IsZero() || compareRank(k, r.q.After) < 0) {
			hits = append(hits, hit)
		}
	}
	slices.SortFunc(hits, func(a, b chat.SearchHit) int { return compareRank(keyOf(&b), keyOf(&a)) })
	r.hits = append(r.hits, hits...)
	return nil
}

func (r *search) page() *chat.SearchPage {
	p := &chat.SearchPage{Items: r.hits}
	if len(r.hits) >= r.need {
		p.Items = r.hits[:r.need-1]
		last := &p.Items[len(p.Items)-1]
		p.Next = chat.SearchCursor{CreatedAt: last.Message.CreatedAt, ID: last.Message.ID, Rank: last.Rank, Until: r.q.After.Until}
	}
	return p
}
