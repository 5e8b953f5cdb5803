package delivery

import "time"

// At QoS 0 nothing is acknowledged. What was written to a connection may have gone to a line
// that is dead, or wait in a proxy: the cursor of a kept session must not count it before the
// device has shown that it is there. What was written before
//
//   - a PINGREQ is received with the next one, or with DISCONNECT: the client has read the
//     answer to the first (a client that gets none ends the connection, and not orderly),
//   - any packet that comes settleTime later, since not every client has to ping, was received
//     in all likelihood: a line that carries packets one way after so long works both ways,
//   - DISCONNECT is received if it was written goodbyeTime before: the client ends an
//     orderly connection, on which little can be under way.
//
// The price is that what came shortly before a connection was lost comes again.
const (
	settleTime  = 30 * time.Second
	goodbyeTime = time.Second
	proveEvery  = time.Second // how often other packets than PINGREQ are made use of
)

// proof is what a session knows of its device's presence on the connection. Session.mu
// guards it.
type proof struct {
	tails  []*tail   // with unproven events
	pings  uint32    // PINGREQs so far
	proved time.Time // when tails were last looked through
}

// unproven is what a tail has sent at QoS 0 and its cursor does not count: everything up to
// last, of which what is up to first will be proved earlier.
type unproven struct {
	first, last mark
	saved       int64 // the cursor that was saved last; -1: none
}

// mark is an event, and when it was written: after how many PINGREQs.
type mark struct {
	seq   int64
	at    time.Time
	pings uint32
}

// unproved notes that t.sent was written at QoS 0, or passed over after such an event. mu is
// held.
func (s *Session) unproved(t *tail) {
	m := mark{t.sent, time.Now(), s.proof.pings}
	if t.unproven == nil {
		t.unproven = &unproven{first: m, saved: t.acked}
		if t.dirty {
			t.unproven.saved = -1
		}
		s.proof.tails = append(s.proof.tails, t)
		s.toProve.Store(true)
	}
	t.unproven.last = m
	s.moved(t) // for the delivery receipt
}

// Heard notes that a packet has come from the client: a PINGREQ, its DISCONNECT, or another.
func (s *Session) Heard(ping, goodbye bool) {
	if !ping && !goodbye && !s.toProve.Load() { // a PINGREQ may come before what it proves is noted
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now, settle := time.Now(), settleTime
	switch {
	case ping:
		s.proof.pings++
	case goodbye:
		s.proof.pings++
		settle = goodbyeTime
	case now.Sub(s.proof.proved) < proveEvery:
		return
	}
	s.proof.proved = now
	left := s.proof.tails[:0]
	for _, t := range s.proof.tails {
		if s.tails[t.conversation] == t && !s.prove(t, now, settle) {
			left = append(left, t)
		}
	}
	clear(s.proof.tails[len(left):])
	s.proof.tails = left
	s.toProve.Store(len(left) > 0)
}

// prove moves a tail's cursor over what is proved, and reports whether that is everything.
// Events that are in the window come first. mu is held.
func (s *Session) prove(t *tail, now time.Time, settle time.Duration) bool {
	u := t.unproven
	proved := func(m mark) bool { return s.proof.pings-m.pings >= 2 || now.Sub(m.at) >= settle }
	switch {
	case s.window.holds(t):
		return false
	case proved(u.last):
		t.acked, t.unproven = max(t.acked, u.last.seq), nil
	case proved(u.first):
		t.acked, u.first = max(t.acked, u.first.seq), u.last
	default:
		return false
	}
	s.moved(t)
	return t.unproven == nil
}

// delivered returns how far a log counts as delivered for receipts: at QoS 0, where there is
// no acknowledgement, what was sent. mu is held.
func (s *Session) delivered(t *tail) int64 {
	if t.unproven == nil || s.window.holds(t) {
		return t.acked
	}
	return max(t.acked, t.unproven.last.seq)
}

// save reports whether a cursor is to be saved: not if it has not moved since. A nil unproven
// moves the cursor with every event.
func (u *unproven) save(acked int64) bool {
	if u == nil {
		return true
	}
	moved := u.saved != acked
	u.saved = acked
	return moved
}

// unsaved notes that saving the cursor has failed.
func (u *unproven) unsaved() {
	if u != nil {
		u.saved = -1
	}
}
