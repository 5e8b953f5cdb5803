package store_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func contacts(t *testing.T, s *store.Store, among []chat.ID, users ...chat.ID) map[chat.ID][]chat.ID {
	t.Helper()
	found, err := s.ListContacts(t.Context(), users, among)
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range found {
		slices.SortFunc(list, chat.ID.Compare)
	}
	return found
}

func TestContacts(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 6) // the last is alone
	group(t, s, now, u[0], u[1])
	group(t, s, now, u[0], u[1], u[2], u[3])
	group(t, s, now, u[3], u[4])
	exec(t, s, `INSERT INTO blocks (user_id, blocked_id, created_at) VALUES ($1, $2, now())`, u[3], u[0])
	equal := func(got, want []chat.ID) bool {
		want = slices.SortedFunc(slices.Values(want), chat.ID.Compare)
		return slices.Equal(got, want)
	}
	want := map[chat.ID][]chat.ID{u[0]: {u[1], u[2]}, u[1]: {u[0], u[2], u[3]}, u[3]: {u[1], u[2], u[4]}}
	if got := contacts(t, s, nil, u[0], u[1], u[3], u[5]); !maps.EqualFunc(got, want, equal) {
		t.Errorf("contacts are %v, want %v", got, want)
	}
	if got := contacts(t, s, []chat.ID{u[0], u[3]}, u[1], u[0]); !maps.EqualFunc(got, map[chat.ID][]chat.ID{u[1]: {u[0], u[3]}}, equal) {
		t.Errorf("contacts among two are %v", got)
	}
	if got := contacts(t, s, []chat.ID{}, u[1]); len(got) != 0 {
		t.Errorf("contacts among none are %v", got)
	}

	for _, tt := range []struct {
		a, b chat.ID
		want bool
	}{{u[0], u[1], true}, {u[0], u[3], true}, {u[3], u[0], true}, {u[0], u[4], false}, {u[5], u[0], false}} {
		if got, err := s.Acquainted(t.Context(), tt.a, tt.b); got != tt.want || err != nil {
			t.Errorf("Acquainted(%v, %v) = %v, %v", tt.a, tt.b, got, err)
		}
	}
	if pairs, err := s.ListBlocked(t.Context(), u); err != nil || !slices.Equal(pairs, [][2]chat.ID{{u[3], u[0]}}) {
		t.Errorf("ListBlocked = %v, %v", pairs, err)
	}

	putPlace(t, s, nodeA, presence.NodePresence{UserID: u[2], Status: chat.Offline, LastOnlineAt: now}, presence.NodePresence{UserID: u[1], Status: chat.Online})
	var paged []presence.State
	for after := (chat.ID{}); ; {
		page, err := s.ListContactPresences(t.Context(), u[3], nil, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if paged = append(paged, page...); len(page) < 2 {
			break
		}
		after = page[1].UserID
	}
	var ids []chat.ID
	for _, p := range paged {
		ids = append(ids, p.UserID)
		if last := p.LastOnlineAt; last.IsZero() == (p.UserID == u[2]) || (p.Status == chat.Online) != (p.UserID == u[1]) {
			t.Errorf("page holds %+v", p)
		}
	}
	if !equal(ids, want[u[3]]) {
		t.Errorf("pages hold %v, want %v", ids, want[u[3]])
	}
	some, err := s.ListContactPresences(t.Context(), u[3], []chat.ID{u[0], u[4], u[5], chat.NewID()}, chat.ID{}, 100)
	if err != nil || len(some) != 1 || some[0].UserID != u[4] {
		t.Errorf("of those named %v, %v; want the one contact", some, err)
	}
}
