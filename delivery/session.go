package delivery

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

// maxWindow bounds a session's unacknowledged publications, whatever its client's Receive
// Maximum.
const maxWindow = 512

// tail is how far a session has come in one conversation's log.
type tail struct {
	conversation chat.ID
	sent         int64 // the last event sent, or passed over as too large for the client
	acked        int64 // every event up to this one is acknowledged
	known        int64 // the log reaches at least this far; more than sent: behind
	joining      bool  // the log decides where it starts: the user has just joined the conversation
	queued       bool  // it is in Session.behind
	dirty        bool  // it is in Session.dirty

	early    []*Frame  // events that have arrived before their predecessor; see keepEarly
	unproven *unproven // sent at QoS 0, and perhaps not received; nil: nothing
}

// SessionOptions describes a connection.
type SessionOptions struct {
	Principal      chat.Principal
	ClientID       string // as the client sent it, or was assigned
	ReceiveMaximum int    // of the client; 0: 65,535
	Sink           Sink

	// Releasing is called when the connection ends, with the session locked. It returns the
	// packet identifiers of the client's QoS 2 publishes to device topics that wait for
	// PUBREL: those of a session that is kept are passed to its next connection. May be nil.
	Releasing func() []uint16
	// UnackedPublishes is called likewise. It returns what the client may send again of its
	// publishes to conversations. May be nil.
	UnackedPublishes func() []chat.UnackedPublish

	// Settle is called by Take when the device's last connection here has been told to end,
	// before the session is taken over. What the device has left there, such as its will, is
	// to take effect before it returns. Taken is called with the session before another
	// connection of the device can be created. Both may be nil.
	Settle func(ctx context.Context)
	Taken  func(s *Session, present bool)

	CleanStart bool          // forget what is kept of the device
	Expiry     time.Duration // how long the session is kept after the connection; 0: not at all
}

// Session is a connected device: its subscriptions, how far it has come in each log, and
// what it has not acknowledged. All methods are safe for concurrent use and none waits for
// the client.
type Session struct {
	Principal chat.Principal
	ClientID  string

	router        *Router
	sink          Sink
	releasingIDs  func() []uint16              // SessionOptions.Releasing
	unackedAtPart func() []chat.UnackedPublish // SessionOptions.UnackedPublishes

	stored      stored
	resendSince time.Time             // see ResendSince; not changed after load
	unacked     []chat.UnackedPublish // see UnackedPublishes; not changed after load

	mu            sync.Mutex
	subs          subscriptions     // mu guards
	tails         map[chat.ID]*tail // mu guards
	window        window            // mu guards
	behind        []*tail           // mu guards: tails with known > sent, served in turn
	catching      bool              // mu guards: a catch-up runs
	stalled       bool              // mu guards: the sink had no room, and will call Writable
	hints         map[chat.ID]int64 // mu guards: how far logs are known to reach, while Take asks the store for the session; then nil
	loading       int               // mu guards: tails may not be known: Start is due, or Subscribe is asking for ends
	started       bool              // mu guards: CONNACK is out
	waiting       bool              // mu guards: the catch-up waits for early events' predecessors
	missed        bool              // mu guards: a presence signal found no room
	closed        bool              // mu guards
	wantsReceipts bool              // mu guards: it is counted in router.wantReceipts

	queue      *Queue // mu guards: of publications to device topics; nil: not needed so far
	superseded bool   // mu guards: another node has the session now
	logNext    bool   // mu guards: the one entry of the window is a log's next, while logs and the queue both wait for it

	durable // mu guards

	toProve atomic.Bool // proof.tails is not empty; written under mu
}

func (s *Session) device() chat.Device {
	return chat.Device{UserID: s.Principal.UserID, ClientID: s.ClientID}
}

// lostTooLarge logs that a publication was over the client's Maximum Packet Size.
func (s *Session) lostTooLarge(topic string) {
	s.router.lossLog(s.device()).Warn("publication not sent: it is over the client's Maximum Packet Size", "topic", topic)
}

// Subscriptions returns the number of filters the session holds.
func (s *Session) Subscriptions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs.byText)
}

// Holds reports whether the session holds a filter with this text.
func (s *Session) Holds(filter string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.subs.byText[filter]
	return ok
}

// Unsubscribe removes filters by their text and reports, for each, whether the
// session held it.
func (s *Session) Unsubscribe(filters []string) []bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	existed := make([]bool, len(filters))
	for i, text := range filters {
		sub := s.subs.byText[text]
		if existed[i] = s.subs.remove(text); existed[i] {
			s.removed = append(s.removed, sub.Filter)
		}
	}
	s.dropUncovered()
	s.countReceiptWants()
	return existed
}

// covers reports whether any filter covers a conversation's messages, and whether one of
// those is held. mu is held.
func (s *Session) covers(conversation chat.ID) (covered, held bool) {
	return s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: conversation})
}

// dropUncovered drops the tails that no filter covers any more: a later Subscribe starts at
// the end of the log as it is then. mu is held.
func (s *Session) dropUncovered() {
	for id := range s.tails {
		if covered, _ := s.covers(id); !covered {
			s.unfollow(id)
		}
	}
	s.behind = slices.DeleteFunc(s.behind, func(b *tail) bool { return s.tails[b.conversation] != b })
}

// Conversations returns those whose messages the session receives, or nil if it receives
// none.
func (s *Session) Conversations() []chat.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.tails))
}

// Signal publishes something that is not stored, at QoS 0, if a filter covers it, the
// session has started, and there is room; otherwise it is dropped.
func (s *Session) Signal(f *Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.signal(f) && f.Topic.Kind == chat.TopicPresence {
		s.missed = true
	}
}

// TrySignal is Signal for callers that wait until there is room: it returns false if there
// is none. The sink's owner calls Writable then.
func (s *Session) TrySignal(f *Frame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signal(f)
}

func (s *Session) signal(f *Frame) bool {
	_, ids, ok := s.subs.match(f.Topic)
	return !ok || s.closed || !s.started || s.sink.Publish(f, Packet{Subscriptions: ids}) != NoRoom
}

// MissedPresence reports whether Signal has dropped a presence signal for lack of room
// since the last call.
func (s *Session) MissedPresence() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	missed := s.missed
	s.missed = false
	return missed
}

// Filters returns the filters that the session holds and that cover topics of the kind.
func (s *Session) Filters(kind chat.TopicKind) []chat.Filter {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []chat.Filter
	for _, sub := range s.subs.byText {
		if sub.Filter.Kinds&kind != 0 {
			list = append(list, sub.Filter)
		}
	}
	return list
}

// offer hands over a committed event. If it is not the next one, or there is no room for
// it, the session is behind and reads the log.
func (s *Session) offer(f *Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tailOf(f.Topic, f.Seq)
	if t == nil {
		return
	}
	ready := s.loading == 0 && !s.stalled && !t.joining
	if ready && f.Seq == t.sent+1 && s.send(t, f) {
		s.sendEarly(t)
		return
	}
	if ready && f.Seq > t.sent+1 {
		s.keepEarly(t, f)
	}
	s.learn(t, f.Seq)
}

// hint notes that a log reaches seq, without the event.
func (s *Session) hint(topic chat.Topic, seq int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tailOf(topic, seq); t != nil {
		s.learn(t, seq)
	}
}

// tailOf returns the tail for a log that is known to reach seq; nil if the session does not
// receive it, or keeps the hint for load. mu is held.
func (s *Session) tailOf(topic chat.Topic, seq int64) *tail {
	if s.closed {
		return nil
	}
	if s.hints != nil {
		s.hints[topic.ID] = max(s.hints[topic.ID], seq)
		return nil
	}
	if covered, _ := s.subs.covers(topic); !covered {
		return nil
	}
	t := s.tails[topic.ID]
	if t == nil {
		t = &tail{conversation: topic.ID, joining: true}
		s.follow(t)
	}
	return t
}

// learn notes that a log reaches seq, and has it read if that is news. mu is held.
func (s *Session) learn(t *tail, seq int64) {
	t.known = max(t.known, seq)
	if t.known > t.sent && !t.queued {
		t.queued = true
		s.behind = append(s.behind, t)
	}
	s.resume()
}

// send writes the event after t.sent, if there is room for it. mu is held.
func (s *Session) send(t *tail, f *Frame) bool {
	qos, ids, ok := s.subs.match(f.Topic)
	if !ok || s.window.idle > 0 { // what the last connection has left goes first, even before QoS 0
		return false
	}
	p := Packet{QoS: qos, Subscriptions: ids}
	if qos > 0 {
		if s.logRoom() <= 0 {
			return false
		}
		p.ID = s.window.push(inflight{tail: t, seq: f.Seq, qos: qos})
	}
	outcome := s.sink.Publish(f, p)
	if outcome != Written && qos > 0 {
		s.window.undo(p.ID)
	}
	switch outcome {
	case NoRoom:
		s.stalled = true
		return false
	case TooLarge:
		s.router.metrics.tooLarge.Inc()
		s.lostTooLarge(f.Topic.String())
	}
	s.logNext = false
	t.sent, t.known = f.Seq, max(t.known, f.Seq)
	switch {
	case qos > 0 && outcome == Written: // until it is acknowledged
	case s.stored.kept && qos == 0, t.unproven != nil: // until it is proved
		s.unproved(t)
	case !s.window.holds(t): // otherwise those in flight come first
		t.acked = f.Seq
		s.moved(t)
	}
	return true
}

// Puback settles a QoS 1 publication. An identifier that is not in flight is ignored: a
// client may acknowledge what it has received in an earlier connection. The error is
// ErrWrongAck.
func (s *Session) Puback(packetID uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.window.inFlight(packetID)
	switch {
	case e == nil:
	case e.qos != 1:
		return s.wrongAck()
	default:
		s.settle(e)
	}
	return nil
}

// Pubrec handles PUBREC, the first half of a QoS 2 acknowledgement; refused is set for a
// reason code that ends the exchange, otherwise PUBREL is sent (again, if PUBREC is
// repeated). It reports whether the packet identifier is in flight. The error is
// ErrWrongAck.
func (s *Session) Pubrec(packetID uint16, refused bool) (known bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.window.inFlight(packetID)
	switch {
	case e == nil:
		return false, nil
	case e.qos != 2:
		return false, s.wrongAck()
	case refused:
		s.settle(e)
		return true, nil
	}
	e.state = received
	s.window.wake(e)
	s.sink.Pubrel(packetID)
	return true, nil
}

// Pubcomp settles a QoS 2 publication. An identifier that is not in flight is ignored. The
// error is ErrWrongAck.
func (s *Session) Pubcomp(packetID uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heldIDs) > 0 && packetID == s.lastReleased {
		s.heldIDs, s.released = nil, true
		s.list()
	}
	e := s.window.inFlight(packetID)
	switch {
	case e == nil:
	case e.state != received:
		return s.wrongAck()
	default:
		s.settle(e)
	}
	return nil
}

// wrongAck returns ErrWrongAck, unless the client may mean something else: after a crash,
// what it has of earlier connections may have the identifier of a new publication; and it
// answers the PUBRELs of releaseHeld, in whatever order. mu is held.
func (s *Session) wrongAck() error {
	if len(s.heldIDs) > 0 || s.released {
		return nil
	}
	return ErrWrongAck
}

// settle notes that a publication is acknowledged. mu is held.
func (s *Session) settle(e *inflight) {
	if e.tail == nil && s.qos2 { // no cursor moves, but the next packet identifier is to be saved
		s.list()
	}
	s.window.settle(e, s.moved)
	s.resume()
}

// Writable tells the session that its sink has room again.
func (s *Session) Writable() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stalled = false
	s.resume()
}

// Disconnect ends the session's connection; the client is told why.
func (s *Session) Disconnect(err error) { s.sink.Disconnect(err) }
