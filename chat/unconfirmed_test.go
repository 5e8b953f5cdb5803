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
	of []chat.ID
}

func (h *hints) Hint(conversation chat.ID, _ int64, _ *chat.Roster) {
	h.of = append(h.of, conversation)
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
