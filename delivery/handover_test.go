package delivery_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// elsewhere is a session store whose session is connected at other nodes: at those in
// from, one for each time it is asked, until it is taken by force or they are used up.
type elsewhere struct {
	chat.SessionStore
	from   []string
	asked  int
	forced bool
}

func (e *elsewhere) TakeSession(_ context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	e.asked++
	if len(e.from) > 0 && t.Await {
		from := e.from[0]
		if len(e.from) > 1 || from == "a" {
			e.from = e.from[1:]
		}
		return &chat.SessionState{Elsewhere: true, From: from, Epoch: 7}, nil
	}
	e.forced = !t.Await
	return &chat.SessionState{ID: chat.NewID(), Epoch: 8, Present: true, NextPacketID: 1, From: "a"}, nil
}

func (e *elsewhere) PartSession(context.Context, chat.SessionPart) error { return nil }

// A node that has the session is told, and waited for; one that does not answer is not
// waited for long, and then for a while not at all; one that has lost the session to a
// third is not taken for silent.
func TestHandover(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store, a := &elsewhere{}, &among{}
		r := delivery.NewRouter(delivery.Options{Log: newFakeLog(), Sessions: store, Cluster: a.cluster()})
		defer r.Close()
		take := func(clean bool, from ...string) (waited time.Duration) {
			t.Helper()
			store.from, store.asked, store.forced, a.taken = from, 0, false, nil
			start := time.Now()
			s, present, err := r.Take(t.Context(), delivery.SessionOptions{
				Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: newFakeSink(), Expiry: time.Hour, CleanStart: clean,
			})
			if err != nil || !present {
				t.Fatalf("present %v: %v", present, err)
			}
			waited = time.Since(start)
			r.Detach(s)
			return waited
		}
		if waited := take(false, "a", "a"); waited <= 0 || waited > 100*time.Millisecond || store.forced {
			t.Errorf("a node that answers: waited %v, by force %v", waited, store.forced)
		}
		if want := (chat.SupersededNotice{UserID: alice, ClientID: "phone", Epoch: 8, Resumed: true}); len(a.taken) != 2 || a.taken[0] != want {
			t.Errorf("told %+v, want %+v first", a.taken, want)
		}
		if waited := take(false, "b"); waited < 300*time.Millisecond || waited > time.Second || !store.forced {
			t.Errorf("a node that is silent: waited %v, by force %v", waited, store.forced)
		}
		if waited := take(false, "b"); waited != 0 || !store.forced {
			t.Errorf("the same again: waited %v, by force %v", waited, store.forced)
		}
		time.Sleep(time.Minute)
		if waited := take(false, "b"); waited < 300*time.Millisecond {
			t.Errorf("the same, later: waited %v", waited)
		}
		if waited := take(false, "c", "d"); waited > 100*time.Millisecond || !store.forced {
			t.Errorf("a third node was faster: waited %v, by force %v", waited, store.forced)
		}
		if waited := take(false, "c"); waited < 300*time.Millisecond {
			t.Errorf("the node that had lost it is taken for silent: waited %v", waited)
		}
		if waited := take(true, "e"); waited != 0 || store.asked != 1 || len(a.taken) != 1 {
			t.Errorf("a clean start: waited %v, asked %d times, told %+v", waited, store.asked, a.taken)
		}
	})
}
