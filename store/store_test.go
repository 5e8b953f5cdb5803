package store_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// now is when all tests happen.
var now = time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)

// user stores an account with the name, which may be given once per database.
func user(t testing.TB, s *store.Store, name string) identity.Account {
	t.Helper()
	a := identity.Account{
		User:         chat.User{ID: chat.NewID(), Username: name, Email: name + "@example.org", DisplayName: strings.ToUpper(name), CreatedAt: now},
		PasswordHash: "$argon2id$" + name,
	}
	if err := s.CreateUser(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	return a
}

// users stores n accounts and returns their ids, ascending.
func users(t testing.TB, s *store.Store, n int) []chat.ID {
	t.Helper()
	ids := make([]chat.ID, n)
	for i := range ids {
		ids[i] = user(t, s, fmt.Sprintf("user%d", i)).ID
	}
	return ids
}

// wantError checks the code and field of an error, and that it says which
// operation of this package failed.
func wantError(t testing.TB, err error, code chat.Code, field string) *chat.Error {
	t.Helper()
	var e *chat.Error
	if !errors.As(err, &e) || e.Code != code || e.Field != field {
		t.Fatalf("error = %v, want %s about %q", err, code, field)
	}
	if !strings.HasPrefix(e.Op, "store.") {
		t.Errorf("error %v has Op %q, want one of store's", err, e.Op)
	}
	return e
}

// exec runs a statement of the test's own.
func exec(t testing.TB, s *store.Store, sql string, args ...any) {
	t.Helper()
	if _, err := s.Pool().Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// group makes a group of the users, the first of whom owns it.
func group(t testing.TB, s *store.Store, at time.Time, users ...chat.ID) *chat.Conversation {
	t.Helper()
	c, _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Group, Title: "a group", Creator: users[0], Users: users[1:]}, at)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// post appends n messages of the sender to a conversation, a second apart, and
// returns the seq of the last.
func post(t testing.TB, s *store.Store, conversation, sender chat.ID, n int) int64 {
	t.Helper()
	var last int64
	err := s.Pool().QueryRow(t.Context(), `
WITH moved AS (
  UPDATE conversations SET last_seq = last_seq + $3, last_xid = pg_current_xact_id(), last_event_at = last_event_at + $3 * interval '1 s' WHERE id = $1
  RETURNING id, last_seq - $3 AS base, last_event_at - $3 * interval '1 s' AS base_at, last_seq
), stored AS (
  INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content)
  SELECT id, base + i, gen_random_uuid(), $2, gen_random_uuid(), base_at + i * interval '1 s', 'message', 'message ' || base + i
  FROM moved, generate_series(1, $3) AS i
)
SELECT last_seq FROM moved`, conversation, sender, n).Scan(&last)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// log returns the whole log as the user sees it.
func log(t testing.TB, s *store.Store, user, conversation chat.ID) []chat.Event {
	t.Helper()
	events, err := s.ReadLog(t.Context(), user, conversation, 0, store.MaxLogPage)
	if err != nil {
		t.Fatal(err)
	}
	return events
}
