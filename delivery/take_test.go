package delivery_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// oneSession is a session store with one session in it, that does something
// between its snapshot and its answer.
type oneSession struct {
	chat.SessionStore
	state    chat.SessionState
	meantime func()
}

func (o *oneSession) TakeSession(context.Context, chat.SessionTake) (*chat.SessionState, error) {
	state := o.state
	o.meantime()
	return &state, nil
}

func (o *oneSession) PartSession(context.Context, chat.SessionPart) error { return nil }

// An event that is committed while the session is being taken, after the store
// has looked how far the logs reach and before it answers, was once not heard of:
// the session was not found by Publish yet, and waited for the next event.
func TestEventCommittedWhileTheSessionIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, sink := newFakeLog(), newFakeSink()
		log.add(convA, 5)
		store := &oneSession{state: chat.SessionState{
			ID: chat.NewID(), Epoch: 2, Present: true, NextPacketID: 1,
			Subscriptions: []chat.SubscriptionState{{Filter: "conv/+/messages", QoS: 1}},
			Cursors:       []chat.CursorState{{ConversationID: convA, Acked: 5, LastSeq: 5}},
		}}
		r := delivery.NewRouter(delivery.Options{Log: log, Sessions: store})
		defer r.Close()
		roster := func(id chat.ID) *chat.Roster { return &chat.Roster{ConversationID: id, Members: []chat.ID{alice}} }
		store.meantime = func() {
			log.add(convA, 6)
			r.Publish(event(convA, 6), roster(convA))
			log.add(convB, 3) // joined in the meantime, too
			r.Publish(event(convB, 3), roster(convB))
		}
		s, present, err := r.Take(t.Context(), delivery.SessionOptions{
			Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: sink, Expiry: time.Hour,
		})
		if err != nil || !present {
			t.Fatalf("Take: present %v, %v", present, err)
		}
		defer r.Detach(s)
		if got := sink.all(); len(got) > 0 {
			t.Errorf("%d publications before CONNACK", len(got))
		}
		s.Start()
		synctest.Wait()
		if got := sink.seqs(convA); len(got) != 1 || got[0] != 6 {
			t.Errorf("of A the client got %v, want 6", got)
		}
		if got := sink.seqs(convB); len(got) != 3 || got[0] != 1 || got[2] != 3 {
			t.Errorf("of B the client got %v, want 1 to 3", got)
		}
	})
}
