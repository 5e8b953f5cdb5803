package store

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/segment"
)

// IndexerOptions configures an Indexer. Zero values mean the defaults.
type IndexerOptions struct {
	Gather   int           // events of a log that are indexed together, at least; a KiB of text counts as one. 64
	ScanAt   time.Duration // how often all conversations are scanned for unindexed events. 1 h
	MaxNoted int           // conversations whose events are counted; beyond that, all are scanned instead. 50,000
	Busy     int           // events stored per second above which the indexer throttles itself. 1,000 for each CPU

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

func (o *IndexerOptions) setDefaults() {
	o.Gather = cmp.Or(o.Gather, 64)
	o.ScanAt = cmp.Or(o.ScanAt, time.Hour)
	o.MaxNoted = cmp.Or(o.MaxNoted, 50_000)
	o.Busy = cmp.Or(o.Busy, 1000*runtime.GOMAXPROCS(0))
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
}

const (
	segmentEvents = 1024    // of a full segment
	segmentBytes  = 1 << 18 // likewise, if its words take so much before
	stepEvents    = 4096    // indexed in one transaction
	mergeFactor   = 3       // segments are merged when those after them have so many times their events
	maxMerged     = 16      // segments that are merged at once

	stepPatience      = 30 * time.Second
	scanConversations = 1000 // scanned by one statement
	scanBelow         = 2000 // conversations ready; the scan pauses above that

	// The indexer rests for a multiple of the time it worked, so that it uses at most half of
	// one connection's time; while the event rate is above Busy a twentieth, to catch up after
	// the peak; and if the peak does not end, a quarter, so as not to fall behind for ever.
	restQuiet, restBusy, restLong = 1, 19, 3

	peak    = time.Minute
	minRest = 25 * time.Millisecond
	maxRest = 5 * time.Second
)

// Indexer builds the search index from the logs, in segments (package segment), as soon as
// enough of a log has gathered, or something in it was deleted. A search does not depend on it: it
// reads the log itself from where the index ends, so the indexer may be late, or never run.
//
// A new segment takes in those before it that are small, until one is full: so a log of n
// events has few segments, and each event is written three or four times at most. Where a
// message was edited or deleted, its segment is made anew from the log.
//
// What is indexed is known by the segments alone, which are replaced in one transaction; so a
// crash loses nothing, and a database without an index gets one. Several may run on one
// database: a log is indexed by the one that has its advisory lock.
type Indexer struct {
	store   *Store
	opts    IndexerOptions
	metrics *indexerMetrics
	wake    chan struct{} // something is ready; one is enough

	mu       sync.Mutex
	noted    map[chat.ID]noted // mu guards: what was stored since the conversation was indexed here
	waiting  int               // mu guards: the events in noted
	ready    []chat.ID         // mu guards: to be indexed: those in noted with a weight of Gather or more
	overflow bool              // mu guards: all are to be scanned, as noted was full
	rated    int               // mu guards: events since rate was computed

	scanned   chat.ID   // owned by Run: the last conversation scanned
	scanning  bool      // owned by Run
	nextScan  time.Time // owned by Run
	rateSince time.Time // owned by Run
	rate      float64   // owned by Run: events per second, recently
	busySince time.Time // owned by Run: when the rate went above Busy; zero: it is not
}

// noted is what is known to be unindexed of a log. The weight says how much a search has to read
// for it: 1 for each event and each KiB of text. What is deleted is to leave the index at once, and
// has the weight of Gather.
type noted struct{ events, weight int }

const weightBytes = 1 << 10

// NewIndexer returns an indexer on s's database. It starts nothing; Run does.
func NewIndexer(s *Store, opts IndexerOptions) *Indexer {
	opts.setDefaults()
	return &Indexer{
		store: s, opts: opts, metrics: newIndexerMetrics(opts.Registerer), wake: make(chan struct{}, 1), noted: map[chat.ID]noted{},
	}
}

// Note counts an event that was stored. It does not block, and may be called before Run.
func (x *Indexer) Note(e *chat.Event) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.rated++
	n := noted{1, 1 + len(e.Content)/weightBytes}
	if e.Type == chat.EventDelete {
		n.weight = x.opts.Gather
	}
	x.note(e.ConversationID, n)
}

// note adds n to what is noted of a conversation. x.mu is held.
func (x *Indexer) note(conversation chat.ID, n noted) {
	before, known := x.noted[conversation]
	if !known && len(x.noted) >= x.opts.MaxNoted {
		x.forget()
	}
	after := noted{before.events + n.events, before.weight + n.weight}
	x.noted[conversation] = after
	x.waiting += n.events
	if before.weight < x.opts.Gather && after.weight >= x.opts.Gather {
		x.ready = append(x.ready, conversation)
		x.signal()
	}
	x.metrics.waiting.Set(float64(x.waiting))
}

// signal has Run look for something to do.
func (x *Indexer) signal() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// forget makes room: what is not ready is found by a scan. x.mu is held.
func (x *Indexer) forget() {
	clear(x.noted)
	x.waiting, x.ready, x.overflow = 0, nil, true
	x.signal()
}

// Scan has all conversations scanned for unindexed events. It does not block.
func (x *Indexer) Scan() {
	x.mu.Lock()
	x.overflow = true
	x.mu.Unlock()
	x.signal()
}

// Run indexes the logs until ctx ends. Failed steps are retried with backoff.
func (x *Indexer) Run(ctx context.Context) error {
	x.scanning, x.rateSince = true, time.Now()
	wait := backoff.New(100*time.Millisecond, 10*time.Second)
	for ctx.Err() == nil {
		start := time.Now()
		worked, err := x.work(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			x.metrics.failures.Inc()
			x.opts.Logger.Warn("indexing failed; trying again", "component", "indexer", "err", err)
			wait.Sleep(ctx)
		default:
			wait.Reset()
			x.rest(ctx, worked, time.Since(start))
		}
	}
	return nil
}

// work scans the next conversations, if a scan is due, and indexes one that is ready; it
// reports whether there was anything to do.
func (x *Indexer) work(ctx context.Context) (bool, error) {
	ctx, cancel := chat.WithDeadline(ctx, stepPatience, "store.Indexer")
	defer cancel()
	x.mu.Lock()
	ready := len(x.ready)
	if x.overflow && !x.scanning {
		x.overflow, x.scanning, x.scanned = false, true, chat.ID{}
	}
	x.mu.Unlock()
	if !x.scanning && time.Now().After(x.nextScan) {
		x.scanning, x.scanned = true, chat.ID{}
	}
	scanned := false
	if x.scanning && ready < scanBelow {
		if err := x.scan(ctx); err != nil {
			return false, err
		}
		scanned = true
	}
	id, taken, ok := x.take()
	if !ok {
		return scanned, nil
	}
	start := time.Now()
	indexed, left, err := x.step(ctx, id)
	if err != nil {
		x.mu.Lock()
		x.note(id, taken) // last, so that it holds up no other
		x.mu.Unlock()
		return false, translate("store.Indexer", fmt.Errorf("index conversation %s: %w", id, err))
	}
	if left >= x.opts.Gather {
		x.mu.Lock()
		x.note(id, noted{left, left})
		x.mu.Unlock()
	}
	x.metrics.indexed.Add(float64(indexed))
	x.metrics.step.Observe(time.Since(start).Seconds())
	return true, nil
}

// take takes the next conversation that is ready, and what was noted of it.
func (x *Indexer) take() (id chat.ID, taken noted, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.ready) == 0 {
		return id, taken, false
	}
	id, x.ready = x.ready[0], x.ready[1:]
	if len(x.ready) == 0 {
		x.ready = nil // free the array
	}
	taken = x.noted[id]
	delete(x.noted, id)
	x.waiting -= taken.events
	x.metrics.waiting.Set(float64(x.waiting))
	return id, taken, true
}

// rest pauses in proportion to the time worked; if there was nothing to do, until there is.
func (x *Indexer) rest(ctx context.Context, worked bool, took time.Duration) {
	now := time.Now()
	if d := now.Sub(x.rateSince); d >= 200*time.Millisecond {
		x.mu.Lock()
		x.rate, x.rated = float64(x.rated)/d.Seconds(), 0
		x.mu.Unlock()
		x.rateSince = now
		switch {
		case x.rate <= float64(x.opts.Busy):
			x.busySince = time.Time{}
		case x.busySince.IsZero():
			x.busySince = now
		}
	}
	if worked {
		factor := restQuiet
		switch {
		case x.busySince.IsZero():
		case now.Sub(x.busySince) < peak:
			factor = restBusy
		default:
			factor = restLong
		}
		backoff.Sleep(ctx, min(max(time.Duration(factor)*took, minRest), maxRest))
		return
	}
	t := time.NewTimer(time.Until(x.nextScan))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-x.wake:
	}
}

// Of each conversation, whether so much of its log is not indexed, or something was deleted
// that may be indexed, that it is to be indexed now.
const scanSQL = `
SELECT c.id, c.last_seq - coalesce(p.last_seq, 0) >= @gather OR c.last_seq > p.last_seq AND EXISTS (
  SELECT FROM events e WHERE e.conversation_id = c.id AND e.seq > p.last_seq AND e.type = 'delete'
)
FROM (SELECT id, last_seq FROM conversations WHERE id > @after ORDER BY id LIMIT @limit) c
LEFT JOIN LATERAL (SELECT last_seq FROM search_segments WHERE conversation_id = c.id ORDER BY conversation_id DESC, last_seq DESC LIMIT 1) p ON true
ORDER BY c.id`

// scan scans the next conversations.
func (x *Indexer) scan(ctx context.Context) error {
	after := x.scanned
	if after.IsZero() {
		after = chat.ID{15: 1} // zero would be NULL; no id is below this
	}
	var id chat.ID
	var due bool
	var found []chat.ID
	n := 0
	err := forEach(ctx, x.store.pool, []any{&id, &due}, func() {
		if n++; due {
			found = append(found, id)
		}
	}, scanSQL, pgx.NamedArgs{"after": after, "limit": scanConversations, "gather": x.opts.Gather})
	if err != nil {
		return translate("store.Indexer", err)
	}
	x.mu.Lock()
	for _, id := range found {
		if weight := x.noted[id].weight; weight < x.opts.Gather {
			x.note(id, noted{0, x.opts.Gather - weight})
		}
	}
	x.mu.Unlock()
	if n < scanConversations {
		x.scanning, x.nextScan = false, time.Now().Add(x.opts.ScanAt)
		return nil
	}
	x.scanned = id
	return nil
}

const (
	// indexLocks keeps the locks of indexers apart from other advisory locks.
	indexLocks = `1886153077`

	lockIndexSQL = `SELECT pg_try_advisory_xact_lock(` + indexLocks + `, hashtext(@conversation_id::uuid::text))`

	// The last segments of a log, newest first, and how far the log reaches.
	lastSegmentsSQL = `
SELECT c.last_seq, s.first_seq, s.last_seq, s.bytes
FROM conversations c LEFT JOIN LATERAL (
  SELECT first_seq, last_seq, bytes FROM search_segments WHERE conversation_id = c.id AND first_term = ''
  ORDER BY conversation_id DESC, last_seq DESC LIMIT @limit
) s ON true
WHERE c.id = @conversation_id`

	// The messages that were edited or deleted, up to one seq and after another one. IS TRUE keeps
	// the planner from looking for them in the whole conversation.
	changedSQL = `
SELECT DISTINCT t.seq FROM (
  SELECT detail FROM events WHERE conversation_id = @conversation_id AND seq > @after AND seq <= @up_to AND type IN ('edit', 'delete')
) e
JOIN events t ON t.id = (e.detail ->> 'messageId')::uuid AND (t.conversation_id = @conversation_id) IS TRUE AND t.seq <= @after`

	getSegmentsSQL = `
SELECT last_seq, data FROM search_segments WHERE conversation_id = @conversation_id AND last_seq BETWEEN @first AND @last
ORDER BY conversation_id, last_seq, first_term`

	// The segment that has an event.
	segmentOfSQL = `
SELECT first_seq, last_seq FROM search_segments WHERE conversation_id = @conversation_id AND last_seq >= @seq
ORDER BY conversation_id, last_seq LIMIT 1`

	getTextsSQL = `
SELECT seq, sender_id, created_at, CASE WHEN type = 'message' THEN content ELSE '' END FROM events
WHERE conversation_id = @conversation_id AND seq > @after AND seq <= @up_to ORDER BY conversation_id, seq`

	deleteSegmentsSQL = `DELETE FROM search_segments WHERE conversation_id = @conversation_id AND last_seq BETWEEN @first AND @last`

	addSegmentSQL = `
INSERT INTO search_segments (conversation_id, first_seq, last_seq, bytes, first_term, data)
SELECT @conversation_id, @first::bigint, @last::bigint, @bytes::int, * FROM unnest(@terms::bytea[], @data::bytea[])`
)

// indexed is a segment that is stored.
type indexed struct {
	first, last int64
	bytes       int
}

func (s indexed) events() int64 { return s.last - s.first + 1 }

func (s indexed) full() bool { return s.events() >= segmentEvents || s.bytes >= segmentBytes }

// step indexes the next events of a conversation in one transaction. It returns how many, and
// how many are left; none, if another indexer is at work on it. It does not wait for the disk: after a crash there are the segments of before.
func (x *Indexer) step(ctx context.Context, id chat.ID) (n, left int, err error) {
	err = pgx.BeginFunc(ctx, x.store.pool, func(tx pgx.Tx) error {
		t := &indexing{tx: tx, id: id}
		n, left, err = t.run(ctx)
		return err
	})
	return n, left, err
}

// indexing is a step of an indexer.
type indexing struct {
	tx      pgx.Tx
	id      chat.ID
	replace pgx.Batch // of segments, when all is read
}

func (t *indexing) run(ctx context.Context) (n, left int, err error) {
	end, last, err := t.begin(ctx)
	if err != nil || end == 0 {
		return 0, 0, err
	}
	var position int64
	if len(last) > 0 {
		position = last[0].last
	}
	if end <= position {
		return 0, 0, nil
	}
	upTo := min(end, position+stepEvents)
	changed, err := t.changed(ctx, position, upTo)
	if err != nil {
		return 0, 0, err
	}
	first, err := t.append(ctx, toMerge(last, upTo-position), changed, position, upTo)
	if err != nil {
		return 0, 0, err
	}
	if err := t.renew(ctx, changed, first); err != nil {
		return 0, 0, err
	}
	return int(upTo - position), int(end - upTo), t.tx.SendBatch(ctx, &t.replace).Close()
}

// begin locks the conversation, and returns how far its log reaches and its last segments,
// newest first; 0, if another indexer has locked it, or it does not exist.
func (t *indexing) begin(ctx context.Context) (end int64, last []indexed, err error) {
	locked := false
	args := pgx.NamedArgs{"conversation_id": t.id, "limit": maxMerged}
	var b pgx.Batch
	b.Queue(`SET LOCAL synchronous_commit = off`)
	b.Queue(lockIndexSQL, args).QueryRow(func(row pgx.Row) error { return row.Scan(&locked) })
	b.Queue(lastSegmentsSQL, args).Query(func(rows pgx.Rows) error {
		var first, upTo *int64
		var bytes *int
		return scanEach(rows, []any{&end, &first, &upTo, &bytes}, func() {
			if first != nil {
				last = append(last, indexed{*first, *upTo, *bytes})
			}
		})
	})
	if err := t.tx.SendBatch(ctx, &b).Close(); err != nil || !locked {
		return 0, nil, err
	}
	return end, last, nil
}

// changed returns which indexed messages the next events are about, in order.
func (t *indexing) changed(ctx context.Context, after, upTo int64) ([]int64, error) {
	if after == 0 {
		return nil, nil
	}
	seqs, err := collect(ctx, t.tx, pgx.RowTo[int64], changedSQL, pgx.NamedArgs{"conversation_id": t.id, "after": after, "up_to": upTo})
	slices.Sort(seqs)
	return seqs, err
}

// toMerge returns which of the last segments, newest first, are merged with n events that
// follow them.
func toMerge(last []indexed, n int64) []indexed {
	merged := 0
	for i, s := range last {
		if s.full() {
			break
		}
		if n >= mergeFactor*s.events() {
			merged = i + 1
		}
		n += s.events()
	}
	return last[:merged]
}

// append makes segments of what is in merged, newest first, and of the events after it. It
// returns the first event that is in them.
func (t *indexing) append(ctx context.Context, merged []indexed, changed []int64, position, upTo int64) (first int64, err error) {
	if len(merged) == 0 {
		return position + 1, t.index(ctx, segment.NewBuilder(position+1), position+1, position+1, upTo, false)
	}
	newest, oldest := merged[0], merged[len(merged)-1]
	t.remove(oldest.last, newest.last)
	b := segment.NewBuilder(oldest.first)
	if len(changed) > 0 && changed[len(changed)-1] >= oldest.first {
		return oldest.first, t.index(ctx, b, oldest.first, oldest.first, upTo, false)
	}
	blocks := map[int64][][]byte{} // by the last seq of their segment
	var last int64
	var data []byte
	err = forEach(ctx, t.tx, []any{&last, &data}, func() { blocks[last] = append(blocks[last], data) },
		getSegmentsSQL, pgx.NamedArgs{"conversation_id": t.id, "first": oldest.last, "last": newest.last})
	if err != nil {
		return 0, err
	}
	for _, s := range slices.Backward(merged) {
		if err := b.Merge(s.first, blocks[s.last]); err != nil {
			return 0, err
		}
	}
	return oldest.first, t.index(ctx, b, oldest.first, position+1, upTo, false)
}

// renew makes anew the segments before first of messages that have changed.
func (t *indexing) renew(ctx context.Context, changed []int64, first int64) error {
	var done int64
	for _, seq := range changed {
		if seq <= done || seq >= first {
			continue
		}
		s, err := collectOne(ctx, t.tx, fields(func(s *indexed) []any { return []any{&s.first, &s.last} }), segmentOfSQL,
			pgx.NamedArgs{"conversation_id": t.id, "seq": seq})
		if err != nil {
			return err
		}
		t.remove(s.last, s.last)
		if err := t.index(ctx, segment.NewBuilder(s.first), s.first, s.first, s.last, true); err != nil {
			return err
		}
		done = s.last
	}
	return nil
}

// index adds the events from from up to last to the segment that b makes, which begins with
// first. It begins another whenever one is full, or makes one whatever its size.
func (t *indexing) index(ctx context.Context, b *segment.Builder, first, from, last int64, one bool) error {
	read, err := readTexts(ctx, t.tx, t.id, from, last, func(seq int64, sender chat.ID, at time.Time, text string) {
		if !one && (indexed{first, seq - 1, b.Size()}).full() {
			t.add(b, first, seq-1)
			b, first = segment.NewBuilder(seq), seq
		}
		b.Add(seq, sender, at, text)
	})
	if err != nil {
		return err
	}
	if read != last {
		return fmt.Errorf("the log ends at %d instead of %d", read, last)
	}
	t.add(b, first, last)
	return nil
}

// readTexts calls f with the texts of the events from first up to last, that of no message
// being empty, and returns the last one.
func readTexts(ctx context.Context, q querier, conversation chat.ID, first, last int64, f func(seq int64, sender chat.ID, at time.Time, text string)) (seq int64, err error) {
	var sender chat.ID
	var at time.Time
	var text string
	err = forEach(ctx, q, []any{&seq, &sender, &at, &text}, func() { f(seq, sender, at, text) },
		getTextsSQL, pgx.NamedArgs{"conversation_id": conversation, "after": first - 1, "up_to": last})
	return seq, err
}

func (t *indexing) remove(first, last int64) {
	t.replace.Queue(deleteSegmentsSQL, pgx.NamedArgs{"conversation_id": t.id, "first": first, "last": last})
}

func (t *indexing) add(b *segment.Builder, first, last int64) {
	blocks := b.Blocks()
	terms, data := make([][]byte, len(blocks)), make([][]byte, len(blocks))
	for i := range blocks {
		terms[i], data[i] = blocks[i].First, blocks[i].Data
	}
	t.replace.Queue(addSegmentSQL, pgx.NamedArgs{
		"conversation_id": t.id, "first": first, "last": last, "bytes": b.Size(), "terms": terms, "data": data,
	})
}
