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
