package delivery_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// At QoS 0 what was written is not what was received. What a device gets when it is back
// depends on what it has shown before its line was lost.
func TestCursorAtQoS0WaitsForAProof(t *testing.T) {
	t.Parallel()
	const (
		first = 11 // the first event after the subscription
		end   = 16
	)
	for name, test := range map[string]struct {
		meantime func(d *durable) // between the events first … 13 and the loss of the line
		from     int64            // what the device gets then
	}{
		"silence":  {func(*durable) {}, first},
		"a packet": {func(d *durable) { d.s.Heard(false, false) }, first}, // may have been under way
		"a ping":   {func(d *durable) { d.s.Heard(true, false) }, first},
		"an answered ping": {func(d *durable) {
			d.s.Heard(true, false)
			d.s.Heard(true, false)
		}, first + 3},
		"a ping, an event, and a ping": {func(d *durable) {
			d.s.Heard(true, false)
			d.post(convA, 1)
			d.s.Heard(true, false)
		}, first + 1}, // which of them were written before the first ping is not remembered
		"a packet half a minute later": {func(d *durable) {
			time.Sleep(30 * time.Second)
			d.s.Heard(false, false)
		}, first + 3},
		"a packet half a minute later, and an event before it": {func(d *durable) {
			time.Sleep(20 * time.Second)
			d.post(convA, 1)
			time.Sleep(10 * time.Second)
			d.s.Heard(false, false)
		}, first + 1},
		"silence for a minute": {func(*durable) { time.Sleep(time.Minute) }, first},
		"a goodbye, at once":   {func(d *durable) { d.s.Heard(false, true) }, first},
		"a ping, and a goodbye": {func(d *durable) {
			d.s.Heard(true, false)
			d.s.Heard(false, true)
		}, first + 3},
		"a goodbye, a second later": {func(d *durable) {
			time.Sleep(time.Second)
			d.s.Heard(false, true)
		}, first + 3},
	} {
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, crash %v", name, crash), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDurable(t)
					d.log.add(convA, first-1)
					d.mustTake(0, false)
					d.subscribe(everything, 0)
					d.post(convA, 3)
					test.meantime(d)
					if crash { // what was saved until then counts
						time.Sleep(time.Second)
						d.sessions.set(func() { d.sessions.state.Epoch++ })
					}
					for d.log.convs[convA].last < end {
						d.commit(convA) // to nobody: the line is lost
					}
					d.router.Detach(d.s)
					d.mustTake(0, true)
					synctest.Wait()
					d.wantSeqs(convA, test.from, end)
				})
			})
		}
	}
}

// A cursor that waits is not saved over and over; one that was not saved is tried again.
func TestCursorAtQoS0IsSavedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDurable(t)
		d.log.add(convA, 10)
		d.mustTake(0, false)
		d.subscribe(everything, 0)
		for range 10 {
			d.post(convA, 1)
			time.Sleep(time.Second)
		}
		d.sessions.set(func() {
			if len(d.sessions.saves) > 0 {
				t.Errorf("saved %v", d.sessions.saves)
			}
			d.sessions.fail = errDead
		})
		d.s.Heard(true, false)
		d.s.Heard(true, false)
		d.s.Heard(true, false)
		time.Sleep(time.Second)
		d.sessions.set(func() { d.sessions.fail = nil })
		time.Sleep(time.Second)
		if at := d.sessions.place(convA); at != 20 {
			t.Errorf("the cursor is at %d, want 20", at)
		}
	})
}
