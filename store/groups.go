package store

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// The conversation is locked only if the actor is a member, so that non-members neither wait
// nor block others.
const lockGroupSQL = `
SELECT c.kind, c.title, c.history, c.last_seq, c.last_event_at, c.members_version FROM conversations c
WHERE c.id = @id AND EXISTS (SELECT FROM participants p WHERE p.conversation_id = c.id AND p.user_id = @user_id)
FOR UPDATE`

const getRoleSQL = `SELECT role FROM participants WHERE conversation_id = @id AND user_id = @user_id`

const changeConversationSQL = `
UPDATE conversations SET title = @title, history = @history, last_seq = @last_seq, last_event_at = @last_event_at, members_version = @members_version,
  last_xid = pg_current_xact_id()
WHERE id = @id`

// groupTx is a transaction that has locked a group, and the changes to store.
type groupTx struct {
	op          string
	tx          pgx.Tx
	id, actor   chat.ID
	role        chat.Role // of the actor
	kind        chat.Kind
	title       string
	history     chat.History
	lastSeq     int64
	lastEventAt time.Time
	version     int64
	change      chat.GroupChange
}

// changeGroup runs f with the group locked and stores the events that f adds. An error of f
// rolls back.
func (s *Store) changeGroup(ctx context.Context, op string, conversation, actor chat.ID, now time.Time, f func(context.Context, *groupTx) error) (*chat.GroupChange, error) {
	g := &groupTx{op: op, id: conversation, actor: actor}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		g.tx, g.change = tx, chat.GroupChange{}
		if err := g.lock(ctx, now); err != nil {
			return err
		}
		if g.kind != chat.Group {
			return &chat.Error{Code: chat.Invalid, Op: op, Field: "conversationId", Msg: "is a direct conversation: only groups can be changed"}
		}
		if err := f(ctx, g); err != nil {
			return err
		}
		if err := g.store(ctx); err != nil || len(g.change.Events) == 0 {
			return err
		}
		return s.writeOutbox(ctx, tx, g.id, g.lastSeq, g.version, g.change.Roster != nil)
	})
	if err != nil {
		return nil, translate(op, err)
	}
	return &g.change, nil
}

// lock waits for other transactions that change the conversation or store a message in it.
// The role is read by a later statement, which sees what they committed.
func (g *groupTx) lock(ctx context.Context, now time.Time) error {
	args := pgx.NamedArgs{"id": g.id, "user_id": g.actor}
	err := g.tx.QueryRow(ctx, lockGroupSQL, args).Scan(&g.kind, &g.title, &g.history, &g.lastSeq, &g.lastEventAt, &g.version)
	if err == nil {
		g.role, err = collectOne(ctx, g.tx, pgx.RowTo[chat.Role], getRoleSQL, args)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return noConversation(g.op, g.id)
	}
	if now.After(g.lastEventAt) { // as in the writer: createdAt never decreases within a log
		g.lastEventAt = now
	}
	return err
}

// event adds an event of the actor's to the log.
func (g *groupTx) event(d chat.EventDetail) {
	g.lastSeq++
	g.change.Events = append(g.change.Events, chat.Event{
		ConversationID: g.id, Seq: g.lastSeq, Type: chat.EventConversation, ID: chat.NewID(), SenderID: g.actor, CreatedAt: g.lastEventAt.UTC(), EventDetail: d,
	})
}

// membersChanged raises the version of the roster: events on their way to the log, which were
// checked against the previous one, are checked again.
func (g *groupTx) membersChanged() { g.version++ }

func (g *groupTx) store(ctx context.Context) error {
	if len(g.change.Events) == 0 {
		return nil
	}
	var b pgx.Batch
	b.Queue(changeConversationSQL, pgx.NamedArgs{
		"id": g.id, "title": g.title, "history": g.history, "last_seq": g.lastSeq, "last_event_at": g.lastEventAt, "members_version": g.version,
	})
	for i := range g.change.Events {
		e := &g.change.Events[i]
		detail, err := detailJSON(&e.EventDetail)
		if err != nil {
			return err
		}
		b.Queue(insertEventSQL, pgx.NamedArgs{
			"conversation_id": e.ConversationID, "seq": e.Seq, "id": e.ID, "sender_id": e.SenderID, "created_at": e.CreatedAt, "type": e.Type, "detail": detail,
		})
	}
	if err := g.tx.SendBatch(ctx, &b).Close(); err != nil {
		return err
	}
	g.change.Version = g.version
	if len(g.change.Joined)+len(g.change.Left) == 0 {
		return nil
	}
	r, err := getRoster(ctx, g.tx, g.op, g.id)
	g.change.Roster = r
	return err
}

func (g *groupTx) forbidden(field, msg string) error {
	return &chat.Error{Code: chat.Forbidden, Op: g.op, Field: field, Msg: msg}
}

// needAdmin refuses members who are neither owner nor admin.
func (g *groupTx) needAdmin() error {
	if g.role != chat.Owner && g.role != chat.GroupAdmin {
		return g.forbidden("conversationId", "only the owner and admins of the group may do this")
	}
	return nil
}

// UpdateConversation implements chat.GroupStore.
func (s *Store) UpdateConversation(ctx context.Context, u chat.ConversationUpdate, now time.Time) (*chat.GroupChange, error) {
	return s.changeGroup(ctx, "store.UpdateConversation", u.ConversationID, u.Actor, now, func(_ context.Context, g *groupTx) error {
		if err := g.needAdmin(); err != nil {
			return err
		}
		if u.Title != nil && *u.Title != g.title {
			g.title = *u.Title
			g.event(chat.EventDetail{Op: chat.OpRenamed, Title: g.title})
		}
		if u.History != nil && *u.History != g.history {
			g.history = *u.History
			g.event(chat.EventDetail{Op: chat.OpHistory, History: g.history})
		}
		return nil
	})
}

const (
	newParticipantsSQL = `
SELECT wanted.id FROM unnest(@ids::uuid[]) WITH ORDINALITY AS wanted (id, place)
WHERE NOT EXISTS (SELECT FROM participants p WHERE p.conversation_id = @id AND p.user_id = wanted.id)
ORDER BY wanted.place`

	countParticipantsSQL = `SELECT count(*) FROM participants WHERE conversation_id = @id`

	// A user who rejoins keeps their read position. With history "all" the log up to now
	// counts as read, so that a new member of an old group does not begin with all of it unread.
	addParticipantsSQL = `
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq, read_seq)
SELECT @id, u.id, @role, @joined_at, CASE WHEN @whole THEN 1 ELSE @seq::int8 END, greatest(
  (SELECT coalesce(max(r.seq), 0) FROM reads r WHERE r.conversation_id = @id AND r.user_id = u.id),
  CASE WHEN @whole THEN @seq::int8 - 1 ELSE 0 END
)
FROM unnest(@ids::uuid[]) AS u (id)`

	endDeparturesSQL = `DELETE FROM departures WHERE conversation_id = @id AND user_id = ANY(@ids)`
)

// AddParticipants implements chat.GroupStore.
func (s *Store) AddParticipants(ctx context.Context, n chat.NewParticipants, now time.Time) (*chat.GroupChange, error) {
	const op = "store.AddParticipants"
	return s.changeGroup(ctx, op, n.ConversationID, n.Actor, now, func(ctx context.Context, g *groupTx) error {
		if err := g.needAdmin(); err != nil {
			return err
		}
		if n.Role == chat.GroupAdmin && g.role != chat.Owner {
			return g.forbidden("role", "only the owner of the group makes admins")
		}
		args := pgx.NamedArgs{"id": g.id, "ids": n.Users, "role": n.Role, "joined_at": g.lastEventAt, "seq": g.lastSeq + 1, "whole": g.history == chat.HistoryAll}
		added, err := collect(ctx, g.tx, pgx.RowTo[chat.ID], newParticipantsSQL, args)
		if err != nil || len(added) == 0 {
			return err
		}
		args["ids"] = added
		if err := requireReachable(ctx, g.tx, op, g.actor, added, "userIds"); err != nil {
			return err
		}
		have, err := collectOne(ctx, g.tx, pgx.RowTo[int], countParticipantsSQL, args)
		if err != nil {
			return err
		}
		if have+len(added) > chat.MaxGroupMembers {
			return &chat.Error{
				Code: chat.Conflict, Op: op, Field: "userIds",
				Msg: "the group has " + strconv.Itoa(have) + " members; with " + strconv.Itoa(len(added)) + " more it would have more than " + strconv.Itoa(chat.MaxGroupMembers),
			}
		}
		for _, sql := range []string{addParticipantsSQL, endDeparturesSQL} {
			if _, err := g.tx.Exec(ctx, sql, args); err != nil {
				return err
			}
		}
		d := chat.EventDetail{Op: chat.OpJoined, UserIDs: added}
		if n.Role != chat.GroupMember {
			d.Role = n.Role
		}
		g.event(d)
		g.membersChanged()
		g.change.Joined = added
		return nil
	})
}

const (
	removeParticipantSQL = `DELETE FROM participants WHERE conversation_id = @id AND user_id = @user_id`

	addDepartureSQL = `
INSERT INTO departures (user_id, conversation_id, left_at) VALUES (@user_id, @id, @left_at)
ON CONFLICT ON CONSTRAINT departures_key DO UPDATE SET left_at = excluded.left_at, xid = pg_current_xact_id()`

	successorSQL = `
SELECT user_id FROM participants WHERE conversation_id = @id
ORDER BY role = 'admin' DESC, joined_at, joined_seq, user_id LIMIT 1`

	setRoleSQL = `UPDATE participants SET role = @role, xid = pg_current_xact_id() WHERE conversation_id = @id AND user_id = @user_id`
)

// RemoveParticipant implements chat.GroupStore. An owner who leaves is succeeded by the admin
// who has been a member for longest, or without admins by the longest-standing member.
func (s *Store) RemoveParticipant(ctx context.Context, c chat.ParticipantChange, now time.Time) (*chat.GroupChange, error) {
	return s.changeGroup(ctx, "store.RemoveParticipant", c.ConversationID, c.Actor, now, func(ctx context.Context, g *groupTx) error {
		role, err := g.roleOf(ctx, c.UserID)
		switch {
		case err != nil:
			return err
		case c.Actor == c.UserID:
		case g.role == chat.GroupMember || g.role == chat.GroupAdmin && role != chat.GroupMember && role != "":
			return g.forbidden("userId", "the owner of the group may remove anybody, admins may remove members, and everybody themselves")
		case role == "":
			return nil
		}
		args := pgx.NamedArgs{"id": g.id, "user_id": c.UserID, "left_at": g.lastEventAt}
		for _, sql := range []string{removeParticipantSQL, addDepartureSQL} {
			if _, err := g.tx.Exec(ctx, sql, args); err != nil {
				return err
			}
		}
		g.event(chat.EventDetail{Op: chat.OpLeft, UserIDs: []chat.ID{c.UserID}})
		g.membersChanged()
		g.change.Left = []chat.ID{c.UserID}
		if role != chat.Owner {
			return nil
		}
		next, err := collect(ctx, g.tx, pgx.RowTo[chat.ID], successorSQL, args)
		if err != nil || len(next) == 0 {
			return err
		}
		return g.setRole(ctx, next[0], chat.Owner)
	})
}

// SetParticipantRole implements chat.GroupStore.
func (s *Store) SetParticipantRole(ctx context.Context, c chat.ParticipantChange, now time.Time) (*chat.GroupChange, error) {
	const op = "store.SetParticipantRole"
	return s.changeGroup(ctx, op, c.ConversationID, c.Actor, now, func(ctx context.Context, g *groupTx) error {
		if g.role != chat.Owner {
			return g.forbidden("conversationId", "only the owner of the group gives roles")
		}
		role, err := g.roleOf(ctx, c.UserID)
		switch {
		case err != nil:
			return err
		case role == "":
			return chat.NoParticipant(c.UserID)
		case role == c.Role:
			return nil
		case role == chat.Owner:
			return &chat.Error{Code: chat.Invalid, Op: op, Field: "role", Msg: "the group needs an owner: make somebody else the owner, and you become an admin"}
		}
		if err := g.setRole(ctx, c.UserID, c.Role); err != nil || c.Role != chat.Owner {
			return err
		}
		return g.setRole(ctx, g.actor, chat.GroupAdmin)
	})
}

// roleOf returns a participant's role; "" if the user is not a participant.
func (g *groupTx) roleOf(ctx context.Context, user chat.ID) (chat.Role, error) {
	found, err := collect(ctx, g.tx, pgx.RowTo[chat.Role], getRoleSQL, pgx.NamedArgs{"id": g.id, "user_id": user})
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0], nil
}

// setRole changes a participant's role and adds the event.
func (g *groupTx) setRole(ctx context.Context, user chat.ID, role chat.Role) error {
	_, err := g.tx.Exec(ctx, setRoleSQL, pgx.NamedArgs{"id": g.id, "user_id": user, "role": role})
	g.event(chat.EventDetail{Op: chat.OpRole, UserIDs: []chat.ID{user}, Role: role})
	return err
}

const participantColumns = `p.user_id, coalesce(u.username, ''), coalesce(u.display_name, ''), p.role, p.joined_at`

const (
	pageParticipantsSQL = `
SELECT page.* FROM participants me LEFT JOIN LATERAL (
  SELECT ` + participantColumns + `
  FROM participants p LEFT JOIN users u ON u.id = p.user_id
  WHERE p.conversation_id = me.conversation_id AND p.user_id > coalesce(@after::uuid, ` + leastID + `)
  ORDER BY p.user_id LIMIT @limit
) page ON true
WHERE me.conversation_id = @id AND me.user_id = @user_id
ORDER BY page.user_id`

	getParticipantsSQL = `
SELECT ` + participantColumns + `
FROM participants p LEFT JOIN users u ON u.id = p.user_id
WHERE p.conversation_id = @id AND p.user_id = ANY(@ids)
ORDER BY p.user_id`
)

// scanParticipant reads one row of participantColumns. A row of NULLs, as an outer
// join gives it, is the zero Participant.
func scanParticipant(row pgx.CollectableRow) (p chat.Participant, err error) {
	var username, displayName, role *string
	if err := row.Scan(&p.UserID, &username, &displayName, &role, scanTime(&p.JoinedAt)); err != nil || role == nil {
		return p, err
	}
	p.Username, p.DisplayName, p.Role = *username, *displayName, chat.Role(*role)
	return p, nil
}

// ListParticipants implements chat.GroupStore.
func (s *Store) ListParticipants(ctx context.Context, user, conversation, after chat.ID, limit int) ([]chat.Participant, error) {
	const op = "store.ListParticipants"
	args := pgx.NamedArgs{"id": conversation, "user_id": user, "after": after, "limit": max(limit, 1)}
	found, err := collect(ctx, s.pool, scanParticipant, pageParticipantsSQL, args)
	switch {
	case err != nil:
		return nil, translate(op, err)
	case len(found) == 0:
		return nil, noConversation(op, conversation)
	case found[0].UserID.IsZero():
		return []chat.Participant{}, nil
	}
	return found, nil
}

// GetParticipants implements chat.GroupStore.
func (s *Store) GetParticipants(ctx context.Context, conversation chat.ID, users []chat.ID) ([]chat.Participant, error) {
	found, err := collect(ctx, s.pool, scanParticipant, getParticipantsSQL, pgx.NamedArgs{"id": conversation, "ids": users})
	return found, translate("store.GetParticipants", err)
}

// AwaitRoster implements chat.RosterStore.
func (s *Store) AwaitRoster(ctx context.Context, conversation chat.ID) (*chat.Roster, error) {
	const op = "store.AwaitRoster"
	var r *chat.Roster
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
		if _, err = tx.Exec(ctx, lockConversationSQL, conversation); err == nil {
			r, err = getRoster(ctx, tx, op, conversation)
		}
		return err
	})
	return r, translate(op, err)
}
