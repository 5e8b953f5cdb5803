package client_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
)

// Lists go on over their pages, as far as the caller goes.
func TestLists(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	c := dial(t, options(a, ann, ""))
	ctx := patient(t)
	bobID := client.ID(bob.ID.String())
	conv, _, err := c.CreateDirect(ctx, bobID)
	if err != nil {
		t.Fatal(err)
	}
	const n = 230 // three pages
	var first client.Receipt
	for i := range n {
		r, err := c.Send(ctx, conv, client.Message{Content: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = r
		}
	}
	var contents []string
	for m, err := range c.HistoryAfter(ctx, conv, 0) {
		if err != nil {
			t.Fatal(err)
		}
		contents = append(contents, m.Content)
	}
	if len(contents) != n || contents[0] != "0" || contents[n-1] != fmt.Sprint(n-1) {
		t.Errorf("forward there are %d messages, from %s to %s", len(contents), contents[0], contents[len(contents)-1])
	}
	slices.Reverse(contents)
	i := 0
	for m, err := range c.History(ctx, conv) {
		if err != nil || m.Content != contents[i] {
			t.Fatal(m, err, "want", contents[i])
		}
		if i++; i == 120 {
			break // no further page is asked for
		}
	}

	group, err := c.CreateGroup(ctx, "Rowing", bobID)
	if err != nil || group.Kind != client.Group || group.Title != "Rowing" || len(group.Participants) != 2 || !group.LastReadAt.IsZero() {
		t.Fatal(group, err)
	}
	if alone, err := c.CreateGroup(ctx, ""); err != nil || alone.ParticipantCount != 1 {
		t.Error(alone, err)
	}
	var kinds []client.Kind
	for conv, err := range c.Conversations(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, conv.Kind)
		if conv.Kind == client.Direct && (conv.LastMessage == nil || conv.LastMessage.Content != fmt.Sprint(n-1)) {
			t.Errorf("the last message is %+v", conv.LastMessage)
		}
	}
	if !slices.Equal(kinds, []client.Kind{client.Group, client.Group, client.Direct}) {
		t.Errorf("conversations are %v", kinds)
	}

	if err := c.Edit(ctx, conv, first.ID, "zero"); err != nil {
		t.Fatal(err)
	}
	if err := c.React(ctx, conv, first.ID, "🎉"); err != nil {
		t.Fatal(err)
	}
	m, err := c.GetMessage(ctx, first.ID)
	if err != nil || m.Content != "zero" || m.EditedAt.IsZero() || !m.DeletedAt.IsZero() || len(m.Reactions) != 1 || m.Reactions[0] != (client.ReactionCount{Emoji: "🎉", Count: 1, Mine: true}) {
		t.Errorf("the first message is %+v, %v", m, err)
	}
	var texts []string
	for text, err := range c.Edits(ctx, first.ID) {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text.Content)
	}
	if !slices.Equal(texts, []string{"0", "zero"}) {
		t.Errorf("it said %v", texts)
	}
	for r, err := range c.Reactions(ctx, first.ID) {
		if err != nil || r.Emoji != "🎉" || r.UserID != c.Me().ID {
			t.Error(r, err)
		}
	}
	for u, err := range c.Users(ctx, bob.Username) {
		if err != nil || u.ID != bobID {
			t.Error(u, err)
		}
	}
	name := "Ann"
	if me, err := c.UpdateMe(ctx, client.ProfileUpdate{DisplayName: &name}); err != nil || me.DisplayName != "Ann" {
		t.Error(me, err)
	}
	for _, err := range c.History(ctx, "nonsense") {
		if client.CodeOf(err) != client.Invalid {
			t.Errorf("history of nonsense: %v", err)
		}
	}
}

func TestTyping(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	heard := make(chan client.Typing, 10)
	o := options(a, bob, "")
	o.OnTyping = func(e client.Typing) { heard <- e }
	dial(t, o)
	c := dial(t, options(a, ann, ""))
	for range 50 { // keys
		if err := c.Typing(patient(t), conv, true); err != nil {
			t.Fatal(err)
		}
	}
	if e := expect(t, "typing", heard); !e.Typing || e.ConversationID != conv || e.UserID != c.Me().ID || time.Until(e.ExpiresAt) > 10*time.Second || e.ExpiresAt.IsZero() {
		t.Errorf("heard %+v", e)
	}
	if err := c.Typing(patient(t), conv, false); err != nil {
		t.Fatal(err)
	}
	if e := expect(t, "no typing", heard); e.Typing {
		t.Errorf("heard %+v", e)
	}
	if len(heard) != 0 {
		t.Errorf("heard more: %+v", <-heard)
	}
}

// Whatever is put into a path stays one part of it.
func TestPaths(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	api, err := client.NewAPI(options(a, a.User(t, "ann"), ""))
	if err != nil {
		t.Fatal(err)
	}
	defer api.CloseIdle()
	for _, id := range []client.ID{"..", "../users/me", "?a=b", "#", "%2e%2e", "a/b", " ", "\x00", client.ID(strings.Repeat("x", 5000))} {
		if err := api.EndSession(patient(t), id); client.CodeOf(err) != client.Invalid && client.CodeOf(err) != client.NotFound {
			t.Errorf("ending session %q: %v", id, err)
		}
		if c, err := api.GetConversation(patient(t), id); err == nil {
			t.Errorf("conversation %q is %+v", id, c)
		}
	}
	if err := api.EndSession(patient(t), ""); err == nil {
		t.Error("no session could be ended")
	}
}
