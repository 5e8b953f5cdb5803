package chat_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

func (s *fakeStore) ListHidden(_ context.Context, _, user chat.ID) ([]chat.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hiddenAsked++
	if s.fail != nil {
		return nil, s.fail
	}
	return slices.Clone(s.hidden[user]), nil
}

func (s *fakeStore) SetBlock(_ context.Context, user, other chat.ID, _ time.Time) (*chat.BlockChange, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return &chat.BlockChange{}, s.fail
	}
	s.hidden[user], s.hidden[other] = append(s.hidden[user], other), append(s.hidden[other], user)
	return &chat.BlockChange{Changed: true}, nil
}

func (s *fakeStore) DeleteBlock(_ context.Context, user, other chat.ID) (*chat.BlockChange, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := func(id chat.ID) func(chat.ID) bool { return func(x chat.ID) bool { return x == id } }
	s.hidden[user], s.hidden[other] = slices.DeleteFunc(s.hidden[user], is(other)), slices.DeleteFunc(s.hidden[other], is(user))
	return &chat.BlockChange{Changed: true}, nil
}

// seen records what each user is shown of another's typing.
type seen struct {
	hints
	mu sync.Mutex
	by map[chat.ID]bool // mu guards: by who looks
}

func (s *seen) Signal(_ chat.Topic, payload []byte, users []chat.ID, except func(chat.ID) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range users {
		if !except(u) {
			s.by[u] = bytes.Contains(payload, []byte(`"typing":true`))
		}
	}
}

func (s *seen) sees(u chat.ID) bool {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[u]
}

// A block hides those who type from each other at once, and its end shows them when
// they say so again; who is hidden is asked once, and again when it may have changed.
func TestTypingIsHidden(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		st, p := newFakeStore(), &seen{by: map[chat.ID]bool{}}
		st.hidden = map[chat.ID][]chat.ID{}
		carl := chat.ID{0xca}
		st.put(room, ann, ben, carl)
		s := chat.NewService(st, chat.SystemClock{}, nil)
		s.Use(&fakeLog{}, p)
		phone := chat.Device{UserID: ann, ClientID: "phone"}
		types := func(typing bool) {
			t.Helper()
			if err := s.SetTyping(t.Context(), phone, room, typing); err != nil {
				t.Fatal(err)
			}
		}
		look := func(what string, benSees, carlSees bool, asked int) {
			t.Helper()
			if b, c := p.sees(ben), p.sees(carl); b != benSees || c != carlSees {
				t.Errorf("%s: ben sees it %v and carl %v, want %v and %v", what, b, c, benSees, carlSees)
			}
			if st.hiddenAsked != asked {
				t.Errorf("%s: the store was asked %d times, want %d", what, st.hiddenAsked, asked)
			}
			current := map[chat.ID]bool{}
			for _, u := range []chat.ID{ben, carl} {
				s.EachTyping(u, []chat.ID{room}, func(chat.ID, []byte) { current[u] = true })
			}
			if current[ben] != benSees || current[carl] != carlSees {
				t.Errorf("%s: who subscribes now is told otherwise: %v", what, current)
			}
		}
		types(true)
		look("nobody is blocked", true, true, 1)
		if err := s.BlockUser(t.Context(), ben, ann); err != nil {
			t.Fatal(err)
		}
		look("ben blocks", false, true, 1)
		types(true)
		time.Sleep(2 * time.Second)
		look("and ann types on", false, true, 2)
		if err := s.UnblockUser(t.Context(), ben, ann); err != nil {
			t.Fatal(err)
		}
		types(true)
		time.Sleep(2 * time.Second)
		look("ben ends it", true, true, 3)
		types(false)
		look("ann stops", false, false, 3)
		time.Sleep(2 * time.Second)

		// Without the store what is known holds; what is not known is not shown.
		st.set(func() { st.fail = &chat.Error{Code: chat.Unavailable} })
		types(true)
		look("without the store", true, true, 3)
		time.Sleep(time.Minute)
		types(true)
		look("without the store for long", true, true, 4)
		time.Sleep(10 * time.Second)
		if err := s.BlockUser(t.Context(), ben, ann); chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("a block without the store: %v", err)
		}
		types(true)
		look("when ben may have blocked", false, false, 5)
		types(true)
		look("which is not asked at once again", false, false, 5)
		st.set(func() { st.fail = nil })
		time.Sleep(2 * time.Second)
		types(true)
		look("until the store is back", true, true, 6)

		// Whoever joins is not known to be hidden or not until ann says it again.
		dave := chat.ID{0xda}
		st.put(room, ann, carl, dave)
		if _, err := s.Rosters.Reload(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		types(false)
		if p.sees(dave) || p.sees(carl) {
			t.Error("who left is not told, and who stays is")
		}
		time.Sleep(time.Minute)
	})
}

// A block that is stored while somebody begins to type is not overlooked.
func TestBlockWhileTypingBegins(t *testing.T) {
	t.Parallel()
	for range 200 {
		st, p := newFakeStore(), &seen{by: map[chat.ID]bool{}}
		st.hidden = map[chat.ID][]chat.ID{}
		st.put(room, ann, ben)
		synctest.Test(t, func(t *testing.T) {
			s := chat.NewService(st, chat.SystemClock{}, nil)
			s.Use(&fakeLog{}, p)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := s.SetTyping(t.Context(), chat.Device{UserID: ann, ClientID: "phone"}, room, true); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if err := s.BlockUser(t.Context(), ann, ben); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
			if p.sees(ben) {
				t.Error("ann is shown to ben, whom she has blocked")
			}
			time.Sleep(time.Minute)
		})
	}
}

// In a direct conversation of which one has blocked the other, nothing but taking
// back is let in.
func TestBlockedDirect(t *testing.T) {
	t.Parallel()
	s, st, log, _ := newService()
	st.set(func() {
		st.rosters[room] = chat.Roster{ConversationID: room, Version: 2, Kind: chat.Direct, Members: []chat.ID{ann, ben}, Blocked: true}
	})
	for _, u := range []chat.ID{ann, ben} {
		err := s.Submit(t.Context(), u, room, &chat.Command{Type: chat.EventMessage, Content: "x"}, chat.Source{}, &chat.Append{Done: ignore{}})
		if chat.CodeOf(err) != chat.Forbidden || len(log.appends) > 0 {
			t.Errorf("a message: %v", err)
		}
		if err := s.SetTyping(t.Context(), chat.Device{UserID: u}, room, true); err != nil {
			t.Errorf("typing: %v", err)
		}
	}
	if n, _ := chat.TypingKept(s); n != 0 {
		t.Errorf("%d type", n)
	}
	if err := s.BlockUser(t.Context(), ann, ann); chat.CodeOf(err) != chat.Invalid {
		t.Errorf("blocking oneself: %v", err)
	}
}
