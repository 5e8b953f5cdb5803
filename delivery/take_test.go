package delivery_test

import (
	"context"
	"errors"
	"slices"
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
	part     chat.SessionPart
}

func (o *oneSession) TakeSession(context.Context, chat.SessionTake) (*chat.SessionState, error) {
	state := o.state
	o.meantime()
	return &state, nil
}

func (o *oneSession) PartSession(_ context.Context, p chat.SessionPart) error {
	o.part = p
	return nil
}

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

// A kept session that is subscribed to typing was once told who types before its
// CONNACK was out, which no client expects [MQTT-3.2.0-1].
func TestNoSignalBeforeConnack(t *testing.T) {
	t.Parallel()
	log, sink := newFakeLog(), newFakeSink()
	store := &oneSession{meantime: func() {}, state: chat.SessionState{
		ID: chat.NewID(), Epoch: 2, Present: true, NextPacketID: 1, Subscriptions: []chat.SubscriptionState{{Filter: "conv/+/typing"}},
	}}
	r := delivery.NewRouter(delivery.Options{Log: log, Sessions: store})
	defer r.Close()
	s, _, err := r.Take(t.Context(), delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: sink, Expiry: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Detach(s)
	types := func() {
		r.Signal(chat.Topic{Kind: chat.TopicTyping, ID: convA}, []byte("{}"), []chat.ID{alice, bob}, func(user chat.ID) bool { return user == bob })
	}
	types()
	if n := len(sink.all()); n > 0 {
		t.Errorf("%d signals before CONNACK", n)
	}
	s.Start()
	types()
	if n := len(sink.all()); n != 1 {
		t.Errorf("%d signals after CONNACK, want 1", n)
	}
}

// recorded is a session store that records changes of subscriptions.
type recorded struct {
	oneSession
	changes []chat.SubscriptionChange
}

func (r *recorded) ChangeSubscriptions(_ context.Context, c chat.SubscriptionChange) ([]chat.Position, error) {
	r.changes = append(r.changes, c)
	return nil, nil
}

func newRecorded(t *testing.T, filters ...string) (*recorded, *delivery.Router, *delivery.Session) {
	t.Helper()
	store := &recorded{oneSession: oneSession{meantime: func() {}, state: chat.SessionState{
		ID: chat.NewID(), Epoch: 2, Present: true, NextPacketID: 1,
		Cursors: []chat.CursorState{{ConversationID: convA, Acked: 5, LastSeq: 5}, {ConversationID: convB, Acked: 2, LastSeq: 2}},
	}}}
	for _, f := range filters {
		store.state.Subscriptions = append(store.state.Subscriptions, chat.SubscriptionState{Filter: f, QoS: 1})
	}
	r := delivery.NewRouter(delivery.Options{Log: newFakeLog(), Sessions: store})
	t.Cleanup(r.Close)
	s, _, err := r.Take(t.Context(), delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: newFakeSink(), Expiry: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Detach(s) })
	s.Start()
	return store, r, s
}

// The reader of a connection that had just been taken over once went on with its
// UNSUBSCRIBE, and as the session had been emptied already, removed every cursor
// that the next connection was about to read.
func TestNoChangeAfterTheEnd(t *testing.T) {
	t.Parallel()
	store, r, s := newRecorded(t, "conv/+/messages")
	s.Unsubscribe([]string{"conv/+/messages"})
	r.Detach(s)
	if err := s.SaveUnsubscribed(t.Context()); chat.CodeOf(err) != chat.Conflict {
		t.Errorf("SaveUnsubscribed of a connection that has ended: %v, want conflict", err)
	}
	if len(store.changes) > 0 {
		t.Errorf("it stored %+v", store.changes)
	}
}

// A client that opens and closes a chat subscribes to its typing and unsubscribes:
// that once wrote the cursors of all its conversations.
func TestChangeTouchesWhatItIsAbout(t *testing.T) {
	t.Parallel()
	typing := "conv/" + convA.String() + "/typing"
	messages := "conv/" + convA.String() + "/messages"
	for _, tt := range []struct {
		name                 string
		held                 []string
		subscribe            string
		unsubscribe          string
		all, endAll          bool
		begin, end, keepings int
	}{
		{name: "typing, on and off", held: []string{"conv/+/messages", typing}, subscribe: typing, unsubscribe: typing},
		{name: "one conversation beside all", held: []string{"conv/+/messages", messages}, subscribe: messages, unsubscribe: messages},
		{name: "one conversation", subscribe: messages, unsubscribe: messages, begin: 1, end: 1},
		{name: "all", subscribe: "conv/+/messages", unsubscribe: "conv/+/messages", all: true, endAll: true},
		{name: "all beside one", held: []string{messages}, subscribe: "conv/+/messages", unsubscribe: "conv/+/messages", all: true, endAll: true, keepings: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store, _, s := newRecorded(t, tt.held...)
			if err := s.Subscribe(t.Context(), []delivery.Subscription{sub(t, tt.subscribe, 1)}); err != nil {
				t.Fatal(err)
			}
			c := store.changes[0]
			if c.All != tt.all || c.EndAll != tt.all || len(c.Begin) != tt.begin || len(c.End) != tt.begin || len(c.Keep) != tt.keepings {
				t.Errorf("SUBSCRIBE stored %+v", c)
			}
			s.Unsubscribe([]string{tt.unsubscribe})
			if err := s.SaveUnsubscribed(t.Context()); err != nil {
				t.Fatal(err)
			}
			c = store.changes[1]
			if c.All || c.EndAll != tt.endAll || len(c.Begin) > 0 || len(c.End) != tt.end || len(c.Keep) != tt.keepings {
				t.Errorf("UNSUBSCRIBE stored %+v", c)
			}
		})
	}
}

// What was on its way at QoS 2 in a conversation that the user has left meanwhile is released:
// a client that has received it takes whatever comes under its identifier for a repeat until
// PUBREL.
func TestLeftConversationsAreReleased(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		qos               byte
		settled, received bool
		want              []uint16
	}{{2, false, false, []uint16{7}}, {2, false, true, []uint16{7}}, {2, true, false, nil}, {1, false, false, nil}} {
		sink := newFakeSink()
		r := delivery.NewRouter(delivery.Options{Log: newFakeLog(), Sessions: &oneSession{meantime: func() {}, state: chat.SessionState{
			ID: chat.NewID(), Epoch: 2, Present: true, NextPacketID: 8,
			Subscriptions: []chat.SubscriptionState{{Filter: "conv/+/messages", QoS: tt.qos}},
			Inflight:      []chat.InflightState{{ConversationID: convA, Seq: 5, PacketID: 7, QoS: tt.qos, Settled: tt.settled, Received: tt.received}},
		}}})
		s, _, err := r.Take(t.Context(), delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: sink, Expiry: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		eventually(t, "PUBREL is sent", func() bool { return len(sink.released()) >= len(tt.want) })
		if err := s.Pubcomp(7); len(tt.want) > 0 && err != nil {
			t.Errorf("QoS %d: PUBCOMP: %v", tt.qos, err)
		}
		r.Detach(s)
		r.Close()
		if got := sink.released(); !slices.Equal(got, tt.want) {
			t.Errorf("QoS %d, settled %v, received %v: PUBREL for %d, want %d", tt.qos, tt.settled, tt.received, got, tt.want)
		}
	}
}

// After a crash, a client that reads at QoS 2 may wait for PUBRELs that nobody knows
// of, and once took new messages under those identifiers for repeats.
func TestHeldIdentifiersAreReleased(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		qos  byte
		held []uint16
		want int
	}{{2, []uint16{100}, 512 + 4096}, {2, []uint16{65535, 9000}, 2 * (512 + 4096)}, {2, nil, 0}, {1, []uint16{100}, 0}, {2, []uint16{100, 2, 3, 4, 5, 6, 7, 8}, 65535}} {
		sink := newFakeSink()
		store := &oneSession{meantime: func() {}, state: chat.SessionState{
			ID: chat.NewID(), Epoch: 2, Present: true, NextPacketID: 30_000, HeldPacketIDs: tt.held,
			Subscriptions: []chat.SubscriptionState{{Filter: "conv/+/messages", QoS: tt.qos}},
		}}
		r := delivery.NewRouter(delivery.Options{Log: newFakeLog(), Sessions: store})
		s, _, err := r.Take(t.Context(), delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: sink, Expiry: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		s.Queue().Receive(deviceCopyOf("x", tt.qos))
		early := s.Pubcomp(30_000) // it answers PUBREL, if one was sent for the identifier
		if n := len(sink.pubrels); n > 0 {
			early = errors.Join(early, s.Pubcomp(sink.pubrels[0]), s.Pubcomp(sink.pubrels[n-1]), s.Pubcomp(30_000))
		}
		if errors.Is(early, delivery.ErrWrongAck) != (len(tt.held) == 0) {
			t.Errorf("QoS %d, held %d: PUBCOMP for a new publication: %v", tt.qos, tt.held, early)
		}
		r.Detach(s)
		r.Close()
		if left := store.part.HeldPacketIDs; tt.qos == 2 && len(left) > 0 || tt.qos < 2 && len(left) != len(tt.held) {
			t.Errorf("QoS %d, held %d: %d are held at the end", tt.qos, tt.held, left)
		}
		if len(sink.pubrels) != tt.want {
			t.Errorf("QoS %d, held %d: %d PUBRELs, want %d", tt.qos, tt.held, len(sink.pubrels), tt.want)
		}
		if len(tt.held) == chat.MaxHeldPacketIDs { // older crashes may be forgotten
			all := slices.Sorted(slices.Values(sink.pubrels))
			if all = slices.Compact(all); len(all) != 65535 || all[0] != 1 {
				t.Errorf("PUBREL for %d identifiers, want all", len(all))
			}
			continue
		}
		for i, id := range sink.pubrels {
			if want := uint16((int(tt.held[i/(512+4096)])-1-512+i%(512+4096)+65535)%65535) + 1; id != want {
				t.Fatalf("QoS %d, held %d: PUBREL %d is for %d, want %d", tt.qos, tt.held, i, id, want)
			}
		}
	}
}
