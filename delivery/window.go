package delivery

// window is the publications that a client has not acknowledged, oldest first.
// Packet identifiers are handed out in a circle (1–65,535), so an identifier's
// place is its distance from the oldest one.
type window struct {
	entries []inflight // a ring: oldest at head
	head    int
	n       int
	oldest  uint16 // packet identifier of the entry at head; meaningless while n is 0
	next    uint16 // the next packet identifier
	limit   int    // the lower of the client's Receive Maximum and ours
}

// inflight is one publication on its way.
type inflight struct {
	tail  *tail
	seq   int64
	qos   byte
	state inflightState
}

type inflightState uint8

const (
	sent     inflightState = iota // QoS 1: until PUBACK; QoS 2: until PUBREC
	received                      // QoS 2: PUBREC is here, PUBREL is out
	settled                       // acknowledged, but an older one is not
)

func (w *window) full() bool { return w.n >= w.limit }

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
	*w.at(w.n - 1) = e
	w.next++ // 65,535 wraps to 0, which the next push turns into 1
	return id
}

// undo takes back the newest entry: it was not written.
func (w *window) undo(id uint16) {
	w.n--
	w.next = id
}

func (w *window) at(i int) *inflight { return &w.entries[(w.head+i)%len(w.entries)] }

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

// settle marks the entry as acknowledged and takes the settled ones off the front.
// A tail's acked moves over them in order, so never past one that is on its way.
func (w *window) settle(e *inflight) {
	e.state = settled
	for w.n > 0 && w.at(0).state == settled {
		first := w.at(0)
		first.tail.acked = first.seq
		*first = inflight{}
		w.head = (w.head + 1) % len(w.entries)
		w.n--
		if w.oldest++; w.oldest == 0 {
			w.oldest = 1
		}
	}
}
