package chat_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

// slowSearch is a store whose searches end when they are told to.
type slowSearch struct {
	*fakeStore
	begun chan chat.MessageSearch
	end   chan struct{}
}

func (s *slowSearch) SearchMessages(ctx context.Context, q chat.MessageSearch) (*chat.SearchPage, error) {
	s.begun <- q
	select {
	case <-s.end:
		return &chat.SearchPage{}, nil
	case <-ctx.Done():
		return nil, &chat.Error{Code: chat.Unavailable, Err: context.Cause(ctx)}
	}
}

// Few searches run at once, a user has two of them at most, and nobody waits for ever.
func TestSearchesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &slowSearch{newFakeStore(), make(chan chat.MessageSearch, 100), make(chan struct{})}
		s := chat.NewService(store, chat.SystemClock{}, nil)
		results := make(chan error, 100)
		search := func(user chat.ID) {
			go func() {
				_, err := s.SearchMessages(t.Context(), chat.MessageSearch{UserID: user, ByRank: true})
				results <- err
			}()
			synctest.Wait()
		}
		ann := chat.NewID()
		for range 3 {
			search(ann)
		}
		if err := <-results; chat.CodeOf(err) != chat.Quota {
			t.Errorf("a third search of a user ended with %v, want quota", err)
		}
		for range 5 {
			search(chat.NewID())
		}
		if n := len(store.begun); n != 4 {
			t.Errorf("%d searches run at once, want 4", n)
		}
		if q := <-store.begun; !q.After.Until.Equal(chat.Timestamp(time.Now())) {
			t.Errorf("a search by rank begins at %v, want now", q.After.Until)
		}
		store.end <- struct{}{}
		synctest.Wait()
		if err := <-results; err != nil {
			t.Error(err)
		}
		if n := len(store.begun); n != 4 {
			t.Errorf("the next in line has not begun: %d, want 4 more than the first", n)
		}
		for range 6 { // 3 that run, and the 3 in line, for too long
			if err := <-results; chat.CodeOf(err) != chat.Unavailable {
				t.Errorf("a search that takes too long ended with %v, want unavailable", err)
			}
		}
		search(ann)
		synctest.Wait()
		store.end <- struct{}{}
		if err := <-results; err != nil {
			t.Errorf("after all have ended: %v", err)
		}
	})
}
