package chat_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

// hints records of which conversations sessions are told.
type hints struct {
	fakePublisher
	of  []chat.ID
	seq int64 // of the last
}

func (h *hints) Hint(conversation chat.ID, seq int64, _ *chat.Roster) {
	h.of, h.seq = append(h.of, conversation), seq
}

// lost is a store whose answer to CreateConversation is lost, and which stores it
// later, or never.
type lost struct {
	*fakeStore
	made chan chat.ID
}

func (l *lost) CreateConversation(_ context.Context, n chat.NewConversation, _ time.Time) (*chat.Conversation, *chat.Event, error) {
	l.made <- n.ID
	return nil, nil, &chat.Error{Code: chat.Unavailable, Msg: "the answer was lost"}
}

// A conversation whose commit was not answered was once heard of by nobody until
// somebody said something in it.
func TestConversationInDoubt(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 2 * time.Second, time.Minute, 10 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			store, p := &lost{newFakeStore(), make(chan chat.ID, 1)}, &hints{}
			s := chat.NewService(store, chat.SystemClock{}, nil)
			s.Use(&fakeLog{}, p)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			if _, err := s.CreateConversation(ctx, chat.NewConversation{Kind: chat.Group, Creator: ann, Users: []chat.ID{ben}}); chat.CodeOf(err) != chat.Unavailable {
				t.Fatalf("CreateConversation: %v", err)
			}
			id := <-store.made
			time.Sleep(after)
			store.put(id, ann, ben)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if late := after > 5*time.Minute; late != (len(p.of) == 0) || !late && p.of[0] != id {
				t.Errorf("stored after %v: sessions were told of %v, want %v", after, p.of, id)
			}
			if n := len(p.of); n > 1 {
				t.Errorf("stored after %v: sessions were told %d times", after, n)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// A statement that nobody waits for any more may be stored long after the conversation
// was first looked at.
func TestGivenUpIsStoredLate(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{0, 3 * time.Second, 50 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			store, p := newFakeStore(), &hints{}
			s := chat.NewService(store, chat.SystemClock{}, nil)
			s.Use(&fakeLog{}, p)
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- s.Run(ctx) }()
			id := chat.NewID()
			store.put(id, ann, ben)
			s.Unconfirmed(id)
			time.Sleep(after)
			store.set(func() {
				r := store.rosters[id]
				r.LastSeq = 7
				store.rosters[id] = r
			})
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := len(p.of); n == 0 || p.seq != 7 {
				t.Errorf("stored after %v: sessions were hinted %d times, the last time at seq %d, want 7", after, n, p.seq)
			}
			asked := 0
			store.set(func() { asked = store.asked[id] })
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			n := -asked
			store.set(func() { n += store.asked[id] })
			if n > 1 {
				t.Errorf("stored after %v: looked at %d times more, for ever", after, n)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
