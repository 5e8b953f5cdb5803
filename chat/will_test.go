package chat_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/seedtest"
)

// wills is a chat.Wills, and what it has published.
type wills struct {
	*chat.Wills
	mu        sync.Mutex
	published []string // mu guards
}

func newWills(t *testing.T) *wills {
	t.Helper()
	w := &wills{Wills: chat.NewWills()}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { _ = w.Run(ctx) }() // ends with the test
	return w
}

func (w *wills) will(name string, delay time.Duration) *chat.Will {
	return &chat.Will{Delay: delay, Publish: func(_ context.Context, done func(error)) {
		w.mu.Lock()
		w.published = append(w.published, name)
		w.mu.Unlock()
		done(nil)
	}}
}

// after returns what has been published once some time has passed.
func (w *wills) after(d time.Duration) []string {
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.published)
}

// The rule of MQTT 5.0, 3.1.2.5 and 3.1.3.2.2, whichever is noticed first: that the old
// connection has ended, or that there is a new one.
func TestWillRule(t *testing.T) {
	t.Parallel()
	const delay = time.Minute
	phone := chat.Device{UserID: chat.ID{1}, ClientID: "phone"}
	none, resumed, fresh := "", "resumed", "clean start"
	for _, tt := range []struct {
		delay, kept time.Duration
		discard     bool
		next        string // connection of the device
		want        bool   // it is published at once
		later       bool   // or when the delay is over
	}{
		{next: none, want: true},
		{next: none, discard: true},
		{next: resumed, want: true},
		{next: resumed, discard: true},
		{next: fresh, want: true},
		{delay: delay, kept: time.Hour, next: none, later: true},
		{delay: delay, kept: time.Hour, next: none, discard: true},
		{delay: delay, kept: time.Hour, next: resumed},
		{delay: delay, kept: time.Hour, next: resumed, discard: true},
		{delay: delay, kept: time.Hour, next: fresh, want: true},
		{delay: delay, kept: 0, next: none, want: true}, // the session ends with the connection
		{delay: time.Hour, kept: delay, next: none, later: true},
		{delay: time.Hour, kept: delay, next: resumed},
	} {
		for _, elsewhere := range []bool{false, true} {
			for _, endsFirst := range []bool{false, true} {
				t.Run(fmt.Sprintf("delay %v of %v, discard %v, then %q, elsewhere %v, ends first %v", tt.delay, tt.kept, tt.discard, tt.next, elsewhere, endsFirst), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newWills(t)
						will := w.will("gone", tt.delay)
						w.Connected(phone, 1, false, will)
						steps := []func(){func() { w.Ended(will, tt.kept, tt.discard) }, func() {
							switch {
							case tt.next == none:
							case elsewhere:
								w.Superseded(phone, 2, tt.next == resumed)
								w.Superseded(phone, 2, tt.next == resumed)
							default:
								w.Connected(phone, 2, tt.next == resumed, nil)
							}
						}}
						if !endsFirst {
							slices.Reverse(steps)
						}
						for _, step := range steps {
							step()
						}
						if got := w.after(delay - time.Second); (len(got) > 0) != tt.want {
							t.Errorf("before the delay is over %q was published, want %v", got, tt.want)
						}
						if got := w.after(2 * time.Hour); (len(got) > 0) != (tt.want || tt.later) || len(got) > 1 {
							t.Errorf("in the end %q was published, want %v", got, tt.want || tt.later)
						}
					})
				})
			}
		}
	}
}

// A notice of another node that comes late, or again, leaves newer wills alone.
func TestWillsOfNewerConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		phone := chat.Device{UserID: chat.ID{1}, ClientID: "phone"}
		w := newWills(t)
		first, second := w.will("first", time.Minute), w.will("second", time.Minute)
		w.Connected(phone, 1, false, first)
		w.Superseded(phone, 2, true)
		w.Connected(phone, 3, true, second)
		w.Ended(first, time.Hour, false)
		w.Ended(second, time.Hour, false)
		w.Superseded(phone, 2, true)
		if got := w.after(2 * time.Minute); !slices.Equal(got, []string{"second"}) {
			t.Errorf("%q were published, want the second", got)
		}
	})
}

// Wills beyond their limit are dropped, and counted; so are those that are refused.
func TestWillsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWills(t)
		const size = 1 << 20
		for i := range 70 {
			will := w.will("", time.Minute)
			will.Size = size
			w.Connected(chat.Device{ClientID: fmt.Sprint(i)}, 0, false, will)
			w.Ended(will, time.Hour, false)
		}
		refused := &chat.Will{OnDevices: true, Publish: func(_ context.Context, done func(error)) { done(errors.New("no")) }}
		w.Connected(chat.Device{}, 0, false, refused)
		w.Ended(refused, 0, false)
		if got := len(w.after(2 * time.Minute)); got != 63 {
			t.Errorf("%d wills of a MiB were published, want 63", got)
		}
		sent, dropped := w.Counts(false)
		if sent != 63 || dropped != 7 {
			t.Errorf("%d sent and %d dropped, want 63 and 7", sent, dropped)
		}
		if sent, dropped = w.Counts(true); sent != 0 || dropped != 1 {
			t.Errorf("of device topics %d sent and %d dropped, want 1 dropped", sent, dropped)
		}
	})
}

// Whatever comes and goes, in whatever order, each will is published once at most, and
// nothing is left behind.
func TestWillsAtRandom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWills(t)
		seed := seedtest.Seed(t)
		r := seedtest.New(seed, 1)
		var open []*chat.Will
		for i := range 5000 {
			d := chat.Device{ClientID: fmt.Sprint(r.IntN(3))}
			switch r.IntN(4) {
			case 0:
				will := w.will(fmt.Sprint(i), time.Duration(r.IntN(3))*time.Second)
				w.Connected(d, int64(i), r.IntN(2) == 0, will)
				open = append(open, will)
			case 1:
				w.Superseded(d, int64(r.IntN(i+1)), r.IntN(2) == 0)
			case 2:
				time.Sleep(time.Duration(r.IntN(1500)) * time.Millisecond)
			default:
				if len(open) > 0 {
					n := r.IntN(len(open))
					w.Ended(open[n], time.Duration(r.IntN(4))*time.Second, r.IntN(4) == 0)
					open = slices.Delete(open, n, n+1)
				}
			}
		}
		for _, will := range open {
			w.Ended(will, 0, false)
		}
		got := w.after(time.Hour)
		slices.Sort(got)
		if len(slices.Compact(slices.Clone(got))) != len(got) {
			t.Errorf("seed %d: some were published twice: %q", seed, got)
		}
		if held, bytes := w.Held(); held != 0 || bytes != 0 {
			t.Errorf("seed %d: %d devices and %d bytes are left", seed, held, bytes)
		}
	})
}

// The next connection of a device waits for the wills of the last one that are due, and for
// no others.
func TestSettle(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		delay, kept time.Duration
		clean       bool
		want        bool // it is published, and waited for
	}{
		{name: "due", want: true},
		{name: "delayed", delay: time.Minute, kept: time.Hour},
		{name: "delayed, and the session ends with the connection", delay: time.Minute, want: true},
		{name: "delayed, and a new session begins", delay: time.Minute, kept: time.Hour, clean: true, want: true},
	} {
		for _, endsFirst := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, ends first %v", tt.name, endsFirst), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					w := newWills(t)
					d := chat.Device{UserID: chat.ID{1}, ClientID: "phone"}
					stored := make(chan struct{})
					will := &chat.Will{Delay: tt.delay, Publish: func(_ context.Context, done func(error)) {
						go func() { <-stored; done(nil) }() // ends with the test
					}}
					w.Connected(d, 1, false, will)
					if endsFirst {
						w.Ended(will, tt.kept, false)
					}
					settled := make(chan struct{})
					go func() {
						ctx, cancel := context.WithTimeout(t.Context(), time.Minute/2)
						defer cancel()
						w.Settle(ctx, d, tt.clean)
						close(settled)
					}()
					synctest.Wait()
					if !endsFirst {
						w.Ended(will, tt.kept, false)
						synctest.Wait()
					}
					isSettled := func() bool {
						select {
						case <-settled:
							return true
						default:
							return false
						}
					}
					if got := isSettled(); got == tt.want {
						t.Fatalf("settled before anything was stored: %v", got)
					}
					close(stored)
					synctest.Wait()
					if !isSettled() {
						t.Error("still waiting")
					}
					w.Connected(d, 2, !tt.clean, nil)
					w.after(time.Hour)
					if sent, dropped := w.Counts(false); (sent == 1) != tt.want || dropped != 0 {
						t.Errorf("%d sent and %d dropped, want it sent: %v", sent, dropped, tt.want)
					}
					if held, bytes := w.Held(); held != 0 || bytes != 0 {
						t.Errorf("%d devices and %d bytes are left", held, bytes)
					}
				})
			})
		}
	}
}

// A will that is not on its way when the next connection cannot wait any longer is not
// published any more.
func TestSettleGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWills(t)
		d := chat.Device{UserID: chat.ID{1}, ClientID: "phone"}
		will := w.will("late", 0)
		w.Connected(d, 1, false, will)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.Settle(ctx, d, false)
		w.Connected(d, 2, true, nil)
		w.Ended(will, 0, false)
		if got := w.after(time.Hour); len(got) > 0 {
			t.Errorf("%q was published", got)
		}
		if held, bytes := w.Held(); held != 0 || bytes != 0 {
			t.Errorf("%d devices and %d bytes are left", held, bytes)
		}
	})
}

// The end of a connection waits for the will that is due, not for one that has a delay.
func TestAwait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWills(t)
		d := chat.Device{UserID: chat.ID{1}, ClientID: "phone"}
		due, delayed := w.will("due", 0), w.will("delayed", time.Hour)
		w.Connected(d, 1, false, due)
		w.Connected(d, 2, false, delayed)
		w.Ended(delayed, 2*time.Hour, false)
		w.Ended(due, 0, false)
		w.Await(t.Context(), d)
		if got := w.after(0); !slices.Equal(got, []string{"due"}) {
			t.Errorf("%q were published, want the one that is due", got)
		}
	})
}
