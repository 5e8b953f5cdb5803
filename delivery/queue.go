package delivery

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/parleymq/parley/chat"
)

const (
	offerLimit     = 64        // publications that wait, from which on Offer finds no room
	maxQueues      = 100_000   // of devices that are away
	maxQueuedBytes = 256 << 20 // over all queues
)

// Queue is a session's queue of publications to device topics: those that wait for room in
// the window, for room in the connection or, if the session is kept, for the device to
// come back. It outlives connections, not the process. At most chat.MaxQueuedPublications
// and Options.QueueBytes wait; beyond that, publications at QoS 0 are dropped first,
// oldest first, and then what arrives.
//
// To the broker for device topics it stands for the session: it implements
// topics.Receiver. All methods are safe for concurrent use and none blocks.
type Queue struct {
	router  *Router
	device  chat.Device
	session atomic.Pointer[Session] // the connected one; nil: none. Changed under mu

	mu       sync.Mutex
	reliable []chat.PublicationCopy // mu guards: at QoS 1 and 2, oldest first
	qos0     []chat.PublicationCopy // mu guards: oldest first
	bytes    int                    // mu guards: of both
	wantRoom bool                   // mu guards: Offer has found no room
	ended    bool                   // mu guards: nothing is accepted any more
	dropped  int                    // mu guards: copies since the last line in the log about it
	told     rate.Sometimes         // mu guards: limits those lines
	room     chan struct{}          // holds a value when there is room for Offer again

	// Of the last connection, while there is none:
	stored    stored              // mu guards
	expires   time.Time           // mu guards
	unacked   map[uint16]inflight // mu guards: sent and not acknowledged, by packet identifier
	releasing []uint16            // mu guards: QoS 2 publishes of the client's that wait for PUBREL
}

// Present implements topics.Receiver.
func (q *Queue) Present() bool { return q.session.Load() != nil }

// Receive implements topics.Receiver: it sends the copy, or keeps it until there is room.
func (q *Queue) Receive(c chat.PublicationCopy) {
	for {
		if s := q.session.Load(); s != nil {
			if s.receive(q, c) {
				return
			}
			continue // its connection has just ended
		}
		q.mu.Lock()
		away := q.session.Load() == nil
		if away && c.QoS > 0 { // at QoS 0 a device that is away gets nothing (MQTT 5.0, 3.1.2.11.2)
			q.put(c)
		}
		q.mu.Unlock()
		if away {
			return
		}
	}
}

// receive sends a copy, or keeps it in the queue; false if the session has ended.
func (s *Session) receive(q *Queue, c chat.PublicationCopy) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(*q.list(c.QoS)) > 0 || !s.sendDevice(c) {
		q.put(c)
	}
	return true
}

// Offer is Receive for callers that wait until there is room: it returns false if there is
// none, and Room then holds a value when there may be.
func (q *Queue) Offer(c chat.PublicationCopy) bool {
	q.mu.Lock()
	q.wantRoom = len(q.reliable)+len(q.qos0) >= offerLimit || q.bytes >= q.router.queueBytes/2
	full := q.wantRoom
	q.mu.Unlock()
	if !full {
		q.Receive(c)
	}
	return !full
}

// Room is where Offer's callers wait; one at a time.
func (q *Queue) Room() <-chan struct{} { return q.room }

// list returns where copies at a QoS wait. mu is held.
func (q *Queue) list(qos byte) *[]chat.PublicationCopy {
	if qos == 0 {
		return &q.qos0
	}
	return &q.reliable
}

// put appends a copy, or drops one. mu is held.
func (q *Queue) put(c chat.PublicationCopy) {
	if q.ended {
		return
	}
	cost := c.Cost()
	for len(q.reliable)+len(q.qos0) >= chat.MaxQueuedPublications || q.bytes+cost > q.router.queueBytes {
		q.drop("its queue is full")
		if len(q.qos0) == 0 {
			return
		}
		q.pop(&q.qos0)
	}
	if q.router.count(cost) > maxQueuedBytes {
		q.router.count(-cost)
		q.drop("the queues of all sessions are full")
		return
	}
	q.bytes += cost
	list := q.list(c.QoS)
	*list = append(*list, c)
}

// drop counts a copy that is dropped, and logs that once a minute. mu is held.
func (q *Queue) drop(why string) {
	q.router.metrics.deviceDropped.Inc()
	q.dropped++
	q.told.Do(func() {
		q.router.lossLog(q.device).Warn("device publications dropped", "reason", why, "dropped", q.dropped)
		q.dropped = 0
	})
}

// pop removes the first copy of one of the lists. mu is held.
func (q *Queue) pop(list *[]chat.PublicationCopy) {
	cost := (*list)[0].Cost()
	(*list)[0] = chat.PublicationCopy{}
	if *list = (*list)[1:]; len(*list) == 0 {
		*list = nil
	}
	q.bytes -= cost
	q.router.count(-cost)
}

// end drops what waits; nothing is accepted any more.
func (q *Queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.router.count(-q.bytes)
	q.reliable, q.qos0, q.bytes, q.unacked = nil, nil, 0, nil
}

// Queue returns the session's queue, which is made on first need.
func (s *Session) Queue() *Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue == nil {
		s.queue = s.newQueue()
		if s.closed {
			s.queue.ended = true
		} else {
			s.queue.session.Store(s)
		}
	}
	return s.queue
}

func (s *Session) newQueue() *Queue {
	return &Queue{router: s.router, device: s.device(), told: rate.Sometimes{First: 1, Interval: time.Minute}, room: make(chan struct{}, 1)}
}

// Releasing returns what SessionOptions.Releasing has returned at the end of the session's
// last connection.
func (s *Session) Releasing() []uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue == nil {
		return nil
	}
	s.queue.mu.Lock()
	defer s.queue.mu.Unlock()
	return s.queue.releasing
}

// DeviceSubscriptions returns the session's filters on device topics.
func (s *Session) DeviceSubscriptions() []Subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Subscription
	for _, sub := range s.subs.byText {
		if sub.Device {
			list = append(list, *sub)
		}
	}
	return list
}

// detachQueue detaches the queue of a session whose connection has ended, and reports
// whether it is to be kept for the next one. mu is held.
func (s *Session) detachQueue(now time.Time) (q *Queue, keep bool) {
	keep = s.stored.kept && s.expiry > 0 && !s.superseded
	var releasing []uint16
	if keep && s.releasingIDs != nil {
		releasing = s.releasingIDs()
	}
	if s.queue == nil && len(releasing) > 0 {
		s.queue = s.newQueue()
	}
	if q = s.queue; q == nil {
		return nil, false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stored, q.expires, q.releasing = s.stored, now.Add(s.expiry), releasing
	for i := range s.window.n {
		if e := s.window.at(i); e.device != nil && e.state != settled {
			if q.unacked == nil {
				q.unacked = map[uint16]inflight{}
			}
			q.unacked[s.window.idAt(i)] = *e
		}
	}
	for len(q.qos0) > 0 {
		q.pop(&q.qos0)
	}
	q.session.Store(nil)
	return q, keep
}

// continues reports whether a session that was taken over is the one that the queue
// belongs to, and no other node has had it in between.
func (q *Queue) continues(st *chat.SessionState) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return st.Present && st.From == "" && q.stored.kept && q.stored.id == st.ID
}

// adopt gives the session the queue of its last connection, and returns what that has left
// unacknowledged. mu is held.
func (s *Session) adopt(q *Queue) map[uint16]inflight {
	q.mu.Lock()
	defer q.mu.Unlock()
	s.queue = q
	unacked := q.unacked
	q.unacked = nil
	q.session.Store(s)
	return unacked
}

// parkQueue keeps the queue of a device that is away, or ends it if there are too many.
func (r *Router) parkQueue(key deviceKey, q *Queue) {
	r.queuesMu.Lock()
	old, full := r.queues[key], len(r.queues) >= maxQueues
	if full = full && old == nil; !full {
		r.queues[key] = q
	}
	r.queuesMu.Unlock()
	if full {
		q.locked(func() bool { q.drop("too many devices are away"); return true })
		r.endQueue(q)
	}
	if old != nil && old != q {
		r.endQueue(old)
	}
}

// fetchQueue removes and returns the queue of a device, if that was away.
func (r *Router) fetchQueue(key deviceKey) *Queue {
	r.queuesMu.Lock()
	defer r.queuesMu.Unlock()
	q := r.queues[key]
	delete(r.queues, key)
	return q
}

// endQueue ends a queue whose session has ended.
func (r *Router) endQueue(q *Queue) {
	q.end()
	if r.ended != nil {
		r.ended(q)
	}
}

// dropQueue ends the queue of a device that is away and has connected at another node, with
// the given epoch.
func (r *Router) dropQueue(key deviceKey, epoch int64) {
	r.queuesMu.Lock()
	q := r.queues[key]
	if q != nil && q.locked(func() bool { return q.stored.epoch < epoch }) {
		delete(r.queues, key)
	} else {
		q = nil
	}
	r.queuesMu.Unlock()
	if q != nil {
		r.endQueue(q)
	}
}

// expireQueues ends the queues of sessions that have expired.
func (r *Router) expireQueues(now time.Time) {
	var expired []*Queue
	r.queuesMu.Lock()
	for key, q := range r.queues {
		if q.locked(func() bool { return q.expires.Before(now) }) {
			delete(r.queues, key)
			expired = append(expired, q)
		}
	}
	r.queuesMu.Unlock()
	for _, q := range expired {
		r.endQueue(q)
	}
}

// locked evaluates a condition under mu.
func (q *Queue) locked(condition func() bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return condition()
}

// count adds to the bytes that wait in queues, and returns how many do.
func (r *Router) count(more int) int64 { return r.queuedBytes.Add(int64(more)) }

// Waiting returns how many bytes wait in queues, over all sessions.
func (r *Router) Waiting() int64 { return r.queuedBytes.Load() }

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
		s.lostTooLarge(c.Topic)
	case c.QoS > 0:
		s.logNext = true
	}
	return true
}

// deviceRoom reports whether a device publication may enter the window. While a log is
// behind, device publications have at most half of the window; a window of one entry
// alternates. mu is held.
func (s *Session) deviceRoom() bool {
	w := &s.window
	switch {
	case w.full():
		return false
	case len(s.behind) == 0:
		return true
	case w.limit == 1:
		return !s.logNext
	}
	return w.devices < w.limit/2
}

// logRoom returns how many events of logs may enter the window. Whenever an entry becomes
// free, the queue is served first (pump), so logs need not leave it any room, unless the
// window has one entry only. mu is held.
func (s *Session) logRoom() int {
	w := &s.window
	if w.full() {
		return 0
	}
	if w.limit == 1 && !s.logNext && s.queue != nil && s.queue.locked(func() bool { return len(s.queue.reliable) > 0 }) {
		return 0
	}
	return w.limit - w.active
}

// pump sends what waits in the queue, as far as there is room. mu is held.
func (s *Session) pump() {
	q := s.queue
	if q == nil || s.closed {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	sent := false
	for _, list := range [2]*[]chat.PublicationCopy{&q.qos0, &q.reliable} {
		for len(*list) > 0 && s.sendDevice((*list)[0]) {
			q.pop(list)
			sent = true
		}
	}
	if sent && q.wantRoom && len(q.reliable)+len(q.qos0) <= offerLimit/2 {
		q.wantRoom = false
		select {
		case q.room <- struct{}{}:
		default:
		}
	}
}

// expired reports whether a publication is not to be sent any more.
func expired(c *chat.PublicationCopy, now time.Time) bool {
	_, ok := c.Remaining(now)
	return !ok
}
