package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestCreateConversation(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ann, bob := user(t, s, "ann"), user(t, s, "bob")
	member := func(a identity.Account, r chat.Role) chat.Participant {
		return chat.Participant{UserID: a.ID, Username: a.Username, DisplayName: a.DisplayName, Role: r, JoinedAt: now}
	}
	for _, tt := range []struct {
		name string
		new  chat.NewConversation
		want chat.Conversation
	}{
		{
			"direct",
			chat.NewConversation{Kind: chat.Direct, Creator: bob.ID, Users: []chat.ID{ann.ID}},
			chat.Conversation{
				Kind: chat.Direct, CreatedBy: bob.ID, ParticipantCount: 2,
				Participants: []chat.Participant{member(ann, chat.GroupMember), member(bob, chat.GroupMember)},
			},
		},
		{
			"group",
			chat.NewConversation{Kind: chat.Group, Title: `Ünïcode "🦊" <&>` + "\u2028", Creator: bob.ID, Users: []chat.ID{ann.ID}},
			chat.Conversation{
				Kind: chat.Group, Title: `Ünïcode "🦊" <&>` + "\u2028", CreatedBy: bob.ID, ParticipantCount: 2,
				Participants: []chat.Participant{member(ann, chat.GroupMember), member(bob, chat.Owner)},
			},
		},
		{
			"group of one",
			chat.NewConversation{Kind: chat.Group, Creator: ann.ID},
			chat.Conversation{Kind: chat.Group, CreatedBy: ann.ID, ParticipantCount: 1, Participants: []chat.Participant{member(ann, chat.Owner)}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, e, err := s.CreateConversation(t.Context(), tt.new, now)
			if err != nil {
				t.Fatal(err)
			}
			tt.want.History = chat.HistoryJoined
			tt.want.ID, tt.want.CreatedAt, tt.want.LastSeq, tt.want.LastEventAt = c.ID, now, 1, now
			if diff := cmp.Diff(&tt.want, c); diff != "" {
				t.Errorf("conversation (-want +got):\n%s", diff)
			}
			got, err := s.GetConversation(t.Context(), tt.new.Creator, c.ID)
			if diff := cmp.Diff(c, got); diff != "" || err != nil {
				t.Errorf("GetConversation: %v, (-created +got):\n%s", err, diff)
			}
			wantEvent := chat.Event{
				ConversationID: c.ID, Seq: 1, Type: chat.EventConversation, ID: e.ID, SenderID: tt.new.Creator, CreatedAt: now,
				EventDetail: chat.EventDetail{Op: "created", Kind: tt.new.Kind, Title: tt.new.Title, UserIDs: append([]chat.ID{tt.new.Creator}, tt.new.Users...)},
			}
			if diff := cmp.Diff(&wantEvent, e); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]chat.Event{wantEvent}, log(t, s, ann.ID, c.ID)); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			r, err := s.GetRoster(t.Context(), c.ID)
			if err != nil || r.Version != 1 || r.Kind != tt.new.Kind || !r.Has(tt.new.Creator) || len(r.Members) != tt.want.ParticipantCount {
				t.Errorf("GetRoster = %+v, %v", r, err)
			}
		})
	}
	storetest.Check(t, s)
}

func TestCreateConversationErrors(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ann, bob := user(t, s, "ann").ID, user(t, s, "bob").ID
	gone, stranger := user(t, s, "gone").ID, chat.NewID()
	if _, err := s.UpdateUser(t.Context(), gone, identity.UserUpdate{DisabledAt: &now}); err != nil {
		t.Fatal(err)
	}
	existing, _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: ann, Users: []chat.ID{bob}}, now)
	if err != nil {
		t.Fatal(err)
	}
	direct := func(a chat.ID, b ...chat.ID) chat.NewConversation {
		return chat.NewConversation{Kind: chat.Direct, Creator: a, Users: b}
	}
	titled := func(title string) chat.NewConversation {
		return chat.NewConversation{Kind: chat.Group, Title: title, Creator: ann}
	}
	tests := []struct {
		name  string
		new   chat.NewConversation
		code  chat.Code
		field string
		says  string
	}{
		{"exists", direct(ann, bob), chat.Conflict, "otherUserId", "already"},
		{"exists, from the other side", direct(bob, ann), chat.Conflict, "otherUserId", "already"},
		{"other user missing", direct(ann, stranger), chat.NotFound, "otherUserId", stranger.String()},
		{"other user disabled", direct(ann, gone), chat.NotFound, "otherUserId", gone.String()},
		{"creator missing", direct(stranger, ann), chat.Unauthenticated, "", stranger.String()},
		{"creator disabled", direct(gone, ann), chat.Unauthenticated, "", gone.String()},
		{"with oneself", direct(ann, ann), chat.Invalid, "otherUserId", "another"},
		{"with nobody", direct(ann), chat.Invalid, "otherUserId", "one user"},
		{"the first that is missing", chat.NewConversation{Kind: chat.Group, Creator: ann, Users: []chat.ID{bob, stranger, gone}}, chat.NotFound, "userIds", stranger.String()},
		{"the first in the caller's order", chat.NewConversation{Kind: chat.Group, Creator: ann, Users: []chat.ID{gone, stranger}}, chat.NotFound, "userIds", gone.String()},
		{"title too long", titled(strings.Repeat("ä", 201)), chat.Invalid, "title", "200"},
		{"NUL in the title", titled("a\x00b"), chat.Invalid, "", "NUL"},
		{"kind", chat.NewConversation{Kind: "channel", Creator: ann}, chat.Invalid, "kind", "direct"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := s.CreateConversation(t.Context(), tt.new, now)
			e := wantError(t, err, tt.code, tt.field)
			if !strings.Contains(e.Msg, tt.says) {
				t.Errorf("Msg = %q, want it to say %q", e.Msg, tt.says)
			}
			if tt.code == chat.Conflict && e.Existing != existing.ID {
				t.Errorf("Existing = %v, want %v", e.Existing, existing.ID)
			}
		})
	}
	if p, err := s.ListPositions(t.Context(), ann); len(p) != 1 || err != nil {
		t.Errorf("refused conversations left something: %v, %v", p, err)
	}
	storetest.Check(t, s)
}

// Forty callers from both sides: one direct conversation, and all the others are
// told which.
func TestCreateDirectRace(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Options{DSN: storetest.DSN(t), MaxConns: 40})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	pair := users(t, s, 2)
	ids := make([]chat.ID, 40)
	created := make([]bool, 40)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			c, _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: pair[i%2], Users: []chat.ID{pair[1-i%2]}}, now)
			if err == nil {
				ids[i], created[i] = c.ID, true
				return
			}
			ids[i] = wantRaced(t, err)
		})
	}
	wg.Wait()
	if slices.SortFunc(ids, chat.ID.Compare); ids[0] != ids[39] || ids[0].IsZero() {
		t.Errorf("several conversations: %v", slices.Compact(ids))
	}
	if n := len(slices.DeleteFunc(created, func(ok bool) bool { return !ok })); n != 1 {
		t.Errorf("%d callers have created it", n)
	}
	storetest.Check(t, s)
}

func wantRaced(t *testing.T, err error) chat.ID {
	t.Helper()
	var e *chat.Error
	if !errors.As(err, &e) || e.Code != chat.Conflict {
		t.Errorf("error = %v, want Conflict", err)
		return chat.ID{}
	}
	return e.Existing
}

const manyUsersSQL = `
INSERT INTO users (id, username, display_name, password_hash, created_at)
SELECT gen_random_uuid(), 'many' || i, '', '', now() FROM generate_series(1, $1) AS i`

// The largest group there may be: in one go, complete for who opens it, short in
// a list.
func TestLargeGroup(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	exec(t, s, manyUsersSQL, chat.MaxGroupMembers)
	all := listIDs(t, s, `SELECT array_agg(id ORDER BY id) FROM users`)
	creator, others := all[4711], slices.Delete(slices.Clone(all), 4711, 4712)
	c, e, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Group, Creator: creator, Users: others}, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Participants) != chat.MaxGroupMembers || c.ParticipantCount != chat.MaxGroupMembers || len(e.UserIDs) != chat.MaxEventUsers {
		t.Errorf("%d participants, count %d, %d in the event", len(c.Participants), c.ParticipantCount, len(e.UserIDs))
	}
	// Each user is looked up once, though there are no statistics yet: once it was
	// each against each, and took seconds.
	text := make([]string, len(all))
	for i, id := range all {
		text[i] = id.String()
	}
	p := explain(t, s, false, store.MissingUserSQL, pgx.NamedArgs{"ids": "{" + strings.Join(text, ",") + "}"})
	if rows, by := p.read("users"); rows != chat.MaxGroupMembers {
		t.Errorf("looking for missing users reads %v by %s", rows, by)
	}
	for i, p := range c.Participants {
		if p.UserID != all[i] || (p.Role == chat.Owner) != (p.UserID == creator) {
			t.Fatalf("participant %d is %+v, want %v", i, p, all[i])
		}
	}
	r, err := s.GetRoster(t.Context(), c.ID)
	if err != nil || !slices.Equal(r.Members, all) {
		t.Errorf("roster: %v, or not all members ascending", err)
	}
	page, err := s.ListConversations(t.Context(), others[0], chat.ConversationCursor{}, 10)
	if err != nil || len(page.Items) != 1 {
		t.Fatalf("ListConversations = %v, %v", page, err)
	}
	c = &page.Items[0]
	if len(c.Participants) != chat.MaxListedMembers || c.ParticipantCount != chat.MaxGroupMembers || c.Participants[0].UserID != all[0] {
		t.Errorf("in a list: %d participants, count %d", len(c.Participants), c.ParticipantCount)
	}
	storetest.Check(t, s)
}

func listIDs(t testing.TB, s *store.Store, sql string) []chat.ID {
	t.Helper()
	var ids []chat.ID
	if err := s.Pool().QueryRow(t.Context(), sql).Scan(&ids); err != nil {
		t.Fatal(err)
	}
	return ids
}

// Who is not a member gets the same answer as about what does not exist.
func TestMembersOnly(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	c := group(t, s, now, u[0], u[1])
	post(t, s, c.ID, u[0], 1)
	message := log(t, s, u[0], c.ID)[1].ID
	stranger, nowhere := u[2], chat.NewID()
	for name, call := range map[string]func(conversation, message chat.ID) error{
		"GetConversation": func(c, _ chat.ID) error { _, err := s.GetConversation(t.Context(), stranger, c); return err },
		"GetMessage":      func(_, m chat.ID) error { _, err := s.GetMessage(t.Context(), stranger, m); return err },
		"ReadLog":         func(c, _ chat.ID) error { _, err := s.ReadLog(t.Context(), stranger, c, 0, 10); return err },
		"newest": func(c, _ chat.ID) error {
			return listMessages(t, s, chat.MessageQuery{UserID: stranger, ConversationID: c})
		},
		"before": func(c, _ chat.ID) error {
			return listMessages(t, s, chat.MessageQuery{UserID: stranger, ConversationID: c, Before: 2})
		},
		"after": func(c, _ chat.ID) error {
			return listMessages(t, s, chat.MessageQuery{UserID: stranger, ConversationID: c, HasAfter: true})
		},
		"around": func(c, m chat.ID) error {
			return listMessages(t, s, chat.MessageQuery{UserID: stranger, ConversationID: c, Around: m})
		},
	} {
		t.Run(name, func(t *testing.T) {
			of, none := call(c.ID, message), call(nowhere, nowhere)
			field := "conversationId"
			if name == "GetMessage" {
				field = "messageId"
			}
			said := wantError(t, of, chat.NotFound, field).Msg
			said = strings.NewReplacer(c.ID.String(), "…", message.String(), "…").Replace(said)
			if want := strings.ReplaceAll(wantError(t, none, chat.NotFound, field).Msg, nowhere.String(), "…"); said != want {
				t.Errorf("of others %q, of nothing %q", said, want)
			}
		})
	}
	_, err := s.GetRoster(t.Context(), nowhere)
	wantError(t, err, chat.NotFound, "conversationId")
	if p, err := s.ListPositions(t.Context(), stranger); len(p) != 0 || err != nil {
		t.Errorf("ListPositions = %v, %v", p, err)
	}
	if p, err := s.ListConversations(t.Context(), stranger, chat.ConversationCursor{}, 10); err != nil || len(p.Items) != 0 || !p.Next.IsZero() {
		t.Errorf("ListConversations = %v, %v", p, err)
	}
}

func listMessages(t *testing.T, s *store.Store, q chat.MessageQuery) error {
	q.Limit = 10
	_, err := s.ListMessages(t.Context(), q)
	return err
}

func TestUnread(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	ann, bob := u[0], u[1]
	c := group(t, s, now, ann, bob)
	want := func(what string, unread int64, last string, readAt time.Time) {
		t.Helper()
		got, err := s.GetConversation(t.Context(), ann, c.ID)
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		if got.LastMessage != nil {
			text = got.LastMessage.Content
		}
		if got.UnreadCount != unread || text != last || !got.LastReadAt.Equal(readAt) {
			t.Errorf("%s: %d unread, last message %q, read at %v, want %d, %q, %v", what, got.UnreadCount, text, got.LastReadAt, unread, last, readAt)
		}
		page, err := s.ListConversations(t.Context(), ann, chat.ConversationCursor{}, 10)
		if diff := cmp.Diff([]chat.Conversation{*got}, page.Items); diff != "" || err != nil {
			t.Errorf("%s: in the list: %v, (-got by id +listed):\n%s", what, err, diff)
		}
	}
	want("empty", 0, "", time.Time{})
	post(t, s, c.ID, bob, 3) // 2, 3, 4
	want("three of bob's", 3, "message 4", time.Time{})
	post(t, s, c.ID, ann, 1) // 5
	want("one's own don't count", 3, "message 5", time.Time{})
	moveReads(t, s, now, move(c.ID, ann, 3))
	want("read to 3", 1, "message 5", now)
	post(t, s, c.ID, bob, 2) // 6, 7
	exec(t, s, `UPDATE events SET deleted_at = $2, content = '' WHERE conversation_id = $1 AND seq IN (6, 7)`, c.ID, now)
	want("deleted ones don't count, and a tombstone is the last message", 1, "", now)
	exec(t, s, `
WITH c AS (UPDATE conversations SET last_seq = 8, last_xid = pg_current_xact_id() WHERE id = $1)
INSERT INTO events (conversation_id, seq, id, sender_id, created_at, type, detail)
SELECT $1, 8, gen_random_uuid(), $2, created_at, 'reaction', jsonb_build_object('messageId', id, 'emoji', '👍', 'op', 'add')
FROM events WHERE conversation_id = $1 AND seq = 7`, c.ID, bob)
	want("a reaction is no message", 1, "", now)
	post(t, s, c.ID, bob, 1) // 9
	exec(t, s, `UPDATE participants SET joined_seq = 9 WHERE conversation_id = $1 AND user_id = $2`, c.ID, ann)
	want("what was before joining doesn't count", 1, "message 9", now)
	exec(t, s, `UPDATE participants SET joined_seq = 10 WHERE conversation_id = $1 AND user_id = $2`, c.ID, ann)
	want("nothing since joining", 0, "", now)
	storetest.Check(t, s)
}

// While conversations get messages between the pages, all others are in exactly
// one page, latest activity first.
func TestListConversations(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	var all []chat.ID
	for i := range 25 {
		// Five at the same time each: the id decides.
		all = append(all, group(t, s, now.Add(time.Duration(i/5)*time.Hour), u...).ID)
	}
	slices.Reverse(all)
	page, err := s.ListConversations(t.Context(), u[0], chat.ConversationCursor{}, 100)
	if err != nil || !page.Next.IsZero() {
		t.Fatalf("next %v, error %v", page.Next, err)
	}
	if got := conversationIDs(page); !slices.Equal(got, all) {
		t.Fatalf("order: got %v, want %v", got, all)
	}
	for _, limit := range []int{1, 4, 5, 24, 25} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			var got []chat.ID
			for cursor := (chat.ConversationCursor{}); ; {
				page, err := s.ListConversations(t.Context(), u[0], cursor, limit)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, conversationIDs(page)...)
				if cursor = page.Next; cursor.IsZero() {
					break
				}
			}
			if !slices.Equal(got, all) {
				t.Errorf("got %v, want %v", got, all)
			}
		})
	}
	first, err := s.ListConversations(t.Context(), u[0], chat.ConversationCursor{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	moved := all[15]
	exec(t, s, `UPDATE conversations SET last_event_at = last_event_at + interval '1 day' WHERE id = $1`, moved)
	group(t, s, now.Add(100*time.Hour), u...)
	second, err := s.ListConversations(t.Context(), u[0], first.Next, 100)
	if err != nil {
		t.Fatal(err)
	}
	if want := slices.DeleteFunc(slices.Clone(all[10:]), func(id chat.ID) bool { return id == moved }); !slices.Equal(conversationIDs(second), want) {
		t.Errorf("second page: got %v, want %v", conversationIDs(second), want)
	}
}

func conversationIDs(p *chat.ConversationPage) []chat.ID {
	var ids []chat.ID
	for _, c := range p.Items {
		ids = append(ids, c.ID)
	}
	return ids
}
