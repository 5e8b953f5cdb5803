package chat

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxWillBytes = 64 << 20 // of commands that wait for their delay, or to be sent, all together
	willCost     = 256      // of one, beside its content
)

// Will is a command that a client has left, to be done in its name when its
// connection ends without a goodbye (MQTT 5.0, 3.1.2.5).
type Will struct {
	ConversationID ID
	Command        Command
	Delay          time.Duration // the will delay interval, at most as long as the session is kept
}

// Wills holds the wills of devices whose connections have ended, until their delay is
// over or the device is back, and Run sends them. They are in memory: what waits when
// the process ends is not sent (MQTT 5.0, 3.1.2.5 lets a server do that). It is safe
// for concurrent use; nobody but Run waits.
type Wills struct {
	submit func(context.Context, ID, ID, *Command) error

	mu      sync.Mutex
	waiting map[Device]*waitingWill // mu guards: for their delay; one of each device
	due     []*waitingWill          // mu guards: to be sent
	bytes   int                     // mu guards: of both
	wake    chan struct{}

	sent, dropped atomic.Int64
}

type waitingWill struct {
	device Device
	will   Will
	timer  *time.Timer
}

func (w *waitingWill) cost() int { return willCost + len(w.will.Command.Content) }

func newWills(submit func(context.Context, ID, ID, *Command) error) *Wills {
	return &Wills{submit: submit, waiting: map[Device]*waitingWill{}, wake: make(chan struct{}, 1)}
}

// Counts returns how many wills were handed to the log, and how many were not: refused,
// or too many at once.
func (w *Wills) Counts() (sent, dropped int64) { return w.sent.Load(), w.dropped.Load() }

// Left notes that a device has gone and left a will.
func (w *Wills) Left(d Device, will Will) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ww := &waitingWill{device: d, will: will}
	if w.bytes+ww.cost() > maxWillBytes {
		w.dropped.Add(1)
		return
	}
	if old := w.waiting[d]; old != nil { // of an earlier connection, which Back would have settled
		w.take(old)
	}
	w.bytes += ww.cost()
	if will.Delay <= 0 {
		w.enqueue(ww)
		return
	}
	w.waiting[d] = ww
	ww.timer = time.AfterFunc(will.Delay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.waiting[d] == ww {
			delete(w.waiting, d)
			w.enqueue(ww)
		}
	})
}

// Back notes that a device has connected again. Its will is not sent then, unless it
// has begun a new session: the old one has ended, and the will is due (MQTT 5.0,
// 3.1.3.2.2).
func (w *Wills) Back(d Device, resumed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ww := w.waiting[d]
	switch {
	case ww == nil:
	case resumed:
		w.take(ww)
	default:
		ww.timer.Stop()
		delete(w.waiting, d)
		w.enqueue(ww)
	}
}

// take forgets a will that waits. mu is held.
func (w *Wills) take(ww *waitingWill) {
	ww.timer.Stop()
	delete(w.waiting, ww.device)
	w.bytes -= ww.cost()
}

// enqueue has a will sent. mu is held.
func (w *Wills) enqueue(ww *waitingWill) {
	w.due = append(w.due, ww)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run sends what is due, until ctx ends.
func (w *Wills) Run(ctx context.Context) error {
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil
		}
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
			w.bytes -= ww.cost()
			w.mu.Unlock()
			if w.submit(ctx, ww.device.UserID, ww.will.ConversationID, &ww.will.Command) != nil {
				w.dropped.Add(1) // nobody is there to hear why
			} else {
				w.sent.Add(1)
			}
		}
	}
}

// submitWill is Submit for a will, of which nobody waits to hear.
func (s *Service) submitWill(ctx context.Context, user, conversation ID, c *Command) error {
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.will")
	defer cancel()
	return s.Submit(ctx, user, conversation, c, Source{}, &Append{Done: nobody{}})
}

type nobody struct{}

func (nobody) Committed(*Append, error) {}
