package store

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

// IndexerOptions configures an Indexer. Zero values mean the defaults.
type IndexerOptions struct {
	Gather    time.Duration // how long events are collected before they are indexed together. 50 ms
	LookEvery time.Duration // how often all conversations are scanned for missed events. 5 min
	MaxQueue  int           // conversations queued; beyond that, all are scanned instead. 50,000
	Busy      int           // events stored per second above which the indexer throttles itself. 1,000 for each CPU

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

func (o *IndexerOptions) setDefaults() {
	o.Gather = cmp.Or(o.Gather, 50*time.Millisecond)
	o.LookEvery = cmp.Or(o.LookEvery, 5*time.Minute)
	o.MaxQueue = cmp.Or(o.MaxQueue, 50_000)
	o.Busy = cmp.Or(o.Busy, 1000*runtime.GOMAXPROCS(0))
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
}

const (
	stepConversations = 64      // indexed in one transaction
	stepEvents        = 500     // read in one transaction
	stepBytes         = 1 << 20 // of their content
	stepPatience      = 30 * time.Second
	lookConversations = 1000 // scanned by one statement
	lookBelow         = 2000 // conversations queued; the scan pauses above that

	// The indexer rests for a multiple of the time it worked, so that it uses at most half of
	// one connection's time; while the event rate is above Busy a twentieth, to catch up after
	// the peak; and if the peak does not end, a quarter, so as not to fall behind for ever.
	restQuiet, restBusy, restLong = 1, 19, 3

	peak    = time.Minute
	maxRest = 5 * time.Second
)

// Indexer builds the search index from the logs, asynchronously: storing a message does not
// wait for it. It continues each log from its position in search_positions, which is stored
// in one transaction with the terms; so a crash loses nothing, no event is indexed twice, and
// a database without an index gets one. Several may run on one database: a log is indexed by
// the one that has locked its position.
type Indexer struct {
	store   *Store
	opts    IndexerOptions
	metrics *indexerMetrics
	wake    chan struct{} // something is queued; one is enough

	mu       sync.Mutex
	behind   map[chat.ID]logSpan // mu guards: what is known to be unindexed
	waiting  int64               // mu guards: events in all of them
	queue    []chat.ID           // mu guards: the keys of behind, except those of the current step
	overflow bool                // mu guards: all are to be scanned, as one did not fit into the queue
	noted    int                 // mu guards: events since rate was computed

	look      chat.ID   // owned by Run: the last conversation scanned
	looking   bool      // owned by Run
	nextLook  time.Time // owned by Run
	rateSince time.Time // owned by Run
	rate      float64   // owned by Run: events per second, recently
	busySince time.Time // owned by Run: when the rate went above Busy; zero: it is not
}

// logSpan is the unindexed part of a log: the events after from, up to to.
type logSpan struct{ from, to int64 }

// NewIndexer returns an indexer on s's database. It starts nothing; Run does.
func NewIndexer(s *Store, opts IndexerOptions) *Indexer {
	opts.setDefaults()
	return &Indexer{
		store: s, opts: opts, metrics: newIndexerMetrics(opts.Registerer), wake: make(chan struct{}, 1), behind: map[chat.ID]logSpan{},
	}
}

// Note queues a conversation whose log reaches at least seq. It does not block, and may be
// called before Run.
func (x *Indexer) Note(conversation chat.ID, seq int64) {
	x.mu.Lock()
	x.noted++
	x.note(conversation, seq-1, seq)
	x.mu.Unlock()
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// Scan has all conversations scanned for missed events. It does not block.
func (x *Indexer) Scan() {
	x.mu.Lock()
	x.overflow = true
	x.mu.Unlock()
}

// note is Note without counting the event; the log is indexed up to from at most. x.mu is
// held.
func (x *Indexer) note(conversation chat.ID, from, to int64) {
	known, ok := x.behind[conversation]
	switch {
	case !ok && len(x.behind) >= x.opts.MaxQueue:
		x.overflow = true
		return
	case !ok:
		known = logSpan{from, from}
		x.queue = append(x.queue, conversation)
	case to <= known.to:
		return
	}
	x.waiting += to - known.to
	x.behind[conversation] = logSpan{known.from, to}
	x.metrics.waiting.Set(float64(x.waiting))
}

// Run indexes the logs until ctx ends. Failed steps are retried with backoff.
func (x *Indexer) Run(ctx context.Context) error {
	x.looking, x.rateSince = true, time.Now()
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

// work scans the next conversations, if a scan is due, and indexes one step; it reports
// whether there was anything to do.
func (x *Indexer) work(ctx context.Context) (bool, error) {
	ctx, cancel := chat.WithDeadline(ctx, stepPatience, "store.Indexer")
	defer cancel()
	x.mu.Lock()
	queued := len(x.behind)
	if x.overflow && !x.looking {
		x.overflow, x.looking, x.look = false, true, chat.ID{}
	}
	x.mu.Unlock()
	if !x.looking && time.Now().After(x.nextLook) {
		x.looking, x.look = true, chat.ID{}
	}
	looked := false
	if x.looking && queued < lookBelow {
		if err := x.lookOn(ctx); err != nil {
			return false, err
		}
		looked = true
	}
	ids := x.take()
	if len(ids) == 0 {
		return looked, nil
	}
	start := time.Now()
	reached, indexed, err := x.step(ctx, ids)
	if err != nil && len(ids) > 1 && chat.CodeOf(translate("store.Indexer", err)) != chat.Unavailable {
		reached, indexed, err = x.oneByOne(ctx, ids)
	}
	x.settle(ids, reached)
	x.metrics.indexed.Add(float64(indexed))
	if err != nil {
		return false, translate("store.Indexer", err)
	}
	x.metrics.step.Observe(time.Since(start).Seconds())
	return len(reached) > 0, nil // another node may have locked them all
}

// oneByOne indexes conversations separately, so that one which the database refuses does not
// hold up the others.
func (x *Indexer) oneByOne(ctx context.Context, ids []chat.ID) (reached map[chat.ID]int64, indexed int, err error) {
	reached = map[chat.ID]int64{}
	for _, id := range ids {
		r, n, refused := x.step(ctx, []chat.ID{id})
		if refused != nil {
			err = fmt.Errorf("index conversation %s: %w", id, refused)
		}
		maps.Copy(reached, r)
		indexed += n
	}
	return reached, indexed, err
}

// take takes the conversations of the next step out of the queue.
func (x *Indexer) take() []chat.ID {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := min(len(x.queue), stepConversations)
	ids := slices.Clone(x.queue[:n])
	x.queue = x.queue[n:]
	if len(x.queue) == 0 {
		x.queue = nil // free the array
	}
	return ids
}

// settle queues again the conversations of a step that are not indexed to their end.
func (x *Indexer) settle(ids []chat.ID, reached map[chat.ID]int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, id := range ids {
		left := x.behind[id]
		if seq, ok := reached[id]; ok {
			seq = min(max(seq, left.from), left.to)
			x.waiting -= seq - left.from
			left.from = seq
		}
		if left.from == left.to {
			delete(x.behind, id)
			continue
		}
		x.behind[id] = left
		x.queue = append(x.queue, id)
	}
	x.metrics.waiting.Set(float64(x.waiting))
}

// rest pauses in proportion to the time worked; if there was nothing to do, until there is,
// and then for Gather.
func (x *Indexer) rest(ctx context.Context, worked bool, took time.Duration) {
	now := time.Now()
	if d := now.Sub(x.rateSince); d >= 200*time.Millisecond {
		x.mu.Lock()
		x.rate, x.noted = float64(x.noted)/d.Seconds(), 0
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
		backoff.Sleep(ctx, min(max(time.Duration(factor)*took, x.opts.Gather/2), maxRest))
		return
	}
	wait := time.Until(x.nextLook)
	x.mu.Lock()
	if len(x.queue) > 0 { // locked by another node
		wait = 4 * x.opts.Gather
	}
	x.mu.Unlock()
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return
	case <-t.C:
	case <-x.wake:
	}
	backoff.Sleep(ctx, x.opts.Gather)
}

const lookBehindSQL = `
SELECT c.id, c.last_seq, coalesce(p.seq, 0)
FROM (SELECT id, last_seq FROM conversations WHERE id > @after ORDER BY id LIMIT @limit) c
LEFT JOIN search_positions p ON p.conversation_id = c.id
ORDER BY c.id`

// lookOn scans the next conversations and queues those with unindexed events.
func (x *Indexer) lookOn(ctx context.Context) error {
	type place struct {
		id        chat.ID
		last, seq int64
	}
	after := x.look
	if after.IsZero() {
		after = chat.ID{15: 1} // zero would be NULL; no id is below this
	}
	found, err := collect(ctx, x.store.pool,
		fields(func(p *place) []any { return []any{&p.id, &p.last, &p.seq} }),
		lookBehindSQL, pgx.NamedArgs{"after": after, "limit": lookConversations},
	)
	if err != nil {
		return translate("store.Indexer", err)
	}
	x.mu.Lock()
	for _, p := range found {
		if p.last > p.seq {
			x.note(p.id, p.seq, p.last)
		}
	}
	x.mu.Unlock()
	if len(found) < lookConversations {
		x.looking, x.nextLook = false, time.Now().Add(x.opts.LookEvery)
		return nil
	}
	x.look = found[len(found)-1].id
	return nil
}

const (
	makePlacesSQL = `
INSERT INTO search_positions (conversation_id, seq) SELECT id, 0 FROM unnest(@ids::uuid[]) AS behind (id)
WHERE EXISTS (SELECT FROM conversations c WHERE c.id = behind.id) ORDER BY id
ON CONFLICT ON CONSTRAINT search_positions_key DO NOTHING`

	// The events of a log are read in order from its position; followed verifies that there is
	// no gap. The content of an edit is not needed: the message's row has the present text.
	followSQL = `
WITH place AS MATERIALIZED (
  SELECT conversation_id, seq FROM search_positions WHERE conversation_id = ANY (@ids)
  ORDER BY conversation_id FOR UPDATE SKIP LOCKED
), next AS (
  SELECT p.conversation_id, p.seq AS place, e.*, sum(octet_length(e.content)) OVER (ROWS UNBOUNDED PRECEDING) - octet_length(e.content) AS bytes
  FROM place p LEFT JOIN LATERAL (
    SELECT seq, type, id, sender_id, created_at, deleted_at, (detail ->> 'messageId')::uuid AS message_id, content
    FROM events WHERE conversation_id = p.conversation_id AND seq > p.seq ORDER BY seq LIMIT @limit
  ) e ON true
  LIMIT @limit + @conversations
)
SELECT conversation_id, place, seq, type, id, sender_id, created_at, deleted_at, message_id, CASE WHEN type = 'message' THEN content END
FROM next WHERE bytes IS NULL OR bytes < @bytes`

	getTargetsSQL = `
SELECT e.conversation_id, 0::bigint, e.seq, e.type, e.id, e.sender_id, e.created_at, e.deleted_at, NULL::uuid, e.content
FROM unnest(@conversation_ids::uuid[], @ids::uuid[]) AS target (conversation_id, id)
JOIN events e ON e.id = target.id AND e.conversation_id = target.conversation_id AND e.type = 'message'`

	putTermsSQL = `
INSERT INTO message_terms (conversation_id, seq, message_id, sender_id, created_at, terms)
SELECT conversation_id, seq, message_id, sender_id, created_at, terms::tsvector
FROM unnest(@conversation_ids::uuid[], @seqs::bigint[], @ids::uuid[], @sender_ids::uuid[], @created_ats::timestamptz[], @terms::text[])
  AS t (conversation_id, seq, message_id, sender_id, created_at, terms)
ON CONFLICT ON CONSTRAINT message_terms_key DO UPDATE SET terms = excluded.terms`

	deleteTermsSQL = `
DELETE FROM message_terms t USING unnest(@conversation_ids::uuid[], @seqs::bigint[]) AS gone (conversation_id, seq)
WHERE t.conversation_id = gone.conversation_id AND t.seq = gone.seq`

	movePlacesSQL = `
UPDATE search_positions p SET seq = moved.seq FROM unnest(@conversation_ids::uuid[], @seqs::bigint[]) AS moved (conversation_id, seq)
WHERE p.conversation_id = moved.conversation_id`
)

// logged is an event as the indexer reads it.
type logged struct {
	conversation         chat.ID
	place, seq           int64 // seq 0: there is nothing after the position
	kind                 chat.EventType
	id, sender, target   chat.ID
	createdAt, deletedAt time.Time
	content              string
}

func scanLogged(row pgx.CollectableRow) (e logged, err error) {
	var seq *int64
	var kind, content *string
	err = row.Scan(&e.conversation, &e.place, &seq, &kind, &e.id, &e.sender, scanTime(&e.createdAt), scanTime(&e.deletedAt), &e.target, &content)
	if seq != nil {
		e.seq, e.kind = *seq, chat.EventType(*kind)
	}
	if content != nil {
		e.content = *content
	}
	return e, err
}

// step indexes the next events of some conversations in one transaction, and returns the new
// positions of those that no other node has locked. It does not wait for the disk: after a
// crash the positions are as old as the terms.
func (x *Indexer) step(ctx context.Context, ids []chat.ID) (reached map[chat.ID]int64, indexed int, err error) {
	slices.SortFunc(ids, chat.ID.Compare)
	err = pgx.BeginFunc(ctx, x.store.pool, func(tx pgx.Tx) error {
		reached, indexed = map[chat.ID]int64{}, 0
		if _, err := tx.Exec(ctx, `SET LOCAL synchronous_commit = off`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, makePlacesSQL, pgx.NamedArgs{"ids": ids}); err != nil {
			return err
		}
		events, err := collect(ctx, tx, scanLogged, followSQL, pgx.NamedArgs{
			"ids": ids, "limit": stepEvents, "conversations": stepConversations, "bytes": stepBytes,
		})
		if err != nil {
			return err
		}
		ch := newChanges()
		for _, e := range followed(events, reached) {
			indexed++
			ch.add(e)
		}
		if err := ch.apply(ctx, tx); err != nil {
			return err
		}
		return movePlaces(ctx, tx, reached, events)
	})
	if err != nil {
		return nil, 0, err
	}
	return reached, indexed, nil
}

// followed returns the events that continue their log without a gap, and sets the position
// that each log reaches by them.
func followed(events []logged, reached map[chat.ID]int64) []logged {
	keep := events[:0:0]
	for _, e := range events {
		if _, ok := reached[e.conversation]; !ok {
			reached[e.conversation] = e.place
		}
		if e.seq == reached[e.conversation]+1 {
			reached[e.conversation] = e.seq
			keep = append(keep, e)
		}
	}
	return keep
}

func movePlaces(ctx context.Context, tx pgx.Tx, reached map[chat.ID]int64, events []logged) error {
	var ids []chat.ID
	var seqs []int64
	for _, e := range events {
		if seq := reached[e.conversation]; seq > e.place && (len(ids) == 0 || !slices.Contains(ids, e.conversation)) {
			ids, seqs = append(ids, e.conversation), append(seqs, seq)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, movePlacesSQL, pgx.NamedArgs{"conversation_ids": ids, "seqs": seqs})
	return err
}

// messageKey identifies a message.
type messageKey struct{ conversation, id chat.ID }

// changes is what a step changes in the index: each message once, with its present text,
// however often it was edited.
type changes struct {
	put     map[messageKey]logged
	targets map[messageKey]struct{} // edited or deleted: their present text is still to be read
}

func newChanges() *changes {
	return &changes{put: map[messageKey]logged{}, targets: map[messageKey]struct{}{}}
}

func (c *changes) add(e logged) {
	switch e.kind {
	case chat.EventMessage:
		c.put[messageKey{e.conversation, e.id}] = e // the row has the present text
	case chat.EventEdit, chat.EventDelete:
		c.targets[messageKey{e.conversation, e.target}] = struct{}{}
	case chat.EventReaction, chat.EventConversation:
	}
}

const targetsAtOnce = 32 // of up to 64 KiB

func (c *changes) apply(ctx context.Context, tx pgx.Tx) error {
	all := make([]logged, 0, len(c.put))
	for key, e := range c.put {
		delete(c.targets, key) // in the same snapshot
		all = append(all, e)
	}
	if err := put(ctx, tx, all); err != nil {
		return err
	}
	var conversations, ids []chat.ID
	for key := range c.targets {
		conversations, ids = append(conversations, key.conversation), append(ids, key.id)
	}
	for len(ids) > 0 {
		n := min(len(ids), targetsAtOnce)
		changed, err := collect(ctx, tx, scanLogged, getTargetsSQL, pgx.NamedArgs{"conversation_ids": conversations[:n], "ids": ids[:n]})
		if err != nil {
			return err
		}
		if err := put(ctx, tx, changed); err != nil {
			return err
		}
		conversations, ids = conversations[n:], ids[n:]
	}
	return nil
}

// put stores the terms of messages, and removes those of messages that are deleted or have
// none.
func put(ctx context.Context, tx pgx.Tx, messages []logged) error {
	slices.SortFunc(messages, func(a, b logged) int {
		if c := a.conversation.Compare(b.conversation); c != 0 {
			return c
		}
		return int(a.seq - b.seq)
	})
	var conversations, ids, senders, goneFrom []chat.ID
	var seqs, gone []int64
	var at []time.Time
	var vectors []string
	for i := range messages {
		m := &messages[i]
		var vector []byte
		if m.deletedAt.IsZero() {
			vector = appendVector(nil, m.conversation, m.seq, m.content)
		}
		if len(vector) == 0 {
			goneFrom, gone = append(goneFrom, m.conversation), append(gone, m.seq)
			continue
		}
		conversations, seqs, ids, senders = append(conversations, m.conversation), append(seqs, m.seq), append(ids, m.id), append(senders, m.sender)
		at, vectors = append(at, m.createdAt), append(vectors, string(vector))
	}
	if len(seqs) > 0 {
		_, err := tx.Exec(ctx, putTermsSQL, pgx.NamedArgs{
			"conversation_ids": conversations, "seqs": seqs, "ids": ids, "sender_ids": senders, "created_ats": at, "terms": vectors,
		})
		if err != nil {
			return err
		}
	}
	if len(gone) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, deleteTermsSQL, pgx.NamedArgs{"conversation_ids": goneFrom, "seqs": gone})
	return err
}
