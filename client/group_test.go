package client_test

import (
	"slices"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
)

func TestGroups(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	got := make(chan *client.Event, 100)
	o := options(a, bob, "phone")
	o.OnEvent = events(got)
	other, c := dial(t, o), dial(t, options(a, ann, ""))
	ctx := patient(t)
	bobID, eveID := other.Me().ID, client.ID(eve.ID.String())
	g, err := c.CreateGroup(ctx, "Rowing", bobID)
	if err != nil {
		t.Fatal(err)
	}
	title, all := "Sailing", "all"
	if g, err := c.UpdateConversation(ctx, g.ID, client.ConversationUpdate{Title: &title, History: &all}); err != nil || g.Title != title || g.History != all {
		t.Error(g, err)
	}
	for _, err := range []error{
		c.AddParticipants(ctx, g.ID, eveID), c.AddParticipants(ctx, g.ID, eveID), c.SetRole(ctx, g.ID, bobID, client.Admin),
		other.RemoveParticipant(ctx, g.ID, eveID), other.RemoveParticipant(ctx, g.ID, bobID),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	var ops []string
	for range 6 {
		ops = append(ops, expect(t, "a change", got).Op)
	}
	slices.Sort(ops[1:3])
	if !slices.Equal(ops, []string{"created", "history", "renamed", "joined", "role", "left"}) {
		t.Errorf("the changes are %v", ops)
	}
	for p, err := range c.Participants(ctx, g.ID) {
		if err != nil || p.UserID != c.Me().ID || p.Role != client.Owner {
			t.Error(p, err)
		}
	}
	if _, err := other.Send(ctx, g.ID, client.Message{Content: "x"}); client.CodeOf(err) != client.Forbidden {
		t.Errorf("sending after leaving: %v", err)
	}

	conv, _, err := c.CreateDirect(ctx, bobID)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Block(ctx, bobID); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Send(ctx, conv, client.Message{Content: "x"}); client.CodeOf(err) != client.Forbidden {
		t.Errorf("sending while blocked: %v", err)
	}
	for b, err := range c.Blocks(ctx) {
		if err != nil || b.UserID != bobID || b.Username != bob.Username {
			t.Error(b, err)
		}
	}
	if err := c.Unblock(ctx, bobID); err != nil {
		t.Error(err)
	}
	if _, err := other.Send(ctx, conv, client.Message{Content: "x"}); err != nil {
		t.Error(err)
	}
}
