package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/parleymq/parley/chat"
)

// stored names a session's row in the store. id is zero if there is none: the session ends
// with its connection, on a lone node. Not changed after load.
type stored struct {
	id    chat.ID
	epoch int64
	kept  bool // the session survives its connection; otherwise the row only lets other nodes find the connection
}

// durable is what a session needs to survive its connection. Session.mu guards it.
type durable struct {
	expiry       time.Duration
	heldIDs      []uint16 // see releaseHeld; empty once the client is known to hold nothing
	lastReleased uint16   // the PUBCOMP for this one says that the client has processed all PUBRELs before it
	released     bool     // heldIDs was emptied on this connection

	dirty   []*tail       // whose acked is to be saved
	saving  []*tail       // whose acked is being saved, which may fail
	listed  bool          // the session is in Router.dirty
	removed []chat.Filter // filters whose removal is not saved yet
	proof   proof
	qos2    bool // it holds a filter at QoS 2, so the next packet identifier is saved too
}

// Epoch numbers the session's connection: of two connections of a device the one with the
// higher epoch is the newer. 0: connections are not numbered, on a lone node.
func (s *Session) Epoch() int64 { return s.stored.epoch }

// resendChunk is how many publications of an earlier connection are read at once.
const resendChunk = 50

// newSession returns the session of a connection: without subscriptions, not kept, and
// sending nothing before Start.
func (r *Router) newSession(o SessionOptions) *Session {
	s := &Session{
		Principal: o.Principal, ClientID: o.ClientID, router: r, sink: o.Sink, releasingIDs: o.Releasing, unackedAtPart: o.UnackedPublishes,
		tails: map[chat.ID]*tail{}, hints: map[chat.ID]int64{}, loading: 1,
	}
	s.window.limit, s.window.next = maxWindow, 1
	if o.ReceiveMaximum > 0 {
		s.window.limit = min(maxWindow, o.ReceiveMaximum)
	}
	return s
}

// load gives the session what is kept of its device, and the queue that its last
// connection has left; nil: none. It returns false if the session has ended meanwhile: the
// device's next connection was faster.
func (s *Session) load(st *chat.SessionState, expiry time.Duration, queue *Queue) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	hints := s.hints
	s.hints = nil
	if s.closed {
		return false
	}
	s.stored = stored{id: st.ID, epoch: st.Epoch, kept: !st.ID.IsZero() && (expiry > 0 || st.Present)}
	if !s.stored.kept {
		return true
	}
	var unacked map[uint16]inflight
	if queue != nil {
		unacked = s.adopt(queue)
	}
	s.expiry, s.resendSince, s.heldIDs, s.unacked = expiry, st.ResendSince, st.HeldPacketIDs, st.UnackedPublishes
	s.window.next = st.NextPacketID
	for _, sub := range st.Subscriptions {
		have := Subscription{Text: sub.Filter, QoS: sub.QoS, Identifier: sub.Identifier, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished, held: true}
		if have.Device = !chat.IsFilter(sub.Filter); !have.Device {
			var err error
			if have.Filter, err = chat.ParseFilter(sub.Filter); err != nil {
				continue // stored by a version that knew more filters
			}
		}
		s.subs.put(have)
		s.qos2 = s.qos2 || sub.QoS == 2
	}
	for _, c := range st.Cursors {
		if covered, _ := s.covers(c.ConversationID); covered {
			s.follow(&tail{conversation: c.ConversationID, sent: c.Acked, acked: c.Acked, known: c.LastSeq})
		}
	}
	s.countReceiptWants()
	s.restore(st.Inflight, unacked, st.NextPacketID)
	for id, seq := range hints { // committed since, perhaps in a conversation that the user has joined since
		if covered, _ := s.covers(id); !covered {
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

// restore puts what was unacknowledged at the end of the last connection back into the
// window. Some of it cannot be sent again: its conversation is not subscribed any more, the
// user has left it, or it was published to a device topic and has died with the process. That
// is settled, or at QoS 2, where the client may hold it, released.
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
		case l.Settled || e.tail == nil && l.QoS < 2:
			e.state = settled
		case l.Received || e.tail == nil: // PUBREL is sent
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

// Start lets the session send, once CONNACK is out: first what was unacknowledged when the
// last connection ended, then what the logs hold beyond its cursors, then live events.
func (s *Session) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loading--
	s.started = true
	s.releaseHeld()
	s.resume()
}

// After a crash it is not known which packet identifiers were in flight. A client that has
// received one of them at QoS 2 takes whatever comes under it for a repeat until it gets
// PUBREL; a client that has not answers PUBREL with PUBCOMP all the same (MQTT 5.0, 4.3.3).
// So PUBREL is sent for every identifier that may be held: a window before the last one
// saved, and as many after it as may have been used before the next save was due. After
// more crashes than are remembered it is sent for all identifiers there are.
const (
	heldBefore = maxWindow
	heldAfter  = 4096
)

// releaseHeld sends PUBREL for what the client may hold. mu is held.
func (s *Session) releaseHeld() {
	if !s.qos2 {
		return
	}
	before, after := heldBefore, heldAfter
	ids := s.heldIDs
	if len(ids) >= chat.MaxHeldPacketIDs {
		ids, before, after = ids[:1], 0, 65535
	}
	for _, held := range ids {
		for i := -before; i < after; i++ {
			s.lastReleased = uint16((int(held)-1+i+2*65535)%65535) + 1
			s.sink.Pubrel(s.lastReleased)
		}
	}
}

// list has Run save what has changed of the session. mu is held.
func (s *Session) list() {
	if !s.listed {
		s.listed = true
		s.router.noteDirty(s)
	}
}

// ResendSince returns the time after which a publish was stored that the client sends
// again on this connection; zero if its session is new.
func (s *Session) ResendSince() time.Time { return s.resendSince }

// Kept reports whether the session may survive its connection.
func (s *Session) Kept() bool { return s.stored.kept }

// UnackedPublishes returns what the client may send again on this connection.
func (s *Session) UnackedPublishes() []chat.UnackedPublish { return s.unacked }

// SetExpiry changes how long the session is kept after its connection, as DISCONNECT may
// (MQTT 5.0, 3.14.2.2.2).
func (s *Session) SetExpiry(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expiry = d
}

// resend is one publication to be sent again.
type resend struct {
	packetID uint16
	ref      chat.EventRef         // an event
	device   *chat.PublicationCopy // or a publication to a device topic
	received bool
}

// toResend returns the oldest publications that wait to be sent again, as many as there is
// room for.
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
		found, err := s.router.read(ctx, func(ctx context.Context) ([]chat.Event, error) {
			return s.router.sessions.ReadEvents(ctx, s.Principal.UserID, refs)
		})
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
			f := NewEventFrame(event, s.router.epoch)
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

// moved notes that a tail's acked is to be saved, as cursor and as delivery receipt. A tail
// that was dropped is not: what is stored for its conversation is its successor's. mu is
// held.
func (s *Session) moved(t *tail) {
	if t.dirty || !s.stored.kept && s.router.receipts == nil || s.tails[t.conversation] != t {
		return
	}
	t.dirty = true
	s.dirty = append(s.dirty, t)
	s.list()
}

// takeDirty returns the cursors to be saved, and notes the receipts. A session that is not
// kept has receipts only.
func (s *Session) takeDirty() (updates []chat.CursorUpdate, next chat.PacketIDUpdate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = false
	if s.closed {
		return nil, next
	}
	for _, t := range s.dirty {
		t.dirty = false
		if s.tails[t.conversation] != t {
			continue // dropped since
		}
		s.router.noteDelivered(s.Principal.UserID, t.conversation, s.delivered(t))
		if s.stored.kept && t.unproven.save(t.acked) {
			updates = append(updates, chat.CursorUpdate{SessionID: s.stored.id, Epoch: s.stored.epoch, ConversationID: t.conversation, Acked: t.acked})
		}
	}
	s.dirty, s.saving = nil, s.dirty
	if s.qos2 {
		next = chat.PacketIDUpdate{SessionID: s.stored.id, Epoch: s.stored.epoch, Next: max(1, s.window.next), Released: s.released}
	}
	return updates, next
}

// saved is called with the outcome of saving what takeDirty has returned.
func (s *Session) saved(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	saving := s.saving
	s.saving = nil
	for _, t := range saving {
		if err != nil && !s.closed {
			t.unproven.unsaved()
			s.moved(t)
		}
	}
}

// part returns what is to be stored at the end of the session's connection. mu is held.
func (s *Session) part(now time.Time) *chat.SessionPart {
	p := &chat.SessionPart{ID: s.stored.id, Epoch: s.stored.epoch, Now: now}
	if !s.stored.kept {
		return p
	}
	p.Expiry, p.NextPacketID, p.HeldPacketIDs = s.expiry, max(1, s.window.next), s.heldIDs
	if s.unackedAtPart != nil {
		p.UnackedPublishes = s.unackedAtPart()
	}
	seen := map[chat.ID]bool{}
	for _, t := range slices.Concat(s.saving, s.dirty) {
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

// positions asks how far the user's logs reach. For a session that is kept it stores, in
// the same transaction, the subscriptions and the cursors at which they begin.
func (s *Session) positions(ctx context.Context) ([]chat.Position, error) {
	if !s.stored.kept {
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
		} else if _, held := s.covers(sub.Filter.ID); !held {
			c.Begin = append(c.Begin, sub.Filter.ID)
		}
	}
	if s.subs.holdsAll() { // a conversation without a cursor was joined since, and is owed from its first event
		c.All, c.Begin = false, nil
	}
	c.EndAll, c.End = c.All, c.Begin // a cursor that an earlier subscription has left behind does not count
	if c.All {
		c.Keep = s.cursors()
	}
	s.mu.Unlock()
	return s.router.sessions.ChangeSubscriptions(ctx, c)
}

// errEnded is the answer to a change of a session whose connection has ended.
var errEnded = &chat.Error{Code: chat.Conflict, Op: "delivery.Subscribe", Msg: "the connection has ended"}

// cursors returns how far the session has acknowledged each log. A conversation that the
// user has joined since a filter covers it has one at 0, even while nothing of it has been
// sent: without it, a new wildcard would start it at the end of its log. mu is held.
func (s *Session) cursors() []chat.CursorState {
	var list []chat.CursorState
	for _, t := range s.tails {
		_, held := s.covers(t.conversation)
		if !t.joining || held {
			list = append(list, chat.CursorState{ConversationID: t.conversation, Acked: t.acked})
		}
	}
	for id := range s.subs.exact {
		if _, held := s.covers(id); held && s.tails[id] == nil {
			list = append(list, chat.CursorState{ConversationID: id})
		}
	}
	return list
}

// change returns a change that stores the session's subscriptions. mu is held.
func (s *Session) change() chat.SubscriptionChange {
	c := chat.SubscriptionChange{SessionID: s.stored.id, Epoch: s.stored.epoch, UserID: s.Principal.UserID}
	s.qos2 = false
	for _, sub := range s.subs.byText {
		c.Subscriptions = append(c.Subscriptions, chat.SubscriptionState{
			Filter: sub.Text, QoS: sub.QoS, Identifier: sub.Identifier, NoLocal: sub.NoLocal, RetainAsPublished: sub.RetainAsPublished,
		})
		s.qos2 = s.qos2 || sub.QoS == 2
	}
	return c
}

// SaveUnsubscribed stores that filters were removed, for a session that is kept: a
// conversation that no filter covers any more starts at the end of its log when it is
// subscribed to again. It blocks for a round trip; Unavailable may be repeated.
func (s *Session) SaveUnsubscribed(ctx context.Context) error {
	if !s.stored.kept {
		return nil
	}
	s.mu.Lock()
	removed := s.removed
	s.removed = nil
	if s.closed { // the session is its next connection's; to write from here would undo that one's changes
		s.mu.Unlock()
		return errEnded
	}
	c := s.change()
	for _, f := range removed {
		switch covered, _ := s.covers(f.ID); {
		case f.Kinds&chat.TopicMessages == 0 || covered:
		case f.ID.IsZero():
			c.EndAll = true
		default:
			c.End = append(c.End, f.ID)
		}
	}
	if c.EndAll {
		c.Keep = s.cursors()
	}
	s.mu.Unlock()
	_, err := s.router.sessions.ChangeSubscriptions(ctx, c)
	return err
}
