package store

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// A batch of messages is stored by one statement. One that holds other commands too
// (edits, deletions, reactions) takes a transaction of three round trips more: it
// locks the conversations, reads what the commands are about, has chat decide them in
// their order, stores the events of all that is to be stored as any batch, and
// applies their effects. Every transaction that changes a message holds the lock on its
// conversation, so that what was read stays true until the commit.

// decision says why a command is not stored. The zero value: there is nothing to do.
type decision struct {
	first *chat.Event // it was stored before, as this
	err   error       // it is refused
}

const lockConversationsSQL = `SELECT id, members_version FROM conversations WHERE id = ANY(@ids) ORDER BY id FOR UPDATE`

// insertCommands is insert for a batch that holds more than messages. It also ranks
// the batch, and decides its commands.
func (s *statement) insertCommands(ctx context.Context, b *group, now time.Time) (map[chat.ID]logBase, error) {
	const op = "store.insertCommands"
	if err := s.acquire(ctx); err != nil {
		return nil, err
	}
	tx, err := s.conn.BeginTx(ctx, beginning(b))
	if err != nil {
		return nil, translate(op, err)
	}
	defer rollback(tx)
	targets, err := s.decide(ctx, tx, b, now)
	if err != nil {
		return nil, translate(op, err)
	}
	b.rank()
	clear(s.bases)
	bases := s.bases
	if len(b.convs) > 0 {
		if bases, err = s.insert(ctx, b, now); err != nil {
			return nil, err
		}
		var effects pgx.Batch
		for i, a := range b.pending {
			if base, ok := bases[a.Event.ConversationID]; ok && b.ranks[i] > 0 {
				targets.queueEffects(&effects, &a.Event, base.at)
			}
		}
		if err := tx.SendBatch(ctx, &effects).Close(); err != nil {
			return nil, translate(op, err)
		}
	}
	return bases, translate(op, tx.Commit(ctx)) // from here a crash leaves all of it, or nothing
}

// beginning begins a transaction for a batch; see freshWriterPlansSQL.
func beginning(b *group) pgx.TxOptions {
	if b.large() {
		return pgx.TxOptions{BeginQuery: "BEGIN;" + freshWriterPlansSQL}
	}
	return pgx.TxOptions{}
}

// rollback ends a transaction that was not committed, whatever has become of the
// caller's context.
func rollback(tx pgx.Tx) {
	ctx, cancel := chat.WithDeadline(context.Background(), time.Second, "store.rollback")
	defer cancel()
	_ = tx.Rollback(ctx) // it was committed, or the connection is broken
}

// decide fills b.decided with the commands that are not to be stored, and returns
// what the others are about. Commands that were checked against another roster are
// left alone: they come again.
func (s *statement) decide(ctx context.Context, tx pgx.Tx, b *group, now time.Time) (*targets, error) {
	versions := map[chat.ID]int64{}
	for _, a := range b.pending {
		versions[a.Event.ConversationID] = 0
	}
	ids := slices.Collect(maps.Keys(versions))
	var id chat.ID
	var version int64
	if err := forEach(ctx, tx, []any{&id, &version}, func() { versions[id] = version }, lockConversationsSQL, pgx.NamedArgs{"ids": ids}); err != nil {
		return nil, err
	}
	var commands []*chat.Append
	for _, a := range b.pending {
		if a.Event.Type != chat.EventMessage && a.MembersVersion == versions[a.Event.ConversationID] {
			commands = append(commands, a)
		}
	}
	if len(commands) == 0 {
		return &targets{}, nil
	}
	firsts, err := s.lookup(ctx, commands) // before anything is decided: what was stored was decided then
	if err != nil {
		return nil, err
	}
	t, err := readTargets(ctx, tx, commands)
	if err != nil {
		return nil, err
	}
	for _, a := range commands {
		if first, ok := firsts[keyOf(&a.Event)]; ok {
			b.decided[a] = decision{first: &first}
			continue
		}
		a.Event.CreatedAt = now
		if ok, err := t.of(&a.Event).Decide(&a.Event); err != nil || !ok {
			b.decided[a] = decision{err: err}
		}
	}
	return t, nil
}

// targetKey names a message in a conversation.
type targetKey struct{ conversation, message chat.ID }

// targets are what the commands of a batch are about.
type targets struct {
	messages map[targetKey]*chat.Target
	members  map[chat.ID]map[chat.ID]chat.TargetParticipant // by conversation and user
}

// of returns what a command is about.
func (t *targets) of(e *chat.Event) *chat.Target {
	key := targetKey{e.ConversationID, e.MessageID}
	m := t.messages[key]
	if m == nil {
		m = &chat.Target{Reactions: map[string]int{}, Reacted: map[chat.UserReaction]bool{}}
		t.messages[key] = m
	}
	m.Members = t.members[e.ConversationID]
	return m
}

const (
	targetsSQL = `
SELECT e.* FROM unnest(@conversations::uuid[], @messages::uuid[]) AS k (conversation_id, message_id)
CROSS JOIN LATERAL (
  SELECT ` + eventColumns + ` FROM events x WHERE x.id = k.message_id AND (x.conversation_id = k.conversation_id) IS TRUE AND x.type = 'message'
) e`

	targetMembersSQL = `
SELECT p.conversation_id, p.user_id, p.role, p.joined_seq
FROM unnest(@conversations::uuid[], @users::uuid[]) AS k (conversation_id, user_id)
JOIN participants p ON p.conversation_id = k.conversation_id AND p.user_id = k.user_id`

	targetReactionsSQL = `
SELECT r.conversation_id, r.message_id, r.emoji, count(*)
FROM (SELECT DISTINCT * FROM unnest(@conversations::uuid[], @messages::uuid[]) AS k (conversation_id, message_id)) k
JOIN reactions r ON r.conversation_id = k.conversation_id AND r.message_id = k.message_id
GROUP BY r.conversation_id, r.message_id, r.emoji`

	targetReactedSQL = `
SELECT r.conversation_id, r.message_id, r.emoji, r.user_id
FROM unnest(@conversations::uuid[], @messages::uuid[], @emojis::text[], @users::uuid[]) AS k (conversation_id, message_id, emoji, user_id)
JOIN reactions r ON r.conversation_id = k.conversation_id AND r.message_id = k.message_id AND r.emoji = k.emoji AND r.user_id = k.user_id`
)

// readTargets reads what commands are about, in one round trip.
func readTargets(ctx context.Context, tx pgx.Tx, commands []*chat.Append) (*targets, error) {
	t := &targets{messages: map[targetKey]*chat.Target{}, members: map[chat.ID]map[chat.ID]chat.TargetParticipant{}}
	var all, reactions targetArgs
	for _, a := range commands {
		all.add(&a.Event)
		if a.Event.Type == chat.EventReaction {
			reactions.add(&a.Event)
		}
	}
	var batch pgx.Batch
	batch.Queue(targetsSQL, all.named()).Query(t.readMessages)
	batch.Queue(targetMembersSQL, all.named()).Query(t.readMembers)
	if len(reactions.users) > 0 {
		batch.Queue(targetReactionsSQL, reactions.named()).Query(t.readReactions)
		batch.Queue(targetReactedSQL, reactions.named()).Query(t.readReacted)
	}
	return t, tx.SendBatch(ctx, &batch).Close()
}

// targetArgs are the parameters of the statements above.
type targetArgs struct {
	conversations, messages, users []chat.ID
	emojis                         []string
}

func (a *targetArgs) add(e *chat.Event) {
	a.conversations, a.messages = append(a.conversations, e.ConversationID), append(a.messages, e.MessageID)
	a.users, a.emojis = append(a.users, e.SenderID), append(a.emojis, e.Emoji)
}

func (a *targetArgs) named() pgx.NamedArgs {
	return pgx.NamedArgs{"conversations": a.conversations, "messages": a.messages, "users": a.users, "emojis": a.emojis}
}

func (t *targets) readMessages(rows pgx.Rows) error {
	events, err := pgx.CollectRows(rows, scanEvent)
	for i := range events {
		e := &events[i]
		t.of(&chat.Event{ConversationID: e.ConversationID, EventDetail: chat.EventDetail{MessageID: e.ID}}).Message = e
	}
	return err
}

func (t *targets) readMembers(rows pgx.Rows) error {
	var conversation, user chat.ID
	var p chat.TargetParticipant
	return scanEach(rows, []any{&conversation, &user, &p.Role, &p.JoinedSeq}, func() {
		if t.members[conversation] == nil {
			t.members[conversation] = map[chat.ID]chat.TargetParticipant{}
		}
		t.members[conversation][user] = p
	})
}

func (t *targets) readReactions(rows pgx.Rows) error {
	var e chat.Event
	var users int
	return scanEach(rows, []any{&e.ConversationID, &e.MessageID, &e.Emoji, &users}, func() { t.of(&e).Reactions[e.Emoji] = users })
}

func (t *targets) readReacted(rows pgx.Rows) error {
	var e chat.Event
	return scanEach(rows, []any{&e.ConversationID, &e.MessageID, &e.Emoji, &e.SenderID}, func() {
		t.of(&e).Reacted[chat.UserReaction{UserID: e.SenderID, Emoji: e.Emoji}] = true
	})
}

const (
	keepOriginalSQL = `
INSERT INTO message_originals (conversation_id, message_id, content)
SELECT conversation_id, id, content FROM events WHERE conversation_id = @conversation_id AND seq = @seq AND edited_at IS NULL`

	editMessageSQL = `
UPDATE events SET content = @content, edited_at = @at, detail = @detail WHERE conversation_id = @conversation_id AND seq = @seq`

	deleteMessageSQL = `
UPDATE events SET content = '', deleted_at = @at, detail = nullif(detail - '{attachments,mentions}'::text[], '{}') WHERE conversation_id = @conversation_id AND seq = @seq`

	deleteEditsSQL = `
UPDATE events SET content = '', deleted_at = @at, detail = detail - 'mentions'
WHERE conversation_id = @conversation_id AND type = 'edit' AND detail ->> 'messageId' = @message_text`

	deleteOriginalSQL  = `DELETE FROM message_originals WHERE conversation_id = @conversation_id AND message_id = @message_id`
	deleteReactionsSQL = `DELETE FROM reactions WHERE conversation_id = @conversation_id AND message_id = @message_id`

	addReactionSQL = `
INSERT INTO reactions (conversation_id, message_id, emoji, user_id, created_at) VALUES (@conversation_id, @message_id, @emoji, @user_id, @at)`

	removeReactionSQL = `
DELETE FROM reactions WHERE conversation_id = @conversation_id AND message_id = @message_id AND emoji = @emoji AND user_id = @user_id`
)

// queueEffects queues what a stored command does beside its event.
func (t *targets) queueEffects(b *pgx.Batch, e *chat.Event, at time.Time) {
	if e.Type == chat.EventMessage {
		return
	}
	m := t.of(e).Message
	args := pgx.NamedArgs{
		"conversation_id": e.ConversationID, "message_id": e.MessageID, "message_text": e.MessageID.String(), "seq": m.Seq, "at": at,
		"content": e.Content, "emoji": e.Emoji, "user_id": e.SenderID,
	}
	switch e.Type {
	case chat.EventEdit:
		detail := m.EventDetail
		detail.Mentions = e.Mentions
		text, _ := detailJSON(&detail) // of ids: it cannot fail
		args["detail"] = text
		b.Queue(keepOriginalSQL, args)
		b.Queue(editMessageSQL, args)
	case chat.EventDelete:
		b.Queue(deleteEditsSQL, args)
		for _, sql := range []string{deleteMessageSQL, deleteOriginalSQL, deleteReactionsSQL} {
			b.Queue(sql, args)
		}
	case chat.EventReaction:
		if e.Op == chat.OpAdd {
			b.Queue(addReactionSQL, args)
		} else {
			b.Queue(removeReactionSQL, args)
		}
	case chat.EventMessage, chat.EventConversation:
	}
}
