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
