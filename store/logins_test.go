package store_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func hash(token string) []byte { h := sha256.Sum256([]byte(token)); return h[:] }

// login stores a login of the user whose first refresh token is token.
func login(t testing.TB, s *store.Store, user chat.ID, token string, createdAt time.Time) identity.Login {
	t.Helper()
	l := identity.Login{ID: chat.NewID(), UserID: user, Device: "phone ☎", CreatedAt: createdAt, LastUsedAt: createdAt, ExpiresAt: createdAt.Add(24 * time.Hour)}
	if err := s.CreateLogin(t.Context(), l, hash(token), time.Time{}); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLogins(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ann, bob := user(t, s, "ann").ID, user(t, s, "bob").ID
	first := login(t, s, ann, "first", now)
	second := login(t, s, ann, "second", now.Add(time.Minute))
	login(t, s, bob, "bob's", now)
	good := func(at time.Time, want ...identity.Login) {
		t.Helper()
		got, err := s.ListLogins(t.Context(), ann, at)
		if err != nil || len(want)+len(got) > 0 && !cmp.Equal(want, got) {
			t.Errorf("ListLogins: %v, (-want +got):\n%s", err, cmp.Diff(want, got))
		}
	}
	good(now, second, first)
	good(first.ExpiresAt, second)
	good(second.ExpiresAt)

	wantError(t, s.RevokeLogin(t.Context(), bob, first.ID, now), chat.NotFound, "sessionId") // not his
	wantError(t, s.RevokeLogin(t.Context(), ann, chat.NewID(), now), chat.NotFound, "sessionId")
	first.RevokedAt = now.Add(time.Hour)
	for i := range 2 { // may be repeated, and the first time counts
		if err := s.RevokeLogin(t.Context(), ann, first.ID, first.RevokedAt.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Error(err)
		}
	}
	good(now, second)
	got, err := s.GetLogin(t.Context(), first.ID)
	if diff := cmp.Diff(&first, got); diff != "" || err != nil {
		t.Errorf("GetLogin: %v, (-want +got):\n%s", err, diff)
	}
	_, err = s.GetLogin(t.Context(), chat.NewID())
	wantError(t, err, chat.NotFound, "sessionId")

	second.RevokedAt = now.Add(2 * time.Hour)
	for _, tt := range []struct {
		except chat.ID
		want   []chat.ID
	}{{second.ID, []chat.ID{}}, {chat.ID{}, []chat.ID{second.ID}}, {chat.ID{}, []chat.ID{}}} {
		if got, err := s.RevokeUser(t.Context(), ann, tt.except, second.RevokedAt); err != nil || !cmp.Equal(got, tt.want) {
			t.Errorf("RevokeUser but %v = %v, %v, want %v", tt.except, got, err, tt.want)
		}
	}
	good(now)
	changedAt := now.Add(3 * time.Hour)
	if _, err := s.UpdateUser(t.Context(), bob, identity.UserUpdate{DisabledAt: &second.RevokedAt, CredentialsAt: &changedAt}); err != nil {
		t.Fatal(err)
	}
	changed := identity.Revocation{UserID: bob, At: changedAt, Credentials: true}
	never := changedAt.Add(time.Hour)
	for _, tt := range []struct {
		since, credentialsSince time.Time
		want                    []identity.Revocation
	}{
		{now, changedAt, []identity.Revocation{{LoginID: first.ID, UserID: ann, At: first.RevokedAt}, {LoginID: second.ID, UserID: ann, At: second.RevokedAt}, {UserID: bob, At: second.RevokedAt}, changed}},
		{second.RevokedAt, never, []identity.Revocation{{LoginID: second.ID, UserID: ann, At: second.RevokedAt}, {UserID: bob, At: second.RevokedAt}}},
		{second.RevokedAt.Add(time.Millisecond), now, []identity.Revocation{changed}},
		{second.RevokedAt.Add(time.Millisecond), changedAt.Add(time.Millisecond), []identity.Revocation{}},
	} {
		got, err := s.ListRevocations(t.Context(), tt.since, tt.credentialsSince)
		if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
			t.Errorf("ListRevocations(%v, %v): %v, (-want +got):\n%s", tt.since, tt.credentialsSince, err, diff)
		}
	}

	t.Run("no such user", func(t *testing.T) {
		l := identity.Login{ID: chat.NewID(), UserID: chat.NewID(), CreatedAt: now, LastUsedAt: now, ExpiresAt: now}
		wantError(t, s.CreateLogin(t.Context(), l, hash("x"), time.Time{}), chat.NotFound, "userId")
	})
	t.Run("password changed since", func(t *testing.T) {
		l := identity.Login{ID: chat.NewID(), UserID: ann, CreatedAt: now, LastUsedAt: now, ExpiresAt: now}
		wantError(t, s.CreateLogin(t.Context(), l, hash("x"), now), chat.NotFound, "userId")
	})
	t.Run("device too long", func(t *testing.T) {
		l := identity.Login{ID: chat.NewID(), UserID: ann, Device: strings.Repeat("x", 101), CreatedAt: now, LastUsedAt: now, ExpiresAt: now}
		wantError(t, s.CreateLogin(t.Context(), l, hash("x"), time.Time{}), chat.Invalid, "device")
	})
	t.Run("token of another", func(t *testing.T) {
		l := identity.Login{ID: chat.NewID(), UserID: ann, CreatedAt: now, LastUsedAt: now, ExpiresAt: now}
		wantError(t, s.CreateLogin(t.Context(), l, hash("bob's"), time.Time{}), chat.Conflict, "")
		_, err := s.GetLogin(t.Context(), l.ID)
		wantError(t, err, chat.NotFound, "sessionId") // nothing half done
	})
}

func TestDeleteExpired(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ann := user(t, s, "ann").ID
	expired, revoked, good := login(t, s, ann, "1", now.Add(-48*time.Hour)), login(t, s, ann, "2", now), login(t, s, ann, "3", now)
	if err := s.RevokeLogin(t.Context(), ann, revoked.ID, now.Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.DeleteExpired(t.Context(), now); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []chat.ID{expired.ID, revoked.ID} {
		_, err := s.GetLogin(t.Context(), id)
		wantError(t, err, chat.NotFound, "sessionId")
	}
	if _, err := s.GetLogin(t.Context(), good.ID); err != nil {
		t.Error(err)
	}
	_, _, reused, err := s.RotateRefresh(t.Context(), rotation("1", "x", now, now))
	wantError(t, err, chat.Unauthenticated, "refreshToken")
	if reused {
		t.Error("a forgotten token counts as reused")
	}
}

// rotation is that of a token whose successor has the salt as its name.
func rotation(token, successor string, at, expires time.Time) identity.Rotation {
	return identity.Rotation{
		Hash: hash(token), Salt: []byte(successor), Successor: hash(successor), Now: at, Expires: expires, Grace: 30 * time.Second,
		Follow: func(salt []byte) []byte { return hash(string(salt)) },
	}
}

// age makes tokens as old as if they had been used 31 s earlier.
func age(t *testing.T, s *store.Store, tokens ...string) {
	t.Helper()
	for _, token := range tokens {
		exec(t, s, `UPDATE refresh_tokens SET used_at = used_at - interval '31 seconds' WHERE hash = $1`, hash(token))
	}
}

func TestRotateRefresh(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	ann := user(t, s, "ann")
	later, expires := now.Add(time.Hour), now.Add(48*time.Hour)
	refused := func(t *testing.T, token string, wantReused bool) {
		t.Helper()
		_, _, reused, err := s.RotateRefresh(t.Context(), rotation(token, token+"'s successor", later, expires))
		wantError(t, err, chat.Unauthenticated, "refreshToken")
		if reused != wantReused {
			t.Errorf("reused = %v, want %v", reused, wantReused)
		}
	}
	// chain makes a login and rotates its token n times: name0, name1 …
	chain := func(t *testing.T, name string, n int) identity.Login {
		t.Helper()
		want := login(t, s, ann.ID, name+"0", now)
		want.LastUsedAt, want.ExpiresAt = later, expires
		for i := range n {
			l, a, reused, err := s.RotateRefresh(t.Context(), rotation(fmt.Sprint(name, i), fmt.Sprint(name, i+1), later, expires))
			if err != nil || reused {
				t.Fatalf("reused %v, error %v", reused, err)
			}
			if diff := cmp.Diff(&want, l) + cmp.Diff(&ann, a); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		return want
	}
	// repeated shows a token again, and wants the same as the first time.
	repeated := func(t *testing.T, token, newest string, login identity.Login) {
		t.Helper()
		r := rotation(token, token+"'s successor", later.Add(time.Hour), expires.Add(time.Hour))
		var got string
		r.Follow = func(salt []byte) []byte { got = string(salt); return hash(got) }
		l, a, reused, err := s.RotateRefresh(t.Context(), r)
		if err != nil || reused || got != newest {
			t.Errorf("repeated %s: %s, reused %v, error %v, want %s", token, got, reused, err, newest)
		}
		if diff := cmp.Diff(&login, l) + cmp.Diff(&ann, a); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	t.Run("repeated within the grace", func(t *testing.T) {
		want := chain(t, "a", 3)
		for range 2 {
			repeated(t, "a2", "a3", want)
			repeated(t, "a0", "a3", want) // its successors were used within the grace, too
		}
		if _, _, _, err := s.RotateRefresh(t.Context(), rotation("a3", "a4", later, expires)); err != nil {
			t.Errorf("the successor: %v", err)
		}
	})
	t.Run("reused after the grace", func(t *testing.T) {
		want := chain(t, "b", 3)
		age(t, s, "b0", "b1")
		repeated(t, "b2", "b3", want)
		refused(t, "b1", true)
		refused(t, "b3", false) // the newest went with its login
		refused(t, "b2", false) // so did the grace
		l, err := s.GetLogin(t.Context(), want.ID)
		if err != nil || !l.RevokedAt.Equal(later) {
			t.Errorf("login %+v, %v, want it revoked", l, err)
		}
	})
	t.Run("too many successors within the grace", func(t *testing.T) {
		want := chain(t, "c", 11)
		repeated(t, "c1", "c11", want)
		refused(t, "c0", true)
	})
	t.Run("used by a binary that keeps no salt", func(t *testing.T) {
		chain(t, "d", 1)
		exec(t, s, `UPDATE refresh_tokens SET salt = NULL WHERE hash = $1`, hash("d0"))
		refused(t, "d0", true)
	})
	t.Run("not known", func(t *testing.T) { refused(t, "nothing", false) })
	t.Run("expired", func(t *testing.T) {
		login(t, s, ann.ID, "expired", later.Add(-24*time.Hour))
		refused(t, "expired", false)
	})
	t.Run("revoked", func(t *testing.T) {
		l := chain(t, "e", 1)
		if err := s.RevokeLogin(t.Context(), ann.ID, l.ID, now); err != nil {
			t.Fatal(err)
		}
		refused(t, "e0", false)
		refused(t, "e1", false)
	})
	t.Run("user disabled", func(t *testing.T) {
		bob := user(t, s, "bob").ID
		login(t, s, bob, "bobs0", now)
		if _, _, _, err := s.RotateRefresh(t.Context(), rotation("bobs0", "bobs1", later, expires)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.UpdateUser(t.Context(), bob, identity.UserUpdate{DisabledAt: &now}); err != nil {
			t.Fatal(err)
		}
		refused(t, "bobs0", false)
		refused(t, "bobs1", false)
	})
	t.Run("successor in use", func(t *testing.T) {
		login(t, s, ann.ID, "f", now)
		login(t, s, ann.ID, "g", now)
		_, _, _, err := s.RotateRefresh(t.Context(), rotation("f", "g", later, expires))
		wantError(t, err, chat.Conflict, "")
		if _, _, _, err := s.RotateRefresh(t.Context(), rotation("f", "h", later, expires)); err != nil {
			t.Errorf("the token was used up by a rotation that failed: %v", err)
		}
	})
}

// Twenty callers with one token: one rotates it, and the others get the same successor.
func TestRotateRefreshRace(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	s, err := store.Open(t.Context(), store.Options{DSN: dsn, MaxConns: 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ann := user(t, s, "ann").ID
	login(t, s, ann, "token", now)
	var mu sync.Mutex
	got := map[string]bool{}
	var first int
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			newest := fmt.Sprint("successor ", i)
			r := rotation("token", newest, now, now.Add(time.Hour))
			followed := false
			r.Follow = func(salt []byte) []byte { newest, followed = string(salt), true; return hash(newest) }
			_, _, reused, err := s.RotateRefresh(t.Context(), r)
			if err != nil || reused {
				t.Errorf("caller %d: reused %v, error %v", i, reused, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if got[newest] = true; !followed {
				first++
			}
		})
	}
	wg.Wait()
	if len(got) != 1 || first != 1 {
		t.Errorf("the callers got %v, %d by rotation; want all the same, one by rotation", got, first)
	}
}
