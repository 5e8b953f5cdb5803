package redis

import (
	"sync"
	"sync/atomic"
)

// peer is the queue of frames for one other node.
type peer struct {
	channel string

	mu     sync.Mutex // guards what follows
	frames [][]byte   // bounded by maxQueued, drop and count
	bytes  int        // of frames, perFrame included
	gone   bool       // it takes no more

	busy   atomic.Bool // a message is under way
	seq    uint64      // of the last message; owned by the sender
	packed []byte      // the last message's bytes, to be used again; owned by the sender
}

// parcel is one message for one peer.
type parcel struct {
	*peer
	bytes  []byte
	frames int
}

// pack makes a message of the frames that wait for a peer, up to packUpTo but at least
// one; nil if there are none.
func (l *Link) pack(q *peer) *parcel {
	q.mu.Lock()
	n, size := 0, 0
	for n < len(q.frames) && (n == 0 || size+frameSize(q.frames[n]) <= packUpTo) {
		size += frameSize(q.frames[n])
		n++
	}
	if n == 0 {
		q.mu.Unlock()
		return nil
	}
	now := q.frames[:n:n]
	freed := 0
	for _, f := range now {
		freed += len(f) + perFrame
	}
	if n == len(q.frames) {
		q.frames = nil
	} else {
		q.frames = q.frames[n:]
	}
	q.bytes -= freed
	q.busy.Store(true)
	q.mu.Unlock()
	l.metrics.queued.Sub(float64(freed))

	q.seq++
	b := appendHead(q.packed[:0], l.o.Node.ID, q.seq)
	for _, f := range now {
		b = appendFrame(b, f)
	}
	if q.packed = b; cap(b) > 2*packUpTo {
		q.packed = nil // one large frame is no reason to hold on to its memory
	}
	return &parcel{q, b, n}
}

// empty throws away what waits for a peer, for good if it is gone, and returns how many
// frames that were.
func (l *Link) empty(q *peer, gone bool) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.frames)
	l.metrics.queued.Sub(float64(q.bytes))
	q.frames, q.bytes, q.gone = nil, 0, q.gone || gone
	return n
}
