package chat_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

// fakeStore is a Store in memory, of which the rules need little.
type fakeStore struct {
	chat.Store // panics where a test calls what is not there
	mu         sync.Mutex
	rosters    map[chat.ID]chat.Roster
	messages   map[chat.ID]chat.Event
	asked      map[chat.ID]int
	fail       error
	gate       chan bool // GetRoster waits for a value, between looking and returning
	created    []chat.NewConversation
	committed  func() // called by CreateConversation, if not nil

	hidden      map[chat.ID][]chat.ID // by user: whom ListHidden returns
	hiddenAsked int
}

func newFakeStore() *fakeStore {
	return &fakeStore{rosters: map[chat.ID]chat.Roster{}, messages: map[chat.ID]chat.Event{}, asked: map[chat.ID]int{}}
}

func (s *fakeStore) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// put sets who is in a conversation, as the next version.
func (s *fakeStore) put(id chat.ID, members ...chat.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(members, chat.ID.Compare)
	s.rosters[id] = chat.Roster{ConversationID: id, Version: s.rosters[id].Version + 1, Kind: chat.Group, Members: members}
}

func (s *fakeStore) GetRoster(ctx context.Context, id chat.ID) (*chat.Roster, error) {
	s.mu.Lock()
	s.asked[id]++
	r, ok := s.rosters[id]
	err, gate := s.fail, s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, &chat.Error{Code: chat.NotFound, Op: "fake", Msg: "there is no conversation " + id.String()}
	}
	return &r, nil
}

func (s *fakeStore) times(id chat.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[id]
}

var (
	ann  = chat.ID{0xa}
	ben  = chat.ID{0xb}
	room = chat.ID{0xc0}
)

func TestRostersAskOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.put(room, ann)
		s.gate = make(chan bool)
		c := chat.NewRosters(s, 100)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if r, err := c.Get(t.Context(), room); err != nil || !r.Has(ann) || r.Has(ben) {
					t.Errorf("Get = %v, %v", r, err)
				}
			})
		}
		synctest.Wait()
		close(s.gate)
		wg.Wait()
		if n := s.times(room); n != 1 {
			t.Errorf("the store was asked %d times", n)
		}
	})
}

// A Reload wants what is true after it was called: a query under way is not
// enough. A Get that comes meanwhile waits for the newer one.
func TestReloadAsksAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.put(room, ann)
		s.gate = make(chan bool)
		c := chat.NewRosters(s, 100)
		versions := make(chan int64, 3)
		ask := func(f func(context.Context, chat.ID) (*chat.Roster, error)) {
			go func() {
				r, err := f(t.Context(), room)
				if err != nil {
					t.Error(err)
				}
				versions <- r.Version
			}()
			synctest.Wait()
		}
		ask(c.Get)
		s.put(room, ann, ben)
		ask(c.Reload)
		ask(c.Get)
		close(s.gate)
		got := []int64{<-versions, <-versions, <-versions}
		slices.Sort(got)
		if !slices.Equal(got, []int64{1, 2, 2}) {
			t.Errorf("versions %v, want 1 for the first and 2 for the others", got)
		}
		if r, err := c.Get(t.Context(), room); err != nil || r.Version != 2 {
			t.Errorf("the cache holds %v (%v): the late answer of the old query won", r, err)
		}
	})
}

// The old query's answer comes last, and must not take the cache back.
func TestCacheNeverGoesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.put(room, ann, ben)
		slow := make(chan bool)
		s.gate = slow
		c := chat.NewRosters(s, 100)
		done := make(chan bool)
		go func() { _, _ = c.Get(t.Context(), room); close(done) }()
		synctest.Wait()
		s.put(room, ann)
		s.set(func() { s.gate = nil })
		if _, err := c.Reload(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		close(slow)
		<-done
		if r, err := c.Get(t.Context(), room); err != nil || r.Version != 2 || r.Has(ben) {
			t.Errorf("the cache holds %v, %v", r, err)
		}
	})
}

func TestRequire(t *testing.T) {
	t.Parallel()
	s := newFakeStore()
	s.put(room, ann)
	c := chat.NewRosters(s, 100)
	if r, err := c.Require(t.Context(), room, ann); err != nil || !r.Has(ann) {
		t.Fatalf("Require of a member = %v, %v", r, err)
	}
	nowhere := chat.ID{0xdd}
	_, stranger := c.Require(t.Context(), room, ben)
	_, nothing := c.Require(t.Context(), nowhere, ben)
	for _, err := range []error{stranger, nothing} {
		if chat.CodeOf(err) != chat.Forbidden {
			t.Errorf("Require = %v, want forbidden", err)
		}
	}
	if a, b := strings.ReplaceAll(stranger.Error(), room.String(), "X"), strings.ReplaceAll(nothing.Error(), nowhere.String(), "X"); a != b {
		t.Errorf("a stranger can tell what is there: %q and %q", a, b)
	}
	s.put(room, ann, ben) // the cache does not know yet
	if _, err := c.Require(t.Context(), room, ben); err != nil {
		t.Errorf("Require of one who joined just now: %v", err)
	}
	away := &chat.Error{Code: chat.Unavailable}
	s.set(func() { s.fail = away })
	if _, err := c.Require(t.Context(), nowhere, ann); !errors.Is(err, chat.Unavailable) {
		t.Errorf("Require without a database: %v", err)
	}
	if _, err := c.Require(t.Context(), room, ann); err != nil {
		t.Errorf("Require of one who is known, without a database: %v", err)
	}
}

// Whoever waits for another's query does not inherit its failure.
func TestAnothersDeadlineIsNotOurs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFakeStore()
		s.put(room, ann)
		s.gate = make(chan bool)
		c := chat.NewRosters(s, 100)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		first, second, third := make(chan error), make(chan error), make(chan error)
		go func() { _, err := c.Get(short, room); first <- err }()
		synctest.Wait()
		go func() { _, err := c.Get(t.Context(), room); second <- err }()
		impatient, cancel2 := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel2()
		go func() { _, err := c.Get(impatient, room); third <- err }()
		if err := <-third; chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("one whose own time ran out: %v", err)
		}
		if err := <-first; chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("the first: %v", err)
		}
		synctest.Wait()
		s.gate <- true
		if err := <-second; err != nil {
			t.Errorf("the second: %v", err)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	s := newFakeStore()
	c := chat.NewRosters(s, 10)
	var ids []chat.ID
	for i := range 100 {
		id := chat.ID{1, byte(i)}
		ids = append(ids, id)
		s.put(id, chat.ID{2}, chat.ID{3}, chat.ID{4})
		if _, err := c.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	before := s.times(ids[99])
	if _, err := c.Get(t.Context(), ids[99]); err != nil || s.times(ids[99]) != before {
		t.Error("the newest was forgotten")
	}
	again := 0
	for _, id := range ids {
		n := s.times(id)
		_, _ = c.Get(t.Context(), id)
		again += s.times(id) - n
	}
	if again < 97 {
		t.Errorf("%d of 100 rosters of 3 were held, limit 10 members", 100-again)
	}
	s.set(func() { delete(s.rosters, ids[0]) })
	if _, err := c.Reload(t.Context(), ids[0]); chat.CodeOf(err) != chat.NotFound {
		t.Errorf("Reload of what is gone: %v", err)
	}
	if _, err := c.Get(t.Context(), ids[0]); chat.CodeOf(err) != chat.NotFound {
		t.Errorf("what is gone is still held: %v", err)
	}
	big := chat.ID{9}
	s.put(big, make([]chat.ID, 50)...)
	if r, err := c.Get(t.Context(), big); err != nil || len(r.Members) != 50 {
		t.Errorf("a roster over the limit by itself: %v", err)
	}
}

func TestRosterRaces(t *testing.T) {
	t.Parallel()
	s := newFakeStore()
	c := chat.NewRosters(s, 20)
	ids := []chat.ID{{1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}}
	for _, id := range ids {
		s.put(id, ann, ben, chat.ID{1})
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			last := map[chat.ID]int64{}
			for i := range 500 {
				id := ids[(i*7+g)%len(ids)]
				var r *chat.Roster
				var err error
				switch {
				case g == 0:
					s.put(id, ann, ben, chat.ID{byte(i)})
					r, err = c.Reload(t.Context(), id)
				case i%5 == 0:
					r, err = c.Reload(t.Context(), id)
				case i%3 == 0:
					r, err = c.Require(t.Context(), id, ann)
				default:
					r, err = c.Get(t.Context(), id)
				}
				if err != nil || !r.Has(ann) || r.ConversationID != id {
					t.Errorf("roster %v, %v", r, err)
					return
				}
				if g == 0 && r.Version < last[id] {
					t.Errorf("Reload went back from version %d to %d", last[id], r.Version)
				}
				last[id] = r.Version
			}
		})
	}
	wg.Wait()
}
