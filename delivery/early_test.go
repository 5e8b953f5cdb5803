package delivery_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// among is what a router does where there are other nodes, and notes.
type among struct {
	here  []bool
	taken []chat.SupersededNotice
}

func (a *among) cluster() *delivery.Cluster {
	return &delivery.Cluster{
		Online:       func(_ chat.ID, here bool) { a.here = append(a.here, here) },
		Superseded:   func(_ string, n chat.SupersededNotice) { a.taken = append(a.taken, n) },
		WantReceipts: func() {}, ReceiptsWanted: func() bool { return false },
	}
}

// startAmong takes a session that follows convA from event 5 on, at epoch 7.
func startAmong(t *testing.T, a *among, log *fakeLog, sink *fakeSink) (*delivery.Router, *delivery.Session) {
	t.Helper()
	log.add(convA, 5)
	store := &oneSession{meantime: func() {}, state: chat.SessionState{
		ID: chat.NewID(), Epoch: 7, Present: true, NextPacketID: 1, From: "elsewhere",
		Subscriptions: []chat.SubscriptionState{{Filter: "conv/+/messages", QoS: 1}},
		Cursors:       []chat.CursorState{{ConversationID: convA, Acked: 5, LastSeq: 5}},
	}}
	r := delivery.NewRouter(delivery.Options{Log: log, Sessions: store, Cluster: a.cluster()})
	s, _, err := r.Take(t.Context(), delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: sink, Expiry: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	synctest.Wait()
	return r, s
}

// Events of two nodes come in an order that is not that of the log: those that come
// early wait for the others, and the log is read only for what does not come.
func TestEarlyEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, sink := newFakeLog(), newFakeSink()
		r, s := startAmong(t, &among{}, log, sink)
		defer r.Close()
		defer r.Detach(s)
		roster := &chat.Roster{ConversationID: convA, Members: []chat.ID{alice}}
		log.set(func() { log.convs[convA].last = 9 })
		for _, seq := range []int64{8, 7, 9, 8, 6} {
			r.Publish(event(convA, seq), roster)
		}
		synctest.Wait()
		if got := sink.seqs(convA); !slices.Equal(got, []int64{6, 7, 8, 9}) || log.pages() > 0 {
			t.Errorf("the client got %v, and %d pages were read", got, log.pages())
		}
		time.Sleep(time.Second)
		log.set(func() { log.convs[convA].last = 12 })
		r.Publish(event(convA, 12), roster) // 10 and 11 are lost
		synctest.Wait()
		if got := sink.seqs(convA); len(got) != 4 || log.pages() > 0 {
			t.Errorf("the client got %v at once, and %d pages were read", got, log.pages())
		}
		time.Sleep(time.Second)
		if got := sink.seqs(convA); !slices.Equal(got, []int64{6, 7, 8, 9, 10, 11, 12}) || log.pages() == 0 {
			t.Errorf("the client got %v in the end", got)
		}
	})
}

// What is heard in the journal reaches the sessions that follow the log; a connection
// that is older than one at another node ends, and no other.
func TestOtherNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, sink, a := newFakeLog(), newFakeSink(), &among{}
		r, s := startAmong(t, a, log, sink)
		defer r.Close()
		if len(a.taken) != 1 || a.taken[0] != (chat.SupersededNotice{UserID: alice, ClientID: "phone", Epoch: 7, Resumed: true}) || !slices.Equal(a.here, []bool{true}) {
			t.Errorf("told %+v, here %v", a.taken, a.here)
		}
		log.set(func() { log.convs[convA].last = 8 })
		r.HintFollowers(convB, 3)
		r.HintFollowers(convA, 7)
		r.HintFollowers(convA, 7)
		synctest.Wait()
		if got := sink.seqs(convA); !slices.Equal(got, []int64{6, 7, 8}) {
			t.Errorf("the client got %v", got)
		}
		log.set(func() { log.convs[convA].last = 9 })
		if err := r.Recheck(t.Context()); err != nil {
			t.Errorf("Recheck: %v", err)
		}
		synctest.Wait()
		if got := sink.seqs(convA); len(got) != 4 {
			t.Errorf("the client got %v after a look at everything", got)
		}
		for _, n := range []chat.SupersededNotice{
			{UserID: alice, ClientID: "phone", Epoch: 7}, {UserID: alice, ClientID: "phone", Epoch: 6}, {UserID: alice, ClientID: "laptop", Epoch: 8}, {UserID: bob, ClientID: "phone", Epoch: 8},
		} {
			if r.DropSuperseded(n); sink.reason() != nil {
				t.Fatalf("%+v ended the connection", n)
			}
		}
		if r.DropSuperseded(chat.SupersededNotice{UserID: alice, ClientID: "phone", Epoch: 8}); sink.reason() != delivery.ErrTakenOver {
			t.Errorf("the connection ended with %v", sink.reason())
		}
		r.Detach(s)
		if !slices.Equal(a.here, []bool{true, false}) {
			t.Errorf("here %v", a.here)
		}
		r.HintFollowers(convA, 10)
	})
}

// reason returns why the connection was ended; nil: it was not.
func (s *fakeSink) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.why) == 0 {
		return nil
	}
	return s.why[0]
}
