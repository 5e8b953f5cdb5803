package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/storetest"
)

func TestCreateConversation(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ann, bob := user(t, s, "ann"), user(t, s, "bob")
	c, e, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: bob.ID, Users: []chat.ID{ann.ID}}, now)
	if err != nil {
		t.Fatal(err)
	}
	want := &chat.Conversation{
		ID: c.ID, Kind: chat.Direct, CreatedBy: bob.ID, CreatedAt: now, LastSeq: 1, LastEventAt: now, ParticipantCount: 2,
		Participants: []chat.Participant{
			{UserID: ann.ID, Username: "ann", DisplayName: "ANN", Role: chat.GroupMember, JoinedAt: now},
			{UserID: bob.ID, Username: "bob", DisplayName: "BOB", Role: chat.GroupMember, JoinedAt: now},
		},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("conversation (-want +got):\n%s", diff)
	}
	log, err := s.ReadLog(t.Context(), ann.ID, c.ID, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]chat.Event{*e}, log); diff != "" {
		t.Errorf("log (-event returned +stored):\n%s", diff)
	}
	storetest.Check(t, s)
}
