package delivery

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	feedRoom = 64 // publications that wait, beyond which Offer finds no room
	maxAway  = 100_000
	maxBoxes = 256 << 20 // bytes that wait in boxes, all together
)

// Queue holds a device's publications to device topics that wait: for room in the
// window, for room in the connection, or, of a session that is kept, for the device to
// come back. It outlives connections, not the process. At most
// chat.MaxQueuedPublications and chat.MaxQueuedBytes wait; beyond that those at QoS 0
// are dropped first, the oldest of them, and then what comes.
//
// It is what the broker for device topics knows of a session: it implements
// topics.Receiver. All methods are safe for concurrent use and none blocks.
type Queue struct {
	router *Router

	session atomic.Pointer[Session] // that is connected; nil: none. Changed under mu

	mu       sync.Mutex
	queue    []chat.PublicationCopy // mu guards: at QoS 1 and 2, oldest first
	zero     []chat.PublicationCopy // mu guards: at QoS 0, oldest first
	bytes    int                    // mu guards: of both
	wantRoom bool                   // mu guards: Offer has found no room
	ended    bool                   // mu guards: nothing is taken any more
	room     chan struct{}          // holds a value when there is room for Offer again

	// While no connection has it:
	id      chat.ID             // mu guards: of the stored session
	epoch   int64               // mu guards: of the last connection
	expires time.Time           // mu guards
	left    map[uint16]inflight // mu guards: sent and not acknowledged, by packet identifier

	releasing []uint16 // mu guards: QoS 2 publishes of the client's that wait for PUBREL
}

// Present implements topics.Receiver.
func (b *Queue) Present() bool { return b.session.Load() != nil }

// Receive implements topics.Receiver: it sends the copy, or keeps it until there is room.
func (b *Queue) Receive(c chat.PublicationCopy) {
	for {
		s := b.session.Load()
		if s == nil {
			b.mu.Lock()
			if b.session.Load() == nil {
				b.put(c, true)
				b.mu.Unlock()
				return
			}
			b.mu.Unlock()
		} else if s.receive(b, c) {
			return
		}
	}
}

// Offer is Receive for those who wait until there is room: it returns false if there
// is none. Room holds a value when there may be.
func (b *Queue) Offer(c chat.PublicationCopy) bool {
	b.mu.Lock()
	if len(b.queue)+len(b.zero) >= feedRoom || b.bytes >= chat.MaxQueuedBytes/2 {
		b.wantRoom = true
		b.mu.Unlock()
		return false
	}
	b.mu.Unlock()
	b.Receive(c)
	return true
}

// Room is where Offer's callers wait; one at a time.
func (b *Queue) Room() <-chan struct{} { return b.room }

// Waiting returns how many publications wait, and their bytes.
func (b *Queue) Waiting() (n, bytes int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) + len(b.zero), b.bytes
}

// put keeps a copy, or drops one. mu is held.
func (b *Queue) put(c chat.PublicationCopy, away bool) {
	if b.ended || away && c.QoS == 0 { // nobody is there to take it (MQTT 5.0, 3.1.2.11.2)
		return
	}
	cost := c.Cost()
	for len(b.queue)+len(b.zero) >= chat.MaxQueuedPublications || b.bytes+cost > chat.MaxQueuedBytes {
		if len(b.zero) == 0 {
			b.router.metrics.deviceDropped.Inc()
			return
		}
		b.bytes -= b.zero[0].Cost()
		b.router.waits(-b.zero[0].Cost())
		b.zero = shift(b.zero)
		b.router.metrics.deviceDropped.Inc()
	}
	if b.router.waits(cost) > maxBoxes {
		b.router.waits(-cost)
		b.router.metrics.deviceDropped.Inc()
		return
	}
	b.bytes += cost
	if c.QoS == 0 {
		b.zero = append(b.zero, c)
	} else {
		b.queue = append(b.queue, c)
	}
}

// shift takes the first one off.
func shift(list []chat.PublicationCopy) []chat.PublicationCopy {
	list[0] = chat.PublicationCopy{}
	if list = list[1:]; len(list) == 0 {
		return nil
	}
	return list
}

// first returns the oldest copy at QoS 1 and 2, or the oldest at QoS 0.
func (b *Queue) first(zero bool) (chat.PublicationCopy, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := b.queue
	if zero {
		list = b.zero
	}
	if len(list) == 0 {
		return chat.PublicationCopy{}, false
	}
	return list[0], true
}

// pop takes what first has returned. The session is locked, so that it is still there;
// only one at QoS 0 may have been dropped meanwhile.
func (b *Queue) pop(c chat.PublicationCopy) {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := &b.queue
	if c.QoS == 0 {
		list = &b.zero
	}
	if len(*list) == 0 || (*list)[0].Publication != c.Publication {
		return
	}
	*list = shift(*list)
	b.bytes -= c.Cost()
	b.router.waits(-c.Cost())
	if b.wantRoom && len(b.queue)+len(b.zero) <= feedRoom/2 {
		b.wantRoom = false
		select {
		case b.room <- struct{}{}:
		default:
		}
	}
}

// waits reports whether anything waits at QoS 1 or 2, or at QoS 0.
func (b *Queue) waits() (queue, zero bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.queue) > 0, len(b.zero) > 0
}

// end drops what waits; nothing is taken any more.
func (b *Queue) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.router.waits(-b.bytes)
	b.queue, b.zero, b.bytes, b.left = nil, nil, 0, nil
}

// Queue returns where the session's device publications wait, and makes it on first need.
func (s *Session) Queue() *Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.box == nil {
		s.box = s.newBox()
		if s.closed {
			s.box.ended = true
		} else {
			s.box.session.Store(s)
		}
	}
	return s.box
}

func (s *Session) newBox() *Queue { return &Queue{router: s.router, room: make(chan struct{}, 1)} }

// Releasing returns what SessionOptions.Releasing of the session's last connection has
// left.
func (s *Session) Releasing() []uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.box == nil {
		return nil
	}
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	return s.box.releasing
}

// DeviceSubscriptions returns the filters on device topics that the session holds.
func (s *Session) DeviceSubscriptions() []Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Subscription
	for _, sub := range s.subs.byText {
		if sub.Device {
			list = append(list, sub)
		}
	}
	return list
}

// park takes the box of a session whose connection has ended out of it. mu is held.
func (s *Session) park(now time.Time) (b *Queue, keep bool) {
	keep = !s.kept.id.IsZero() && s.kept.expiry > 0 && !s.elsewhere
	var releasing []uint16
	if keep && s.stillReleasing != nil {
		releasing = s.stillReleasing()
	}
	if s.box == nil && len(releasing) > 0 {
		s.box = s.newBox()
	}
	if b = s.box; b == nil {
		return nil, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.releasing = releasing
	b.id, b.epoch, b.expires = s.kept.id, s.kept.epoch, now.Add(s.kept.expiry)
	for i := range s.window.n {
		if e := s.window.at(i); e.device != nil && e.state != settled {
			if b.left == nil {
				b.left = map[uint16]inflight{}
			}
			b.left[s.window.idAt(i)] = *e
		}
	}
	for _, c := range b.zero {
		b.bytes -= c.Cost()
		s.router.waits(-c.Cost())
	}
	b.zero = nil
	b.session.Store(nil)
	return b, keep
}

// follows reports whether a session that was taken is the one that the box was left by,
// and no other node has had it in between.
func (b *Queue) follows(st *chat.SessionState) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return st.Present && st.From == "" && !b.id.IsZero() && b.id == st.ID
}

// boxMoved ends the box of a device that is away, and has connected at another node with
// the given epoch.
func (r *Router) boxMoved(key deviceKey, epoch int64) {
	r.boxes.mu.Lock()
	b := r.boxes.away[key]
	if b != nil {
		b.mu.Lock()
		older := b.epoch < epoch
		b.mu.Unlock()
		if !older {
			b = nil
		} else {
			delete(r.boxes.away, key)
		}
	}
	r.boxes.mu.Unlock()
	if b != nil {
		r.endBox(b)
	}
}

// adopt gives the session the box of its last connection. mu is held.
func (s *Session) adopt(b *Queue) map[uint16]inflight {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.box = b
	left := b.left
	b.left = nil
	b.session.Store(s)
	return left
}

// boxes are those of sessions that are kept, and whose devices are away.
type boxes struct {
	mu   sync.Mutex
	away map[deviceKey]*Queue // mu guards
}

// leave puts a box away, or ends it if there are too many.
func (r *Router) leave(key deviceKey, b *Queue) {
	r.boxes.mu.Lock()
	old := r.boxes.away[key]
	full := old == nil && len(r.boxes.away) >= maxAway
	if !full {
		if r.boxes.away == nil {
			r.boxes.away = map[deviceKey]*Queue{}
		}
		r.boxes.away[key] = b
	}
	r.boxes.mu.Unlock()
	if full {
		r.metrics.deviceDropped.Inc()
		r.endBox(b)
	}
	if old != nil && old != b {
		r.endBox(old)
	}
}

// fetch takes the box of a device, if it is away.
func (r *Router) fetch(key deviceKey) *Queue {
	r.boxes.mu.Lock()
	defer r.boxes.mu.Unlock()
	b := r.boxes.away[key]
	delete(r.boxes.away, key)
	return b
}

// endBox ends a box whose session has ended, and says so.
func (r *Router) endBox(b *Queue) {
	b.end()
	if r.ended != nil {
		r.ended(b)
	}
}

// expireBoxes ends those of sessions that have expired.
func (r *Router) expireBoxes(now time.Time) {
	var expired []*Queue
	r.boxes.mu.Lock()
	for key, b := range r.boxes.away {
		b.mu.Lock()
		over := b.expires.Before(now)
		b.mu.Unlock()
		if over {
			delete(r.boxes.away, key)
			expired = append(expired, b)
		}
	}
	r.boxes.mu.Unlock()
	for _, b := range expired {
		r.endBox(b)
	}
}

// waits counts bytes that wait in boxes, and returns how many do.
func (r *Router) waits(more int) int64 {
	r.metrics.deviceWaiting.Add(float64(more))
	return r.boxBytes.Add(int64(more))
}

// Waiting returns how many bytes wait in boxes, all together.
func (r *Router) Waiting() int64 { return r.boxBytes.Load() }

// receive sends a copy, or keeps it in the box; false if the session has ended.
func (s *Session) receive(b *Queue, c chat.PublicationCopy) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	queue, zero := b.waits()
	if c.QoS == 0 && !zero || c.QoS > 0 && !queue { // nothing that must come before it
		if s.sendDevice(c) {
			return true
		}
	}
	b.mu.Lock()
	b.put(c, false)
	b.mu.Unlock()
	return true
}

// sendDevice writes a copy, if there is room for it. mu is held.
func (s *Session) sendDevice(c chat.PublicationCopy) bool {
	if !s.started || s.stalled || c.QoS > 0 && !s.deviceRoom() {
		return false
	}
	if !c.Expires.IsZero() && expired(&c, time.Now()) {
		return true // [MQTT-3.3.2-5]
	}
	p := Packet{QoS: c.QoS, Retain: c.RetainFlag, Subscriptions: c.Subscriptions}
	if c.QoS > 0 {
		p.ID = s.window.push(inflight{device: &c, qos: c.QoS})
	}
	outcome := s.sink.Deliver(c.Publication, p)
	if outcome != Written && c.QoS > 0 {
		s.window.undo(p.ID)
	}
	switch {
	case outcome == NoRoom:
		s.stalled = true
		return false
	case outcome == TooLarge:
		s.router.metrics.deviceDropped.Inc()
	case c.QoS > 0:
		s.turnOfLog = true
	}
	return true
}

// deviceRoom reports whether a device publication may enter the window. While the
// session is behind in a log, at most half of it is theirs; where it has one place only,
// they take turns. mu is held.
func (s *Session) deviceRoom() bool {
	w := &s.window
	switch {
	case w.full():
		return false
	case len(s.behind) == 0:
		return true
	case w.limit == 1:
		return !s.turnOfLog
	}
	return w.devices < w.limit/2
}

// logRoom returns how many events of logs may enter the window. Whenever a place becomes
// free, device publications that wait are asked first (pump), so it need not spare any
// for them, unless there is one only. mu is held.
func (s *Session) logRoom() int {
	w := &s.window
	if w.full() {
		return 0
	}
	if w.limit == 1 && !s.turnOfLog && s.box != nil {
		if queue, _ := s.box.waits(); queue {
			return 0
		}
	}
	return w.limit - w.active
}

// pump sends what waits in the box, as far as there is room. mu is held.
func (s *Session) pump() {
	if s.box == nil || s.closed {
		return
	}
	for _, zero := range [2]bool{true, false} {
		for {
			c, ok := s.box.first(zero)
			if !ok || !s.sendDevice(c) {
				break
			}
			s.box.pop(c)
		}
	}
}

// expired reports whether a publication is not to be sent any more.
func expired(c *chat.PublicationCopy, now time.Time) bool {
	_, ok := c.Remaining(now)
	return !ok
}
