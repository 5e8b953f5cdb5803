package chat

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

const (
	maxWillBytes = 64 << 20 // of wills whose connections have ended, all together
	willCost     = 256      // of one, beside its content
)

// Will is what a client has asked to be published in its name when its connection ends
// without a normal DISCONNECT (MQTT 5.0, 3.1.2.5): a command, or a publication to a
// device topic. It must not be changed after Connected.
type Will struct {
	Delay     time.Duration // the Will Delay Interval
	Size      int           // bytes of its content
	OnDevices bool          // it is on a device topic: these are counted by themselves
	// Publish publishes it, if the device still may. It may block for a few seconds, until
	// ctx ends. done is called once, from any goroutine.
	Publish func(ctx context.Context, done func(error))

	// Wills.mu guards these.
	device     Device
	epoch      int64       // of the connection, as in SessionState
	timer      *time.Timer // set when the connection has ended, and the delay has not
	superseded bool        // the device has connected again before this connection ended
	resumed    bool        // and that connection has resumed the session
	due        bool        // it is to be published, or is being published
	late       bool        // what the device does on its next connection may have begun: it is not published any more
}

func (w *Will) cost() int { return willCost + w.Size }

// Wills holds the wills of connected devices, and after the end of the connection until
// their delay is over, and Run publishes them. One rule holds for all (MQTT 5.0, 3.1.2.5
// and 3.1.3.2.2): without a delay a will is due when its connection has ended, also if the
// device has taken its session over; with one, when the delay is over or the session ends,
// unless the device has resumed the session before.
//
// A will comes before everything that its device does on its next connection, or is not
// published: that connection waits for it (Settle), but not for long. Where that connection
// is at another node, the end of the session there waits (Await), and the store refuses
// what comes too late; see Append.Device and RetainedChange.
//
// Wills are in memory: those that wait when the process ends are not published (MQTT 5.0,
// 3.1.2.5 lets a server do that). It is safe for concurrent use; nothing but Run blocks.
type Wills struct {
	mu     sync.Mutex
	held   map[Device][]*Will // mu guards: of open connections, waiting for their delay, and being published
	due    []*Will            // mu guards: to be published, oldest first
	gone   chan struct{}      // mu guards: closed when a will is held no longer; nil: nobody waits for that
	bytes  int                // mu guards: of those whose connections have ended
	counts map[bool]*willCounts
	wake   chan struct{}
}

type willCounts struct{ sent, dropped int64 } // Wills.mu guards

func newWills() *Wills {
	return &Wills{held: map[Device][]*Will{}, counts: map[bool]*willCounts{false: {}, true: {}}, wake: make(chan struct{}, 1)}
}

// Counts returns how many wills on conversations, or on device topics, were published, and
// how many were not: refused, or too many at once.
func (ws *Wills) Counts(onDevices bool) (sent, dropped int64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.counts[onDevices].sent, ws.counts[onDevices].dropped
}

// Connected notes that a device has connected, with what session epoch and whether it has
// resumed its session, which settles the wills of its earlier connections. w is that of
// this one, and is held until Ended; nil: none.
func (ws *Wills) Connected(d Device, epoch int64, resumed bool, w *Will) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.supersede(d, math.MaxInt64, resumed)
	if w != nil {
		w.device, w.epoch = d, epoch
		ws.held[d] = append(ws.held[d], w)
	}
}

// Superseded is Connected for a connection to another node. It may be repeated: wills of
// newer connections are left alone.
func (ws *Wills) Superseded(d Device, epoch int64, resumed bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.supersede(d, epoch, resumed)
}

// supersede is called with mu held.
func (ws *Wills) supersede(d Device, epoch int64, resumed bool) {
	for _, w := range slices.Clone(ws.held[d]) {
		switch {
		case w.epoch >= epoch || w.superseded || w.due:
		case w.timer == nil: // Ended will come
			w.superseded, w.resumed = true, resumed
		default:
			w.timer.Stop()
			ws.release(w, !resumed)
		}
	}
}

// Settle is to be called when the last connection of a device has been told to end, and
// before the next one is accepted, of which clean says that it begins a new session. It
// waits until the wills that are due now have been published. Those that were not when ctx
// ends are dropped.
func (ws *Wills) Settle(ctx context.Context, d Device, clean bool) {
	ws.mu.Lock()
	var waitFor []*Will
	for _, w := range slices.Clone(ws.held[d]) {
		switch {
		case w.due:
		case w.timer != nil && !clean: // whether the session is resumed will be known later
			continue
		case w.timer != nil:
			w.timer.Stop()
			ws.release(w, true)
		default: // Ended will come
			w.superseded, w.resumed = true, !clean
		}
		waitFor = append(waitFor, w)
	}
	ws.mu.Unlock()
	for _, w := range ws.wait(ctx, d, waitFor) {
		w.late = true
	}
	ws.mu.Unlock()
}

// Await waits until the wills of a device that are due have been published, or ctx ends.
func (ws *Wills) Await(ctx context.Context, d Device) {
	ws.mu.Lock()
	waitFor := slices.DeleteFunc(slices.Clone(ws.held[d]), func(w *Will) bool { return !w.due })
	ws.mu.Unlock()
	ws.wait(ctx, d, waitFor)
	ws.mu.Unlock()
}

// wait waits until wills are held no longer, or ctx ends, and returns those that are still
// held, with mu held.
func (ws *Wills) wait(ctx context.Context, d Device, wills []*Will) []*Will {
	for {
		ws.mu.Lock()
		wills = slices.DeleteFunc(wills, func(w *Will) bool { return !slices.Contains(ws.held[d], w) })
		if len(wills) == 0 || ctx.Err() != nil {
			return wills
		}
		if ws.gone == nil {
			ws.gone = make(chan struct{})
		}
		gone := ws.gone
		ws.mu.Unlock()
		select {
		case <-gone:
		case <-ctx.Done():
		}
	}
}

// Ended notes that the connection of a will has ended. kept is for how long the session
// outlives it; discard says that the will is not to be published.
func (ws *Wills) Ended(w *Will, kept time.Duration, discard bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.bytes += w.cost()
	delay := min(w.Delay, kept)
	switch {
	case discard, w.late, delay > 0 && w.superseded && w.resumed:
		ws.release(w, false)
	case ws.bytes > maxWillBytes:
		ws.counts[w.OnDevices].dropped++
		ws.release(w, false)
	case delay <= 0, w.superseded: // whose session has ended
		ws.release(w, true)
	default:
		w.timer = time.AfterFunc(delay, func() {
			ws.mu.Lock()
			defer ws.mu.Unlock()
			if slices.Contains(ws.held[w.device], w) && !w.due { // otherwise it was settled just now
				ws.release(w, true)
			}
		})
	}
}

// release has a will whose connection has ended published, or forgets it. mu is held.
func (ws *Wills) release(w *Will, publish bool) {
	if !publish {
		ws.forget(w)
		return
	}
	w.due = true
	ws.due = append(ws.due, w)
	select {
	case ws.wake <- struct{}{}:
	default:
	}
}

// Run publishes what is due, until ctx ends.
func (ws *Wills) Run(ctx context.Context) error {
	for {
		select {
		case <-ws.wake:
		case <-ctx.Done():
			return nil
		}
		ws.mu.Lock()
		due := ws.due
		ws.due = nil
		ws.mu.Unlock()
		for _, w := range due {
			if ws.isLate(w) {
				ws.published(w, errLate)
				continue
			}
			w.Publish(ctx, func(err error) { ws.published(w, err) })
		}
	}
}

var errLate = &Error{Code: Unavailable, Op: "chat.Wills", Msg: "the device has connected again"}

func (ws *Wills) isLate(w *Will) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return w.late
}

// forget ends the holding of a will whose connection has ended. mu is held.
func (ws *Wills) forget(w *Will) {
	ws.bytes -= w.cost()
	ws.held[w.device] = slices.DeleteFunc(ws.held[w.device], func(other *Will) bool { return other == w })
	if len(ws.held[w.device]) == 0 {
		delete(ws.held, w.device)
	}
	if ws.gone != nil {
		close(ws.gone)
		ws.gone = nil
	}
}

func (ws *Wills) published(w *Will, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.forget(w)
	if err != nil {
		ws.counts[w.OnDevices].dropped++ // there is nobody to tell why
	} else {
		ws.counts[w.OnDevices].sent++
	}
}

// PublishWill submits a command that a device has left as a will, on a connection with the
// given epoch. done is called when it has been committed, or refused: also because the
// device has a newer connection at another node. It may block as Submit does, for a few
// seconds.
func (s *Service) PublishWill(ctx context.Context, d Device, epoch int64, conversation ID, c *Command, done func(error)) {
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.PublishWill")
	defer cancel()
	if err := s.Submit(ctx, d.UserID, conversation, c, Source{}, &Append{Done: waiterFunc(done), Device: d.ClientID, Epoch: epoch}); err != nil {
		done(err)
	}
}

// waiterFunc is a Waiter that needs the outcome only.
type waiterFunc func(error)

// Committed implements Waiter.
func (f waiterFunc) Committed(_ *Append, err error) { f(err) }
