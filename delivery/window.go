package delivery

import "github.com/parleymq/parley/chat"

// window is the publications that a client has not acknowledged, oldest first. Packet
// identifiers are consecutive and wrap (1–65,535), so an identifier's entry is at its
// distance from the oldest one.
type window struct {
	entries []inflight // a ring: oldest at head
	head    int
	n       int
	oldest  uint16 // packet identifier of the entry at head; meaningless while n is 0
	next    uint16 // the next packet identifier
	limit   int    // the lower of the client's Receive Maximum and ours
	active  int    // entries in flight on this connection
	devices int    // of those, publications to device topics
	idle    int    // unsettled entries of an earlier connection, which must be sent again first
}

// inflight is one publication in the window: an event of a log, or one to a device topic.
type inflight struct {
	tail   *tail // of the log; nil: it is to a device topic
	seq    int64
	device *chat.PublicationCopy // nil once it is settled
	qos    byte
	state  inflightState
	idle   bool // of an earlier connection, and not sent again yet
}

type inflightState uint8

const (
	sent     inflightState = iota // QoS 1: until PUBACK; QoS 2: until PUBREC
	received                      // QoS 2: PUBREC has arrived, PUBREL is sent
	settled                       // acknowledged, but an older one is not
)

// full reports whether nothing new may be sent.
func (w *window) full() bool { return w.active >= w.limit || w.n >= maxWindow || w.idle > 0 }

// restore fills an empty window with what an earlier connection has left, oldest first and
// with consecutive packet identifiers from oldest.
func (w *window) restore(entries []inflight, oldest, next uint16) {
	w.entries, w.head, w.n, w.oldest, w.next = entries, 0, len(entries), oldest, next
	for i := range entries {
		if e := &entries[i]; e.state != settled {
			e.idle = true
			w.idle++
		}
	}
}

// wake notes that an entry of an earlier connection is in flight again.
func (w *window) wake(e *inflight) {
	if e.idle {
		e.idle = false
		w.idle--
		w.active++
		if e.device != nil {
			w.devices++
		}
	}
}

// push adds an entry and returns its packet identifier. The window is not full.
func (w *window) push(e inflight) uint16 {
	if w.n == len(w.entries) {
		grown := make([]inflight, max(8, 2*len(w.entries)))
		for i := range w.n {
			grown[i] = *w.at(i)
		}
		w.entries, w.head = grown, 0
	}
	if w.next == 0 {
		w.next = 1
	}
	id := w.next
	if w.n == 0 {
		w.oldest = id
	}
	w.n++
	w.active++
	if e.device != nil {
		w.devices++
	}
	*w.at(w.n - 1) = e
	w.next++ // 65,535 wraps to 0, which the next push turns into 1
	return id
}

// undo removes the newest entry: it was not written.
func (w *window) undo(id uint16) {
	e := w.at(w.n - 1)
	if e.device != nil {
		w.devices--
	}
	*e = inflight{}
	w.n--
	w.active--
	w.next = id
}

func (w *window) at(i int) *inflight { return &w.entries[(w.head+i)%len(w.entries)] }

// idAt returns the packet identifier of the i-th entry, from the oldest.
func (w *window) idAt(i int) uint16 { return uint16((int(w.oldest)-1+i)%65535) + 1 }

// find returns the entry with the packet identifier, or nil.
func (w *window) find(id uint16) *inflight {
	if id == 0 || w.n == 0 {
		return nil
	}
	i := int(id) - int(w.oldest)
	if i < 0 {
		i += 65535
	}
	if i >= w.n {
		return nil
	}
	return w.at(i)
}

// inFlight is find for what is not settled.
func (w *window) inFlight(id uint16) *inflight {
	if e := w.find(id); e != nil && e.state != settled {
		return e
	}
	return nil
}

// holds reports whether a publication of the tail is in the window.
func (w *window) holds(t *tail) bool {
	for i := range w.n {
		if w.at(i).tail == t {
			return true
		}
	}
	return false
}

// settle marks the entry as acknowledged and removes the settled ones at the front. The
// acked of their tails moves over them in order, so never past one in flight; moved is
// called for each.
func (w *window) settle(e *inflight, moved func(*tail)) {
	switch {
	case e.state == settled:
		return
	case e.idle:
		w.idle--
	default:
		w.active--
		if e.device != nil {
			w.devices--
		}
	}
	e.state, e.idle, e.device = settled, false, nil
	w.trim(moved)
}

// trim removes the settled entries at the front.
func (w *window) trim(moved func(*tail)) {
	for w.n > 0 && w.at(0).state == settled {
		first := w.at(0)
		if first.tail != nil {
			first.tail.acked = max(first.tail.acked, first.seq)
			moved(first.tail)
		}
		*first = inflight{}
		w.head = (w.head + 1) % len(w.entries)
		w.n--
		if w.oldest++; w.oldest == 0 {
			w.oldest = 1
		}
	}
}
