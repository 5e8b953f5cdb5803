package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

func deviceCopyOf(payload string, qos byte) chat.PublicationCopy {
	return chat.PublicationCopy{Publication: &chat.Publication{Topic: "t", QoS: qos, Payload: []byte(payload)}, QoS: qos}
}

// arrival is one thing that came: of a device topic or of a log.
type arrival struct {
	id     uint16
	device bool
}

// arrivals records what comes, and returns how to look at it.
func arrivals(u *setup) func() []arrival {
	var list []arrival // u.sink.mu guards
	u.sink.check = func(p publication) { list = append(list, arrival{p.ID, false}) }
	u.sink.checkDevice = func(c deviceCopy) { list = append(list, arrival{c.ID, true}) }
	return func() []arrival {
		u.sink.mu.Lock()
		defer u.sink.mu.Unlock()
		return slices.Clone(list)
	}
}

// A session that is far behind in a log and has many device publications waiting gets
// both in turn, whatever its Receive Maximum, and neither is given less than a quarter.
func TestNeitherStarvesTheOther(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 3, 8} {
		for _, logFirst := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				u := newSetup(t, limit)
				u.log.add(convA, 0)
				u.subscribe(everything, 1)
				got := arrivals(u)
				behind := func() {
					u.log.set(func() { u.log.convs[convA].last = 900 })
					u.hint(convA, 900)
					synctest.Wait()
				}
				if logFirst {
					behind()
				}
				for i := range 900 {
					u.s.Queue().Receive(deviceCopyOf(fmt.Sprint(i), 1))
				}
				if !logFirst {
					behind()
				}
				for acked := range 800 {
					synctest.Wait()
					if acked >= len(got()) {
						t.Fatalf("Receive Maximum %d: nothing came after %d", limit, acked)
					}
					u.s.Puback(got()[acked].id)
				}
				synctest.Wait()
				for from := 100; from < 800; from += 100 {
					devices := 0
					for _, a := range got()[from : from+100] {
						if a.device {
							devices++
						}
					}
					if devices < 25 || devices > 75 {
						t.Errorf("Receive Maximum %d: of 100 from %d on, %d are to device topics", limit, from, devices)
					}
				}
			})
		}
	}
}

// While a log cannot be read, or shows nothing, device publications go on, also through
// a window of one place.
func TestDevicesWithoutTheLog(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, limit)
			u.log.add(convA, 0)
			u.subscribe(everything, 1)
			got := arrivals(u)
			u.log.set(func() { u.log.fail = &chat.Error{Code: chat.Unavailable} })
			u.s.Queue().Receive(deviceCopyOf("first", 1))
			u.hint(convA, 5)
			for i := range 20 {
				u.s.Queue().Receive(deviceCopyOf(fmt.Sprint(i), 1))
			}
			for acked := range 21 {
				synctest.Wait()
				for range 10 {
					if acked < len(got()) {
						break
					}
					time.Sleep(5 * time.Second) // of synctest's: reading is tried again
					synctest.Wait()
				}
				if acked >= len(got()) {
					t.Fatalf("Receive Maximum %d: nothing came after %d", limit, acked)
				}
				u.s.Puback(got()[acked].id)
			}
		})
		synctest.Test(t, func(t *testing.T) { // the log turns out to show nothing
			u := newSetup(t, limit)
			gate := make(chan bool)
			u.log.add(convA, 0)
			u.subscribe(everything, 1)
			got := arrivals(u)
			u.log.set(func() { u.log.readGates = gate })
			for range limit {
				u.s.Queue().Receive(deviceCopyOf("first", 1))
			}
			u.hint(convB, 5) // she is not in it
			for _, a := range got() {
				u.s.Puback(a.id)
			}
			synctest.Wait()
			for range limit {
				u.s.Queue().Receive(deviceCopyOf("x", 1))
			}
			close(gate)
			synctest.Wait()
			if len(got()) != 2*limit {
				t.Errorf("Receive Maximum %d: %d came, want %d", limit, len(got()), 2*limit)
			}
		})
	}
}

// What waits is bounded by number and bytes; QoS 0 gives way first.
func TestBoxIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 1)
		u.sink.drain(0)
		box := u.s.Queue()
		for i := range 600 {
			box.Receive(deviceCopyOf(fmt.Sprint("zero ", i), 0))
		}
		for i := range 600 {
			box.Receive(deviceCopyOf(fmt.Sprint("one ", i), 1))
		}
		if n, _ := box.Waiting(); n != chat.MaxQueuedPublications {
			t.Errorf("%d wait, limit %d", n, chat.MaxQueuedPublications)
		}
		if box.Offer(deviceCopyOf("x", 1)) {
			t.Error("there is room in a full queue")
		}
		if u.sink.drain(-1) {
			u.s.Writable()
		}
		for id := uint16(1); id <= 600; id++ {
			u.s.Puback(id)
		}
		zeros, ones := 0, 0
		for _, c := range u.sink.devices {
			switch {
			case c.Packet.QoS == 0 && string(c.Payload) != fmt.Sprint("zero ", 200+zeros):
				t.Fatalf("got %q as number %d: the oldest were to go", c.Payload, zeros)
			case c.Packet.QoS == 1 && string(c.Payload) != fmt.Sprint("one ", ones):
				t.Fatalf("got %q as number %d", c.Payload, ones)
			case c.Packet.QoS == 0:
				zeros++
			default:
				ones++
			}
		}
		if zeros != 400 || ones != 600 {
			t.Errorf("got %d at QoS 0 and %d at QoS 1, want 400 and 600", zeros, ones)
		}
		select {
		case <-box.Room():
		default:
			t.Error("whoever waits for room is not told")
		}
		u.sink.drain(0)
		for range 30 {
			box.Receive(deviceCopyOf(strings.Repeat("x", 100_000), 2))
		}
		if n, bytes := box.Waiting(); n != 10 || bytes > chat.MaxQueuedBytes || u.router.Waiting() != int64(bytes) {
			t.Errorf("%d of 100,000 bytes wait, %d bytes, of all %d", n, bytes, u.router.Waiting())
		}
	})
}

// What is too large for the client counts as sent, and takes no place.
func TestDeviceTooLarge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 1)
		large := deviceCopyOf("x", 1)
		large.Topic = "too/large"
		u.s.Queue().Receive(large)
		u.s.Queue().Receive(deviceCopyOf("y", 1))
		if len(u.sink.devices) != 1 || u.sink.devices[0].ID != 1 {
			t.Errorf("got %+v", u.sink.devices)
		}
	})
}

// A box ends with its session, and the broker for device topics is told.
func TestBoxEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		var ended []*delivery.Queue
		r := delivery.NewRouter(delivery.Options{
			Log: log, Sessions: &node{fakeSessions: &fakeSessions{log: log}, meantime: func() {}}, Ended: func(b *delivery.Queue) { ended = append(ended, b) },
		})
		defer r.Close()
		take := func(keep, clean bool) *delivery.Session {
			o := delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "d", Sink: newFakeSink(), CleanStart: clean, Releasing: func() []uint16 { return []uint16{7} }}
			if keep {
				o.Expiry = 3600e9
			}
			s, _, err := r.Take(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			s.Start()
			return s
		}
		first := take(true, false)
		box := first.Queue()
		r.Detach(first)
		box.Receive(deviceCopyOf("x", 0))
		box.Receive(deviceCopyOf("y", 1))
		if n, _ := box.Waiting(); n != 1 || box.Present() || len(ended) != 0 {
			t.Errorf("%d wait while the device is away, %d boxes have ended", n, len(ended))
		}
		second := take(true, false)
		if second.Queue() != box || !box.Present() || len(second.Releasing()) != 1 {
			t.Error("who comes back has another box")
		}
		third := take(true, true) // takes over, and begins anew
		if len(ended) != 1 || ended[0] != box || third.Queue() == box || r.Waiting() != 0 {
			t.Errorf("after a clean start %d boxes have ended, %d bytes wait", len(ended), r.Waiting())
		}
		third.SetExpiry(0)
		last := third.Queue()
		r.Detach(third)
		if len(ended) != 2 || ended[1] != last {
			t.Errorf("after the end of a session %d boxes have ended", len(ended))
		}
		last.Receive(deviceCopyOf("x", 1)) // nobody
		if r.Waiting() != 0 {
			t.Error("a box that has ended takes something")
		}
	})
}

// Of a session that another node has had in between, nothing is left here: its copies
// would be old.
func TestBoxOfASessionThatMoved(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			log, sink := newFakeLog(), newFakeSink()
			r, s := startAmong(t, &among{}, log, sink)
			defer r.Close()
			box := s.Queue()
			if away {
				r.Detach(s)
				box.Receive(deviceCopyOf("x", 1))
			}
			r.DropSuperseded(chat.SupersededNotice{UserID: alice, ClientID: "phone", Epoch: 6}) // an old story
			if away && r.Waiting() == 0 {
				t.Error("the box has ended")
			}
			r.DropSuperseded(chat.SupersededNotice{UserID: alice, ClientID: "phone", Epoch: 8})
			if !away {
				r.Detach(s)
			}
			box.Receive(deviceCopyOf("y", 1))
			if r.Waiting() != 0 {
				t.Error("something waits for a session that is elsewhere")
			}
		})
	}
}
