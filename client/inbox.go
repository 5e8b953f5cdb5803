package client

import (
	"context"
	"sync"
)

// receiveMaximum is how many unacknowledged events the server may send.
const receiveMaximum = 256

// maxInbox is how many events may wait for the handler. One connection brings at most
// receiveMaximum, but events of earlier connections may still wait.
const maxInbox = 4 * receiveMaximum

// place is an event's place in the logs.
type place struct {
	epoch        string
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
// An event that arrives again on another connection meanwhile keeps its position, and is
// acknowledged on that connection.
type inbox struct {
	mu      sync.Mutex
	queue   []*arrival         // mu guards
	waiting map[place]*arrival // mu guards: those in the queue, and the one being handled
	some    chan struct{}      // capacity 1: the queue is not empty
	room    chan struct{}      // capacity 1: an event has been handled
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

// put appends an event. While the inbox is full it blocks, and with it all reading from
// the connection, until that ends.
func (b *inbox) put(e *Event, life context.Context, packetID uint16) {
	at := place{e.Epoch, e.ConversationID, e.Seq}
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
			return // not acknowledged: it is delivered again
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
	delete(b.waiting, place{a.event.Epoch, a.event.ConversationID, a.event.Seq})
	life, packetID = a.life, a.packetID
	b.mu.Unlock()
	notify(b.room)
	return life, packetID
}
