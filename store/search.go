package store

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/words"
)

// A search reads the stretches of the logs of the user's conversations (search_terms.go),
// those with the newest messages first, several at a time, each by an index look-up. Matches
// are candidates; one becomes a hit when the log confirms that the message exists, that the
// user may read it now, and that its present text matches. So the index may be late, but a
// result is never wrong.

const (
	// The conversations to search, each with its first and last seq for the user. The newest
	// stretch with something older than before is found by the first event of each stretch:
	// a few steps down the log's primary key.
	searchedSQL = `
SELECT c.id, p.joined_seq, least(c.last_seq, i.seq), c.last_event_at, coalesce(CASE
  WHEN @before::timestamptz IS NULL OR c.last_event_at <= @before THEN least(c.last_seq, i.seq) / @stretch
  ELSE (
    SELECT s.n FROM generate_series(least(c.last_seq, i.seq) / @stretch, p.joined_seq / @stretch, -1) AS s (n)
    WHERE (SELECT e.created_at <= @before FROM events e WHERE e.conversation_id = c.id AND e.seq = greatest(s.n * @stretch, 1))
    ORDER BY s.n DESC LIMIT 1
  ) END, -1)
FROM participants p JOIN conversations c ON c.id = p.conversation_id LEFT JOIN search_positions i ON i.conversation_id = c.id
WHERE p.user_id = @user_id AND (@conversation_id::uuid IS NULL OR p.conversation_id = @conversation_id)`

	// The lexemes identify the conversation; IS TRUE keeps the planner from using the primary
	// key, which has no lexemes, for the comparison of its id.
	searchStretchSQL = `
FROM unnest(@conversation_ids::uuid[], @queries::text[]::tsquery[], @joined::bigint[], @before_ats::timestamptz[], @before_ids::uuid[])
  WITH ORDINALITY AS s (conversation_id, query, joined_seq, before_at, before_id, place)
CROSS JOIN LATERAL (
  SELECT t.seq, t.message_id, t.created_at, t.terms FROM message_terms t
  WHERE t.terms @@ s.query AND (t.conversation_id = s.conversation_id) IS TRUE AND t.seq >= s.joined_seq
    AND (@sender_id::uuid IS NULL OR t.sender_id = @sender_id)
    AND (s.before_at IS NULL OR t.created_at <= s.before_at AND (t.created_at < s.before_at OR t.message_id < s.before_id))`

	newestMatchesSQL = `
SELECT s.place - 1, t.seq, t.message_id, t.created_at, 0::real` + searchStretchSQL + `
  ORDER BY t.created_at DESC, t.message_id DESC LIMIT @limit
) t`

	// Normalization 1: a long message does not rank higher for being long.
	rankedMatchesSQL = `
SELECT s.place - 1, t.seq, t.message_id, t.created_at, ts_rank(t.terms, s.query, 1)` + searchStretchSQL + `
) t`

	// The time of the last event of each stretch.
	endsSQL = `
SELECT s.place - 1, e.created_at
FROM unnest(@conversation_ids::uuid[], @seqs::bigint[]) WITH ORDINALITY AS s (conversation_id, seq, place)
JOIN events e ON e.conversation_id = s.conversation_id AND e.seq = s.seq`

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
	firstStretches = 8   // read together at first; then twice as many each time
	maxStretches   = 512 // at most
)

// searchedLog is a conversation's log as the search proceeds through it.
type searchedLog struct {
	id      chat.ID
	joined  int64
	last    int64 // seq of the last event that is indexed; 0: none
	lastAt  time.Time
	newest  int64             // the first stretch to read; -1: none
	stretch int64             // the next one to read
	upTo    time.Time         // nothing in that stretch, nor in older ones, is newer
	before  chat.SearchCursor // only what is before this; zero: all
}

// candidate is a message that may be a hit.
type candidate struct {
	conversation chat.ID
	seq          int64
	at           chat.SearchCursor // its key
}

// SearchMessages implements chat.Store.
func (s *Store) SearchMessages(ctx context.Context, q chat.MessageSearch) (*chat.SearchPage, error) {
	query, err := words.ParseQuery(q.Text)
	if err != nil {
		return nil, err
	}
	r := &search{store: s, q: q, words: query, need: min(max(q.Limit, 1), chat.MaxPageSize) + 1}
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
	store *Store
	q     chat.MessageSearch
	words *words.Query
	need  int // hits for a page, and one more

	open       []*searchedLog // logs still to be read; first those whose next stretch is newest
	candidates []candidate    // from the stretches read so far, in the order of the result
	hits       []chat.SearchHit
}

// begin finds the conversations to search.
func (r *search) begin(ctx context.Context) error {
	before := r.before()
	all, err := collect(ctx, r.store.pool, func(row pgx.CollectableRow) (*searchedLog, error) {
		var c searchedLog
		var last *int64
		err := row.Scan(&c.id, &c.joined, &last, &c.lastAt, &c.newest)
		if last != nil {
			c.last = *last
		}
		return &c, err
	}, searchedSQL, pgx.NamedArgs{
		"user_id": r.q.UserID, "conversation_id": r.q.ConversationID, "before": nullTime(before.CreatedAt), "stretch": stretch,
	})
	switch {
	case err != nil:
		return err
	case len(all) == 0 && !r.q.ConversationID.IsZero():
		return noConversation("store.SearchMessages", r.q.ConversationID)
	}
	for _, c := range all {
		if c.last < c.joined || c.newest < 0 {
			continue
		}
		c.stretch, c.upTo, c.before = c.newest, c.lastAt, before
		if !before.CreatedAt.IsZero() && before.CreatedAt.Before(c.upTo) {
			c.upTo = before.CreatedAt
		}
		r.open = append(r.open, c)
	}
	r.sortOpen()
	return nil
}

func (r *search) sortOpen() {
	slices.SortFunc(r.open, func(a, b *searchedLog) int { return b.upTo.Compare(a.upTo) })
}

// before is the key that all hits precede; zero: none. Without an ID, messages of exactly
// that time are excluded.
func (r *search) before() chat.SearchCursor {
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
	for n := firstStretches; ; n = min(2*n, maxStretches) {
		if err := r.confirm(ctx); err != nil {
			return err
		}
		if len(r.hits) == r.need || len(r.open) == 0 {
			return nil
		}
		// Stretches that are older than the candidates needed can wait.
		var since time.Time
		if more := r.need - len(r.hits); len(r.candidates) >= more {
			since = r.candidates[more-1].at.CreatedAt
		}
		if err := r.match(ctx, n, since, newestMatchesSQL, r.need+1); err != nil {
			return err
		}
		slices.SortFunc(r.candidates, func(a, b candidate) int { return compareNewest(b.at, a.at) })
	}
}

// confirm turns candidates into hits, as far as no unread stretch can precede them.
func (r *search) confirm(ctx context.Context) error {
	for len(r.hits) < r.need {
		n := 0
		for n < len(r.candidates) && n < r.need-len(r.hits) && (len(r.open) == 0 || r.candidates[n].at.CreatedAt.After(r.open[0].upTo)) {
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
	for n := firstStretches; len(r.open) > 0; n = min(2*n, maxStretches) {
		if err := r.match(ctx, n, time.Time{}, rankedMatchesSQL, 0); err != nil {
			return err
		}
		if len(r.candidates) < chat.MaxRanked {
			continue
		}
		slices.SortFunc(r.candidates, func(a, b candidate) int { return compareNewest(b.at, a.at) })
		r.candidates = r.candidates[:chat.MaxRanked]
		if len(r.open) > 0 && r.candidates[chat.MaxRanked-1].at.CreatedAt.After(r.open[0].upTo) {
			break
		}
	}
	slices.SortFunc(r.candidates, func(a, b candidate) int { return compareRank(b.at, a.at) })
	if after := r.q.After; !after.IsZero() {
		n := slices.IndexFunc(r.candidates, func(c candidate) bool { return compareRank(c.at, after) < 0 })
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

// match reads the next n stretches that may have something at or after since, adds their
// candidates, at most limit from each (0: all), and drops the logs that are finished.
func (r *search) match(ctx context.Context, n int, since time.Time, sql string, limit int) error {
	n = min(n, len(r.open))
	if old := slices.IndexFunc(r.open[:n], func(c *searchedLog) bool { return c.upTo.Before(since) }); old >= 0 {
		n = old
	}
	now := r.open[:n]
	var ids, beforeIDs []chat.ID
	var queries []string
	var joined, ends []int64
	var beforeAts []nullTime
	for _, c := range now {
		ids, joined = append(ids, c.id), append(joined, c.joined)
		queries = append(queries, vectorQuery(r.words, qualifier(c.id, c.stretch)))
		beforeAts, beforeIDs = append(beforeAts, nullTime(c.before.CreatedAt)), append(beforeIDs, c.before.ID)
		ends = append(ends, c.stretch*stretch-1)
	}
	var batch pgx.Batch
	batch.Queue(wholeTablesSQL) // a GIN index is read by bitmap only
	got := make([]int, len(now))
	args := pgx.NamedArgs{
		"conversation_ids": ids, "queries": queries, "joined": joined, "before_ats": beforeAts, "before_ids": beforeIDs, "sender_id": r.q.SenderID,
	}
	if limit > 0 {
		args["limit"] = limit
	}
	var place int
	var m candidate
	batch.Queue(sql, args).Query(func(rows pgx.Rows) error {
		return scanEach(rows, []any{&place, &m.seq, &m.at.ID, &m.at.CreatedAt, &m.at.Rank}, func() {
			c := now[place]
			m.conversation = c.id
			r.candidates = append(r.candidates, m)
			if got[place]++; got[place] == limit {
				c.before, c.upTo = m.at, m.at.CreatedAt // the oldest of them
			}
		})
	})
	var end time.Time
	batch.Queue(endsSQL, pgx.NamedArgs{"conversation_ids": ids, "seqs": ends}).Query(func(rows pgx.Rows) error {
		return scanEach(rows, []any{&place, &end}, func() {
			c := now[place]
			if limit > 0 && got[place] == limit || c.stretch*stretch <= c.joined {
				return
			}
			if c.stretch--; end.Before(c.upTo) {
				c.upTo = end
			}
			got[place] = -1 // goes on
		})
	})
	if err := r.store.pool.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	left := make([]*searchedLog, 0, len(r.open))
	for i, c := range now {
		if got[i] == -1 || limit > 0 && got[i] == limit {
			left = append(left, c)
		}
	}
	r.open = append(left, r.open[n:]...)
	r.sortOpen()
	return nil
}

// load reads candidates from the log and adds those that are hits.
func (r *search) load(ctx context.Context, some []candidate) error {
	var ids []chat.ID
	var seqs []int64
	ranks := make(map[chat.ID]float32, len(some))
	for _, c := range some {
		ids, seqs = append(ids, c.conversation), append(seqs, c.seq)
		ranks[c.at.ID] = c.at.Rank
	}
	found, err := collect(ctx, r.store.pool, scanEvent, getFoundSQL, pgx.NamedArgs{"conversation_ids": ids, "seqs": seqs, "user_id": r.q.UserID})
	if err != nil {
		return err
	}
	for _, e := range found {
		if excerpt, ok := r.words.Excerpt(e.Content); ok {
			r.hits = append(r.hits, chat.SearchHit{Message: e, Excerpt: excerpt, Rank: ranks[e.ID]})
		}
	}
	return nil
}

func (r *search) page() *chat.SearchPage {
	p := &chat.SearchPage{Items: r.hits}
	if len(r.hits) == r.need {
		p.Items = r.hits[:r.need-1]
		last := &p.Items[len(p.Items)-1]
		p.Next = chat.SearchCursor{CreatedAt: last.Message.CreatedAt, ID: last.Message.ID, Rank: last.Rank, Until: r.q.After.Until}
	}
	return p
}
