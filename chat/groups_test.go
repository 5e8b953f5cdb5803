package chat_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

func (s *fakeStore) AwaitRoster(ctx context.Context, id chat.ID) (*chat.Roster, error) {
	return s.GetRoster(ctx, id)
}

// groupStore is a fakeStore whose groups change as a test says.
type groupStore struct {
	*fakeStore
	change *chat.GroupChange
	err    error
	added  chat.NewParticipants
}

func (s *groupStore) UpdateConversation(context.Context, chat.ConversationUpdate, time.Time) (*chat.GroupChange, error) {
	return s.change, s.err
}

func (s *groupStore) AddParticipants(_ context.Context, n chat.NewParticipants, _ time.Time) (*chat.GroupChange, error) {
	s.added = n
	return s.change, s.err
}

func (s *groupStore) RemoveParticipant(context.Context, chat.ParticipantChange, time.Time) (*chat.GroupChange, error) {
	return s.change, s.err
}

func (s *groupStore) SetParticipantRole(context.Context, chat.ParticipantChange, time.Time) (*chat.GroupChange, error) {
	return s.change, s.err
}

func (s *groupStore) GetParticipants(context.Context, chat.ID, []chat.ID) ([]chat.Participant, error) {
	return []chat.Participant{{UserID: ben}}, nil
}

func (s *groupStore) GetConversation(context.Context, chat.ID, chat.ID) (*chat.Conversation, error) {
	return &chat.Conversation{}, nil
}

func newGroupService() (*chat.Service, *groupStore, *hints) {
	st, p := &groupStore{fakeStore: newFakeStore(), change: &chat.GroupChange{Version: 1}}, &hints{}
	st.put(room, ann, ben)
	s := chat.NewService(st, chat.SystemClock{}, nil)
	s.Use(&fakeLog{}, p)
	return s, st, p
}

func TestGroupInput(t *testing.T) {
	t.Parallel()
	s, st, _ := newGroupService()
	text := func(s string) *string { return &s }
	history := chat.History("some")
	update := func(u chat.ConversationUpdate) error {
		_, err := s.UpdateConversation(t.Context(), u)
		return err
	}
	add := func(role chat.Role, n int) error {
		ids := make([]chat.ID, n)
		for i := range ids {
			ids[i] = chat.ID{byte(i % 101), 1}
		}
		_, err := s.AddParticipants(t.Context(), chat.NewParticipants{Actor: ann, ConversationID: room, Users: ids, Role: role})
		return err
	}
	role := func(r chat.Role) error {
		_, err := s.SetParticipantRole(t.Context(), chat.ParticipantChange{Actor: ann, ConversationID: room, UserID: ben, Role: r})
		return err
	}
	for _, tt := range []struct {
		name        string
		err         error
		field, says string
	}{
		{"a long title", update(chat.ConversationUpdate{Title: text(strings.Repeat("ä", 201))}), "title", "200"},
		{"NUL in the title", update(chat.ConversationUpdate{Title: text("\x00")}), "title", "NUL"},
		{"another history", update(chat.ConversationUpdate{History: &history}), "history", "joined"},
		{"nobody", add(chat.GroupMember, 0), "userIds", "1 to 100"},
		{"too many", add(chat.GroupMember, 101), "userIds", "1 to 100"},
		{"10,000 of the same", add(chat.GroupMember, 10_000), "userIds", "1 to 100"},
		{"as owner", add(chat.Owner, 1), "role", "admin"},
		{"the role of king", role("king"), "role", "owner"},
		{"no role", role(""), "role", "owner"},
	} {
		var e *chat.Error
		if !errors.As(tt.err, &e) || e.Code != chat.Invalid || e.Field != tt.field || !strings.Contains(e.Msg, tt.says) {
			t.Errorf("%s: %v, want Invalid about %s that says %q", tt.name, tt.err, tt.field, tt.says)
		}
	}
	if err := add("", 100); err != nil || st.added.Role != chat.GroupMember || len(st.added.Users) != 100 {
		t.Errorf("100 of no role: %v, %d as %q", err, len(st.added.Users), st.added.Role)
	}
	st.err = &chat.Error{Code: chat.NotFound}
	if err := s.RemoveParticipant(t.Context(), chat.ParticipantChange{Actor: ann, ConversationID: room, UserID: ann}); err != nil {
		t.Errorf("leaving twice: %v", err)
	}
	if err := s.RemoveParticipant(t.Context(), chat.ParticipantChange{Actor: ann, ConversationID: room, UserID: ben}); chat.CodeOf(err) != chat.NotFound {
		t.Errorf("removing from nowhere: %v", err)
	}
}

// From the answer on the new members are those that count, and each event goes to
// those of its version; whoever was removed types no more.
func TestGroupChanged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, st, p := newGroupService()
		if err := s.SetTyping(t.Context(), chat.Device{UserID: ben}, room, true); err != nil { // and the roster is cached
			t.Fatal(err)
		}
		st.change = &chat.GroupChange{
			Events: []chat.Event{{ConversationID: room, Seq: 5}, {ConversationID: room, Seq: 6}}, Version: 2, Left: []chat.ID{ben},
			Roster: &chat.Roster{ConversationID: room, Version: 2, Kind: chat.Group, Members: []chat.ID{ann}},
		}
		if err := s.RemoveParticipant(t.Context(), chat.ParticipantChange{Actor: ann, ConversationID: room, UserID: ben}); err != nil {
			t.Fatal(err)
		}
		if len(p.events) != 2 || p.events[1].Seq != 6 || p.rosters[0] != st.change.Roster {
			t.Errorf("published %v to %v", p.events, p.rosters)
		}
		if r, err := s.Rosters.Get(t.Context(), room); err != nil || r.Version != 2 || r.Has(ben) {
			t.Errorf("the roster is %+v, %v", r, err)
		}
		st.change = &chat.GroupChange{Events: []chat.Event{{ConversationID: room, Seq: 7}}, Version: 2}
		if _, err := s.UpdateConversation(t.Context(), chat.ConversationUpdate{Actor: ann, ConversationID: room}); err != nil || len(p.events) != 3 || p.rosters[2].Version != 2 {
			t.Errorf("a new title: %v, published %v", err, p.events)
		}
		time.Sleep(10 * time.Second)
		if n, _ := chat.TypingKept(s); n != 0 {
			t.Errorf("%d type", n)
		}
	})
}

// A change whose commit was not answered is looked for until it is clear.
func TestGroupInDoubt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, st, p := newGroupService()
		st.err = &chat.Error{Code: chat.Unavailable}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		if err := s.RemoveParticipant(ctx, chat.ParticipantChange{Actor: ann, ConversationID: room, UserID: ben}); chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("removed: %v", err)
		}
		st.put(room, ann) // it was stored
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !slices.Equal(p.of, []chat.ID{room}) {
			t.Errorf("sessions were told of %v", p.of)
		}
		if r, err := s.Rosters.Get(ctx, room); err != nil || r.Version != 2 {
			t.Errorf("the roster is %+v, %v", r, err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// contactChanges is a PresenceEngine that notes changes of contacts.
type contactChanges []string

func (c *contactChanges) Receive(chat.Notice) {}
func (c *contactChanges) ContactsChanged(a, b []chat.ID) {
	*c = append(*c, fmt.Sprintf("%d and %d", len(a), len(b)))
}

// Contacts are told of as long as a group is small enough to make any, and when it
// grows or shrinks beyond that.
func TestContactsChanged(t *testing.T) {
	t.Parallel()
	members := make([]chat.ID, chat.MaxContactMembers+10)
	for i := range members {
		members[i] = chat.ID{1, byte(i >> 8), byte(i)}
	}
	const most = chat.MaxContactMembers
	for _, tt := range []struct {
		joined, left, members int
		want                  string
	}{
		{1, 0, 3, "1 and 3"},
		{0, 1, 2, "1 and 3"},
		{2, 0, most, fmt.Sprintf("2 and %d", most)},
		{2, 0, most + 1, fmt.Sprintf("%d and %d", most+1, most+1)},
		{1, 0, most + 2, ""},
		{0, 1, most + 1, ""},
		{0, 1, most, fmt.Sprintf("%d and %d", most+1, most+1)},
		{0, 0, 3, ""},
	} {
		_, st, p := newGroupService()
		var told contactChanges
		s := chat.NewService(st, chat.SystemClock{}, &told)
		s.Use(&fakeLog{}, p)
		st.change = &chat.GroupChange{Version: 2, Joined: members[:tt.joined], Left: members[most+5:][:tt.left]}
		if tt.joined+tt.left > 0 {
			st.change.Roster = &chat.Roster{ConversationID: room, Version: 2, Kind: chat.Group, Members: members[:tt.members]}
		}
		if err := s.RemoveParticipant(t.Context(), chat.ParticipantChange{}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(told, ", "); got != tt.want {
			t.Errorf("%d join and %d leave, then %d: told of %q, want %q", tt.joined, tt.left, tt.members, got, tt.want)
		}
	}
}
