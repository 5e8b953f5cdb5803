package delivery_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

const everything = "conv/+/messages"

func TestLiveEventsComeInOrder(t *testing.T) {
	t.Parallel()
	for qos := byte(0); qos < 3; qos++ {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 0)
			u.log.add(convA, 7)
			u.subscribe(everything, qos)
			u.post(convA, 5)
			synctest.Wait()
			u.wantSeqs(convA, 8, 12)
			for i, p := range u.sink.all() {
				id := uint16(0)
				if qos > 0 {
					id = uint16(i + 1)
				}
				if p.ID != id || p.QoS != qos || p.Dup || seqOf(t, p.payload) != p.seq || p.topic.String() != "conv/"+convA.String()+"/messages" {
					t.Errorf("QoS %d: publication %d is %+v", qos, i, p)
				}
			}
			if n := u.log.pages(); n != 0 {
				t.Errorf("QoS %d: %d pages were read for live events", qos, n)
			}
		})
	}
}

func TestOthersHearNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 1)
		u.subscribe(everything, 1)
		u.router.Publish(event(convB, 1), &chat.Roster{Members: []chat.ID{bob}})
		synctest.Wait()
		if got := u.sink.all(); len(got) != 0 {
			t.Errorf("Alice got %v of a conversation of Bob's", got)
		}
	})
}

func TestHintsMayBeLostRepeatedAndReordered(t *testing.T) {
	t.Parallel()
	for _, hints := range [][]int64{{3}, {3, 2, 1}, {1, 1, 3, 3, 2}, {2, 1, 3}, {1, 3, 2}, {3, 3, 3}, {1, 2, 3, 1, 2, 3}} {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 0)
			u.log.add(convA, 0)
			u.subscribe(everything, 1)
			u.log.set(func() { u.log.convs[convA].last = 3 })
			for _, seq := range hints {
				u.hint(convA, seq)
			}
			synctest.Wait()
			u.wantSeqs(convA, 1, 3)
		})
	}
}

func TestFullWindowWaitsForHalfOfItToBeAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 4)
		u.log.add(convA, 0)
		u.subscribe(everything, 1)
		u.post(convA, 20)
		synctest.Wait()
		u.wantSeqs(convA, 1, 4)
		u.s.Puback(1)
		synctest.Wait()
		u.wantSeqs(convA, 1, 4) // more than half full: pages would be too small
		u.s.Puback(3)           // out of order: it frees a place all the same (MQTT 5.0, 4.9)
		u.s.Puback(3)
		u.s.Puback(9999) // not on its way
		u.s.Puback(0)
		synctest.Wait()
		u.wantSeqs(convA, 1, 6)
		u.s.Puback(2)
		synctest.Wait()
		u.wantSeqs(convA, 1, 6)
		for id := uint16(4); id <= 20; id++ {
			u.s.Puback(id)
			synctest.Wait()
		}
		u.wantSeqs(convA, 1, 20)
		if got := u.sink.all(); got[19].ID != 20 {
			t.Errorf("the last packet identifier is %d, want 20", got[19].ID)
		}
		for _, limit := range u.log.reads {
			if limit > 4 {
				t.Errorf("a page of %d was asked for, with room for 4", limit)
			}
		}
		u.post(convA, 1) // level again: live
		n := u.log.pages()
		synctest.Wait()
		u.wantSeqs(convA, 1, 21)
		if u.log.pages() != n {
			t.Error("a page was read for a live event")
		}
	})
}

func TestReceiveMaximumOfOne(t *testing.T) {
	t.Parallel()
	for qos := byte(1); qos < 3; qos++ {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 1)
			u.log.add(convA, 0)
			u.log.add(convB, 0)
			u.subscribe(everything, qos)
			u.post(convA, 3)
			u.post(convB, 3)
			for id := uint16(1); id <= 6; id++ {
				synctest.Wait()
				if n := len(u.sink.all()); n != int(id) {
					t.Fatalf("QoS %d: %d on their way before packet %d was acknowledged", qos, n, id)
				}
				if qos == 1 {
					u.s.Puback(id)
				} else {
					u.s.Pubrec(id, false)
					u.s.Pubcomp(id)
				}
			}
			synctest.Wait()
			u.wantSeqs(convA, 1, 3)
			u.wantSeqs(convB, 1, 3)
		})
	}
}

func TestNoRoomWaitsForWritable(t *testing.T) {
	t.Parallel()
	for qos := byte(0); qos < 3; qos++ {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 0)
			u.log.add(convA, 0)
			u.subscribe(everything, qos)
			u.sink.drain(2)
			u.post(convA, 300)
			synctest.Wait()
			u.wantSeqs(convA, 1, 2)
			if n := u.log.pages(); n != 0 {
				t.Errorf("%d pages were read for a connection without room", n)
			}
			u.sink.drain(150)
			u.s.Writable()
			synctest.Wait()
			u.wantSeqs(convA, 1, 152)
			u.sink.drain(-1)
			u.s.Writable()
			u.s.Writable() // spurious
			synctest.Wait()
			u.wantSeqs(convA, 1, 300)
			for i, p := range u.sink.all() { // no identifier was used up by what was turned away
				if qos > 0 && p.ID != uint16(i+1) {
					t.Fatalf("QoS %d: publication %d has packet identifier %d", qos, i, p.ID)
				}
			}
		})
	}
}

// Acknowledgements that come while the connection has no room must not be
// forgotten: Writable goes on then.
func TestAcknowledgedWhileStalled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 2)
		u.log.add(convA, 0)
		u.subscribe(everything, 1)
		u.sink.drain(1)
		u.post(convA, 4)
		synctest.Wait()
		u.s.Puback(1)
		synctest.Wait()
		u.wantSeqs(convA, 1, 1)
		u.sink.drain(-1)
		u.s.Writable()
		synctest.Wait()
		u.wantSeqs(convA, 1, 3)
		u.s.Puback(2)
		synctest.Wait()
		u.wantSeqs(convA, 1, 4)
	})
}

func TestTooLargeIsPassedOver(t *testing.T) {
	t.Parallel()
	for qos := byte(0); qos < 3; qos++ {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 0)
			u.log.add(convA, 0)
			u.subscribe(everything, qos)
			u.sink.tooLarge = map[int64]bool{2: true, 5: true, 6: true}
			u.post(convA, 3)
			u.log.set(func() { u.log.convs[convA].last = 6 })
			u.post(convA, 1) // 7: found in the log with 4, 5, 6
			synctest.Wait()
			if got, want := u.sink.seqs(convA), []int64{1, 3, 4, 7}; !slices.Equal(got, want) {
				t.Errorf("QoS %d: the client got %v, want %v", qos, got, want)
			}
			for i, p := range u.sink.all() {
				if qos > 0 && p.ID != uint16(i+1) {
					t.Errorf("QoS %d: publication %d has packet identifier %d", qos, i, p.ID)
				}
			}
		})
	}
}

func TestQoS2(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 2)
		u.log.add(convA, 0)
		u.subscribe(everything, 2)
		u.post(convA, 6)
		synctest.Wait()
		u.wantSeqs(convA, 1, 2)
		for i, id := range []uint16{1, 1, 77} {
			if known, err := u.s.Pubrec(id, false); known != (i < 2) || err != nil {
				t.Errorf("PUBREC of packet %d: %v, %v", id, known, err)
			}
		}
		if !slices.Equal(u.sink.pubrels, []uint16{1, 1}) {
			t.Errorf("PUBREL was sent for %v, want 1 and 1", u.sink.pubrels)
		}
		synctest.Wait()
		u.wantSeqs(convA, 1, 2) // PUBREC frees nothing
		u.s.Pubcomp(1)
		u.s.Pubcomp(1)
		synctest.Wait()
		u.wantSeqs(convA, 1, 3)
		if known, err := u.s.Pubrec(2, true); !known || err != nil { // refused: the exchange ends there
			t.Errorf("PUBREC that refuses packet 2: %v, %v, want true", known, err)
		}
		if len(u.sink.pubrels) != 2 {
			t.Error("PUBREL was sent after a refusal")
		}
		synctest.Wait()
		u.wantSeqs(convA, 1, 4)
		if known, err := u.s.Pubrec(2, false); known || err != nil {
			t.Errorf("PUBREC of a packet that is settled: %v, %v, want false", known, err)
		}
	})
}

// An acknowledgement of the wrong kind changes nothing, and is an error; one of what is
// settled, or was never in flight, may be of an earlier connection.
func TestWrongAcknowledgements(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		qos  byte
		do   func(s *delivery.Session) error
		want error
	}{
		{"PUBREC at QoS 1", 1, func(s *delivery.Session) error { _, err := s.Pubrec(2, false); return err }, delivery.ErrWrongAck},
		{"PUBREC that refuses, at QoS 1", 1, func(s *delivery.Session) error { _, err := s.Pubrec(2, true); return err }, delivery.ErrWrongAck},
		{"PUBCOMP at QoS 1", 1, func(s *delivery.Session) error { return s.Pubcomp(2) }, delivery.ErrWrongAck},
		{"PUBACK at QoS 2", 2, func(s *delivery.Session) error { return s.Puback(2) }, delivery.ErrWrongAck},
		{"PUBCOMP before PUBREC", 2, func(s *delivery.Session) error { return s.Pubcomp(2) }, delivery.ErrWrongAck},
		{"PUBACK after PUBREC", 2, func(s *delivery.Session) error { _, err := s.Pubrec(2, false); return errors.Join(err, s.Puback(2)) }, delivery.ErrWrongAck},
		{"PUBACK again", 1, func(s *delivery.Session) error { return errors.Join(s.Puback(2), s.Puback(2)) }, nil},
		{"PUBREC of what is settled", 1, func(s *delivery.Session) error {
			err := s.Puback(2)
			_, again := s.Pubrec(2, false)
			return errors.Join(err, again, s.Pubcomp(2))
		}, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 3)
			u.log.add(convA, 0)
			u.subscribe(everything, tt.qos)
			u.post(convA, 6)
			synctest.Wait()
			u.wantSeqs(convA, 1, 3)
			if err := tt.do(u.s); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
			}
			if tt.want != nil {
				synctest.Wait()
				u.wantSeqs(convA, 1, 3)
			}
		})
	}
}

// Packet identifiers go round: 65,535 is followed by 1, and 0 is never used.
func TestPacketIdentifiersGoRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 7)
		u.log.add(convA, 0)
		u.subscribe(everything, 1)
		var next uint16
		var acked int
		u.sink.check = func(p publication) {
			if next++; next == 0 {
				next = 1
			}
			if p.ID != next {
				t.Errorf("event %d has packet identifier %d, want %d", p.seq, p.ID, next)
			}
		}
		const events = 65535 + 100
		ack := func(leave int) {
			var ids []uint16
			u.sink.set(func() {
				for ; len(u.sink.got)-acked > leave; acked++ {
					ids = append(ids, u.sink.got[acked].ID)
				}
			})
			for _, id := range ids {
				u.s.Puback(id)
			}
		}
		for i := 1; i <= events; i++ {
			u.post(convA, 1)
			switch i {
			case 65533: // 65,535 is given out, taken back, and given out again
				u.sink.drain(1)
			case 65537:
				synctest.Wait()
				u.sink.drain(-1)
				u.s.Writable()
			}
			ack(3) // lags behind, so that the window wraps too
			if i > 65520 {
				synctest.Wait()
			}
		}
		for synctest.Wait(); acked < len(u.sink.got); synctest.Wait() {
			ack(0)
		}
		if acked != events {
			t.Errorf("%d of %d events came", acked, events)
		}
	})
}

func (s *fakeSink) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// From Subscribe's return on nothing is missed, and what was there before does
// not come, whatever is committed while the ends of the logs are asked for.
func TestSubscribeWhileEventsArrive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 10)
		u.log.endsGate = make(chan bool)
		done := make(chan error)
		go func() { done <- u.s.Subscribe(t.Context(), []delivery.Subscription{sub(t, everything, 1)}) }()
		synctest.Wait() // the snapshot says 10
		u.hint(convA, 9)
		u.hint(convA, 10) // late: they are in the snapshot
		u.post(convA, 2)
		synctest.Wait()
		if got := u.sink.all(); len(got) != 0 {
			t.Errorf("%v came before the ends were known", got)
		}
		close(u.log.endsGate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		u.post(convA, 2)
		synctest.Wait()
		u.wantSeqs(convA, 11, 14)
	})
}

// A catch-up that ran while another SUBSCRIBE was asking for the ends of the logs
// took a conversation of the new filters for one that was joined just now, and
// served its whole history.
func TestSubscribeDoesNotReplayHistory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		u.log.add(convB, 500)
		u.subscribe("conv/"+convA.String()+"/messages", 1)
		u.log.set(func() {
			u.log.readGate[convA] = make(chan bool)
			u.log.endsGate = make(chan bool)
			u.log.convs[convA].last = 2
		})
		u.hint(convA, 2) // a gap: the catch-up reads and is held up
		done := make(chan error)
		go func() { done <- u.s.Subscribe(t.Context(), []delivery.Subscription{sub(t, everything, 1)}) }()
		synctest.Wait()
		u.post(convB, 1)
		close(u.log.readGate[convA])
		synctest.Wait()
		close(u.log.endsGate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		u.wantSeqs(convA, 1, 2)
		u.wantSeqs(convB, 501, 501)
	})
}

func TestJoining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.subscribe(everything, 1)
		u.log.set(func() { u.log.convs[convA] = &fakeConv{last: 57, joined: 57} }) // somebody adds Alice: event 57
		u.hint(convA, 57)
		u.post(convA, 2)
		u.log.add(convB, 0) // and makes a conversation with her
		u.post(convB, 2)
		synctest.Wait()
		u.wantSeqs(convA, 57, 59)
		u.wantSeqs(convB, 1, 2)
	})
}

// A SUBSCRIBE that came between joining a conversation and reading its log began
// it at its end, although conv/+ was held long before and owes what came since.
func TestSubscribeWhileJoining(t *testing.T) {
	t.Parallel()
	for _, heard := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 0)
			u.subscribe(everything, 1)
			u.log.set(func() {
				u.log.convs[convA] = &fakeConv{last: 57, joined: 57}
				u.log.readGate[convA] = make(chan bool)
			})
			if heard {
				u.hint(convA, 57)
			}
			synctest.Wait()
			u.subscribe("conv/"+convA.String()+"/#", 1)
			close(u.log.readGate[convA])
			synctest.Wait()
			u.post(convA, 1)
			synctest.Wait()
			u.wantSeqs(convA, 57, 58)
		})
	}
}

// Who leaves and comes back does not see what was said meanwhile: the log has a
// hole then, which is not to be waited for. It was, by reading the same page
// over and over.
func TestLeavingAndComingBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 8)
		u.subscribe(everything, 1)
		u.post(convA, 2)
		u.log.set(func() { *u.log.convs[convA] = fakeConv{last: 20, joined: 20} })
		u.hint(convA, 20)
		u.post(convA, 1)
		synctest.Wait()
		if got, want := u.sink.seqs(convA), []int64{9, 10, 20, 21}; !slices.Equal(got, want) {
			t.Errorf("the client got %v, want %v", got, want)
		}
		if n := u.log.pages(); n > 2 {
			t.Errorf("%d pages were read", n)
		}
	})
}

func TestNoMemberAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		u.log.add(convB, 0)
		u.subscribe(everything, 1)
		u.post(convA, 1)
		u.log.set(func() { u.log.convs[convA].joined = 0 })
		u.log.set(func() { u.log.convs[convA].last = 4 })
		u.hint(convA, 4) // by somebody who does not know yet
		u.post(convB, 1)
		synctest.Wait()
		u.wantSeqs(convA, 1, 1)
		u.wantSeqs(convB, 1, 1)
		if n := u.log.pages(); n != 1 {
			t.Errorf("%d pages were read, want 1", n)
		}
		u.log.set(func() { *u.log.convs[convA] = fakeConv{last: 6, joined: 6} })
		u.hint(convA, 6)
		synctest.Wait()
		if got, want := u.sink.seqs(convA), []int64{1, 6}; !slices.Equal(got, want) {
			t.Errorf("the client got %v, want %v", got, want)
		}
	})
}

// While a page was read that turned out empty (or was refused), an event arrived
// that had no room. The empty page then said that the log ends there, and the
// event was forgotten until the next one.
func TestHeardWhileReadingNothing(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]fakeConv{"empty": {last: 6, joined: 7}, "not a member": {last: 6}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := newSetup(t, 0)
				u.subscribe(everything, 1)
				u.log.set(func() {
					u.log.convs[convA] = &before
					u.log.readGate[convA] = make(chan bool)
				})
				u.hint(convA, 6) // told to the members of a later version
				synctest.Wait()
				u.log.set(func() { *u.log.convs[convA] = fakeConv{last: 7, joined: 7} })
				u.hint(convA, 7)
				close(u.log.readGate[convA])
				synctest.Wait()
				u.wantSeqs(convA, 7, 7)
			})
		})
	}
}

// A page may reach further than what was heard. What of it found no room was
// forgotten if the hint of it was lost.
func TestPageReachesFurtherThanHints(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 3)
		u.log.add(convA, 0)
		u.subscribe(everything, 1)
		u.log.set(func() { u.log.convs[convA].last = 5 })
		u.sink.drain(2)
		u.hint(convA, 2)
		synctest.Wait()
		u.sink.drain(-1)
		u.s.Writable()
		for id := uint16(1); id <= 3; id++ {
			u.s.Puback(id)
			synctest.Wait()
		}
		if got := u.sink.seqs(convA); len(got) < 3 {
			t.Errorf("the client got %v", got)
		}
	})
}

func TestLogFailsForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		u.subscribe(everything, 1)
		u.log.set(func() {
			u.log.fail = &chat.Error{Code: chat.Unavailable}
			u.log.convs[convA].last = 5
		})
		u.hint(convA, 5)
		time.Sleep(time.Minute)
		synctest.Wait()
		u.wantSeqs(convA, 1, 0)
		if n := u.log.pages(); n < 20 || n > 200 {
			t.Errorf("%d attempts in a minute", n)
		}
		u.log.set(func() { u.log.fail = nil })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		u.wantSeqs(convA, 1, 5)
	})
}

// A log that cannot be read must not keep the others of the session waiting.
func TestOneLogFailsForGood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		u.log.add(convB, 0)
		u.subscribe(everything, 1)
		u.log.set(func() {
			u.log.broken[convA] = errors.New("cannot be read")
			u.log.convs[convA].last, u.log.convs[convB].last = 2, 2
		})
		u.hint(convA, 2)
		u.hint(convB, 2)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		u.wantSeqs(convB, 1, 2)
		u.wantSeqs(convA, 1, 0)
	})
}

func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		one := "conv/" + convA.String() + "/messages"
		u.subscribe(everything, 1)
		u.subscribe(one, 0)
		u.post(convA, 1)
		if got := u.s.Unsubscribe([]string{everything, "conv/#", everything}); !slices.Equal(got, []bool{true, false, false}) {
			t.Errorf("Unsubscribe = %v, want true, false, false", got)
		}
		u.post(convA, 1) // still covered
		if n := u.s.Subscriptions(); n != 1 {
			t.Errorf("%d filters are held, want 1", n)
		}
		u.s.Unsubscribe([]string{one})
		u.post(convA, 1)
		u.subscribe(everything, 1)
		u.post(convA, 1)
		synctest.Wait()
		if got, want := u.sink.seqs(convA), []int64{1, 2, 4}; !slices.Equal(got, want) {
			t.Errorf("the client got %v, want %v", got, want)
		}
	})
}

func TestUnsubscribeWhileReading(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			u := newSetup(t, 0)
			u.log.add(convA, 0)
			u.subscribe(everything, 1)
			u.log.set(func() {
				u.log.readGate[convA] = make(chan bool)
				u.log.convs[convA].last = 5
			})
			u.hint(convA, 5)
			synctest.Wait()
			u.s.Unsubscribe([]string{everything})
			if again {
				u.subscribe(everything, 1)
			}
			close(u.log.readGate[convA])
			synctest.Wait()
			u.wantSeqs(convA, 1, 0)
			if again {
				u.post(convA, 1)
				synctest.Wait()
				u.wantSeqs(convA, 6, 6)
			}
		})
	}
}

func TestSubscribeFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		one := "conv/" + convA.String() + "/messages"
		u.subscribe(one, 0)
		away := &chat.Error{Code: chat.Unavailable}
		u.log.set(func() { u.log.fail = away })
		// the same filter twice in one packet: neither may stay
		err := u.s.Subscribe(t.Context(), []delivery.Subscription{sub(t, everything, 1), sub(t, everything, 2), sub(t, one, 2)})
		if !errors.Is(err, chat.Unavailable) {
			t.Fatalf("Subscribe: %v, want unavailable", err)
		}
		if n := u.s.Subscriptions(); n != 1 {
			t.Errorf("%d filters are held after the failure, want 1", n)
		}
		u.log.set(func() { u.log.fail = nil })
		u.post(convA, 1)
		u.log.add(convB, 0)
		u.post(convB, 1)
		synctest.Wait()
		u.wantSeqs(convA, 1, 1)
		u.wantSeqs(convB, 1, 0)
		if got := u.sink.all(); got[0].QoS != 0 {
			t.Errorf("the filter that was there came back with QoS %d", got[0].QoS)
		}
	})
}

func TestOverlappingFiltersGetOneCopy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		u.log.add(convB, 0)
		subs := []delivery.Subscription{sub(t, everything, 0), sub(t, "conv/"+convA.String()+"/#", 2), sub(t, "conv/+/typing", 1)}
		for i := range subs {
			subs[i].Identifier = uint32(i + 1)
		}
		if err := u.s.Subscribe(t.Context(), subs); err != nil {
			t.Fatal(err)
		}
		u.post(convA, 1)
		u.post(convB, 1)
		u.router.Sessions(alice)[0].Signal(delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicTyping, ID: convB}, []byte("{}")))
		got := u.sink.all()
		if len(got) != 3 || got[0].QoS != 2 || !slices.Equal(got[0].Subscriptions, []uint32{1, 2}) ||
			got[1].QoS != 0 || !slices.Equal(got[1].Subscriptions, []uint32{1}) ||
			got[2].QoS != 0 || !slices.Equal(got[2].Subscriptions, []uint32{3}) {
			t.Errorf("the client got %+v", got)
		}
	})
}

func TestSignalsAreDroppedWithoutRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		f := delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicErrors, ID: alice}, []byte("{}"))
		u.s.Signal(f) // not subscribed
		u.subscribe("user/"+alice.String()+"/errors", 1)
		u.sink.drain(0)
		u.s.Signal(f)
		u.sink.drain(-1)
		u.s.Writable()
		u.s.Signal(f)
		u.router.Detach(u.s)
		u.s.Signal(f)
		if got := u.sink.all(); len(got) != 1 || got[0].payload != "{}" || got[0].ID != 0 {
			t.Errorf("the client got %+v, want one signal", got)
		}
	})
}

func TestTakeOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		u.subscribe(everything, 1)
		tablet := attach(t, u.router, delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "tablet", Sink: newFakeSink()})
		if u.sink.reason() != nil || len(u.router.Sessions(alice)) != 2 {
			t.Error("another device took the first one over")
		}
		sink := newFakeSink()
		phone := attach(t, u.router, delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: "phone", Sink: sink})
		if u.sink.reason() != delivery.ErrTakenOver {
			t.Error("the old connection of the device was not ended")
		}
		other := attach(t, u.router, delivery.SessionOptions{Principal: chat.Principal{UserID: bob}, ClientID: "phone", Sink: newFakeSink()})
		if sink.reason() != nil {
			t.Error("another user's device of the same name was taken over")
		}
		u.router.Detach(u.s) // the old connection's end comes later, perhaps twice
		u.router.Detach(u.s)
		if got := u.router.Sessions(alice); len(got) != 2 || !slices.Contains(got, phone) || !slices.Contains(got, tablet) {
			t.Errorf("Sessions = %v, want the new phone and the tablet", got)
		}
		u.post(convA, 1)
		synctest.Wait()
		if len(u.sink.all()) != 0 || len(sink.all()) != 0 {
			t.Error("a session without filters got something")
		}
		for _, s := range []*delivery.Session{phone, tablet, other} {
			u.router.Detach(s)
		}
		if len(u.router.Sessions(alice))+len(u.router.Sessions(bob)) != 0 {
			t.Error("sessions are left")
		}
	})
}

// What a client sends after its session has ended finds nothing.
func TestAfterTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newSetup(t, 0)
		u.log.add(convA, 0)
		u.subscribe(everything, 2)
		u.post(convA, 3)
		u.router.Detach(u.s)
		u.s.Puback(1)
		if known, err := u.s.Pubrec(1, false); known || err != nil {
			t.Errorf("a closed session knows a packet: %v, %v", known, err)
		}
		u.s.Pubcomp(1)
		u.s.Writable()
		u.subscribe("conv/#", 1)
		u.post(convA, 1)
		u.hint(convA, 9)
		synctest.Wait()
		u.wantSeqs(convA, 1, 3)
		u.s.Disconnect(delivery.ErrTakenOver)
		if len(u.sink.why) != 1 {
			t.Error("Disconnect did not reach the sink")
		}
	})
}

func TestCloseWhileReading(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{"a page": nil, "failing": &chat.Error{Code: chat.Unavailable}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				u := newSetup(t, 0)
				u.log.add(convA, 0)
				u.subscribe(everything, 1)
				u.log.set(func() {
					u.log.fail = fail
					u.log.convs[convA].last = 5
					if fail == nil {
						u.log.readGate[convA] = make(chan bool)
					}
				})
				u.hint(convA, 5)
				synctest.Wait()
				u.router.Close()
				u.hint(convA, 6)
				synctest.Wait()
				u.wantSeqs(convA, 1, 0)
				u.router.Close()
			})
		})
	}
}

// At most Readers pages are read at once, whatever the number of sessions.
func TestReadersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newFakeLog()
		log.add(convA, 0)
		log.readGate[convA] = make(chan bool)
		r := delivery.NewRouter(delivery.Options{Log: log, Sessions: noSessions{}, Readers: 3})
		defer r.Close()
		var sinks []*fakeSink
		for i := range 10 {
			sink := newFakeSink()
			s := attach(t, r, delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: string(rune('a' + i)), Sink: sink})
			if err := s.Subscribe(t.Context(), []delivery.Subscription{sub(t, everything, 1)}); err != nil {
				t.Fatal(err)
			}
			sinks = append(sinks, sink)
		}
		log.set(func() { log.convs[convA].last = 2 })
		r.Publish(event(convA, 2), &chat.Roster{Members: []chat.ID{alice}})
		synctest.Wait()
		if n := log.pages(); n != 3 {
			t.Errorf("%d pages are being read, want 3", n)
		}
		close(log.readGate[convA])
		synctest.Wait()
		for _, s := range sinks {
			if got := s.seqs(convA); !slices.Equal(got, []int64{1, 2}) {
				t.Errorf("a client got %v", got)
			}
		}
	})
}

// Everything at once, for the race detector; each client must still see its
// events in order, without a gap.
func TestRaces(t *testing.T) {
	t.Parallel()
	log := newFakeLog()
	log.add(convA, 0)
	log.add(convB, 0)
	r := delivery.NewRouter(delivery.Options{Log: log, Sessions: noSessions{}})
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var devices, wg sync.WaitGroup
	for _, c := range []chat.ID{convA, convB} {
		wg.Go(func() {
			for seq := int64(1); seq <= 3000; seq++ {
				log.set(func() { log.convs[c].last = seq })
				if seq%7 != 0 {
					r.Publish(event(c, seq), &chat.Roster{Members: []chat.ID{alice}})
				}
			}
			cancel()
		})
	}
	for i := range 6 {
		devices.Go(func() {
			for ctx.Err() == nil {
				raceDevice(t, r, string(rune('a'+i%3)), i)
			}
		})
	}
	devices.Wait()
	wg.Wait()
	if n := len(r.Sessions(alice)); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// raceDevice is one connection: it subscribes, acknowledges what comes, is slow
// at times, and goes.
func raceDevice(t *testing.T, r *delivery.Router, clientID string, i int) {
	sink := newFakeSink()
	last := map[chat.ID]int64{}
	sink.check = func(p publication) {
		if at, ok := last[p.topic.ID]; ok && p.seq != at+1 {
			t.Errorf("event %d came after %d", p.seq, at)
		}
		last[p.topic.ID] = p.seq
	}
	s := attach(t, r, delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: clientID, ReceiveMaximum: 1 + i*3, Sink: sink})
	if err := s.Subscribe(t.Context(), []delivery.Subscription{sub(t, everything, byte(i%3))}); err != nil {
		t.Error(err)
	}
	acked := 0
	for range 50 {
		got := sink.all()
		for ; acked < len(got); acked++ {
			s.Puback(got[acked].ID)
			s.Pubrec(got[acked].ID, false)
			s.Pubcomp(got[acked].ID)
		}
		if sink.drain(acked % 5) {
			s.Writable()
		}
		if err := s.Subscribe(t.Context(), []delivery.Subscription{sub(t, "conv/"+convA.String()+"/#", 1)}); err != nil {
			t.Error(err)
		}
		s.Unsubscribe([]string{"conv/" + convA.String() + "/#"})
	}
	r.Detach(s)
}
