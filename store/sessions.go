package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

var _ chat.SessionStore = (*Store)(nil)

// packetIDAfterCrash is the next packet identifier when the end of the last connection was
// not saved: far from the last ones, so that no identifier that may be in flight unknown to
// us is reused. At QoS 2 the client would discard such a message as a duplicate. The step is
// the golden section of the identifier space: however often in a row this happens, new
// identifiers stay clear of earlier ones (by 2,200 after a dozen times). With half the space
// they would coincide after the second time.
const packetIDAfterCrash = `1 + (next_packet_id + 40501) % 65535`

// heldAfterCrash are the identifiers at which the client may still hold QoS 2 messages then:
// it has received those that were in flight, and waits for their PUBREL. The last eight
// crashes are remembered (chat.MaxHeldPacketIDs).
const heldAfterCrash = `(held_packet_ids || next_packet_id)[greatest(1, cardinality(held_packet_ids) - 6):]`

// findSessionSQL locks the device's session, if there is one, before a new one is created:
// resumeSessionsSQL has found none to take over, or was not tried.
const findSessionSQL = `
SELECT id, node, coalesce(expires_at <= @now, expiry_seconds = 0), epoch FROM sessions WHERE user_id = @user_id AND client_id = @client_id FOR UPDATE`

// resumeSessionsSQL takes over existing sessions, each of its own device, locked in order of id. A
// concurrent connection of a device waits for the row, and then takes the session over from this
// one. A session with expiry 0 ended with its connection, whether or not that was stored.
const resumeSessionsSQL = `
WITH old AS (
  SELECT s.id, s.user_id, s.client_id, w.place, w.node AS new_node, w.at, w.expiry, s.node, s.subscriptions, s.inflight, s.unacked_publishes, coalesce(s.parted_at, s.connected_at) AS since,
    CASE WHEN s.expires_at IS NULL THEN ` + packetIDAfterCrash + ` ELSE s.next_packet_id END AS next_packet_id,
    CASE WHEN s.expires_at IS NULL THEN ` + heldAfterCrash + ` ELSE s.held_packet_ids END AS held
  FROM unnest(@users::uuid[], @clients::text[], @nodes::text[], @ats::timestamptz[], @expiries::int8[], @awaits::boolean[]) WITH ORDINALITY
    AS w (user_id, client_id, node, at, expiry, await, place)
  JOIN sessions s ON s.user_id = w.user_id AND s.client_id = w.client_id
    AND (s.expires_at IS NULL AND s.expiry_seconds > 0 AND (s.node = w.node OR NOT w.await) OR s.expires_at > w.at)
  ORDER BY s.id FOR UPDATE OF s
), resumed AS (
  UPDATE sessions s SET epoch = nextval('session_epochs'), node = old.new_node, connected_at = old.at, expiry_seconds = old.expiry, expires_at = NULL, parted_at = NULL,
  inflight = '[]', unacked_publishes = '[]', next_packet_id = old.next_packet_id, held_packet_ids = old.held
  FROM old WHERE s.id = old.id
  RETURNING old.place, s.id, s.user_id, s.client_id, s.epoch, old.new_node, old.node AS from_node, old.subscriptions, old.inflight, old.next_packet_id, old.since, old.held, old.unacked_publishes
), outbox AS (
  INSERT INTO journal (node, user_id, client_id, epoch, resumed)
  SELECT @outbox::text, user_id, client_id, epoch, true FROM resumed WHERE @outbox <> '' AND from_node <> new_node
)
SELECT place, id, epoch, from_node, subscriptions, inflight, next_packet_id, since, held, unacked_publishes FROM resumed`

const forgetSessionSQL = `DELETE FROM sessions WHERE user_id = @user_id AND client_id = @client_id`

const deleteSessionSQL = `DELETE FROM sessions WHERE id = @id`

const createSessionSQL = `
INSERT INTO sessions (id, user_id, client_id, epoch, node, created_at, connected_at, expiry_seconds)
VALUES (@id, @user_id, @client_id, nextval('session_epochs'), @node, @now, @now, @expiry) ON CONFLICT ON CONSTRAINT sessions_device DO NOTHING
RETURNING epoch`

// The cursors of sessions, each with the end of its log. In a conversation that the user
// joined after the session subscribed, the cursor begins at the joining.
const sessionCursorsSQL = `
SELECT d.place, p.conversation_id, coalesce((
  SELECT s.seq FROM session_cursors s WHERE s.session_id = d.id AND s.conversation_id = p.conversation_id
), p.joined_seq - 1), c.last_seq
FROM unnest(@users::uuid[], @clients::text[]) WITH ORDINALITY AS w (user_id, client_id, place)
CROSS JOIN LATERAL (SELECT w.place, s.id, s.user_id FROM sessions s WHERE s.user_id = w.user_id AND s.client_id = w.client_id OFFSET 0) d
JOIN participants p ON p.user_id = d.user_id JOIN conversations c ON c.id = p.conversation_id`

// The sessions that have been disconnected for longest are deleted. The outer condition on
// expires_at spares one that is reconnecting at this moment.
const trimSessionsSQL = `
DELETE FROM sessions WHERE expires_at IS NOT NULL AND id IN (
  SELECT id FROM sessions WHERE user_id = @user_id AND expires_at IS NOT NULL
  ORDER BY expires_at - make_interval(secs => expiry_seconds) DESC OFFSET @keep
)
RETURNING client_id`

// resendGrace is how long before the end of a connection an unacknowledged publish may have
// been stored: until the dead connection was detected, and across a few broken connections
// in a row.
const resendGrace = 10 * time.Minute

// scanSession reads a row of resumeSessionsSQL.
func scanSession(row pgx.CollectableRow) (r resumed, err error) {
	var next int32
	var held []int32
	f := &r.state
	err = row.Scan(&r.place, &f.ID, &f.Epoch, &f.From, &f.Subscriptions, &f.Inflight, &next, &f.ResendSince, &held, &f.UnackedPublishes)
	f.NextPacketID = uint16(next)
	for _, id := range held {
		f.HeldPacketIDs = append(f.HeldPacketIDs, uint16(id))
	}
	f.ResendSince = f.ResendSince.Add(-resendGrace)
	return r, err
}

// resumed is a session of which place is that in the arguments of resumeSessionsSQL, from 1.
type resumed struct {
	place int
	state chat.SessionState
}

// TakeSession implements chat.SessionStore.
func (s *Store) TakeSession(ctx context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	const op = "store.TakeSession"
	for range 3 {
		state, err := s.takeSession(ctx, t)
		if !errors.Is(err, errSessionExists) && !isCollision(err) {
			if state != nil && state.From == t.Node {
				state.From = ""
			}
			return state, translate(op, err)
		}
	}
	return nil, &chat.Error{Code: chat.Unavailable, Op: op, Msg: "too many concurrent connections of the device; try again"}
}

// errSessionExists means that another connection of the device has just created the session.
var errSessionExists = errors.New("session created by another connection")

func (s *Store) takeSession(ctx context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	args := pgx.NamedArgs{
		"user_id": t.UserID, "client_id": t.ClientID, "node": t.Node, "now": t.Now, "expiry": int64(t.Expiry / time.Second),
		"outbox": s.OutboxNode(), "await": t.Await,
	}
	if !t.CleanStart {
		state, err := s.resumes.Do(ctx, t)
		if sqlState(err) != "" { // nothing was done, perhaps because of another one in the batch
			var states []*chat.SessionState
			if states, err = s.resumeSessions(ctx, []chat.SessionTake{t}); err == nil {
				state = states[0]
			}
		}
		if state != nil || err != nil {
			return state, err
		}
	} else if t.Expiry == 0 && !t.Note {
		_, err := s.pool.Exec(ctx, forgetSessionSQL, args)
		return &chat.SessionState{NextPacketID: 1}, err
	}
	var state *chat.SessionState
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var old chat.ID
		var from string
		var expired bool
		var epoch int64
		err := tx.QueryRow(ctx, findSessionSQL, args).Scan(&old, &from, &expired, &epoch)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
		case err != nil:
			return err
		case !t.CleanStart && !expired && t.Await && from != t.Node:
			state = &chat.SessionState{Elsewhere: true, From: from, Epoch: epoch}
			return nil
		case !t.CleanStart && !expired:
			return errSessionExists
		default:
			if _, err := tx.Exec(ctx, deleteSessionSQL, pgx.NamedArgs{"id": old}); err != nil {
				return err
			}
		}
		if state, err = createSession(ctx, tx, t, args); err != nil {
			return err
		}
		if state.From = from; from == "" || from == t.Node || args["outbox"] == "" {
			return nil
		}
		args["epoch"] = state.Epoch
		args["node"] = args["outbox"]
		_, err = tx.Exec(ctx, outboxTakeOverSQL, args)
		return err
	})
	return state, err
}

const (
	resumeRuns  = 1   // batches of sessions that are resumed at once; with two, hardly any would gather
	resumeBatch = 100 // sessions in one
	resumeWait  = 5 * time.Second
)

func isSameDevice(a, b chat.SessionTake) bool {
	return a.UserID == b.UserID && a.ClientID == b.ClientID
}

// resumeSessions takes over sessions that have not expired, in one round trip and one
// transaction; nil for each that is not there. When many devices connect at once, the commit of
// each by itself costs more than all else about it.
func (s *Store) resumeSessions(ctx context.Context, takes []chat.SessionTake) ([]*chat.SessionState, error) {
	ctx, cancel := chat.WithDeadline(ctx, resumeWait, "store.resumeSessions")
	defer cancel()
	n := len(takes)
	users, clients, nodes := make([]chat.ID, n), make([]string, n), make([]string, n)
	ats, expiries, awaits := make([]time.Time, n), make([]int64, n), make([]bool, n)
	for i := range takes {
		t := &takes[i]
		users[i], clients[i], nodes[i] = t.UserID, t.ClientID, t.Node
		ats[i], expiries[i], awaits[i] = t.Now, int64(t.Expiry/time.Second), t.Await
	}
	args := pgx.NamedArgs{
		"users": users, "clients": clients, "nodes": nodes, "ats": ats, "expiries": expiries, "awaits": awaits, "outbox": s.OutboxNode(),
	}
	var list []resumed
	states := make([]*chat.SessionState, n)
	var b pgx.Batch
	queue(&b, &list, scanSession, resumeSessionsSQL, args)
	b.Queue(sessionCursorsSQL, args).Query(func(rows pgx.Rows) error {
		for i := range list {
			states[list[i].place-1] = &list[i].state
			list[i].state.Present, list[i].state.Cursors = true, []chat.CursorState{}
		}
		var place int
		var c chat.CursorState
		return scanEach(rows, []any{&place, &c.ConversationID, &c.Acked, &c.LastSeq}, func() {
			if st := states[place-1]; st != nil {
				st.Cursors = append(st.Cursors, c)
			}
		})
	})
	if err := s.pool.SendBatch(ctx, &b).Close(); err != nil {
		return nil, err
	}
	return states, nil
}

func createSession(ctx context.Context, tx pgx.Tx, t chat.SessionTake, args pgx.NamedArgs) (*chat.SessionState, error) {
	if t.Expiry == 0 && !t.Note {
		return &chat.SessionState{NextPacketID: 1}, nil
	}
	state := &chat.SessionState{ID: chat.NewID(), NextPacketID: 1}
	args["id"] = state.ID
	err := tx.QueryRow(ctx, createSessionSQL, args).Scan(&state.Epoch)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errSessionExists
	} else if err != nil {
		return nil, err
	}
	state.Forgotten, err = collect(ctx, tx, pgx.RowTo[string], trimSessionsSQL, pgx.NamedArgs{"user_id": t.UserID, "keep": chat.MaxUserSessions - 1})
	return state, err
}

const changeSubscriptionsSQL = `UPDATE sessions SET subscriptions = @subscriptions WHERE id = @id AND epoch = @epoch`

// Rows are locked in order of conversation, as by all that lock several.
const endCursorsSQL = `
WITH locked AS MATERIALIZED (
  SELECT FROM session_cursors WHERE session_id = @id AND (@all OR conversation_id = ANY(@conversations)) ORDER BY conversation_id FOR UPDATE
)
DELETE FROM session_cursors USING (SELECT count(*) FROM locked) l WHERE session_id = @id AND (@all OR conversation_id = ANY(@conversations))`

const beginCursorsSQL = `
WITH ends AS MATERIALIZED (
  SELECT c.id, c.last_seq FROM participants p JOIN conversations c ON c.id = p.conversation_id WHERE p.user_id = @user_id
), begun AS (
  INSERT INTO session_cursors (session_id, conversation_id, seq)
  SELECT @id, id, last_seq FROM ends WHERE @all OR id = ANY(@conversations) ORDER BY id
  ON CONFLICT DO NOTHING
)
SELECT id, last_seq FROM ends ORDER BY id`

// ChangeSubscriptions implements chat.SessionStore. The positions that it returns and the
// cursors that it creates come from one statement, and so from one snapshot.
func (s *Store) ChangeSubscriptions(ctx context.Context, c chat.SubscriptionChange) ([]chat.Position, error) {
	const op = "store.ChangeSubscriptions"
	if c.Subscriptions == nil {
		c.Subscriptions = []chat.SubscriptionState{}
	}
	for range 3 {
		ends, err := s.changeSubscriptions(ctx, op, &c)
		if !isCollision(err) {
			return ends, translate(op, err)
		}
	}
	return nil, &chat.Error{Code: chat.Unavailable, Op: op, Msg: "too many concurrent changes of the session; try again"}
}

// isCollision reports whether a transaction failed by a deadlock, and may be repeated.
func isCollision(err error) bool { return sqlState(err) == stateDeadlock }

func (s *Store) changeSubscriptions(ctx context.Context, op string, c *chat.SubscriptionChange) (ends []chat.Position, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		args := pgx.NamedArgs{"id": c.SessionID, "epoch": c.Epoch, "user_id": c.UserID, "subscriptions": c.Subscriptions}
		tag, err := tx.Exec(ctx, changeSubscriptionsSQL, args)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return sessionGone(op)
		}
		if c.EndAll || len(c.End) > 0 {
			args["all"], args["conversations"] = c.EndAll, c.End
			if _, err := tx.Exec(ctx, endCursorsSQL, args); err != nil {
				return err
			}
		}
		if len(c.Keep) > 0 {
			if _, err := tx.Exec(ctx, saveCursorsSQL, cursorArgs(updatesOf(c.SessionID, c.Epoch, c.Keep))); err != nil {
				return err
			}
		}
		if !c.All && len(c.Begin) == 0 {
			return nil
		}
		args["all"], args["conversations"] = c.All, c.Begin
		ends, err = collect(ctx, tx, scanPosition, beginCursorsSQL, args)
		return err
	})
	return ends, err
}

func updatesOf(session chat.ID, epoch int64, cursors []chat.CursorState) []chat.CursorUpdate {
	updates := make([]chat.CursorUpdate, len(cursors))
	for i, c := range cursors {
		updates[i] = chat.CursorUpdate{SessionID: session, Epoch: epoch, ConversationID: c.ConversationID, Acked: c.Acked}
	}
	return updates
}

// sessionGone is the error for a connection whose session another one has taken over.
func sessionGone(op string) error {
	return &chat.Error{Code: chat.Conflict, Op: op, Msg: "the session was taken over by another connection, or ended"}
}

var scanPosition = fields(func(p *chat.Position) []any { return []any{&p.ConversationID, &p.LastSeq} })

const saveCursorsSQL = `
INSERT INTO session_cursors (session_id, conversation_id, seq)
SELECT s.id, u.conversation_id, max(u.seq)
FROM unnest(@sessions::uuid[], @epochs::int8[], @conversations::uuid[], @seqs::int8[]) AS u (session_id, epoch, conversation_id, seq)
JOIN sessions s ON s.id = u.session_id AND s.epoch = u.epoch
GROUP BY s.id, u.conversation_id
ORDER BY s.id, u.conversation_id
ON CONFLICT ON CONSTRAINT session_cursors_key DO UPDATE SET seq = excluded.seq WHERE session_cursors.seq < excluded.seq`

// The end of a connection stores its last packet identifier; an update that arrives after
// that must not reset it. IS TRUE keeps the planner from looking through all that are connected.
const savePacketIDsSQL = `
UPDATE sessions s SET next_packet_id = u.next, held_packet_ids = CASE WHEN u.released THEN '{}' ELSE s.held_packet_ids END
FROM unnest(@sessions::uuid[], @epochs::int8[], @nexts::int4[], @released::boolean[]) AS u (id, epoch, next, released)
WHERE s.id = u.id AND s.epoch = u.epoch AND (s.expires_at IS NULL) IS TRUE`

// SaveCursors implements chat.SessionStore. If a cursor is named twice, the higher seq counts.
func (s *Store) SaveCursors(ctx context.Context, updates []chat.CursorUpdate, packetIDs []chat.PacketIDUpdate) error {
	const op = "store.SaveCursors"
	if len(updates) > 0 {
		if _, err := s.pool.Exec(ctx, saveCursorsSQL, cursorArgs(updates)); err != nil {
			return translate(op, err)
		}
	}
	if len(packetIDs) == 0 {
		return nil
	}
	sessions, epochs, nexts := make([]chat.ID, len(packetIDs)), make([]int64, len(packetIDs)), make([]int32, len(packetIDs))
	released := make([]bool, len(packetIDs))
	for i, p := range packetIDs {
		sessions[i], epochs[i], nexts[i], released[i] = p.SessionID, p.Epoch, int32(p.Next), p.Released
	}
	_, err := s.pool.Exec(ctx, savePacketIDsSQL, pgx.NamedArgs{"sessions": sessions, "epochs": epochs, "nexts": nexts, "released": released})
	return translate(op, err)
}

func cursorArgs(updates []chat.CursorUpdate) pgx.NamedArgs {
	sessions, conversations := make([]chat.ID, len(updates)), make([]chat.ID, len(updates))
	epochs, seqs := make([]int64, len(updates)), make([]int64, len(updates))
	for i, u := range updates {
		sessions[i], epochs[i], conversations[i], seqs[i] = u.SessionID, u.Epoch, u.ConversationID, u.Acked
	}
	return pgx.NamedArgs{"sessions": sessions, "epochs": epochs, "conversations": conversations, "seqs": seqs}
}

const partSessionSQL = `
UPDATE sessions SET expiry_seconds = @expiry, expires_at = @expires_at, parted_at = @now, inflight = @inflight, next_packet_id = @next_packet_id, held_packet_ids = @held, unacked_publishes = @unacked
WHERE id = @id AND epoch = @epoch`

const endSessionSQL = `DELETE FROM sessions WHERE id = @id AND epoch = @epoch`

// PartSession implements chat.SessionStore.
func (s *Store) PartSession(ctx context.Context, p chat.SessionPart) error {
	const op = "store.PartSession"
	if p.Inflight == nil {
		p.Inflight = []chat.InflightState{}
	}
	if p.UnackedPublishes == nil {
		p.UnackedPublishes = []chat.UnackedPublish{}
	}
	seconds := int64(p.Expiry / time.Second)
	held := make([]int32, len(p.HeldPacketIDs))
	for i, id := range p.HeldPacketIDs {
		held[i] = int32(id)
	}
	args := pgx.NamedArgs{
		"id": p.ID, "epoch": p.Epoch, "expiry": seconds, "expires_at": p.Now.Add(p.Expiry), "now": p.Now,
		"inflight": p.Inflight, "next_packet_id": int32(max(1, p.NextPacketID)), "held": held, "unacked": p.UnackedPublishes,
	}
	if seconds == 0 {
		tag, err := s.pool.Exec(ctx, endSessionSQL, args)
		return parted(op, tag.RowsAffected(), err)
	}
	updates := updatesOf(p.ID, p.Epoch, p.Cursors)
	var b pgx.Batch
	b.Queue(partSessionSQL, args)
	if len(updates) > 0 {
		b.Queue(saveCursorsSQL, cursorArgs(updates)) // of this epoch only, too
	}
	results := s.pool.SendBatch(ctx, &b) // one round trip, one transaction
	tag, err := results.Exec()
	return parted(op, tag.RowsAffected(), errors.Join(err, results.Close()))
}

func parted(op string, rows int64, err error) error {
	if err == nil && rows == 0 {
		return sessionGone(op)
	}
	return translate(op, err)
}

const releaseSessionsSQL = `
UPDATE sessions SET expires_at = @now::timestamptz + make_interval(secs => expiry_seconds), next_packet_id = ` + packetIDAfterCrash + `, held_packet_ids = ` + heldAfterCrash + `
WHERE expires_at IS NULL AND (node = @node OR @node = '')`

// ReleaseSessions implements chat.SessionStore.
func (s *Store) ReleaseSessions(ctx context.Context, node string, now time.Time) (int64, error) {
	tag, err := s.pool.Exec(ctx, releaseSessionsSQL, pgx.NamedArgs{"node": node, "now": now})
	return tag.RowsAffected(), translate("store.ReleaseSessions", err)
}

const deleteExpiredSessionsSQL = `
DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= @now ORDER BY expires_at LIMIT @limit FOR UPDATE SKIP LOCKED)`

// DeleteExpiredSessions implements chat.SessionStore.
func (s *Store) DeleteExpiredSessions(ctx context.Context, now time.Time, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, deleteExpiredSessionsSQL, pgx.NamedArgs{"now": now, "limit": limit})
	return tag.RowsAffected(), translate("store.DeleteExpiredSessions", err)
}

const readEventsSQL = `
SELECT ` + eventColumns + ` FROM events e
WHERE (e.conversation_id, e.seq) IN (SELECT * FROM unnest(@conversations::uuid[], @seqs::int8[]))
AND EXISTS (SELECT FROM participants p WHERE p.conversation_id = e.conversation_id AND p.user_id = @user_id AND p.joined_seq <= e.seq)`

// ReadEvents implements chat.SessionStore.
func (s *Store) ReadEvents(ctx context.Context, user chat.ID, refs []chat.EventRef) ([]chat.Event, error) {
	conversations, seqs := make([]chat.ID, len(refs)), make([]int64, len(refs))
	for i, r := range refs {
		conversations[i], seqs[i] = r.ConversationID, r.Seq
	}
	events, err := collectEvents(ctx, s.pool, len(refs), readEventsSQL, pgx.NamedArgs{"user_id": user, "conversations": conversations, "seqs": seqs})
	return events, translate("store.ReadEvents", err)
}
