package identity_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

const password = "correct horse battery"

var (
	cheap  = identity.PasswordParams{MemoryKiB: 8, Passes: 1, Threads: 1}
	begin  = time.Date(2026, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	nobody = chat.MustParseID("0198c0de-0000-7000-8000-000000000000")
)

// clock is a chat.Clock that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: begin} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// node makes a Service over db, as each node of a cluster has one.
func node(t *testing.T, db identity.Store, c chat.Clock, change ...func(*identity.Options)) *identity.Service {
	t.Helper()
	o := identity.Options{Store: db, Clock: c, Passwords: cheap}
	for _, f := range change {
		f(&o)
	}
	s, err := identity.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func register(t *testing.T, s *identity.Service, name string) *chat.User {
	t.Helper()
	u, err := s.Register(t.Context(), identity.NewUser{Username: name, Email: name + "@example.org", Password: password})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func logIn(t *testing.T, s *identity.Service, name string) *identity.Session {
	t.Helper()
	session, err := s.LogIn(t.Context(), identity.LoginRequest{Login: name, Password: password, Device: "phone"})
	if err != nil {
		t.Fatal(err)
	}
	return session
}

// good and refused say what VerifyToken must answer.
func good(t *testing.T, s *identity.Service, token, when string) {
	t.Helper()
	if _, err := s.VerifyToken(t.Context(), token); err != nil {
		t.Errorf("%s: VerifyToken = %v, want it good", when, err)
	}
}

func refused(t *testing.T, s *identity.Service, token, when string) {
	t.Helper()
	if _, err := s.VerifyToken(t.Context(), token); chat.CodeOf(err) != chat.Unauthenticated {
		t.Errorf("%s: VerifyToken = %v, want it unauthenticated", when, err)
	}
}

func wantCode(t *testing.T, what string, err error, want chat.Code) {
	t.Helper()
	if got := chat.CodeOf(err); got != want {
		t.Errorf("%s = %v, want code %q", what, err, want)
	}
}

// faultyStore is a store some of whose calls are watched or fail.
type faultyStore struct {
	identity.Store

	mu          sync.Mutex
	keyReads    int
	revocations error
	beforeLogin func()
}

func (f *faultyStore) ListSigningKeys(ctx context.Context) ([]identity.SigningKey, error) {
	f.mu.Lock()
	f.keyReads++
	f.mu.Unlock()
	return f.Store.ListSigningKeys(ctx)
}

func (f *faultyStore) ListRevocations(ctx context.Context, since, credentialsSince time.Time) ([]identity.Revocation, error) {
	f.mu.Lock()
	err := f.revocations
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Store.ListRevocations(ctx, since, credentialsSince)
}

func (f *faultyStore) CreateLogin(ctx context.Context, l identity.Login, hash []byte, credentialsAt time.Time) error {
	if f.beforeLogin != nil {
		f.beforeLogin()
	}
	return f.Store.CreateLogin(ctx, l, hash, credentialsAt)
}
