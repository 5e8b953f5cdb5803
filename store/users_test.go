package store_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

func TestUsers(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ann := user(t, s, "ann")
	bot := identity.Account{User: chat.User{ID: chat.NewID(), Username: "bot", Admin: true, CreatedAt: now, DisabledAt: now.Add(time.Hour)}}
	if err := s.CreateUser(t.Context(), bot); err != nil {
		t.Fatal(err)
	}
	for _, want := range []identity.Account{ann, bot} {
		got, err := s.GetUser(t.Context(), want.ID)
		if diff := cmp.Diff(&want, got); diff != "" || err != nil {
			t.Errorf("GetUser: %v, (-want +got):\n%s", err, diff)
		}
	}
	for _, login := range []string{"ann", "ann@example.org"} {
		got, err := s.FindUser(t.Context(), login)
		if diff := cmp.Diff(&ann, got); diff != "" || err != nil {
			t.Errorf("FindUser(%q): %v, (-want +got):\n%s", login, err, diff)
		}
	}

	t.Run("none", func(t *testing.T) {
		_, err := s.GetUser(t.Context(), chat.NewID())
		wantError(t, err, chat.NotFound, "userId")
		_, err = s.GetUser(t.Context(), chat.ID{})
		wantError(t, err, chat.NotFound, "userId")
		_, err = s.UpdateUser(t.Context(), chat.NewID(), identity.UserUpdate{})
		wantError(t, err, chat.NotFound, "userId")
		for _, login := range []string{"", "nobody", "nobody@example.org", "nul\x00", "bad\xff"} {
			_, err = s.FindUser(t.Context(), login)
			wantError(t, err, chat.NotFound, "login")
		}
	})
	// Several accounts without an address are no conflict.
	for _, name := range []string{"b1", "b2"} {
		if err := s.CreateUser(t.Context(), identity.Account{User: chat.User{ID: chat.NewID(), Username: name, CreatedAt: now}}); err != nil {
			t.Error(err)
		}
	}
	errors := []struct {
		name  string
		user  chat.User
		code  chat.Code
		field string
	}{
		{"username taken", chat.User{Username: "ann"}, chat.Conflict, "username"},
		{"email taken", chat.User{Username: "ann2", Email: "ann@example.org"}, chat.Conflict, "email"},
		{"username too long", chat.User{Username: strings.Repeat("x", 33)}, chat.Invalid, "username"},
		{"email too long", chat.User{Username: "ann2", Email: strings.Repeat("x", 255)}, chat.Invalid, "email"},
		{"display name too long", chat.User{Username: "ann2", DisplayName: strings.Repeat("ä", 101)}, chat.Invalid, "displayName"},
		{"NUL", chat.User{Username: "ann2", DisplayName: "a\x00b"}, chat.Invalid, ""},
		{"not UTF-8", chat.User{Username: "ann2", DisplayName: "a\xffb"}, chat.Invalid, ""},
	}
	for _, tt := range errors {
		t.Run(tt.name, func(t *testing.T) {
			tt.user.ID, tt.user.CreatedAt = chat.NewID(), now
			wantError(t, s.CreateUser(t.Context(), identity.Account{User: tt.user}), tt.code, tt.field)
		})
	}
}

func TestUpdateUser(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	user(t, s, "bob")
	want := user(t, s, "ann")
	ptr := func(s string) *string { return &s }
	yes, later, never := true, now.Add(time.Hour), time.Time{}
	steps := []struct {
		name   string
		update identity.UserUpdate
		change func()
	}{
		{"nothing", identity.UserUpdate{}, func() {}},
		{"display name", identity.UserUpdate{DisplayName: ptr("Ann Ögren 🦊 \u2028")}, func() { want.DisplayName = "Ann Ögren 🦊 \u2028" }},
		{"no display name", identity.UserUpdate{DisplayName: ptr("")}, func() { want.DisplayName = "" }},
		{"email", identity.UserUpdate{Email: ptr("a@example.org")}, func() { want.Email = "a@example.org" }},
		{"no email", identity.UserUpdate{Email: ptr("")}, func() { want.Email = "" }},
		{"password", identity.UserUpdate{PasswordHash: ptr("other")}, func() { want.PasswordHash = "other" }},
		{"another password", identity.UserUpdate{PasswordHash: ptr("third"), CredentialsAt: &later}, func() { want.PasswordHash, want.CredentialsAt = "third", later }},
		{"by a clock that is behind", identity.UserUpdate{PasswordHash: ptr("fourth"), CredentialsAt: new(now)}, func() { want.PasswordHash, want.CredentialsAt = "fourth", later.Add(time.Millisecond) }},
		{"admin", identity.UserUpdate{Admin: &yes}, func() { want.Admin = true }},
		{"disabled", identity.UserUpdate{DisabledAt: &later}, func() { want.DisabledAt = later }},
		{"still disabled", identity.UserUpdate{Admin: &yes}, func() {}},
		{"enabled", identity.UserUpdate{DisabledAt: &never}, func() { want.DisabledAt = never }},
	}
	for _, step := range steps {
		step.change()
		got, err := s.UpdateUser(t.Context(), want.ID, step.update)
		if diff := cmp.Diff(&want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, (-want +got):\n%s", step.name, err, diff)
		}
	}
	_, err := s.UpdateUser(t.Context(), want.ID, identity.UserUpdate{Email: ptr("bob@example.org")})
	wantError(t, err, chat.Conflict, "email")
	_, err = s.UpdateUser(t.Context(), want.ID, identity.UserUpdate{DisplayName: ptr("a\x00b")})
	wantError(t, err, chat.Invalid, "")
}

// Names are sought and ordered by their bytes: a collation that passes over
// punctuation would lose names between two pages.
func TestListUsers(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for _, name := range []string{"ab", "a-c", "a.b", "a_b", "a1", "abc", "b%c", "bc", "zz"} {
		a := user(t, s, name)
		if name == "abc" {
			if _, err := s.UpdateUser(t.Context(), a.ID, identity.UserUpdate{DisabledAt: &now}); err != nil {
				t.Fatal(err)
			}
		}
	}
	names := func(users []chat.User, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, u := range users {
			all = append(all, u.Username)
		}
		return strings.Join(all, " ")
	}
	for _, tt := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"a", "", 10, "a-c a.b a1 a_b ab"}, // abc is disabled
		{"a", "", 2, "a-c a.b"},
		{"a", "a.b", 2, "a1 a_b"},
		{"a", "ab", 2, ""},
		{"a_", "", 10, "a_b"}, // not a wildcard
		{"b%", "", 10, "b%c"},
		{"", "b", 10, "b%c bc zz"},
		{"a\\", "", 10, ""},
		{"a\x00", "", 10, ""},
		{"\xff", "", 10, ""},
		{"ÿ", "", 10, ""},
	} {
		if got := names(s.SearchUsers(t.Context(), tt.prefix, tt.after, tt.limit)); got != tt.want {
			t.Errorf("SearchUsers(%q, %q, %d) = %s, want %s", tt.prefix, tt.after, tt.limit, got, tt.want)
		}
	}
	if got, want := names(s.ListUsers(t.Context(), "a_b", 3)), "ab abc b%c"; got != want {
		t.Errorf("ListUsers = %s, want %s", got, want)
	}
}

// A login that hashes a password again under new parameters, while the password is
// being changed, once put the old one back.
func TestUpdateUserIfPasswordHash(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := user(t, s, "ann")
	changed, again := "changed", "again"
	if _, err := s.UpdateUser(t.Context(), u.ID, identity.UserUpdate{PasswordHash: &changed}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateUser(t.Context(), u.ID, identity.UserUpdate{PasswordHash: &again, IfPasswordHash: &u.PasswordHash}); chat.CodeOf(err) != chat.NotFound {
		t.Errorf("UpdateUser of a password that was changed: %v, want not_found", err)
	}
	if a, err := s.UpdateUser(t.Context(), u.ID, identity.UserUpdate{PasswordHash: &again, IfPasswordHash: &changed}); err != nil || a.PasswordHash != again {
		t.Errorf("UpdateUser of the password that is there: %v", err)
	}
}
