package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store"
)

// A replica is what a client holds that applies items one by one, and nothing else.
// apply refuses an item that a client could not make sense of: an event of a
// conversation it has not been told of, or one that is not the next.
type replica struct {
	Names         map[chat.ID]string
	Conversations map[chat.ID]*held
}

type held struct {
	Next     int64 // the seq that the next event must have
	Title    string
	Role     chat.Role
	Messages map[chat.ID]string // what they say
	Reads    map[chat.ID]int64
}

func newReplica() *replica {
	return &replica{Names: map[chat.ID]string{}, Conversations: map[chat.ID]*held{}}
}

func (r *replica) apply(me chat.ID, i *chat.SyncItem) error {
	switch i.Type {
	case chat.SyncProfile:
		r.Names[i.User.ID] = i.User.DisplayName
	case chat.SyncLeft:
		delete(r.Conversations, i.ConversationID)
	case chat.SyncConversation:
		return r.applyConversation(me, i)
	case chat.SyncEvent:
		return r.applyEvent(i.Event)
	case chat.SyncRead:
		c := r.Conversations[i.ConversationID]
		if c == nil {
			return fmt.Errorf("a read of conversation %s, which is not known", i.ConversationID)
		}
		c.Reads[i.UserID] = i.UpTo
	}
	return nil
}

func (r *replica) applyConversation(me chat.ID, i *chat.SyncItem) error {
	c := r.Conversations[i.Conversation.ID]
	switch {
	case i.JoinedSeq > 0: // what was held of an earlier time is no longer one's own
		c = &held{Next: i.JoinedSeq, Messages: map[chat.ID]string{}, Reads: map[chat.ID]int64{}}
		r.Conversations[i.Conversation.ID] = c
	case c == nil:
		return fmt.Errorf("a change of conversation %s, which is not known", i.Conversation.ID)
	}
	c.Title = i.Conversation.Title
	for _, p := range i.Conversation.Participants {
		if p.UserID == me {
			c.Role = p.Role
		}
	}
	return nil
}

func (r *replica) applyEvent(e *chat.Event) error {
	c := r.Conversations[e.ConversationID]
	switch {
	case c == nil:
		return fmt.Errorf("event %d of conversation %s, which is not known", e.Seq, e.ConversationID)
	case e.Seq != c.Next:
		return fmt.Errorf("event %d of conversation %s, want %d", e.Seq, e.ConversationID, c.Next)
	}
	c.Next++
	switch {
	case e.Type == chat.EventMessage:
		c.Messages[e.ID] = e.Content
	case e.Type == chat.EventEdit:
		if _, ok := c.Messages[e.MessageID]; ok { // not if it is from before joining
			c.Messages[e.MessageID] = e.Content
		}
	case e.Op == "renamed":
		c.Title = e.Title
	case e.Op == "joined":
		for _, user := range e.UserIDs { // they begin anew
			delete(c.Reads, user)
		}
	}
	return nil
}

// naive is the replica of somebody who reads the whole database at once.
func naive(t *testing.T, s *store.Store, me chat.ID) *replica {
	t.Helper()
	r := newReplica()
	query := func(sql string, targets []any, each func()) {
		t.Helper()
		rows, err := s.Pool().Query(t.Context(), sql, pgx.NamedArgs{"me": me})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pgx.ForEachRow(rows, targets, func() error { each(); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var id, other chat.ID
	var n int64
	var text string
	var role chat.Role
	query(`SELECT c.id, c.last_seq + 1, c.title, p.role FROM participants p JOIN conversations c ON c.id = p.conversation_id WHERE p.user_id = @me`,
		[]any{&id, &n, &text, &role}, func() {
			r.Conversations[id] = &held{Next: n, Title: text, Role: role, Messages: map[chat.ID]string{}, Reads: map[chat.ID]int64{}}
		})
	query(`SELECT e.conversation_id, e.id, e.content FROM participants p JOIN events e ON e.conversation_id = p.conversation_id AND e.seq >= p.joined_seq WHERE p.user_id = @me AND e.type = 'message'`,
		[]any{&id, &other, &text}, func() { r.Conversations[id].Messages[other] = text })
	query(`SELECT them.conversation_id, them.user_id, CASE WHEN them.user_id = @me OR them.read_at IS NOT NULL THEN them.read_seq ELSE 0 END, u.display_name FROM participants p JOIN participants them ON them.conversation_id = p.conversation_id JOIN users u ON u.id = them.user_id WHERE p.user_id = @me`,
		[]any{&id, &other, &n, &text}, func() {
			if r.Names[other] = text; n > 0 {
				r.Conversations[id].Reads[other] = n
			}
		})
	query(`SELECT id, display_name FROM users WHERE id = @me`, []any{&other, &text}, func() { r.Names[other] = text })
	return r
}

// forget leaves out what a client may still hold of people it shares nothing with.
func (r *replica) forget(members *replica) *replica {
	for id := range r.Names {
		if _, ok := members.Names[id]; !ok {
			delete(r.Names, id)
		}
	}
	for id, c := range r.Conversations {
		if m := members.Conversations[id]; m != nil {
			for user := range c.Reads {
				if _, ok := members.Names[user]; !ok || m.Reads[user] == 0 {
					delete(c.Reads, user) // has left, or left and come back
				}
			}
		}
	}
	return r
}

// syncModel is a database in which many things change at once.
type syncModel struct {
	*writerRig
	users []chat.ID
	convs []chat.ID
}

// Changes as the store makes them: the conversation's row is locked until the commit,
// and an event is numbered from it. $4 is how long the transaction has its number
// before it takes the lock, and $5 how long it holds both: commits come in any order.
const (
	modelBeginSQL = `SELECT pg_current_xact_id(), pg_sleep($1)`
	modelLockSQL  = `SELECT FROM conversations WHERE id = $1 FOR UPDATE`
	modelEventSQL = `
WITH moved AS (
  UPDATE conversations SET last_seq = last_seq + 1, last_event_at = greatest(last_event_at, clock_timestamp()), last_xid = pg_current_xact_id(),
    members_version = members_version + CASE WHEN $4::jsonb ->> 'op' IN ('joined', 'left') THEN 1 ELSE 0 END, title = coalesce($4::jsonb ->> 'title', title)
  WHERE id = $1 RETURNING id, last_seq, last_event_at
)
INSERT INTO events (conversation_id, seq, id, sender_id, created_at, type, content, detail)
SELECT id, last_seq, gen_random_uuid(), $2, last_event_at, $3, $5, $4 FROM moved RETURNING seq`
)

// change makes one change of the model, within a transaction that may be slow, and
// may be rolled back.
func (m *syncModel) change(ctx context.Context, r *rand.Rand) error {
	conv, actor, user := m.convs[r.IntN(len(m.convs))], m.users[r.IntN(len(m.users))], m.users[r.IntN(len(m.users))]
	tx, err := m.s.Pool().Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) // it may have been committed
	pause := func() float64 {
		if r.IntN(4) > 0 {
			return 0
		}
		return float64(r.IntN(15)) / 1000
	}
	if _, err := tx.Exec(ctx, modelBeginSQL, pause()); err != nil {
		return err
	}
	event := func(kind, detail, content string) (seq int64, err error) {
		err = tx.QueryRow(ctx, modelEventSQL, conv, actor, kind, detail, content).Scan(&seq)
		return seq, err
	}
	if _, err := tx.Exec(ctx, modelLockSQL, conv); err != nil {
		return err
	}
	if err := m.decide(ctx, r, tx, conv, user, event); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_sleep($1)`, pause()); err != nil {
		return err
	}
	if r.IntN(10) == 0 {
		return tx.Rollback(ctx)
	}
	return tx.Commit(ctx)
}

func (m *syncModel) decide(ctx context.Context, r *rand.Rand, tx pgx.Tx, conv, user chat.ID, event func(kind, detail, content string) (int64, error)) error {
	var role string // of the user
	var last int64
	if err := tx.QueryRow(ctx, `SELECT last_seq, coalesce((SELECT role FROM participants WHERE conversation_id = $1 AND user_id = $2), '') FROM conversations WHERE id = $1`, conv, user).Scan(&last, &role); err != nil {
		return err
	}
	isMember := role != "" && role != "owner" // who stays for once
	names := fmt.Sprintf(`"userIds": [%q]`, user)
	switch op := r.IntN(10); {
	case op < 2 && isMember:
		if _, err := event("conversation", `{"op": "left", `+names+`}`, ""); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, leaveSQL, conv, user)
		return err
	case op < 5 && role == "":
		seq, err := event("conversation", `{"op": "joined", `+names+`}`, "")
		if err != nil {
			return err
		}
		if r.IntN(3) == 0 {
			seq = 1 // one that shows its whole history
		}
		if _, err := tx.Exec(ctx, `DELETE FROM departures WHERE conversation_id = $1 AND user_id = $2`, conv, user); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq, read_seq)
SELECT $1, $2, 'member', now(), $3, coalesce(max(seq), 0) FROM reads WHERE conversation_id = $1 AND user_id = $2`, conv, user, seq)
		return err
	case op < 6 && isMember:
		role = []string{"member", "admin"}[r.IntN(2)]
		if _, err := event("conversation", `{"op": "role", "role": "`+role+`", `+names+`}`, ""); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `UPDATE participants SET role = $3, xid = pg_current_xact_id() WHERE conversation_id = $1 AND user_id = $2`, conv, user, role)
		return err
	case op < 7:
		_, err := event("conversation", fmt.Sprintf(`{"op": "renamed", "title": "title %d"}`, r.IntN(1000)), "")
		return err
	case op < 8:
		_, err := tx.Exec(ctx, readSQL, conv, user, 1+r.Int64N(last))
		return err
	default:
		var message chat.ID
		err := tx.QueryRow(ctx, `SELECT id FROM events WHERE conversation_id = $1 AND type = 'message' ORDER BY random() LIMIT 1`, conv).Scan(&message)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		} else if err != nil {
			return err
		}
		text := fmt.Sprintf("edited %d", r.IntN(1000))
		if _, err := tx.Exec(ctx, `
INSERT INTO message_originals (conversation_id, message_id, content) SELECT conversation_id, id, content FROM events WHERE conversation_id = $1 AND id = $2
ON CONFLICT DO NOTHING`, conv, message); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE events SET content = $3, edited_at = created_at WHERE conversation_id = $1 AND id = $2`, conv, message, text); err != nil {
			return err
		}
		_, err = event("edit", fmt.Sprintf(`{"messageId": %q}`, message), text)
		return err
	}
}

// say sends a message through the writer, as whoever may.
func (m *syncModel) say(ctx context.Context, r *rand.Rand) error {
	conv, user := m.convs[r.IntN(len(m.convs))], m.users[r.IntN(len(m.users))]
	_, _, err := m.rules.Send(ctx, user, conv, &chat.Command{Type: chat.EventMessage, Content: fmt.Sprintf("said %d", r.IntN(1000))})
	if chat.CodeOf(err) == chat.Forbidden {
		return nil
	}
	return err
}

// regroup changes a group as the store does, as whoever may.
func (m *syncModel) regroup(ctx context.Context, r *rand.Rand) error {
	conv, actor, user := m.convs[r.IntN(len(m.convs))], m.users[r.IntN(len(m.users))], m.users[r.IntN(len(m.users))]
	var err error
	switch r.IntN(5) {
	case 0:
		_, err = m.s.RemoveParticipant(ctx, chat.ParticipantChange{ConversationID: conv, Actor: actor, UserID: user}, time.Now())
	case 1:
		title, history := fmt.Sprintf("title %d", r.IntN(1000)), []chat.History{chat.HistoryAll, chat.HistoryJoined}[r.IntN(2)]
		_, err = m.s.UpdateConversation(ctx, chat.ConversationUpdate{ConversationID: conv, Actor: actor, Title: &title, History: &history}, time.Now())
	case 2:
		role := []chat.Role{chat.Owner, chat.GroupAdmin, chat.GroupMember}[r.IntN(3)]
		_, err = m.s.SetParticipantRole(ctx, chat.ParticipantChange{ConversationID: conv, Actor: actor, UserID: user, Role: role}, time.Now())
	default:
		_, err = m.s.AddParticipants(ctx, chat.NewParticipants{ConversationID: conv, Actor: actor, Users: []chat.ID{user}, Role: chat.GroupMember}, time.Now())
	}
	switch chat.CodeOf(err) {
	case chat.Forbidden, chat.NotFound, chat.Invalid:
		return nil
	}
	return err
}

func (m *syncModel) rename(ctx context.Context, r *rand.Rand) error {
	name := fmt.Sprintf("name %d", r.IntN(1000))
	_, err := m.s.UpdateUser(ctx, m.users[r.IntN(len(m.users))], identity.UserUpdate{DisplayName: &name})
	return err
}

// Many writers change everything at once, in transactions that commit in any order,
// and readers ask in small pages at any moment: what each of them holds in the end is
// what is there, each event having come once and in its place.
func TestSyncModel(t *testing.T) {
	t.Parallel()
	const writers, changes = 6, 60
	seed := seedtest.Seed(t)
	m := &syncModel{writerRig: newWriterRig(t, store.WriterOptions{Shards: 2})}
	m.users, m.convs = m.members, []chat.ID{m.conv}
	for i := range 2 {
		m.users = append(m.users, user(t, m.s, fmt.Sprintf("late%d", i)).ID)
	}
	for i := range 4 {
		m.convs = append(m.convs, group(t, m.s, now, m.users[i:]...).ID)
	}

	var writing, reading sync.WaitGroup
	over := make(chan struct{})
	for w := range writers {
		r := seedtest.New(seed, w)
		writing.Go(func() {
			for range changes {
				do := []func(context.Context, *rand.Rand) error{m.change, m.change, m.change, m.say, m.say, m.rename, m.regroup, m.regroup}[r.IntN(8)]
				if err := do(t.Context(), r); err != nil {
					t.Error("change:", err)
				}
			}
		})
	}
	type reader struct {
		syncer
		holds *replica
	}
	var readers []*reader
	for i := range 2 * len(m.users) {
		read := &reader{syncer{s: m.s, user: m.users[i/2]}, newReplica()}
		readers = append(readers, read)
		r := seedtest.New(seed, 1000+i)
		reading.Go(func() {
			for ended := false; ; {
				p, err := read.page(t.Context(), 1+r.IntN(6))
				if err != nil {
					t.Error("sync:", err)
					return
				}
				for i := range p.Items {
					if err := read.holds.apply(read.user, &p.Items[i]); err != nil {
						t.Errorf("reader %d: %v", i, err)
					}
				}
				if ended && !p.More {
					return
				}
				select {
				case <-over:
					ended = ended || !p.More // the run that was under way, and one more
				default:
				}
			}
		})
	}
	writing.Wait()
	close(over)
	reading.Wait()
	told := 0
	for i, r := range readers {
		want := naive(t, m.s, r.user)
		if diff := cmp.Diff(want, r.holds.forget(want)); diff != "" {
			t.Errorf("reader %d (-there is +it holds):\n%s", i, diff)
		}
		for _, c := range want.Conversations {
			told += len(c.Messages)
		}
	}
	if told == 0 {
		t.Error("nobody was told anything")
	}
	m.finish()
}
