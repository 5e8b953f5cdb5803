package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// phoneStore keeps the session of one device, Alice's phone, in memory, over
// the log of a test.
type phoneStore struct {
	log *fakeLog

	mu     sync.Mutex
	state  chat.SessionState        // mu guards
	stored bool                     // mu guards: there is one
	places map[chat.ID]int64        // mu guards: cursors
	parts  int                      // mu guards: PartSession that succeeded
	fail   error                    // mu guards: what every call returns
	saves  [][]chat.CursorUpdate    // mu guards: SaveCursors that succeeded
	gate   map[string]chan struct{} // by method: a call waits until it is closed
}

func newPhoneStore(l *fakeLog) *phoneStore {
	return &phoneStore{log: l, places: map[chat.ID]int64{}, gate: map[string]chan struct{}{}}
}

// enter waits at the gate of a method and locks.
func (f *phoneStore) enter(ctx context.Context, method string) error {
	f.mu.Lock()
	gate := f.gate[method]
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			f.mu.Lock()
			return &chat.Error{Code: chat.Unavailable, Err: ctx.Err()}
		}
	}
	f.mu.Lock()
	return f.fail
}

func (f *phoneStore) TakeSession(ctx context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	st, err := f.take(ctx, t)
	if err == nil {
		err = f.enter(ctx, "answer")
		f.mu.Unlock()
	}
	return st, err
}

func (f *phoneStore) take(ctx context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	if err := f.enter(ctx, "take"); err != nil {
		f.mu.Unlock()
		return nil, err
	}
	defer f.mu.Unlock()
	if t.CleanStart || !f.stored {
		f.state = chat.SessionState{ID: chat.NewID(), NextPacketID: 1}
		clear(f.places)
	}
	f.state.Present = f.stored && !t.CleanStart
	f.stored = true
	f.state.Epoch++
	st := f.state
	f.state.Inflight = nil
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	for id, c := range f.log.convs {
		if c.joined == 0 {
			continue
		}
		at, ok := f.places[id]
		if !ok {
			at = c.joined - 1
		}
		st.Cursors = append(st.Cursors, chat.CursorState{ConversationID: id, Acked: at, LastSeq: c.last})
	}
	return &st, nil
}

func (f *phoneStore) current(session chat.ID, epoch int64) error {
	if f.state.ID != session || f.state.Epoch != epoch {
		return &chat.Error{Code: chat.Conflict}
	}
	return nil
}

func (f *phoneStore) ChangeSubscriptions(ctx context.Context, c chat.SubscriptionChange) ([]chat.Position, error) {
	err := f.enter(ctx, "change")
	defer f.mu.Unlock()
	if err == nil {
		err = f.current(c.SessionID, c.Epoch)
	}
	if err != nil {
		return nil, err
	}
	f.state.Subscriptions = c.Subscriptions
	if c.EndAll {
		clear(f.places)
	}
	for _, id := range c.End {
		delete(f.places, id)
	}
	for _, k := range c.Keep {
		f.places[k.ConversationID] = max(f.places[k.ConversationID], k.Acked)
	}
	ends, err := f.log.ListPositions(ctx, c.UserID)
	for _, e := range ends {
		if _, has := f.places[e.ConversationID]; !has && (c.All || slices.Contains(c.Begin, e.ConversationID)) {
			f.places[e.ConversationID] = e.LastSeq
		}
	}
	return ends, err
}

// SaveCursors refuses a cursor that is named twice: PostgreSQL would, were the
// statement a little different.
func (f *phoneStore) SaveCursors(ctx context.Context, updates []chat.CursorUpdate, _ []chat.PacketIDUpdate) error {
	err := f.enter(ctx, "save")
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	seen := map[chat.ID]bool{}
	for _, u := range updates {
		if seen[u.ConversationID] {
			return &chat.Error{Code: chat.Internal, Msg: "a cursor is named twice"}
		}
		seen[u.ConversationID] = true
		if f.current(u.SessionID, u.Epoch) == nil {
			f.places[u.ConversationID] = max(f.places[u.ConversationID], u.Acked)
		}
	}
	f.saves = append(f.saves, updates)
	return nil
}

func (f *phoneStore) PartSession(ctx context.Context, p chat.SessionPart) error {
	err := f.enter(ctx, "part")
	defer f.mu.Unlock()
	if err == nil {
		err = f.current(p.ID, p.Epoch)
	}
	if err != nil {
		return err
	}
	f.parts++
	f.stored = p.Expiry > 0
	f.state.Inflight, f.state.NextPacketID = p.Inflight, p.NextPacketID
	for _, c := range p.Cursors {
		f.places[c.ConversationID] = max(f.places[c.ConversationID], c.Acked)
	}
	return nil
}

func (f *phoneStore) ReleaseSessions(context.Context, string, time.Time) (int64, error) {
	return 0, nil
}

func (f *phoneStore) DeleteExpiredSessions(context.Context, time.Time, int) (int64, error) {
	return 0, nil
}

func (f *phoneStore) ReadEvents(ctx context.Context, user chat.ID, refs []chat.EventRef) ([]chat.Event, error) {
	if err := f.enter(ctx, "read"); err != nil {
		f.mu.Unlock()
		return nil, err
	}
	f.mu.Unlock()
	var events []chat.Event
	for _, r := range refs {
		page, err := f.log.ReadLog(ctx, user, r.ConversationID, r.Seq-1, 1)
		if err == nil && len(page) == 1 && page[0].Seq == r.Seq {
			events = append(events, page[0])
		}
	}
	return events, nil
}

func (f *phoneStore) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *phoneStore) place(id chat.ID) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.places[id]
}

func (f *phoneStore) epoch() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.Epoch
}

// durable is a router over fakes, whose Run saves every few milliseconds.
type durable struct {
	setup
	sessions *phoneStore
}

func newDurable(t *testing.T) *durable {
	t.Helper()
	d := &durable{setup: setup{t: t, log: newFakeLog()}}
	d.sessions = newPhoneStore(d.log)
	d.router = delivery.NewRouter(delivery.Options{Log: d.log, Sessions: d.sessions, SaveEvery: 2 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.router.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); d.router.Close() })
	return d
}

// take connects the phone; it has a sink of its own then.
func (d *durable) take(receiveMaximum int) (present bool, err error) {
	d.sink = newFakeSink()
	d.s, present, err = d.router.Take(d.t.Context(), delivery.SessionOptions{
		Principal: chat.Principal{UserID: alice}, ClientID: "phone", ReceiveMaximum: receiveMaximum, Sink: d.sink, Expiry: time.Hour,
	})
	if err == nil {
		d.s.Start()
	}
	return present, err
}

func (d *durable) mustTake(receiveMaximum int, want bool) {
	d.t.Helper()
	if present, err := d.take(receiveMaximum); err != nil || present != want {
		d.t.Fatalf("take: present %v, %v; want %v", present, err, want)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// A conversation that was given up and is followed again has one place, the new
// one, whatever the old one still has on its way.
func TestPlaceGivenUp(t *testing.T) {
	t.Parallel()
	d := newDurable(t)
	d.log.add(convA, 10)
	d.mustTake(0, false)
	gate := make(chan struct{})
	d.sessions.set(func() { d.sessions.gate["save"] = gate }) // nothing is saved for now
	d.subscribe(everything, 1)
	d.post(convA, 3) // 11 to 13
	old := d.sink.all()
	d.s.Puback(old[0].ID)
	d.s.Unsubscribe([]string{everything})
	if err := d.s.SaveUnsubscribed(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.s.Puback(old[1].ID)
	d.post(convA, 5) // 14 to 18, unheard
	d.subscribe(everything, 1)
	d.post(convA, 1)
	d.s.Puback(old[2].ID)
	got := d.sink.all()
	if last := got[len(got)-1]; len(got) != 4 || last.seq != 19 {
		t.Fatalf("the client got %v", got)
	}
	d.s.Puback(got[3].ID)
	close(gate)
	eventually(t, "the new place is saved", func() bool { return d.sessions.place(convA) == 19 })
	d.sessions.set(func() {
		for _, batch := range d.sessions.saves {
			if len(batch) != 1 {
				t.Errorf("saved %v at once", batch)
			}
		}
	})
	d.router.Detach(d.s)
	d.mustTake(0, true)
	d.post(convA, 1)
	d.wantSeqs(convA, 20, 20)
	d.router.Detach(d.s)
}

// Places that could not be saved are saved later, and at the end of the
// connection at the latest, also those that are being saved at that moment.
func TestPartWhileSaving(t *testing.T) {
	t.Parallel()
	for _, outcome := range []error{nil, &chat.Error{Code: chat.Unavailable}} {
		d := newDurable(t)
		d.log.add(convA, 0)
		d.log.add(convB, 0)
		d.mustTake(0, false)
		d.subscribe(everything, 1)
		gate := make(chan struct{})
		d.sessions.set(func() { d.sessions.gate["save"] = gate })
		d.post(convA, 2)
		for _, p := range d.sink.all() {
			d.s.Puback(p.ID)
		}
		// Run is at the gate now, or will be; convB moves beside it.
		d.post(convB, 3)
		for _, p := range d.sink.all()[2:] {
			d.s.Puback(p.ID)
		}
		d.router.Detach(d.s)
		if a, b := d.sessions.place(convA), d.sessions.place(convB); a != 2 || b != 3 {
			t.Errorf("saved places are %d and %d, want 2 and 3", a, b)
		}
		d.sessions.set(func() { d.sessions.fail = outcome })
		close(gate)
		d.sessions.set(func() { d.sessions.fail = nil })
		d.mustTake(0, true)
		d.router.Detach(d.s)
	}
}

// While the store is away, what a connection leaves waits for it, and the next
// connection of the device waits for that to be saved.
func TestPartPostponed(t *testing.T) {
	t.Parallel()
	d := newDurable(t)
	d.log.add(convA, 0)
	d.mustTake(0, false)
	d.subscribe(everything, 1)
	d.post(convA, 4)
	first := d.sink.all()
	d.s.Puback(first[0].ID)
	d.sessions.set(func() { d.sessions.fail = &chat.Error{Code: chat.Unavailable} })
	d.router.Detach(d.s)
	for range 3 {
		if _, err := d.take(0); chat.CodeOf(err) != chat.Unavailable {
			t.Fatalf("take: %v, want Unavailable", err)
		}
	}
	if n := len(d.router.Sessions(alice)); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	gate := make(chan struct{}) // Run is at it, with what was left
	d.sessions.set(func() { d.sessions.gate["part"], d.sessions.fail = gate, nil })
	taken := make(chan error, 1)
	go func() { _, err := d.take(0); taken <- err }()
	close(gate)
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	eventually(t, "all comes again", func() bool { return len(d.sink.all()) == 3 })
	for i, p := range d.sink.all() {
		if p.ID != first[i+1].ID || !p.Dup || p.seq != int64(i+2) {
			t.Errorf("publication %d is %+v", i, p)
		}
	}
	d.router.Detach(d.s)
}

// Packet identifiers of what comes again go round at 65,535, and a smaller window
// lets it come a few at a time.
func TestResumeAtTheEndOfTheCircle(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 3, 100} {
		d := newDurable(t)
		d.log.add(convA, 20)
		d.mustTake(0, false)
		d.subscribe(everything, 1)
		var left []chat.InflightState
		for i := range 6 {
			left = append(left, chat.InflightState{PacketID: uint16((65532+i)%65535) + 1, ConversationID: convA, Seq: int64(11 + i), QoS: 1, Settled: i == 2})
		}
		d.router.Detach(d.s)
		d.sessions.set(func() {
			d.sessions.places[convA] = 10
			d.sessions.state.Inflight, d.sessions.state.NextPacketID = left, 4
		})
		d.mustTake(limit, true)
		want := []string{"65533 11 true", "65534 12 true", "1 14 true", "2 15 true", "3 16 true", "4 17 false", "5 18 false", "6 19 false", "7 20 false"}
		for acked := 0; acked < len(want); {
			most := min(acked+limit, len(want))
			eventually(t, "more comes", func() bool { return len(d.sink.all()) > acked })
			got := d.sink.all()
			if len(got) > most {
				t.Fatalf("limit %d: %d publications are on their way", limit, len(got)-acked)
			}
			for _, p := range got[acked:] {
				if s := fmt.Sprint(p.ID, p.seq, p.Dup); s != want[acked] {
					t.Fatalf("limit %d: publication %d is %s, want %s", limit, acked, s, want[acked])
				}
				acked++
				d.s.Puback(p.ID)
			}
		}
		eventually(t, "the place is saved", func() bool { return d.sessions.place(convA) == 20 })
		d.router.Detach(d.s)
	}
}

// What is committed between the store's answer about the session and the moment
// in which it is ready is delivered, although no later event tells of it.
func TestCommittedWhileTaking(t *testing.T) {
	t.Parallel()
	d := newDurable(t)
	d.log.add(convA, 5)
	d.mustTake(0, false)
	d.subscribe(everything, 1)
	d.router.Detach(d.s)
	gate := make(chan struct{})
	d.sessions.set(func() { d.sessions.gate["answer"] = gate })
	epoch := d.sessions.epoch()
	taken := make(chan error, 1)
	go func() { _, err := d.take(0); taken <- err }()
	eventually(t, "the store has answered", func() bool { return d.sessions.epoch() == epoch+1 })
	d.post(convA, 1)
	d.log.add(convB, 0)
	d.post(convB, 1)
	close(gate)
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	eventually(t, "both come", func() bool { return len(d.sink.all()) == 2 })
	d.wantSeqs(convA, 6, 6)
	d.wantSeqs(convB, 1, 1)
	d.router.Detach(d.s)
}

// A take that fails leaves nothing behind, and the device may try again at once.
func TestTakeFails(t *testing.T) {
	t.Parallel()
	d := newDurable(t)
	d.log.add(convA, 0)
	d.mustTake(0, false)
	d.subscribe(everything, 1)
	d.post(convA, 2)
	old, oldSink := d.s, d.sink
	gate := make(chan struct{})
	d.sessions.set(func() { d.sessions.gate["take"] = gate })
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 2)
	for range 2 { // one waits for the store, the other for the first
		go func() {
			_, _, err := d.router.Take(ctx, delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: newFakeSink(), Expiry: time.Hour})
			failed <- err
		}()
	}
	eventually(t, "the old connection is told", func() bool { oldSink.mu.Lock(); defer oldSink.mu.Unlock(); return len(oldSink.why) == 1 })
	cancel()
	for range 2 {
		if err := <-failed; chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("error = %v", err)
		}
	}
	d.router.Detach(old) // ended long ago
	close(gate)
	d.mustTake(0, true)
	eventually(t, "both come again", func() bool { return len(d.sink.all()) == 2 })
	if n := len(d.router.Sessions(alice)); n != 1 {
		t.Errorf("%d sessions are there", n)
	}
	d.router.Detach(d.s)
}
