package delivery_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	alice = chat.MustParseID("00000000-0000-7000-8000-0000000000a1")
	bob   = chat.MustParseID("00000000-0000-7000-8000-0000000000b2")
	convA = chat.MustParseID("00000000-0000-7000-8000-00000000c0a0")
	convB = chat.MustParseID("00000000-0000-7000-8000-00000000c0b0")
)

// fakeLog is a log in memory, for one user, Alice. A gate, where there is one,
// holds a call up between its snapshot and its return.
type fakeLog struct {
	mu        sync.Mutex
	convs     map[chat.ID]*fakeConv
	fail      error                 // what every call returns
	broken    map[chat.ID]error     // what ReadLog returns for a conversation
	reads     []int                 // limits of all ReadLog calls
	readGate  map[chat.ID]chan bool // ReadLog waits for a value
	endsGate  chan bool             // ListPositions waits for a value
	readGates chan bool             // every ReadLog waits for a value
}

type fakeConv struct {
	last   int64
	joined int64 // Alice sees the log from here; 0: she is no member
}

func newFakeLog() *fakeLog {
	return &fakeLog{convs: map[chat.ID]*fakeConv{}, broken: map[chat.ID]error{}, readGate: map[chat.ID]chan bool{}}
}

// add makes a conversation whose log has n events, with Alice in it from the start.
func (l *fakeLog) add(id chat.ID, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.convs[id] = &fakeConv{last: n, joined: 1}
}

// set changes the log under its lock.
func (l *fakeLog) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *fakeLog) ReadLog(ctx context.Context, user, conversation chat.ID, after int64, limit int) ([]chat.Event, error) {
	l.mu.Lock()
	l.reads = append(l.reads, limit)
	err, c := l.fail, l.convs[conversation]
	if err == nil {
		err = l.broken[conversation]
	}
	var page []chat.Event
	switch {
	case err != nil:
	case user != alice || c == nil || c.joined == 0:
		err = &chat.Error{Code: chat.NotFound}
	default:
		for seq := max(after+1, c.joined); seq <= c.last && len(page) < limit; seq++ {
			page = append(page, *event(conversation, seq))
		}
	}
	gate, all := l.readGate[conversation], l.readGates
	l.mu.Unlock()
	if werr := wait(ctx, gate, all); werr != nil {
		return nil, werr
	}
	return page, err
}

func (l *fakeLog) ListPositions(ctx context.Context, user chat.ID) ([]chat.Position, error) {
	l.mu.Lock()
	var ends []chat.Position
	for id, c := range l.convs {
		if user == alice && c.joined > 0 {
			ends = append(ends, chat.Position{ConversationID: id, LastSeq: c.last})
		}
	}
	err, gate := l.fail, l.endsGate
	l.mu.Unlock()
	if werr := wait(ctx, gate); werr != nil {
		return nil, werr
	}
	return ends, err
}

// wait waits for a value, or the closing, of the first gate that is there.
func wait(ctx context.Context, gates ...chan bool) error {
	for _, g := range gates {
		if g == nil {
			continue
		}
		select {
		case <-g:
		case <-ctx.Done():
			return &chat.Error{Code: chat.Unavailable, Err: ctx.Err()}
		}
		break
	}
	return nil
}

func (l *fakeLog) pages() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.reads)
}

// event is the event that every log has at seq.
func event(conversation chat.ID, seq int64) *chat.Event {
	return &chat.Event{ConversationID: conversation, Seq: seq, Type: chat.EventMessage, SenderID: bob, Content: "x"}
}

// publication is what a fakeSink was given.
type publication struct {
	delivery.Packet
	topic   chat.Topic
	seq     int64
	payload string
}

// fakeSink is a connection in memory.
type fakeSink struct {
	mu       sync.Mutex
	got      []publication
	room     int // publications it still takes; negative: any number
	refused  bool
	tooLarge map[int64]bool
	pubrels  []uint16
	why      []error
	check    func(p publication)

	devices     []deviceCopy
	checkDevice func(deviceCopy)
}

func newFakeSink() *fakeSink { return &fakeSink{room: -1, tooLarge: map[int64]bool{}} }

// released are the packet identifiers of the PUBRELs so far.
func (s *fakeSink) released() []uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.pubrels)
}

func (s *fakeSink) Publish(f *delivery.Frame, p delivery.Packet) delivery.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.tooLarge[f.Seq]:
		return delivery.TooLarge
	case s.room == 0:
		s.refused = true
		return delivery.NoRoom
	case s.room > 0:
		s.room--
	}
	pub := publication{p, f.Topic, f.Seq, string(f.Payload())}
	s.got = append(s.got, pub)
	if s.check != nil {
		s.check(pub)
	}
	return delivery.Written
}

func (s *fakeSink) Pubrel(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pubrels = append(s.pubrels, id)
}

func (s *fakeSink) Disconnect(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = append(s.why, err)
}

// drain makes room and says whether Writable is due.
func (s *fakeSink) drain(room int) (due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room = room
	due = s.refused && room != 0
	s.refused = s.refused && !due
	return due
}

func (s *fakeSink) all() []publication {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// seqs returns what came of a conversation.
func (s *fakeSink) seqs(conversation chat.ID) []int64 {
	var seqs []int64
	for _, p := range s.all() {
		if p.topic.ID == conversation {
			seqs = append(seqs, p.seq)
		}
	}
	return seqs
}

// setup is a router with Alice's session on it.
type setup struct {
	t      *testing.T
	log    *fakeLog
	router *delivery.Router
	sink   *fakeSink
	s      *delivery.Session
}

func newSetup(t *testing.T, receiveMaximum int) *setup {
	t.Helper()
	u := &setup{t: t, log: newFakeLog(), sink: newFakeSink()}
	u.router = delivery.NewRouter(delivery.Options{Log: u.log, Sessions: noSessions{}})
	t.Cleanup(u.router.Close)
	u.s = attach(t, u.router, delivery.SessionOptions{
		Principal: chat.Principal{UserID: alice}, ClientID: "phone", ReceiveMaximum: receiveMaximum, Sink: u.sink,
	})
	return u
}

// noSessions is a session store on a lone node, for sessions that are not kept.
type noSessions struct{ chat.SessionStore }

func (noSessions) TakeSession(context.Context, chat.SessionTake) (*chat.SessionState, error) {
	return &chat.SessionState{NextPacketID: 1}, nil
}

// attach makes a connection whose session has started.
func attach(t *testing.T, r *delivery.Router, o delivery.SessionOptions) *delivery.Session {
	t.Helper()
	s, _, err := r.Take(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	return s
}

func sub(t *testing.T, filter string, qos byte) delivery.Subscription {
	t.Helper()
	f, err := chat.ParseFilter(filter)
	if err != nil {
		t.Fatal(err)
	}
	return delivery.Subscription{Text: filter, Filter: f, QoS: qos}
}

func (u *setup) subscribe(filter string, qos byte) {
	u.t.Helper()
	if err := u.s.Subscribe(u.t.Context(), []delivery.Subscription{sub(u.t, filter, qos)}); err != nil {
		u.t.Fatal(err)
	}
}

// commit stores the next event of a conversation and returns its seq.
func (u *setup) commit(conversation chat.ID) int64 {
	u.log.mu.Lock()
	defer u.log.mu.Unlock()
	c := u.log.convs[conversation]
	c.last++
	return c.last
}

// hint publishes an event to Alice.
func (u *setup) hint(conversation chat.ID, seq int64) {
	u.router.Publish(event(conversation, seq), &chat.Roster{ConversationID: conversation, Members: []chat.ID{alice}})
}

// post commits and publishes n events.
func (u *setup) post(conversation chat.ID, n int) {
	for range n {
		u.hint(conversation, u.commit(conversation))
	}
}

func (u *setup) wantSeqs(conversation chat.ID, from, to int64) {
	u.t.Helper()
	var want []int64
	for seq := from; seq <= to; seq++ {
		want = append(want, seq)
	}
	if got := u.sink.seqs(conversation); !slices.Equal(got, want) {
		u.t.Fatalf("the client got %v, want %d to %d", got, from, to)
	}
}

func seqOf(t *testing.T, payload string) int64 {
	t.Helper()
	var m struct{ Seq int64 }
	if err := json.Unmarshal([]byte(payload), &m); err != nil {
		t.Fatalf("payload %q: %v", payload, err)
	}
	return m.Seq
}

// deviceCopy is a publication to a device topic that a fakeSink was given.
type deviceCopy struct {
	delivery.Packet
	*chat.Publication
}

func (s *fakeSink) Deliver(d *chat.Publication, p delivery.Packet) delivery.Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case d.Topic == "too/large":
		return delivery.TooLarge
	case s.room == 0:
		s.refused = true
		return delivery.NoRoom
	case s.room > 0:
		s.room--
	}
	s.devices = append(s.devices, deviceCopy{p, d})
	if s.checkDevice != nil {
		s.checkDevice(deviceCopy{p, d})
	}
	return delivery.Written
}
