package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/parleymq/parley/chat"
)

// kept is what a session has that survives its connection. The zero value is that
// of a session that does not.
type kept struct {
	id     chat.ID // of the stored session; zero: not kept
	epoch  int64   // of this connection
	expiry time.Duration

	resendSince  time.Time // see ResendSince; not changed after load
	held         []uint16  // Session.mu guards: see releaseHeld; none when the client is known to hold nothing
	lastReleased uint16    // Session.mu guards: whose PUBCOMP says that all before it were heard
	released     bool      // Session.mu guards: held was emptied on this connection

	dirty   []*tail       // Session.mu guards: places to be saved
	saving  []*tail       // Session.mu guards: places that are being saved, which may fail
	listed  bool          // Session.mu guards: the session is in the router's list of those with something to save
	removed []chat.Filter // Session.mu guards: of filters removed, which is not saved yet
	exact   bool          // Session.mu guards: it holds a filter at QoS 2, so the next packet identifier is saved too
}

// noted names the row of a session that ends with its connection, by which other nodes
// find the connection.
type noted struct {
	id    chat.ID
	epoch int64
}

// Epoch numbers the session's connection: of two connections of a device the one with
// the higher epoch is the newer. 0: they are not numbered, on a node alone.
func (s *Session) Epoch() int64 { return max(s.kept.epoch, s.noted.epoch) }

// resendChunk is how many publications of an earlier connection are read at once.
const resendChunk = 50

// newSession makes the session of a connection, which has no subscriptions, does
// not survive its connection, and sends nothing before Start.
func (r *Router) newSession(o SessionOptions) *Session {
	s := &Session{Principal: o.Principal, ClientID: o.ClientID, router: r, sink: o.Sink, stillReleasing: o.Releasing, tails: map[chat.ID]*tail{}, loading: 1}
	s.window.limit, s.window.next = maxWindow, 1
	if o.ReceiveMaximum > 0 {
		s.window.limit = min(maxWindow, o.ReceiveMaximum)
	}
	return s
}

// load gives the session what is kept of its device. box is what its last connection
// has left of device topics; nil: nothing. It returns false if the next connection of the
// device was faster.
func (s *Session) load(st *chat.SessionState, expiry time.Duration, box *Queue) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	hints := s.hints
	s.hints = nil
	if s.closed {
		return false
	}
	if expiry == 0 && !st.Present {
		s.noted = noted{id: st.ID, epoch: st.Epoch}
		return true
	}
	var left map[uint16]inflight
	if box != nil {
		left = s.adopt(box)
	}
	s.kept = kept{id: st.ID, epoch: st.Epoch, expiry: expiry, resendSince: st.ResendSince, held: st.HeldPacketIDs}
	s.window.next = st.NextPacketID
	for _, sub := range st.Subscriptions {
		kept := Subscription{Text: sub.Filter, QoS: sub.QoS, Identifier: sub.Identifier, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished, held: true}
		if kept.Device = !chat.IsFilter(sub.Filter); !kept.Device {
			var err error
			if kept.Filter, err = chat.ParseFilter(sub.Filter); err != nil {
				continue // of a version that knew more filters
			}
		}
		s.subs.put(kept)
		s.kept.exact = s.kept.exact || sub.QoS == 2
	}
	for _, c := range st.Cursors {
		if covered, _ := s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: c.ConversationID}); covered {
			s.follow(&tail{conversation: c.ConversationID, sent: c.Acked, acked: c.Acked, known: c.LastSeq})
		}
	}
	s.noteAsking()
	s.restore(st.Inflight, left, st.NextPacketID)
	for id, seq := range hints { // committed since, perhaps in a conversation that was joined since
		if covered, _ := s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: id}); !covered {
			continue
		}
		if s.tails[id] == nil {
			s.follow(&tail{conversation: id, joining: true})
		}
		s.learn(s.tails[id], seq)
	}
	for _, t := range s.tails {
		s.learn(t, t.known)
	}
	return true
}

// restore puts what was on its way at the end of the last connection back into
// the window. What it is about may be gone (unsubscribed, no member any more, or to a
// device topic, and of a process that has ended): then it is settled, or, at QoS 2, told
// PUBREL.
func (s *Session) restore(left []chat.InflightState, devices map[uint16]inflight, next uint16) {
	entries := make([]inflight, len(left))
	for i, l := range left {
		e := inflight{seq: l.Seq, qos: l.QoS, tail: s.tails[l.ConversationID]}
		device := l.ConversationID.IsZero()
		if d, ok := devices[l.PacketID]; ok && device && !l.Settled {
			entries[i] = inflight{device: d.device, qos: l.QoS, state: d.state}
			continue
		}
		switch {
		case l.Settled || e.tail == nil && !(device && l.QoS == 2):
			e.state = settled
		case l.Received:
			e.state = received
		}
		if e.tail == nil {
			e.tail = &tail{conversation: l.ConversationID}
		}
		e.tail.sent = max(e.tail.sent, l.Seq)
		entries[i] = e
	}
	if len(left) > 0 {
		s.window.restore(entries, left[0].PacketID, next)
		s.window.trim(s.moved)
	}
}

// Start lets the session send: first what was on its way when the last connection
// ended, then what the logs hold beyond its cursors, then live. CONNACK is out.
func (s *Session) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loading--
	s.started = true
	s.releaseHeld()
	s.resume()
}

// After a crash it is not known which identifiers were on their way. A client that has
// received one of them at QoS 2 takes whatever comes under it for a repeat, until it
// is told PUBREL; one that has not answers PUBCOMP (MQTT 5.0, 4.3.3). So all are
// told that may be: a window before the last identifier that was saved, and as many
// after it as may have been used until it was to be saved again.
const (
	heldBefore = maxWindow
	heldAfter  = 4096
)

// releaseHeld sends PUBREL for what the client may hold. mu is held.
func (s *Session) releaseHeld() {
	if !s.kept.exact {
		return
	}
	for _, held := range s.kept.held {
		for i := -heldBefore; i < heldAfter; i++ {
			s.kept.lastReleased = uint16((int(held)-1+i+2*65535)%65535) + 1
			s.sink.Pubrel(s.kept.lastReleased)
		}
	}
}

// noteReleased notes that the client has answered the last of those PUBRELs. mu is held.
func (s *Session) noteReleased() {
	s.kept.held, s.kept.released = nil, true
	if !s.kept.listed {
		s.kept.listed = true
		s.router.noteDirty(s)
	}
}

// ResendSince returns the time after which a publish was stored that the client
// sends again on this connection; zero if its session was not there before.
func (s *Session) ResendSince() time.Time { return s.kept.resendSince }

// Kept reports whether the session survives its connection.
func (s *Session) Kept() bool { return !s.kept.id.IsZero() }

// SetExpiry changes how long the session is kept after its connection, as
// DISCONNECT may (MQTT 5.0, 3.14.2.2.2).
func (s *Session) SetExpiry(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept.expiry = d
}

// resend is one publication to be sent again.
type resend struct {
	packetID uint16
	ref      chat.EventRef         // of an event
	device   *chat.PublicationCopy // or what was published to a device topic
	received bool
}

// toResend returns the oldest publications that are not on their way again yet, as
// many as there is room for.
func (s *Session) toResend() []resend {
	w := &s.window
	var list []resend
	for i := 0; i < w.n && w.idle > 0 && len(list) < min(resendChunk, w.limit-w.active); i++ {
		if e := w.at(i); e.idle {
			again := resend{packetID: w.idAt(i), device: e.device, received: e.state == received}
			if e.tail != nil {
				again.ref = chat.EventRef{ConversationID: e.tail.conversation, Seq: e.seq}
			}
			list = append(list, again)
		}
	}
	return list
}

// sendAgain sends publications again, with their packet identifiers and DUP
// [MQTT-4.4.0-1], [MQTT-3.3.1-1]. What the user may not see any more is settled.
func (s *Session) sendAgain(ctx context.Context, list []resend) error {
	var refs []chat.EventRef
	for _, again := range list {
		if !again.received && !again.ref.ConversationID.IsZero() {
			refs = append(refs, again.ref)
		}
	}
	events := map[chat.EventRef]*chat.Event{}
	if len(refs) > 0 {
		found, err := s.router.readEvents(ctx, s.Principal.UserID, refs)
		if err != nil {
			return err
		}
		for i := range found {
			events[chat.EventRef{ConversationID: found[i].ConversationID, Seq: found[i].Seq}] = &found[i]
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, again := range list {
		e := s.window.find(again.packetID)
		if s.closed || e == nil || !e.idle || e.seq != again.ref.Seq {
			continue // acknowledged meanwhile
		}
		if e.state == received {
			s.window.wake(e)
			s.sink.Pubrel(again.packetID)
			continue
		}
		event := events[again.ref]
		if event == nil && (again.device == nil || expired(again.device, time.Now())) {
			if e.qos == 2 {
				s.sink.Pubrel(again.packetID) // the client may hold it
			}
			s.window.settle(e, s.moved)
			continue
		}
		p := Packet{ID: again.packetID, QoS: e.qos, Dup: true}
		var outcome Outcome
		if again.device != nil {
			p.Retain, p.Subscriptions = again.device.RetainFlag, again.device.Subscriptions
			outcome = s.sink.Deliver(again.device.Publication, p)
		} else {
			f := NewEventFrame(event)
			_, p.Subscriptions, _ = s.subs.match(f.Topic)
			outcome = s.sink.Publish(f, p)
		}
		switch outcome {
		case Written:
			s.window.wake(e)
			s.router.metrics.resent.Inc()
		case TooLarge:
			s.window.settle(e, s.moved)
		case NoRoom:
			s.stalled = true
			return nil
		}
	}
	return nil
}

// moved notes that a place has to be saved, and that so much was delivered, unless it was given up: what is stored
// for its conversation is that of the tail that came after. mu is held.
func (s *Session) moved(t *tail) {
	if t.dirty || s.kept.id.IsZero() && s.router.receipts == nil || s.tails[t.conversation] != t {
		return
	}
	t.dirty = true
	s.kept.dirty = append(s.kept.dirty, t)
	if !s.kept.listed {
		s.kept.listed = true
		s.router.noteDirty(s)
	}
}

// takeDirty returns the places to be saved, and forgets that they are. Of a session
// that is not kept there are none, only what was delivered.
func (s *Session) takeDirty() (updates []chat.CursorUpdate, next chat.PacketIDUpdate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept.listed = false
	if s.closed {
		return nil, next
	}
	for _, t := range s.kept.dirty {
		t.dirty = false
		if s.tails[t.conversation] != t {
			continue // given up since
		}
		s.router.noteDelivered(s.Principal.UserID, t.conversation, t.acked)
		if s.kept.id.IsZero() {
			continue
		}
		updates = append(updates, chat.CursorUpdate{SessionID: s.kept.id, Epoch: s.kept.epoch, ConversationID: t.conversation, Acked: t.acked})
	}
	s.kept.dirty, s.kept.saving = nil, s.kept.dirty
	if s.kept.exact {
		next = chat.PacketIDUpdate{SessionID: s.kept.id, Epoch: s.kept.epoch, Next: max(1, s.window.next), Released: s.kept.released}
	}
	return updates, next
}

// saved is told how the saving of what takeDirty returned has ended.
func (s *Session) saved(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	saving := s.kept.saving
	s.kept.saving = nil
	for _, t := range saving {
		if err != nil && !s.closed {
			s.moved(t)
		}
	}
}

// part returns what is to be kept of a session whose connection ends. mu is held.
func (s *Session) part(now time.Time) *chat.SessionPart {
	p := &chat.SessionPart{ID: s.kept.id, Epoch: s.kept.epoch, Expiry: s.kept.expiry, Now: now, NextPacketID: max(1, s.window.next), HeldPacketIDs: s.kept.held}
	seen := map[chat.ID]bool{}
	for _, t := range slices.Concat(s.kept.saving, s.kept.dirty) {
		if s.tails[t.conversation] != t || seen[t.conversation] {
			continue
		}
		seen[t.conversation] = true
		p.Cursors = append(p.Cursors, chat.CursorState{ConversationID: t.conversation, Acked: t.acked})
	}
	for i := range s.window.n {
		e := s.window.at(i)
		state := chat.InflightState{PacketID: s.window.idAt(i), Seq: e.seq, QoS: e.qos, Received: e.state == received, Settled: e.state == settled}
		if e.tail != nil {
			state.ConversationID = e.tail.conversation
		}
		p.Inflight = append(p.Inflight, state)
	}
	return p
}

// positions asks how far the user's logs reach, and for a session that is kept
// stores its subscriptions and the places from which they begin, in the same
// transaction.
func (s *Session) positions(ctx context.Context) ([]chat.Position, error) {
	if s.kept.id.IsZero() {
		return s.router.log.ListPositions(ctx, s.Principal.UserID)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errEnded
	}
	c := s.change()
	for _, sub := range s.subs.byText {
		if sub.held || sub.Filter.Kinds&chat.TopicMessages == 0 {
			continue
		}
		if sub.Filter.ID.IsZero() {
			c.All = true
		} else if _, held := s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: sub.Filter.ID}); !held {
			c.Begin = append(c.Begin, sub.Filter.ID)
		}
	}
	if s.subs.holdsAll() { // a conversation without a cursor was joined since, and counts from there
		c.All, c.Begin = false, nil
	}
	c.EndAll, c.End = c.All, c.Begin // what a place given up has left behind does not count
	if c.All {
		c.Keep = s.places()
	}
	s.mu.Unlock()
	return s.router.sessions.ChangeSubscriptions(ctx, c)
}

// errEnded is the answer to a change of a session whose connection has ended.
var errEnded = &chat.Error{Code: chat.Conflict, Op: "delivery.Subscribe", Msg: "the connection has ended"}

// places returns the session's places. A conversation that was joined since a
// filter covers it counts from there, also while nothing of it has been sent: its
// place is before everything, or a wildcard would begin it at its end. mu is held.
func (s *Session) places() []chat.CursorState {
	var list []chat.CursorState
	for _, t := range s.tails {
		_, held := s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: t.conversation})
		if !t.joining || held {
			list = append(list, chat.CursorState{ConversationID: t.conversation, Acked: t.acked})
		}
	}
	for id := range s.subs.exact {
		if _, held := s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: id}); held && s.tails[id] == nil {
			list = append(list, chat.CursorState{ConversationID: id})
		}
	}
	return list
}

// change begins a change of the stored subscriptions. mu is held.
func (s *Session) change() chat.SubscriptionChange {
	c := chat.SubscriptionChange{SessionID: s.kept.id, Epoch: s.kept.epoch, UserID: s.Principal.UserID}
	s.kept.exact = false
	for _, sub := range s.subs.byText {
		c.Subscriptions = append(c.Subscriptions, chat.SubscriptionState{
			Filter: sub.Text, QoS: sub.QoS, Identifier: sub.Identifier, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished,
		})
		s.kept.exact = s.kept.exact || sub.QoS == 2
	}
	return c
}

// SaveUnsubscribed stores that filters were removed, for a session that is kept:
// the conversations that none covers any more begin anew when they are covered
// again. It blocks for a round trip; Unavailable may be repeated.
func (s *Session) SaveUnsubscribed(ctx context.Context) error {
	if s.kept.id.IsZero() {
		return nil
	}
	s.mu.Lock()
	removed := s.kept.removed
	s.kept.removed = nil
	if s.closed { // what it knew is with its next connection; to write from here would undo that
		s.mu.Unlock()
		return errEnded
	}
	c := s.change()
	for _, f := range removed {
		switch covered, _ := s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: f.ID}); {
		case f.Kinds&chat.TopicMessages == 0 || covered:
		case f.ID.IsZero():
			c.EndAll = true
		default:
			c.End = append(c.End, f.ID)
		}
	}
	if c.EndAll {
		c.Keep = s.places()
	}
	s.mu.Unlock()
	_, err := s.router.sessions.ChangeSubscriptions(ctx, c)
	return err
}
