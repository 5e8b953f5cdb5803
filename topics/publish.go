package topics

import (
	"context"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

// Lane keeps the publications of one connection in order while retained ones among them
// wait for their commit. The zero value is ready.
type Lane struct {
	ClientID string // of the connection's device
	Epoch    int64  // of the connection; 0: it has no number

	mu      sync.Mutex
	waiting []*publishing // mu guards: oldest first; bounded by the connection's acknowledging window
	running bool          // mu guards: a call of advance is delivering the first ones
}

// publishing is a publication between its arrival and its acknowledgement.
type publishing struct {
	pub   *chat.Publication
	user  chat.ID
	from  *Lane // of the connection that it came over, or whose will it is
	lane  *Lane
	done  func(matched bool, err error)
	ready bool  // Lane.mu guards: it is committed, failed, or need not be committed
	err   error // Lane.mu guards
}

// Publish delivers a user's publication; with Retain set, after its commit. done is called
// once, from any goroutine: after delivery, with whether any filter covers the publication,
// or with the error that prevented it (Quota: there are too many retained messages;
// Unavailable: it could not be stored and may be sent again, or it was to be retained and
// the device has connected to another node). Publications in one lane are
// delivered in order.
//
// It does not wait for receivers. While too many retained messages wait for their commit it
// blocks, for up to 10 s and until ctx ends.
func (e *Engine) Publish(ctx context.Context, lane *Lane, user chat.ID, p *chat.Publication, done func(matched bool, err error)) {
	e.publish(ctx, &publishing{pub: p, user: user, from: lane, lane: lane, done: done, ready: !p.Retain})
}

func (e *Engine) publish(ctx context.Context, w *publishing) {
	e.metrics.published.Inc()
	lane := w.lane
	lane.mu.Lock()
	if w.ready && len(lane.waiting) == 0 {
		lane.mu.Unlock()
		e.finish(w)
		return
	}
	lane.waiting = append(lane.waiting, w)
	lane.mu.Unlock()
	if w.ready {
		e.advance(lane) // those before it may have been delivered just now
		return
	}
	if err := e.queue.Put(ctx, w); err != nil {
		e.settle(w, &chat.Error{Code: chat.Unavailable, Op: "topics.Publish", Msg: "too many retained messages wait to be stored; send it again", Err: err})
	}
}

// PublishWill publishes what a device has left as its will on a connection with the given
// epoch, with its message expiry interval (0: none), as Publish does, if the device still
// may. Where there are other nodes, the store is asked before whether the device has a newer
// connection there, also about a will that is not retained: then it is not published.
func (e *Engine) PublishWill(ctx context.Context, u chat.TopicUser, epoch int64, p *chat.Publication, expiry time.Duration, done func(error)) {
	if err := e.MayPublish(u, p.Topic); err != nil {
		done(err)
		return
	}
	if expiry > 0 {
		p.Expires = time.Now().Add(expiry)
	}
	e.publish(ctx, &publishing{
		pub: p, user: u.Principal.UserID, from: &Lane{ClientID: u.ClientID, Epoch: epoch}, lane: &e.wills,
		done: func(_ bool, err error) { done(err) }, ready: !p.Retain && (e.o.Forward == nil || epoch == 0),
	})
}

// settle gives a publication that has waited its outcome.
func (e *Engine) settle(w *publishing, err error) {
	w.lane.mu.Lock()
	w.ready, w.err = true, err
	w.lane.mu.Unlock()
	e.advance(w.lane)
}

// advance delivers what need not wait any more, one caller at a time.
func (e *Engine) advance(l *Lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		return
	}
	l.running = true
	for len(l.waiting) > 0 && l.waiting[0].ready {
		first := l.waiting[0]
		l.mu.Unlock()
		e.finish(first)
		l.mu.Lock()
		l.waiting[0] = nil
		l.waiting = l.waiting[1:] // not earlier: until it is delivered, others wait behind it
	}
	l.running = false
	if len(l.waiting) == 0 {
		l.waiting = nil
	}
}

// finish delivers a publication, unless it has failed, and calls done.
func (e *Engine) finish(w *publishing) {
	if w.err != nil {
		w.done(false, w.err)
		return
	}
	matched := e.deliver(w.pub)
	if f := e.o.Forward; f != nil {
		f(w.pub)
		matched = true // perhaps elsewhere
	}
	w.done(matched, nil)
}
