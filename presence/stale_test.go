package presence_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
)

// placelessStore is a database in which others have changed something, and this node
// nothing.
type placelessStore struct {
	*fakeStore
	version atomic.Int64
}

func (s *placelessStore) ListPresenceChanges(context.Context, presence.Cursor, int) (*presence.Changes, error) {
	return &presence.Changes{Cursor: presence.Cursor{Since: "1:1:", Version: s.version.Load()}}, nil
}

func (s *placelessStore) ListDeadNodes(context.Context, presence.NodeID, time.Duration) ([]presence.DeadNode, error) {
	return nil, nil
}
func (s *placelessStore) DeleteContactChanges(context.Context) error { return nil }

// A notice that is older than what a node remembers is not told: the database was
// looked into since.
func TestPresenceNoticesStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &placelessStore{fakeStore: newFakeStore(ann, ben)}
		aud := &audience{heard: map[[2]chat.ID][]string{}}
		s := presence.New(presence.Options{
			Store: store, Signal: aud.signal, Node: presence.NodeID{Name: "a", ID: "1"}, Notify: func(chat.Notice, []chat.ID) {},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }() // ends with the test
		hear := func(status chat.Status, version int64, want string) {
			t.Helper()
			s.Receive(chat.Notice{Presence: &chat.PresenceNotice{UserID: ann, Status: status, Version: version, To: []chat.ID{ben}}})
			time.Sleep(gathered)
			synctest.Wait()
			if got := aud.says(ben, ann); got != want {
				t.Fatalf("ben heard %q, want %q", got, want)
			}
		}
		store.version.Store(9)
		hear(chat.Online, 9, "online")
		hear(chat.Online, 9, "online")  // twice
		hear(chat.Offline, 8, "online") // late
		time.Sleep(59 * time.Second)
		hear(chat.Offline, 8, "online")
		time.Sleep(2 * time.Minute) // it is forgotten that ann was heard of
		if _, board := presence.Kept(s); board != 0 {
			t.Errorf("%d users are on the board", board)
		}
		hear(chat.Offline, 8, "online")
		store.version.Store(10)
		hear(chat.Away, 10, "online away")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
