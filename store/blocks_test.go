package store_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestBlocks(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 4)
	direct, _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: u[0], Users: u[1:2]}, now)
	if err != nil {
		t.Fatal(err)
	}
	g := group(t, s, now, u...).ID
	block := func(user, other chat.ID, changed bool, version int64, blocked bool) {
		t.Helper()
		c, err := s.SetBlock(t.Context(), user, other, now)
		if err != nil || c.Changed != changed || changed != (c.Roster != nil) {
			t.Fatalf("SetBlock = %+v, %v", c, err)
		}
		wantBlocked(t, s, direct.ID, version, blocked)
	}
	unblock := func(user, other chat.ID, changed bool, version int64, blocked bool) {
		t.Helper()
		c, err := s.DeleteBlock(t.Context(), user, other)
		if err != nil || c.Changed != changed || changed != (c.Roster != nil) {
			t.Fatalf("DeleteBlock = %+v, %v", c, err)
		}
		wantBlocked(t, s, direct.ID, version, blocked)
	}
	block(u[1], u[0], true, 2, true)
	block(u[1], u[0], false, 2, true)
	block(u[0], u[1], true, 3, true)
	unblock(u[1], u[0], true, 4, true) // the other one's is still there
	unblock(u[0], u[1], true, 5, false)
	unblock(u[0], u[1], false, 5, false)
	if c, err := s.SetBlock(t.Context(), u[0], u[2], now); err != nil || !c.Changed || c.Roster != nil || !c.Conversation.IsZero() {
		t.Errorf("without a conversation: %+v, %v", c, err)
	}
	if _, err := s.SetBlock(t.Context(), u[3], u[0], now); err != nil {
		t.Error(err)
	}
	_, err = s.SetBlock(t.Context(), u[0], chat.NewID(), now)
	wantError(t, err, chat.NotFound, "userId")
	wantBlocked(t, s, g, 1, false) // of a group, nothing

	hidden, err := s.ListHidden(t.Context(), g, u[0])
	if err != nil || !slices.Equal(hidden, []chat.ID{u[2], u[3]}) {
		t.Errorf("hidden from the first: %v, %v", hidden, err)
	}
	if hidden, err := s.ListHidden(t.Context(), g, u[1]); err != nil || len(hidden) != 0 {
		t.Errorf("hidden from the second: %v, %v", hidden, err)
	}
	list, err := s.ListBlocks(t.Context(), u[0], chat.ID{}, 2)
	if err != nil || len(list) != 1 || list[0].UserID != u[2] || list[0].Username != "user2" || list[0].DisplayName != "USER2" || !list[0].CreatedAt.Equal(now) {
		t.Errorf("ListBlocks = %+v, %v", list, err)
	}
	exec(t, s, manyUsersSQL, chat.MaxBlockedUsers)
	exec(t, s, `INSERT INTO blocks SELECT $1, id, now() FROM users WHERE username LIKE 'many%' ORDER BY id LIMIT 9999`, u[0])
	_, err = s.SetBlock(t.Context(), u[0], u[1], now)
	if e := wantError(t, err, chat.Conflict, "userId"); e.Msg != "you have blocked 10000 users, and that is the limit" {
		t.Errorf("one too many: %q", e.Msg)
	}
	storetest.Check(t, s)
}

func wantBlocked(t *testing.T, s *store.Store, c chat.ID, version int64, blocked bool) {
	t.Helper()
	r, err := s.GetRoster(t.Context(), c)
	if err != nil || r.Version != version || r.Blocked != blocked {
		t.Errorf("roster %+v, %v; want version %d and blocked %v", r, err, version, blocked)
	}
}

// Who blocks while the other one begins a conversation: either it is not begun, or it
// is known as blocked at a version of its own. In databases with another isolation it was begun,
// and not known as blocked, each time.
func TestBlockWhileConversationBegins(t *testing.T) {
	t.Parallel()
	for _, isolation := range []string{"read committed", "repeatable read", "serializable"} {
		t.Run(isolation, func(t *testing.T) {
			t.Parallel()
			dsn := storetest.DSN(t)
			alter(t, dsn, "default_transaction_isolation", isolation)
			testBlockWhileConversationBegins(t, dsn)
		})
	}
}

func testBlockWhileConversationBegins(t *testing.T, dsn string) {
	s, err := store.Open(t.Context(), store.Options{DSN: dsn, MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	u := users(t, s, 40)
	outcomes := map[bool]int{}
	for i := 0; i < len(u); i += 2 {
		a, b := u[i], u[i+1]
		var wg sync.WaitGroup
		var made *chat.Conversation
		var err error
		wg.Go(func() {
			made, _, err = s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: a, Users: []chat.ID{b}}, now)
		})
		wg.Go(func() {
			if _, err := s.SetBlock(t.Context(), b, a, now); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		outcomes[made != nil]++
		if made == nil {
			wantError(t, err, chat.Forbidden, "otherUserId")
			continue
		}
		wantBlocked(t, s, made.ID, 2, true)
	}
	t.Logf("begun before the block: %d, refused: %d", outcomes[true], outcomes[false])
	storetest.Check(t, s)
}
