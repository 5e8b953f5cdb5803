package identity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

func TestLogIn(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := node(t, storetest.New(t), c)
	u := register(t, s, "alice")
	session := logIn(t, s, "Alice@example.org")
	want := identity.Login{
		ID: session.Login.ID, UserID: u.ID, Device: "phone", CreatedAt: begin, LastUsedAt: begin, ExpiresAt: begin.Add(60 * 24 * time.Hour),
	}
	if diff := cmp.Diff(want, session.Login); diff != "" {
		t.Errorf("login (-want +got):\n%s", diff)
	}
	if session.ExpiresIn != 15*time.Minute || session.User != *u {
		t.Errorf("session %v of %+v", session.ExpiresIn, session.User)
	}
	p, err := s.VerifyToken(t.Context(), session.AccessToken)
	if want := (chat.Principal{UserID: u.ID, Username: "alice", LoginID: session.Login.ID}); err != nil || p != want {
		t.Errorf("VerifyToken = %+v, %v, want %+v", p, err, want)
	}
	c.advance(time.Second)
	second := logIn(t, s, "alice")
	list, err := s.ListLogins(t.Context(), u.ID)
	if err != nil || len(list) != 2 || list[0].ID != second.Login.ID || list[1].ID != session.Login.ID {
		t.Errorf("ListLogins = %+v, %v, want the newer first", list, err)
	}
	for _, device := range []string{strings.Repeat("x", 101), "a\x00b", "\xff"} {
		_, err := s.LogIn(t.Context(), identity.LoginRequest{Login: "alice", Password: password, Device: device})
		wantCode(t, "LogIn with a bad device", err, chat.Invalid)
	}
	c.advance(15*time.Minute + 29*time.Second)
	good(t, s, second.AccessToken, "within the leeway")
	c.advance(2 * time.Second)
	refused(t, s, second.AccessToken, "expired")
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := node(t, storetest.New(t), c)
	register(t, s, "alice")
	session := logIn(t, s, "alice")
	for range 3 {
		c.advance(59 * 24 * time.Hour) // the login's end slides
		next, err := s.Refresh(t.Context(), session.RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		if next.Login.ID != session.Login.ID || next.RefreshToken == session.RefreshToken {
			t.Errorf("Refresh = %+v after %+v: want the same login, another token", next, session)
		}
		good(t, s, next.AccessToken, "refreshed")
		session = next
	}
	c.advance(61 * 24 * time.Hour)
	_, err := s.Refresh(t.Context(), session.RefreshToken)
	wantCode(t, "Refresh after the login's end", err, chat.Unauthenticated)

	for _, token := range []string{"", "plr_", "plr_" + strings.Repeat("A", 43), "plr_" + strings.Repeat("A", 42) + "B", strings.Repeat("A", 1<<20), session.AccessToken, session.RefreshToken + "\n"} {
		_, err := s.Refresh(t.Context(), token)
		wantCode(t, "Refresh of something else", err, chat.Unauthenticated)
	}
}

// graceOver makes all refresh tokens as old as if they had been used a grace earlier.
func graceOver(t *testing.T, dsn string) {
	t.Helper()
	storetest.Exec(t, dsn, fmt.Sprintf("UPDATE refresh_tokens SET used_at = used_at - interval '%d seconds'", int(identity.RefreshGrace.Seconds())))
}

// Somebody who shows a refresh token that was used before, and not just now, has stolen it,
// or been stolen from: the login ends for both.
func TestReusedRefreshTokenEndsTheLogin(t *testing.T) {
	t.Parallel()
	dsn, c := storetest.DSN(t), newClock()
	db := storetest.Open(t, dsn)
	s, other := node(t, db, c), node(t, db, c)
	register(t, s, "alice")
	first, bystander := logIn(t, s, "alice"), logIn(t, s, "alice")
	second, err := s.Refresh(t.Context(), first.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	graceOver(t, dsn)
	good(t, other, second.AccessToken, "before the reuse")
	var told []identity.Revocation
	s.OnRevoked(func(r identity.Revocation) { told = append(told, r) })
	good(t, s, second.AccessToken, "before the reuse")
	_, err = s.Refresh(t.Context(), first.RefreshToken)
	wantCode(t, "reuse", err, chat.Unauthenticated)
	_, err = s.Refresh(t.Context(), second.RefreshToken)
	wantCode(t, "Refresh after the reuse", err, chat.Unauthenticated)
	for _, tok := range []string{first.AccessToken, second.AccessToken} {
		refused(t, s, tok, "after the reuse, here")
	}
	if len(told) != 1 || told[0].LoginID != first.Login.ID {
		t.Errorf("OnRevoked told %+v, want the login once", told)
	}
	if err := other.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused(t, other, second.AccessToken, "after the reuse, elsewhere")
	good(t, s, bystander.AccessToken, "another login of the same user")
}

// The answer to a refresh is lost, and the client asks again, of another node, whose clock is
// a minute ahead. It was once logged out for that.
func TestRefreshWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	dsn, c := storetest.DSN(t), newClock()
	db := storetest.Open(t, dsn)
	ahead := newClock()
	ahead.advance(time.Minute)
	here, there := node(t, db, c), node(t, db, ahead)
	register(t, here, "alice")
	session := logIn(t, here, "alice")
	lost, err := here.Refresh(t.Context(), session.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	again, err := there.Refresh(t.Context(), session.RefreshToken)
	if err != nil || again.RefreshToken != lost.RefreshToken || again.Login.ID != session.Login.ID {
		t.Fatalf("Refresh again = %+v, %v, want the same refresh token as %+v", again, err, lost)
	}
	good(t, here, again.AccessToken, "of the second answer")
	// Later there is one token that is good, and theft of the old one is noticed.
	graceOver(t, dsn)
	next, err := here.Refresh(t.Context(), again.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	_, err = there.Refresh(t.Context(), session.RefreshToken)
	wantCode(t, "Refresh with the token of before", err, chat.Unauthenticated)
	_, err = here.Refresh(t.Context(), next.RefreshToken)
	wantCode(t, "Refresh after the theft", err, chat.Unauthenticated)
}

// Eight tabs refresh at once, and all of them stay logged in: at once, and when they refresh the
// next time. Once the winner was logged out, too.
func TestTabsRefreshAtOnce(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	db, c := storetest.Open(t, dsn), newClock()
	nodes := []*identity.Service{node(t, db, c), node(t, db, c)}
	register(t, nodes[0], "alice")
	token := logIn(t, nodes[0], "alice").RefreshToken
	for range 2 {
		sessions := make([]*identity.Session, 8)
		var wg sync.WaitGroup
		for i := range sessions {
			wg.Go(func() {
				var err error
				if sessions[i], err = nodes[i%2].Refresh(t.Context(), token); err != nil {
					t.Errorf("tab %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		for i, s := range sessions {
			if s.RefreshToken != sessions[0].RefreshToken {
				t.Errorf("tab %d has another refresh token", i)
			}
			good(t, nodes[0], s.AccessToken, fmt.Sprint("tab ", i))
		}
		token = sessions[0].RefreshToken
		graceOver(t, dsn)
	}
}

func TestRevokedLogin(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	here, polled, idle := node(t, db, c), node(t, db, c), node(t, db, c)
	alice := register(t, here, "alice")
	eve := register(t, here, "eve")
	session := logIn(t, here, "alice")
	for _, s := range []*identity.Service{here, polled, idle} {
		good(t, s, session.AccessToken, "at first")
	}
	told := map[*identity.Service]int{}
	for _, s := range []*identity.Service{here, polled} {
		s.OnRevoked(func(r identity.Revocation) {
			if r.LoginID != session.Login.ID || r.UserID != alice.ID {
				t.Errorf("OnRevoked(%+v)", r)
			}
			told[s]++
		})
	}
	wantCode(t, "RevokeLogin by another user", here.RevokeLogin(t.Context(), eve.ID, session.Login.ID), chat.NotFound)
	good(t, here, session.AccessToken, "after another user tried")
	for range 2 {
		if err := here.RevokeLogin(t.Context(), alice.ID, session.Login.ID); err != nil {
			t.Fatal(err)
		}
	}
	p := chat.Principal{UserID: alice.ID, LoginID: session.Login.ID}
	if !here.Revoked(p) || polled.Revoked(p) {
		t.Errorf("Revoked = %v here, %v elsewhere; want true, false", here.Revoked(p), polled.Revoked(p))
	}
	refused(t, here, session.AccessToken, "revoked here")
	for range 3 {
		c.advance(500 * time.Millisecond)
		if err := polled.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, polled, session.AccessToken, "revoked elsewhere")
	if told[here] != 1 || told[polled] != 1 {
		t.Errorf("OnRevoked told %d times here and %d elsewhere, want 1 and 1", told[here], told[polled])
	}
	c.advance(10 * time.Second)
	refused(t, idle, session.AccessToken, "revoked elsewhere, 10 s ago, nobody polling")
	refused(t, node(t, db, c), session.AccessToken, "on a node started later")
	_, err := here.Refresh(t.Context(), session.RefreshToken)
	wantCode(t, "Refresh of a revoked login", err, chat.Unauthenticated)

	// The memory of it goes when no token of it can be good, and the row then too.
	c.advance(3 * time.Hour)
	for _, s := range []*identity.Service{here, polled} {
		if err := s.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.Revoked(p) {
			t.Error("a revoked login is remembered for ever")
		}
	}
	if err := db.RevokeLogin(t.Context(), alice.ID, session.Login.ID, time.Now()); chat.CodeOf(err) != chat.NotFound {
		t.Errorf("RevokeLogin after 3 hours: %v, want not found", err)
	}
}

func TestDisabledUser(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	here, there := node(t, db, c), node(t, db, c)
	alice := register(t, here, "alice")
	session := logIn(t, here, "alice")
	operators, _, err := here.IssueToken(t.Context(), "alice", 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	good(t, there, operators, "at first")
	var users, logins int
	there.OnRevoked(func(r identity.Revocation) {
		if r.LoginID.IsZero() {
			users++
		} else {
			logins++
		}
	})
	for range 2 {
		if _, err := here.SetDisabled(t.Context(), "alice", true); err != nil {
			t.Fatal(err)
		}
	}
	if err := there.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if users != 1 || logins != 1 {
		t.Errorf("OnRevoked told of %d users and %d logins, want 1 and 1", users, logins)
	}
	for name, s := range map[string]*identity.Service{"here": here, "there": there, "later": node(t, db, c)} {
		refused(t, s, operators, "an operator's token, "+name)
		refused(t, s, session.AccessToken, "a login's token, "+name)
		if !s.Revoked(chat.Principal{UserID: alice.ID}) {
			t.Errorf("%s: Revoked = false for a disabled user", name)
		}
	}
	c.advance(2 * time.Second)
	refused(t, there, operators, "asked again")
	if _, err := here.SetDisabled(t.Context(), "alice", false); err != nil {
		t.Fatal(err)
	}
	good(t, here, operators, "enabled here")
	c.advance(time.Second)
	good(t, there, operators, "enabled elsewhere")
	refused(t, there, session.AccessToken, "a login of before, after enabling")
	logIn(t, there, "alice")
}

func TestPasswordChangeEndsOtherLogins(t *testing.T) {
	t.Parallel()
	s := node(t, storetest.New(t), newClock())
	register(t, s, "alice")
	mine, other := logIn(t, s, "alice"), logIn(t, s, "alice")
	p, err := s.VerifyToken(t.Context(), mine.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	next := "a quite different one"
	for _, current := range []string{"", "wrong horse battery", strings.Repeat("x", 1<<20)} {
		_, err = s.UpdateProfile(t.Context(), p, identity.ProfileUpdate{Password: &next, CurrentPassword: current})
		wantCode(t, "UpdateProfile without the current password", err, chat.Forbidden)
	}
	good(t, s, other.AccessToken, "after attempts")
	name := "Alice the Great"
	u, err := s.UpdateProfile(t.Context(), p, identity.ProfileUpdate{Password: &next, DisplayName: &name, CurrentPassword: password})
	if err != nil || u.DisplayName != name {
		t.Fatalf("UpdateProfile = %+v, %v", u, err)
	}
	good(t, s, mine.AccessToken, "who changed it")
	refused(t, s, other.AccessToken, "another login")
	_, err = s.VerifyPassword(t.Context(), "alice", password)
	wantCode(t, "the old password", err, chat.Unauthenticated)
	if _, err := s.VerifyPassword(t.Context(), "alice", next); err != nil {
		t.Errorf("the new password: %v", err)
	}
	if _, err := s.SetPassword(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	refused(t, s, mine.AccessToken, "after an operator set the password")
}

// A new password is for those, too, who have no login that could be revoked:
// connections made with user name and password, and operators' tokens. They once
// stayed, on every node.
func TestPasswordChangeEndsWhatHasNoLogin(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	behind := &clock{t: begin.Add(-20 * time.Second)} // of a node whose clock is not ours
	here, there := node(t, db, c), node(t, db, behind)
	alice := register(t, here, "alice")
	mine, bobs := logIn(t, here, "alice"), register(t, here, "bob")
	me, err := here.VerifyToken(t.Context(), mine.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	current := password
	for i, how := range []string{"by the user", "by an operator", "again, in the same millisecond"} {
		p, err := here.VerifyPassword(t.Context(), "alice", current)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := here.IssueToken(t.Context(), "alice", 30*24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		bobsToken, _, err := here.IssueToken(t.Context(), "bob", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		good(t, there, token, how+": before")
		var told []identity.Revocation
		there.OnRevoked(func(r identity.Revocation) {
			if r.Credentials {
				told = append(told, r)
			}
		})
		next := fmt.Sprintf("a quite different one, %d", i)
		if i == 0 {
			_, err = here.UpdateProfile(t.Context(), me, identity.ProfileUpdate{Password: &next, CurrentPassword: current})
			good(t, here, mine.AccessToken, how+": the login that asked")
		} else {
			_, err = there.SetPassword(t.Context(), "alice", next)
		}
		if err != nil {
			t.Fatal(err)
		}
		current = next
		for range 2 {
			if err := errors.Join(here.Poll(t.Context()), there.Poll(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		if len(told) != 1 || !told[0].Concerns(p) || told[0].Concerns(me) || told[0].Concerns(chat.Principal{UserID: bobs.ID}) {
			t.Errorf("%s: OnRevoked told of %+v, want one that concerns alice without a login", how, told)
		}
		// The nodes' clocks and the seconds in a token decide nothing: what is made
		// with the new password at the same time is good.
		young, err := there.VerifyPassword(t.Context(), "alice", next)
		if err != nil {
			t.Fatal(err)
		}
		youngToken, _, err := here.IssueToken(t.Context(), "alice", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]*identity.Service{"here": here, "there": there, "later": node(t, db, c)} {
			refused(t, s, token, how+": an operator's token, "+name)
			good(t, s, youngToken, how+": a new one, "+name)
			good(t, s, bobsToken, how+": another user's, "+name)
			if !s.Revoked(p) || s.Revoked(young) {
				t.Errorf("%s, %s: Revoked = %v with the old password and %v with the new one, want true, false", how, name, s.Revoked(p), s.Revoked(young))
			}
		}
	}

	// It is forgotten when no token that stood on the old password can be good.
	old := chat.Principal{UserID: alice.ID}
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{29 * 24 * time.Hour, true}, {25 * time.Hour, false}} {
		c.advance(tt.after)
		late := node(t, db, c)
		for name, s := range map[string]*identity.Service{"here": here, "started late": late} {
			if err := s.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.Revoked(old) != tt.want {
				t.Errorf("after %v more, %s: Revoked = %v, want %v", tt.after, name, !tt.want, tt.want)
			}
		}
	}
}

// A login under way when the password changes must not outlive the change, which
// revoked all the logins it could see.
func TestLoginBesidePasswordChange(t *testing.T) {
	t.Parallel()
	real := storetest.New(t)
	db, c := &faultyStore{Store: real}, newClock()
	s, operator := node(t, db, c), node(t, real, c)
	u := register(t, s, "alice")
	for name, change := range map[string]func() error{
		"password changed": func() error {
			_, err := operator.SetPassword(t.Context(), "alice", "a quite different one")
			return err
		},
		"disabled": func() error { _, err := operator.SetDisabled(t.Context(), "alice", true); return err },
	} {
		if _, err := operator.SetDisabled(t.Context(), "alice", false); err != nil {
			t.Fatal(err)
		}
		if _, err := operator.SetPassword(t.Context(), "alice", password); err != nil {
			t.Fatal(err)
		}
		db.beforeLogin = func() {
			if err := change(); err != nil {
				t.Error(err)
			}
		}
		_, err := s.LogIn(t.Context(), identity.LoginRequest{Login: "alice", Password: password})
		wantCode(t, name+": LogIn", err, chat.Unauthenticated)
		if list, err := s.ListLogins(t.Context(), u.ID); err != nil || len(list) != 0 {
			t.Errorf("%s: ListLogins = %+v, %v, want none", name, list, err)
		}
	}
	// The password hashed again under other parameters is the same password.
	if _, err := operator.SetDisabled(t.Context(), "alice", false); err != nil {
		t.Fatal(err)
	}
	strong := node(t, real, c, func(o *identity.Options) { o.Passwords.Passes = 2 })
	db.beforeLogin = func() { logIn(t, strong, "alice") }
	if _, err := operator.SetPassword(t.Context(), "alice", password); err != nil {
		t.Fatal(err)
	}
	logIn(t, s, "alice")
}

// Run tells of another node's revocations without being asked, and ends with its context.
func TestRun(t *testing.T) {
	t.Parallel()
	db := storetest.New(t)
	clk := chat.SystemClock{}
	here, there := node(t, db, clk), node(t, db, clk, func(o *identity.Options) { o.PollRevokedEvery = 5 * time.Millisecond })
	alice := register(t, here, "alice")
	session := logIn(t, here, "alice")
	good(t, there, session.AccessToken, "at first")
	told := make(chan identity.Revocation, 1)
	there.OnRevoked(func(r identity.Revocation) { told <- r })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- there.Run(ctx) }() // ends with ctx; waited for below
	if err := here.RevokeLogin(t.Context(), alice.ID, session.Login.ID); err != nil {
		t.Fatal(err)
	}
	if r := <-told; r.LoginID != session.Login.ID {
		t.Errorf("told of %+v", r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestSearchUsers(t *testing.T) {
	t.Parallel()
	s := node(t, storetest.New(t), newClock())
	for _, name := range []string{"bob", "alice", "al_x", "alfred"} {
		register(t, s, name)
	}
	if _, err := s.SetDisabled(t.Context(), "alfred", true); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		prefix, after string
		want          string
	}{
		{"al", "", "al_x alice"},
		{"AL", "", "al_x alice"},
		{"al", "al_x", "alice"},
		{"al_", "", "al_x"},
		{"a%", "", ""},
		{"a\x00", "", ""},
		{strings.Repeat("a", 33), "", ""},
	} {
		users, err := s.SearchUsers(t.Context(), tt.prefix, tt.after, 10)
		var names []string
		for _, u := range users {
			names = append(names, u.Username)
		}
		if got := strings.Join(names, " "); err != nil || got != tt.want {
			t.Errorf("SearchUsers(%q, %q) = %q, %v, want %q", tt.prefix, tt.after, got, err, tt.want)
		}
	}
	if _, err := s.GetUser(t.Context(), nobody); chat.CodeOf(err) != chat.NotFound {
		t.Errorf("GetUser of nobody: %v", err)
	}
}
