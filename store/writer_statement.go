package store

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/chat"
)

// appendSQL stores a batch: conversations $1 with $2 events each, checked against
// roster version $3, at time $4; events $5 … $12. It locks the conversations in
// order of id, so that two batches never wait for each other in a circle; moves
// their last_seq; and numbers the events from there by their rank $6. A
// conversation that is not in the answer does not exist or has changed its
// members, and none of its events is stored.
//
// There is no ON CONFLICT here: it would burn numbers. A repeated key fails the
// statement with 23505, counters included; see resolveRepeats.
const appendSQL = lockedSQL + movedSQL + `
  RETURNING c.id, c.last_seq - n.events AS base, c.last_event_at
)` + storedSQL

// appendSharedSQL does the same for a node that shares its database with others, with an
// outbox row of node $13. It stores nothing if a newer connection of the same device has
// superseded one of the connections that the batch came over (users $14, devices $15,
// epochs $16): those are the rows with a negative base, which counts them from -1.
const appendSharedSQL = lockedSQL + `, superseded AS MATERIALIZED (
  SELECT f.user_id, f.rank FROM unnest($14::uuid[], $15::text[], $16::int8[]) WITH ORDINALITY AS f (user_id, client_id, epoch, rank)
  JOIN sessions s ON s.user_id = f.user_id AND s.client_id = f.client_id AND s.epoch > f.epoch
)` + movedSQL + ` AND NOT EXISTS (SELECT FROM superseded)
  RETURNING c.id, c.last_seq - n.events AS base, c.last_event_at, c.last_seq, c.members_version
), outbox AS (
  INSERT INTO journal (node, conversations, seqs, versions)
  SELECT $13, array_agg(m.id), array_agg(m.last_seq), array_agg(m.members_version) FROM moved m HAVING count(*) > 0
)` + storedSQL + `
UNION ALL SELECT user_id, -rank, '-infinity' FROM superseded`

// appendOneSQL stores one event, which is what a batch is while messages come one by one: it
// has the same result as appendSQL over a batch of one, for a third of the work, most of which
// was to plan for arrays. The conversation $1 was checked against roster version $2; the time is $3.
const appendOneSQL = `
WITH ` + movedOneSQL + `
  RETURNING c.id, c.last_seq - 1 AS base, c.last_event_at
)` + storedOneSQL

// appendOneSharedSQL is appendSharedSQL for one event, of the device $11 and its epoch $12;
// NULL: of none.
const appendOneSharedSQL = `
WITH superseded AS MATERIALIZED (
  SELECT s.user_id FROM sessions s WHERE s.user_id = $5 AND s.client_id = $11 AND s.epoch > $12
), ` + movedOneSQL + ` AND NOT EXISTS (SELECT FROM superseded)
  RETURNING c.id, c.last_seq - 1 AS base, c.last_event_at, c.last_seq, c.members_version
), outbox AS (
  INSERT INTO journal (node, conversations, seqs, versions) SELECT $10, ARRAY[m.id], ARRAY[m.last_seq], ARRAY[m.members_version] FROM moved m
)` + storedOneSQL + `
UNION ALL SELECT user_id, -1, '-infinity' FROM superseded`

const (
	movedOneSQL = `moved AS (
  UPDATE conversations c SET last_seq = c.last_seq + 1, last_event_at = greatest(c.last_event_at, $3), last_xid = pg_current_xact_id()
  WHERE c.id = $1 AND c.members_version = $2`

	storedOneSQL = `, stored AS (
  INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content, detail)
  SELECT m.id, m.base + 1, $4, $5, $6, m.last_event_at, $9, $7, $8 FROM moved m
)
SELECT id, base, last_event_at FROM moved`
)

const (
	lockedSQL = `
WITH locked AS MATERIALIZED (
  SELECT c.id FROM conversations c WHERE c.id = ANY($1::uuid[]) ORDER BY c.id FOR UPDATE
)`

	movedSQL = `, moved AS (
  UPDATE conversations c SET last_seq = c.last_seq + n.events, last_event_at = greatest(c.last_event_at, $4::timestamptz), last_xid = pg_current_xact_id()
  FROM unnest($1::uuid[], $2::int4[], $3::int8[]) AS n(id, events, members_version), (SELECT count(*) FROM locked) l
  WHERE c.id = n.id AND c.members_version = n.members_version`

	storedSQL = `, stored AS (
  INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content, detail)
  SELECT m.id, m.base + e.rank, e.id, e.sender_id, e.client_msg_id, m.last_event_at, e.type, e.content, e.detail
  FROM unnest($5::uuid[], $6::int4[], $7::uuid[], $8::uuid[], $9::uuid[], $10::text[], $11::jsonb[], $12::text[])
    AS e(conversation_id, rank, id, sender_id, client_msg_id, content, detail, type)
  JOIN moved m ON m.id = e.conversation_id
)
SELECT id, base, last_event_at FROM moved`
)

// Rows are compared where columns would do, because only the index events_client_msg_id can do
// that; and IS TRUE keeps the planner from using another one. With statistics of a time when conversations were short, the planner would read all of one.
const (
	lookupSQL = `
SELECT e.* FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS k (conversation_id, sender_id, client_msg_id)
CROSS JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events
  WHERE (sender_id, conversation_id, client_msg_id) BETWEEN (k.sender_id, k.conversation_id, k.client_msg_id) AND (k.sender_id, k.conversation_id, k.client_msg_id)
    AND (conversation_id = k.conversation_id) IS TRUE
) e`

	findResentSQL = `
SELECT ` + eventColumns + ` FROM events
WHERE (sender_id, conversation_id, client_msg_id) BETWEEN ($2, $1, $3) AND ($2, $1, $4) AND (conversation_id = $1) IS TRUE
ORDER BY sender_id DESC, conversation_id DESC, client_msg_id DESC LIMIT 1`
)

// freshWriterPlansSQL has a large batch planned anew, with all that the planner knows, until the
// transaction ends: see WriterConfig.
const freshWriterPlansSQL = `
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_hashjoin', 'on', true), set_config('enable_mergejoin', 'on', true)`

// lockBatchSQL locks as appendSQL does.
const lockBatchSQL = `SELECT FROM conversations c WHERE c.id = ANY($1::uuid[]) ORDER BY c.id FOR UPDATE`

const lockConversationSQL = `SELECT FROM conversations WHERE id = $1 FOR UPDATE`

// errRepeat says that a key of the batch is in the log already: nothing was stored.
var errRepeat = errors.New("repeated key")

// statement runs the writer's SQL on one connection that it keeps. The batch
// goes straight into the wire format of the protocol, in buffers that are
// reused: encoding a row costs no allocation (pgx's arrays of wrapped values cost
// several for each column). Owned by one shard's run.
type statement struct {
	pool *pgxpool.Pool
	conn *pgxpool.Conn // nil: none yet, or the last one broke
	node func() string // nil: there is no outbox

	prepared map[string]*pgconn.StatementDescription // on conn, by name

	buf    []byte // the parameters of one call, one after the other
	starts [batchSharedParams + 1]int
	begun  int // how many of them
	values [batchSharedParams][]byte
	bases  map[chat.ID]logBase
	fenced []*chat.Append // those of the batch with a Device, where there is an outbox
}

// logBase is where a conversation's new events begin: after seq, all at one time.
type logBase struct {
	seq int64
	at  time.Time
}

// A prepared is one of the statements that are prepared on the connection.
type prepared struct {
	name, sql string
	types     []uint32
}

const (
	batchParams       = 12 // the parameters of appendSQL, which begin those of appendSharedSQL
	batchSharedParams = 16
	oneParams         = 9 // likewise of appendOneSQL
	oneSharedParams   = 12
)

var (
	batchTypes = []uint32{
		pgtype.UUIDArrayOID, pgtype.Int4ArrayOID, pgtype.Int8ArrayOID, pgtype.TimestamptzOID, pgtype.UUIDArrayOID, pgtype.Int4ArrayOID, pgtype.UUIDArrayOID, pgtype.UUIDArrayOID, pgtype.UUIDArrayOID, pgtype.TextArrayOID, pgtype.JSONBArrayOID, pgtype.TextArrayOID,
		pgtype.TextOID, pgtype.UUIDArrayOID, pgtype.TextArrayOID, pgtype.Int8ArrayOID,
	}
	oneTypes = []uint32{
		pgtype.UUIDOID, pgtype.Int8OID, pgtype.TimestamptzOID, pgtype.UUIDOID, pgtype.UUIDOID, pgtype.UUIDOID, pgtype.TextOID, pgtype.JSONBOID, pgtype.TextOID,
		pgtype.TextOID, pgtype.TextOID, pgtype.Int8OID,
	}
	appendBatch       = prepared{"parley_append", appendSQL, batchTypes[:batchParams]}
	appendBatchShared = prepared{"parley_append", appendSharedSQL, batchTypes}
	appendOne         = prepared{"parley_append_one", appendOneSQL, oneTypes[:oneParams]}
	appendOneShared   = prepared{"parley_append_one", appendOneSharedSQL, oneTypes}
	lockBatch         = prepared{"parley_lock", lockBatchSQL, batchTypes[:1]}
	lockOne           = prepared{"parley_lock_one", lockConversationSQL, oneTypes[:1]}
	freshPlan         = prepared{"parley_fresh_plan", freshWriterPlansSQL, nil}

	binary16      = []int16{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
	resultFormats = []int16{1, 1, 1}
)

func (s *statement) acquire(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return translate("store.Writer", err)
	}
	list := []prepared{freshPlan, appendBatch, appendOne}
	if s.node != nil {
		list = []prepared{freshPlan, appendBatchShared, appendOneShared, lockBatch, lockOne}
	}
	s.prepared = make(map[string]*pgconn.StatementDescription, len(list))
	for _, p := range list {
		if s.prepared[p.name], err = conn.Conn().PgConn().Prepare(ctx, p.name, p.sql, p.types); err != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx))
			conn.Release()
			return translate("store.Writer", err)
		}
	}
	s.conn = conn
	return nil
}

// supersededError says that nothing was stored, because these came over connections that
// newer ones of the same devices have superseded.
type supersededError struct{ events []*chat.Append }

func (e *supersededError) Error() string { return "the device has connected again" }

// release gives the connection up; a broken one is closed by that.
func (s *statement) release() {
	if s.conn == nil {
		return
	}
	ctx, cancel := chat.WithDeadline(context.Background(), time.Second, "store.release")
	defer cancel()
	_ = s.conn.Conn().Close(ctx) // the next one is prepared anew
	s.conn.Release()
	s.conn = nil
}

// insert stores the ranked events of the batch. It returns where each
// conversation's events went; errRepeat if a key is in the log already; and
// Unavailable for what may be tried again, as is. The result is good until the next call.
func (s *statement) insert(ctx context.Context, b *group, now time.Time) (map[chat.ID]logBase, error) {
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	if err := s.encode(b, now); err != nil {
		return nil, err
	}
	if s.bases == nil {
		s.bases = map[chat.ID]logBase{}
	}
	clear(s.bases)
	var superseded supersededError
	err := s.exec(ctx, b, func(v [][]byte) {
		if base := int64(binary.BigEndian.Uint64(v[1])); base < 0 {
			superseded.events = append(superseded.events, s.fenced[-base-1])
			return
		}
		s.bases[chat.ID(v[0])] = logBase{
			seq: int64(binary.BigEndian.Uint64(v[1])),
			at:  postgresEpoch.Add(time.Duration(int64(binary.BigEndian.Uint64(v[2]))) * time.Microsecond),
		}
	})
	switch {
	case sqlState(err) == stateUnique:
		return nil, errRepeat
	case err != nil:
		return nil, translate("store.insert", err)
	case len(superseded.events) > 0:
		return nil, &superseded
	}
	return s.bases, nil
}

// exec runs the statement with the parameters that encode has written, and calls row for
// each row of the result. Where events come from devices, a statement before it locks the conversations, in the
// same round trip and transaction: its snapshot, by which it sees whether a device has
// connected again, is then taken when it no longer waits for any lock. Otherwise a device
// that meanwhile connects at another node, and sends again what is on its way here, would
// find nothing, and both would be stored. (With commands, they are locked already.)
func (s *statement) exec(ctx context.Context, b *group, row func(values [][]byte)) error {
	add, lock := s.prepared[appendBatch.name], s.prepared[lockBatch.name]
	if b.single() {
		add, lock = s.prepared[appendOne.name], s.prepared[lockOne.name]
	}
	values, formats := s.values[:s.begun], binary16[:s.begun]
	conn := s.conn.Conn().PgConn()
	locks, plans := s.node != nil && len(s.fenced) > 0 && !b.commands, b.large() && !b.commands
	if !locks && !plans {
		res := conn.ExecStatement(ctx, add, values, formats, resultFormats)
		for res.NextRow() {
			row(res.Values())
		}
		_, err := res.Close()
		return err
	}
	var batch pgconn.Batch
	if plans {
		batch.ExecStatement(s.prepared[freshPlan.name], nil, nil, nil)
	}
	if locks {
		batch.ExecStatement(lock, values[:1], formats[:1], nil)
	}
	batch.ExecStatement(add, values, formats, resultFormats)
	results := conn.ExecBatch(ctx, &batch)
	for results.NextResult() {
		res := results.ResultReader()
		fields := res.FieldDescriptions()
		for res.NextRow() {
			if len(fields) > 0 && fields[0].Name == add.Fields[0].Name { // of the last
				row(res.Values())
			}
		}
	}
	return results.Close()
}

var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// encode writes the parameters in binary format.
func (s *statement) encode(b *group, now time.Time) error {
	s.buf, s.begun, s.fenced = s.buf[:0], 0, s.fenced[:0]
	if b.single() {
		return s.encodeOne(b, now)
	}
	s.array(pgtype.UUIDOID, len(b.convs))
	for i := range b.convs {
		s.uuid(b.convs[i].id)
	}
	s.array(pgtype.Int4OID, len(b.convs))
	for i := range b.convs {
		s.int4(b.convs[i].events)
	}
	s.array(pgtype.Int8OID, len(b.convs))
	for i := range b.convs {
		s.int8(b.convs[i].membersVersion)
	}
	s.time(now)
	var err error
	s.events(b, pgtype.UUIDOID, func(e *chat.Event, _ int32) { s.uuid(e.ConversationID) })
	s.events(b, pgtype.Int4OID, func(_ *chat.Event, rank int32) { s.int4(rank) })
	s.events(b, pgtype.UUIDOID, func(e *chat.Event, _ int32) { s.uuid(e.ID) })
	s.events(b, pgtype.UUIDOID, func(e *chat.Event, _ int32) { s.uuid(e.SenderID) })
	s.events(b, pgtype.UUIDOID, func(e *chat.Event, _ int32) { s.uuid(e.ClientMsgID) })
	s.events(b, pgtype.TextOID, func(e *chat.Event, _ int32) { s.text(e.Content) })
	s.events(b, pgtype.JSONBOID, func(e *chat.Event, _ int32) { err = cmp.Or(err, s.detail(&e.EventDetail)) })
	s.events(b, pgtype.TextOID, func(e *chat.Event, _ int32) { s.text(string(e.Type)) })
	if s.node != nil {
		s.encodeShared(b)
	}
	s.slice()
	return err
}

// slice makes the values of what was written.
func (s *statement) slice() {
	s.starts[s.begun] = len(s.buf)
	for i := range s.begun {
		s.values[i] = s.buf[s.starts[i]:s.starts[i+1]]
	}
}

// encodeOne is encode for the one ranked event of the batch.
func (s *statement) encodeOne(b *group, now time.Time) error {
	a := b.pending[slices.Index(b.ranks, 1)]
	e := &a.Event
	s.value(e.ConversationID[:])
	s.begin()
	s.buf = binary.BigEndian.AppendUint64(s.buf, uint64(a.MembersVersion))
	s.time(now)
	s.value(e.ID[:])
	s.value(e.SenderID[:])
	s.value(e.ClientMsgID[:])
	s.begin()
	s.buf = append(s.buf, e.Content...)
	s.begin()
	detail := s.begun - 1
	err := s.appendDetail(&e.EventDetail)
	s.begin()
	s.buf = append(s.buf, e.Type...)
	if s.node != nil {
		s.begin()
		s.buf = append(s.buf, s.node()...)
		s.begin()
		s.buf = append(s.buf, a.Device...)
		s.begin()
		s.buf = binary.BigEndian.AppendUint64(s.buf, uint64(a.Epoch))
	}
	s.slice()
	if e.EventDetail.IsZero() {
		s.values[detail] = nil // NULL
	}
	switch {
	case s.node == nil:
	case a.Device == "":
		s.values[oneSharedParams-2] = nil
	default:
		s.fenced = append(s.fenced, a)
	}
	return err
}

// encodeShared writes the parameters that only appendSharedSQL has.
func (s *statement) encodeShared(b *group) {
	for i, rank := range b.ranks {
		if rank > 0 && b.pending[i].Device != "" {
			s.fenced = append(s.fenced, b.pending[i])
		}
	}
	s.begin()
	s.buf = append(s.buf, s.node()...)
	s.array(pgtype.UUIDOID, len(s.fenced))
	for _, a := range s.fenced {
		s.uuid(a.Event.SenderID)
	}
	s.array(pgtype.TextOID, len(s.fenced))
	for _, a := range s.fenced {
		s.text(a.Device)
	}
	s.array(pgtype.Int8OID, len(s.fenced))
	for _, a := range s.fenced {
		s.int8(a.Epoch)
	}
}

// events writes an array with an element for each ranked event.
func (s *statement) events(b *group, elem uint32, write func(e *chat.Event, rank int32)) {
	s.array(elem, b.rows)
	for i, rank := range b.ranks {
		if rank > 0 {
			write(&b.pending[i].Event, rank)
		}
	}
}

// begin begins the next parameter.
func (s *statement) begin() {
	s.starts[s.begun] = len(s.buf)
	s.begun++
}

// array begins a parameter that is an array of n elements, which follow.
func (s *statement) array(elem uint32, n int) {
	s.begin()
	s.buf = appendArrayHeader(s.buf, elem, n)
}

// value is a parameter that is b.
func (s *statement) value(b []byte) {
	s.begin()
	s.buf = append(s.buf, b...)
}

// time is a parameter that is a timestamptz.
func (s *statement) time(t time.Time) {
	s.begin()
	s.buf = binary.BigEndian.AppendUint64(s.buf, uint64(t.Sub(postgresEpoch).Microseconds()))
}

func (s *statement) uuid(id chat.ID) { s.buf = append(appendLength(s.buf, 16), id[:]...) }

func (s *statement) int4(v int32) {
	s.buf = binary.BigEndian.AppendUint32(appendLength(s.buf, 4), uint32(v))
}

func (s *statement) int8(v int64) {
	s.buf = binary.BigEndian.AppendUint64(appendLength(s.buf, 8), uint64(v))
}

func (s *statement) text(v string) { s.buf = append(appendLength(s.buf, len(v)), v...) }

// detail is an element of an array.
func (s *statement) detail(d *chat.EventDetail) error {
	if d.IsZero() {
		s.buf = appendLength(s.buf, -1) // NULL
		return nil
	}
	start := len(s.buf)
	s.buf = appendLength(s.buf, 0)
	err := s.appendDetail(d)
	binary.BigEndian.PutUint32(s.buf[start:], uint32(len(s.buf)-start-4))
	return err
}

// appendDetail appends a jsonb; nothing, if there is no detail.
func (s *statement) appendDetail(d *chat.EventDetail) error {
	if d.IsZero() {
		return nil
	}
	text, err := json.Marshal(d)
	if err != nil {
		return &chat.Error{Code: chat.Internal, Op: "store.encode", Err: err}
	}
	s.buf = append(append(s.buf, 1), text...) // jsonb_recv: version 1, then the text
	return nil
}

// lookup returns the stored messages that have the keys of the given events.
func (s *statement) lookup(ctx context.Context, pending []*chat.Append) (map[eventKey]chat.Event, error) {
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	conversations, senders, keys := make([]chat.ID, len(pending)), make([]chat.ID, len(pending)), make([]chat.ID, len(pending))
	for i, a := range pending {
		conversations[i], senders[i], keys[i] = a.Event.ConversationID, a.Event.SenderID, a.Event.ClientMsgID
	}
	events, err := collect(ctx, s.conn, scanEvent, lookupSQL, conversations, senders, keys)
	if err != nil {
		return nil, translate("store.lookup", err)
	}
	found := make(map[eventKey]chat.Event, len(events))
	for _, e := range events {
		found[keyOf(&e)] = e
	}
	return found, nil
}

// findResent returns the newest message with e's session and packet identifier in
// its key, or nil.
func (s *statement) findResent(ctx context.Context, e *chat.Event, since time.Time) (*chat.Event, error) {
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	// A first sending whose outcome is unknown may hang in its commit: the transaction
	// that holds the conversation's row has ended when this returns.
	if _, err := s.conn.Exec(ctx, lockConversationSQL, e.ConversationID); err != nil {
		return nil, translate("store.findResent", err)
	}
	first, last := chat.ResendFrom(e.ClientMsgID, since), chat.ResendLast(e.ClientMsgID)
	found, err := collect(ctx, s.conn, scanEvent, findResentSQL, e.ConversationID, e.SenderID, first, last)
	if err != nil || len(found) == 0 {
		return nil, translate("store.findResent", err)
	}
	return &found[0], nil
}
