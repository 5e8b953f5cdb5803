package client

import (
	"context"
	"sync"
)

// receiveMaximum is how many events the server sends beyond the last acknowledged.
const receiveMaximum = 256

// maxInbox is how many events may wait for the handler. The server sends no more than
// receiveMaximum; but connections that end may leave theirs behind.
const maxInbox = 4 * receiveMaximum

// place is an event's place in the logs.
type place struct {
	conversation ID
	seq          int64
}

// arrival is an event that waits for the handler.
type arrival struct {
	event    *Event
	life     context.Context // of the connection that brought it last
	packetID uint16          // there
}

// inbox holds the events that have arrived, in order, until they have been handled.
// An event that comes again meanwhile, on another connection, keeps its turn and is
// acknowledged there.
type inbox struct {
	mu      sync.Mutex
	queue   []*arrival         // mu guards
	waiting map[place]*arrival // mu guards: those in the queue, and the one being handled
	some    chan struct{}      // one place: there is something in the queue
	room    chan struct{}      // one place: something has been handled
}

func newInbox() *inbox {
	return &inbox{waiting: map[place]*arrival{}, some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// put appends an event. When the inbox is full it waits, and so does everything else
// on the connection; not longer than that lives.
func (b *inbox) put(e *Event, life context.Context, packetID uint16) {
	at := place{e.ConversationID, e.Seq}
	for {
		b.mu.Lock()
		a, again := b.waiting[at]
		switch {
		case again:
			a.life, a.packetID = life, packetID
		case len(b.queue) < maxInbox:
			a = &arrival{e, life, packetID}
			b.queue, b.waiting[at] = append(b.queue, a), a
		}
		b.mu.Unlock()
		if a != nil {
			notify(b.some)
			return
		}
		select {
		case <-b.room:
		case <-life.Done():
			return // not acknowledged: it comes again
		}
	}
}

// take returns the next event, or nil when ctx has ended.
func (b *inbox) take(ctx context.Context) *arrival {
	for {
		if ctx.Err() != nil {
			return nil
		}
		b.mu.Lock()
		if len(b.queue) > 0 {
			a := b.queue[0]
			b.queue[0] = nil
			b.queue = b.queue[1:]
			b.mu.Unlock()
			return a
		}
		b.mu.Unlock()
		select {
		case <-b.some:
		case <-ctx.Done():
		}
	}
}

// done forgets an event that has been taken, and returns where to acknowledge it.
func (b *inbox) done(a *arrival) (life context.Context, packetID uint16) {
	b.mu.Lock()
	delete(b.waiting, place{a.event.ConversationID, a.event.Seq})
	life, packetID = a.life, a.packetID
	b.mu.Unlock()
	notify(b.room)
	return life, packetID
}
