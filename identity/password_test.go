package identity_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/argon2"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

// Whoever may not log in must not learn why, neither from the answer nor from
// the work done for it.
func TestFailedLoginsLookAlike(t *testing.T) {
	t.Parallel()
	s := node(t, storetest.New(t), newClock())
	register(t, s, "alice")
	register(t, s, "dora")
	if _, err := s.SetDisabled(t.Context(), "dora", true); err != nil {
		t.Fatal(err)
	}
	hashes := 0
	s.OnHash(func() { hashes++ })
	for _, tt := range []struct {
		name, login, password string
		hashes                int
	}{
		{"wrong password", "alice", "wrong horse battery", 1},
		{"wrong password by mail", "alice@example.org", "wrong horse battery", 1},
		{"unknown user", "nobody", password, 1},
		{"unknown mail", "nobody@example.org", password, 1},
		{"disabled user", "dora", password, 1},
		{"no user name at all", "", password, 1},
		{"NUL", "ali\x00ce", password, 1},
		{"invalid UTF-8", "\xff\xfe", password, 1},
		{"not even a name", "'; DROP TABLE users --", password, 1},
		{"very long name", strings.Repeat("a", 1<<20), password, 1},
		{"password too short for anybody", "alice", "short", 0},
		{"password too long for anybody", "alice", strings.Repeat("x", 1025), 0},
	} {
		hashes = 0
		_, err := s.LogIn(t.Context(), identity.LoginRequest{Login: tt.login, Password: tt.password})
		wantCode(t, tt.name+": LogIn", err, chat.Unauthenticated)
		if got, want := chat.PublicMessage(err), "user name or password is wrong"; got != want {
			t.Errorf("%s: message %q, want %q", tt.name, got, want)
		}
		if hashes != tt.hashes {
			t.Errorf("%s: %d hashes, want %d", tt.name, hashes, tt.hashes)
		}
	}
	for _, login := range []string{"alice", "ALICE", "Alice@Example.ORG"} {
		if p, err := s.VerifyPassword(t.Context(), login, password); err != nil || p.Username != "alice" || !p.LoginID.IsZero() {
			t.Errorf("VerifyPassword(%q) = %+v, %v", login, p, err)
		}
	}
}

// An iPhone and a Mac type é as one code point or as two, and a French keyboard a space that does
// not break. The password is the same, and was refused.
func TestPasswordIsCharactersNotBytes(t *testing.T) {
	t.Parallel()
	const nfc, nfd = "zoé a dormi", "zoe\u0301\u00a0a dormi"
	s := node(t, storetest.New(t), newClock())
	for name, registered := range map[string]string{"nfc": nfc, "nfd": nfd} {
		email := "é" + name + "@example.org"
		if _, err := s.Register(t.Context(), identity.NewUser{Username: name, Email: email, Password: registered}); err != nil {
			t.Fatal(err)
		}
		for _, typed := range []string{nfc, nfd} {
			for _, login := range []string{name, email, "E\u0301" + email[len("é"):]} {
				if _, err := s.VerifyPassword(t.Context(), login, typed); err != nil {
					t.Errorf("registered with %+q: VerifyPassword(%+q, %+q) = %v", registered, login, typed, err)
				}
			}
		}
		p, err := s.VerifyPassword(t.Context(), name, nfd)
		if err != nil {
			t.Fatal(err)
		}
		next := "a quite different one"
		if _, err := s.UpdateProfile(t.Context(), p, identity.ProfileUpdate{Password: &next, CurrentPassword: nfd}); err != nil {
			t.Errorf("registered with %+q: UpdateProfile with %+q: %v", registered, nfd, err)
		}
	}
	for _, other := range []string{"zoe a dormi", "zoé a dormi ", "zoé  a dormi", "Zoé a dormi"} {
		_, err := s.VerifyPassword(t.Context(), "nfc", other)
		wantCode(t, other, err, chat.Unauthenticated)
	}
}

// A password that was hashed as it was typed lets its owner in as before, and after that in
// any spelling.
func TestPasswordsHashedFormerly(t *testing.T) {
	t.Parallel()
	db := storetest.New(t)
	s := node(t, db, newClock())
	u := register(t, s, "alice")
	for _, tt := range []struct{ typed, other string }{
		{"zoe\u0301 a dormi", "zoé a dormi"},
		{"zoé\u00a0a dormi", "zoé a dormi"},
		{"a bell \a rings", ""}, // is not allowed any more
		{"abcdee\u0301", ""},    // would be too short
		{"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", ""},
	} {
		salt := []byte("0123456789abcdef")
		b64 := base64.RawStdEncoding
		hash := fmt.Sprintf("$argon2id$v=19$m=8,t=1,p=1$%s$%s", b64.EncodeToString(salt), b64.EncodeToString(argon2.IDKey([]byte(tt.typed), salt, 1, 8, 1, 32)))
		if _, err := db.UpdateUser(t.Context(), u.ID, identity.UserUpdate{PasswordHash: &hash}); err != nil {
			t.Fatal(err)
		}
		strong := node(t, db, newClock(), func(o *identity.Options) { o.Passwords.Passes = 2 })
		for _, s := range []*identity.Service{s, strong, s} { // the hash is made again on the way
			if _, err := s.VerifyPassword(t.Context(), "alice", tt.typed); err != nil {
				t.Errorf("VerifyPassword(%+q) = %v", tt.typed, err)
			}
		}
		if tt.other != "" {
			if _, err := s.VerifyPassword(t.Context(), "alice", tt.other); err != nil {
				t.Errorf("VerifyPassword(%+q) after %+q = %v", tt.other, tt.typed, err)
			}
		}
	}
}

func TestWeakHashIsReplacedAtLogin(t *testing.T) {
	t.Parallel()
	db, c := storetest.New(t), newClock()
	u := register(t, node(t, db, c), "alice")
	strong := node(t, db, c, func(o *identity.Options) {
		o.Passwords = identity.PasswordParams{MemoryKiB: 64, Passes: 2, Threads: 1}
	})
	for range 2 {
		logIn(t, strong, "alice")
		a, err := db.GetUser(t.Context(), u.ID)
		if err != nil {
			t.Fatal(err)
		}
		if want := "$argon2id$v=19$m=64,t=2,p=1$"; !strings.HasPrefix(a.PasswordHash, want) {
			t.Errorf("hash %q, want it to begin with %q", a.PasswordHash, want)
		}
	}
	logIn(t, node(t, db, c), "alice") // and a node with the old parameters still lets her in
}

func TestLoginStormIsBounded(t *testing.T) {
	t.Parallel()
	const running, waiting, callers = 2, 3, 20
	s := node(t, storetest.New(t), newClock(), func(o *identity.Options) { o.MaxHashes, o.MaxWaitingHashes = running, waiting })
	register(t, s, "alice")

	gate, entered := make(chan struct{}), make(chan struct{}, callers)
	var now, most atomic.Int64
	s.OnHash(func() {
		most.Store(max(most.Load(), now.Add(1)))
		entered <- struct{}{}
		<-gate
		now.Add(-1)
	})
	results := make(chan error, callers)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			_, err := s.VerifyPassword(t.Context(), "alice", password)
			results <- err
		})
	}
	for range callers - running - waiting { // these are sent away while the others are held
		err := <-results
		var e *chat.Error
		if !errors.As(err, &e) || e.Code != chat.Quota || e.RetryAfter <= 0 {
			t.Errorf("a caller too many: %v, want quota with RetryAfter", err)
		}
	}
	for range running {
		<-entered
	}
	if len(entered) != 0 || now.Load() != running || s.Waiting() != waiting {
		t.Errorf("%d hashes and %d waiting, want %d and %d", now.Load(), s.Waiting(), running, waiting)
	}
	close(gate)
	wg.Wait()
	close(results)
	for err := range results {
		if err != nil {
			t.Errorf("a caller in turn: %v", err)
		}
	}
	if most.Load() != running {
		t.Errorf("%d hashes at once, want %d", most.Load(), running)
	}
}

func TestRegisterRefuses(t *testing.T) {
	t.Parallel()
	s := node(t, storetest.New(t), newClock())
	register(t, s, "alice")
	if _, err := s.Register(t.Context(), identity.NewUser{Username: "zoe", Email: "zoë@example.org", Password: password}); err != nil {
		t.Fatal(err)
	}
	good := identity.NewUser{Username: "bob", Email: "bob@example.org", Password: password}
	for _, tt := range []struct {
		name   string
		change func(*identity.NewUser)
		code   chat.Code
		field  string
	}{
		{"upper case", func(n *identity.NewUser) { n.Username = "Bob" }, chat.Invalid, "username"},
		{"empty name", func(n *identity.NewUser) { n.Username = "" }, chat.Invalid, "username"},
		{"NUL in name", func(n *identity.NewUser) { n.Username = "b\x00b" }, chat.Invalid, "username"},
		{"name taken", func(n *identity.NewUser) { n.Username = "alice" }, chat.Conflict, "username"},
		{"mail taken in other case", func(n *identity.NewUser) { n.Email = "ALICE@example.org" }, chat.Conflict, "email"},
		{"no mail", func(n *identity.NewUser) { n.Email = "bob" }, chat.Invalid, "email"},
		{"two at signs", func(n *identity.NewUser) { n.Email = "bob@x@y" }, chat.Invalid, "email"},
		{"line end in mail", func(n *identity.NewUser) { n.Email = "bob@x\r\nBcc: eve@y" }, chat.Invalid, "email"},
		{"mail of other bytes", func(n *identity.NewUser) { n.Email = "bob\xff@example.org" }, chat.Invalid, "email"},
		{"long mail", func(n *identity.NewUser) { n.Email = strings.Repeat("b", 250) + "@x.org" }, chat.Invalid, "email"},
		{"short password", func(n *identity.NewUser) { n.Password = "1234567" }, chat.Invalid, "password"},
		{"long password", func(n *identity.NewUser) { n.Password = strings.Repeat("x", 1025) }, chat.Invalid, "password"},
		{"password of other bytes", func(n *identity.NewUser) { n.Password = "12345678\xff" }, chat.Invalid, "password"},
		{"password too short as NFC", func(n *identity.NewUser) { n.Password = "abcde" + "e\u0301" }, chat.Invalid, "password"},
		{"NUL in password", func(n *identity.NewUser) { n.Password = "pässwörd\x00" }, chat.Invalid, "password"},
		{"line break in password", func(n *identity.NewUser) { n.Password = "password\n" }, chat.Invalid, "password"},
		{"no character in password", func(n *identity.NewUser) { n.Password = "password\uffff" }, chat.Invalid, "password"},
		{"mail taken in NFD", func(n *identity.NewUser) { n.Email = "Zoe\u0308@example.org" }, chat.Conflict, "email"},
		{"long display name", func(n *identity.NewUser) { n.DisplayName = strings.Repeat("é", 101) }, chat.Invalid, "displayName"},
		{"NUL in display name", func(n *identity.NewUser) { n.DisplayName = "B\x00b" }, chat.Invalid, "displayName"},
	} {
		n := good
		tt.change(&n)
		_, err := s.Register(t.Context(), n)
		var e *chat.Error
		if !errors.As(err, &e) || e.Code != tt.code || e.Field != tt.field {
			t.Errorf("%s: Register = %v, want %q for %q", tt.name, err, tt.code, tt.field)
		}
	}
	for _, p := range []string{"12345678", strings.Repeat("x", 1024), "pässwörd", strings.Repeat("e\u0301", 512), "correct horse 🐎", "        "} {
		n := good
		n.Username, n.Email, n.Password = "u"+strings.ToLower(chat.NewID().String()[24:]), "", p
		if _, err := s.Register(t.Context(), n); err != nil {
			t.Errorf("Register with password of %d bytes: %v", len(p), err)
		} else if _, err := s.VerifyPassword(t.Context(), n.Username, p); err != nil {
			t.Errorf("VerifyPassword of %d bytes: %v", len(p), err)
		}
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]identity.Options{
		"no store":        {},
		"no memory":       {Store: &faultyStore{}, Passwords: identity.PasswordParams{MemoryKiB: 4, Passes: 1, Threads: 1}},
		"no passes":       {Store: &faultyStore{}, Passwords: identity.PasswordParams{MemoryKiB: 64, Threads: 1}},
		"login too short": {Store: &faultyStore{}, LoginTTL: 1},
		"no PEM":          {Store: &faultyStore{}, SigningPEM: []byte("secret")},
	} {
		if _, err := identity.New(o); err == nil {
			t.Errorf("%s: New took it", name)
		}
	}
}
