package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// newSessions is a session store that knows no device, and fails for a client id.
type newSessions struct {
	chat.SessionStore
	fails string
	asked atomic.Int64
}

func (n *newSessions) TakeSession(_ context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	n.asked.Add(1)
	if t.ClientID == n.fails {
		return nil, &chat.Error{Code: chat.Unavailable}
	}
	return &chat.SessionState{ID: chat.NewID(), Epoch: 1, NextPacketID: 1}, nil
}

func (n *newSessions) PartSession(context.Context, chat.SessionPart) error { return nil }

// A user has at most so many connections, however many come together, and one that
// is refused costs the store nothing. A device that comes back is never one too many.
func TestSessionsOfOneUserAreLimited(t *testing.T) {
	t.Parallel()
	const most, callers = 5, 40
	for name, store := range map[string]*newSessions{"kept": {fails: "broken"}, "not kept": nil} {
		o := delivery.Options{Log: newFakeLog(), Sessions: noSessions{}, MaxSessions: most}
		if store != nil {
			o.Sessions = store
		}
		r := delivery.NewRouter(o)
		defer r.Close()
		take := func(user chat.ID, clientID string) (*delivery.Session, error) {
			s, _, err := r.Take(t.Context(), delivery.SessionOptions{
				Principal: chat.Principal{UserID: user}, ClientID: clientID, Sink: newFakeSink(), Expiry: time.Hour,
			})
			return s, err
		}
		if store != nil { // what fails is not counted
			for range most {
				if _, err := take(alice, store.fails); chat.CodeOf(err) != chat.Unavailable {
					t.Errorf("%s: Take with a store that fails = %v, want unavailable", name, err)
				}
			}
			store.asked.Store(0)
		}
		var wg sync.WaitGroup
		var refused atomic.Int64
		for i := range callers {
			wg.Go(func() {
				switch _, err := take(alice, fmt.Sprint(i)); chat.CodeOf(err) {
				case "":
				case chat.Quota:
					refused.Add(1)
				default:
					t.Errorf("%s: Take = %v, want a session or quota", name, err)
				}
			})
		}
		wg.Wait()
		sessions := r.Sessions(alice)
		if len(sessions) != most || refused.Load() != callers-most {
			t.Fatalf("%s: %d sessions and %d refused, want %d and %d", name, len(sessions), refused.Load(), most, callers-most)
		}
		if store != nil && store.asked.Load() != most {
			t.Errorf("%s: the store was asked %d times, want %d", name, store.asked.Load(), most)
		}
		if _, err := take(bob, "phone"); err != nil {
			t.Errorf("%s: another user: %v", name, err)
		}
		again, err := take(alice, sessions[0].ClientID)
		if err != nil {
			t.Fatalf("%s: the same device again: %v", name, err)
		}
		if _, err := take(alice, "another"); chat.CodeOf(err) != chat.Quota {
			t.Errorf("%s: Take beyond the limit = %v, want quota", name, err)
		}
		r.Detach(again)
		if _, err := take(alice, "another"); err != nil {
			t.Errorf("%s: after one has gone: %v", name, err)
		}
	}
}
