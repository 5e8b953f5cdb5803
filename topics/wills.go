package topics

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

// maxWillBytes bounds the wills that wait, all together.
const maxWillBytes = 64 << 20

// Will is a publication that a client has left, to be sent when its connection ends
// without a goodbye (MQTT 5.0, 3.1.2.5).
type Will struct {
	Publication *chat.Publication
	// Expiry is its message expiry interval, which begins when it is sent; 0: none.
	Expiry time.Duration
	Delay  time.Duration // the will delay interval, at most as long as the session is kept
}

// wills are those of devices whose connections have ended, until their delay is over
// or the device is back. They are in memory: what waits when the process ends is not
// sent.
type wills struct {
	mu      sync.Mutex
	waiting map[device]*waitingWill // mu guards: for their delay; one of each device
	due     []*waitingWill          // mu guards: to be sent
	bytes   int                     // mu guards: of both
	wake    atomic.Pointer[chan struct{}]

	sent, dropped atomic.Int64
}

type device struct {
	user     chat.ID
	clientID string
}

type waitingWill struct {
	user  chat.TopicUser
	will  Will
	timer *time.Timer
}

func deviceOf(u chat.TopicUser) device { return device{u.Principal.UserID, u.ClientID} }

// WillLeft notes that a device has gone and left a will. It does not block.
func (e *Engine) WillLeft(u chat.TopicUser, will Will) {
	w := &e.wills
	w.mu.Lock()
	defer w.mu.Unlock()
	ww := &waitingWill{user: u, will: will}
	if w.bytes+will.Publication.Cost() > maxWillBytes {
		w.dropped.Add(1)
		return
	}
	if old := w.waiting[deviceOf(u)]; old != nil {
		old.timer.Stop()
		w.enqueue(old) // its connection has ended long ago, and nobody has come back to it
	}
	w.bytes += will.Publication.Cost()
	if will.Delay <= 0 {
		w.enqueue(ww)
		return
	}
	w.waiting[deviceOf(u)] = ww
	ww.timer = time.AfterFunc(will.Delay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.waiting[deviceOf(u)] == ww {
			w.enqueue(ww)
		}
	})
}

// WillBack notes that a device has connected again. Its will is not sent then, unless
// it has begun a new session: the old one has ended, and the will is due (MQTT 5.0,
// 3.1.3.2.2).
func (e *Engine) WillBack(u chat.TopicUser, resumed bool) {
	w := &e.wills
	w.mu.Lock()
	defer w.mu.Unlock()
	ww := w.waiting[deviceOf(u)]
	if ww == nil {
		return
	}
	ww.timer.Stop()
	if !resumed {
		w.enqueue(ww)
		return
	}
	delete(w.waiting, deviceOf(u))
	w.bytes -= ww.will.Publication.Cost()
}

// enqueue has a will sent. mu is held.
func (w *wills) enqueue(ww *waitingWill) {
	if w.waiting[deviceOf(ww.user)] == ww {
		delete(w.waiting, deviceOf(ww.user))
	}
	w.due = append(w.due, ww)
	if wake := w.wake.Load(); wake != nil {
		select {
		case *wake <- struct{}{}:
		default:
		}
	}
}

// run sends what is due, until ctx ends.
func (w *wills) run(ctx context.Context, e *Engine) {
	wake := make(chan struct{}, 1)
	w.wake.Store(&wake)
	var lane Lane // one will after the other
	for {
		for ctx.Err() == nil {
			w.mu.Lock()
			if len(w.due) == 0 {
				w.due = nil
				w.mu.Unlock()
				break
			}
			ww := w.due[0]
			w.due[0] = nil
			w.due = w.due[1:]
			w.bytes -= ww.will.Publication.Cost()
			w.mu.Unlock()
			w.send(ctx, e, &lane, ww)
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

// send publishes a will, if its device still may.
func (w *wills) send(ctx context.Context, e *Engine, lane *Lane, ww *waitingWill) {
	p := *ww.will.Publication
	if e.MayPublish(ww.user, p.Topic) != nil {
		w.dropped.Add(1)
		return
	}
	if ww.will.Expiry > 0 {
		p.Expires = time.Now().Add(ww.will.Expiry)
	}
	e.Publish(ctx, lane, ww.user.Principal.UserID, &p, func(_ bool, err error) {
		if err != nil {
			w.dropped.Add(1)
		} else {
			w.sent.Add(1)
		}
	})
}
