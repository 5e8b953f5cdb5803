package chat_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

// placelessStore is a database in which others have changed something, and this node
// nothing.
type placelessStore struct {
	*fakePresences
	version atomic.Int64
}

func (s *placelessStore) ListPresenceChanges(context.Context, chat.PresenceCursor, int) (*chat.PresenceChanges, error) {
	return &chat.PresenceChanges{Cursor: chat.PresenceCursor{Since: "1:1:", Version: s.version.Load()}}, nil
}

func (s *placelessStore) ListDeadNodes(context.Context, chat.NodeID, time.Duration) ([]chat.DeadNode, error) {
	return nil, nil
}
func (s *placelessStore) DeleteContactChanges(context.Context) error { return nil }

type deafPeers struct{}

func (deafPeers) Event(*chat.Event, int64, []chat.ID) {}
func (deafPeers) Notify(chat.Notice, []chat.ID)       {}
func (deafPeers) NotifyNode(string, chat.Notice)      {}

// A notice that is older than what a node remembers is not told: the database was
// looked into since.
func TestPresenceNoticesStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &placelessStore{fakePresences: newFakePresences(ann, ben)}
		aud := &audience{heard: map[[2]chat.ID][]string{}}
		s := chat.NewService(store, chat.SystemClock{})
		s.Presences.Use(chat.PresenceOptions{Node: "a", NodeID: "1", Peers: deafPeers{}})
		s.Use(&discardLog{}, aud)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Presences.Run(ctx) }() // ends with the test
		hear := func(status chat.Status, version int64, want string) {
			t.Helper()
			s.ReceiveNotice(ctx, "b", chat.Notice{Presence: &chat.PresenceNotice{UserID: ann, Status: status, Version: version, To: []chat.ID{ben}}})
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
		if _, board := chat.SharedKept(s); board != 0 {
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
