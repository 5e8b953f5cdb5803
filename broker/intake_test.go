package broker_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
)

// window is an Intake with its connection, whose packets are all read.
type window struct {
	*broker.Intake
	t       *testing.T
	conn    *broker.Conn
	peer    *peer
	mu      sync.Mutex
	refused []*broker.Publish
}

func newWindow(t *testing.T, version byte, limit int, change func(*packets.Packet)) *window {
	t.Helper()
	w := &window{t: t}
	w.conn, w.peer = pipe(broker.Limits{ReceiveMaximum: limit})
	w.Intake = broker.NewIntake(w.conn, func(p *broker.Publish, told bool) {
		if told {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refused = append(w.refused, p)
	})
	accept(w.conn, version, change, nil)
	w.peer.readAll()
	t.Cleanup(func() {
		w.Close()
		w.conn.Finish()
		_ = w.peer.Close()
	})
	return w
}

func (w *window) begin(id uint16, qos byte) *broker.Publish {
	w.t.Helper()
	p, ok := w.Begin(chat.Topic{Kind: chat.TopicMessages, ID: conversation}, id, qos, false)
	if !ok || p == nil {
		w.t.Fatalf("Begin(%d, QoS %d) = %v, %v", id, qos, p, ok)
	}
	return p
}

// answers returns type and packet identifier of everything that was written.
func (w *window) answers() []string {
	w.t.Helper()
	synctest.Wait()
	all, rest := w.peer.packets()
	if len(rest) > 0 {
		w.t.Errorf("% x follows", rest)
	}
	var list []string
	for _, b := range all {
		pk := decodeAck(w.t, b, w.conn.Version())
		s := packets.PacketNames[pk.FixedHeader.Type]
		if pk.PacketID > 0 {
			s += fmt.Sprintf(" %d", pk.PacketID)
		}
		if pk.ReasonCode > 0 {
			s += fmt.Sprintf(" %#x", pk.ReasonCode)
		}
		list = append(list, s)
	}
	return list
}

func (w *window) want(answers ...string) {
	w.t.Helper()
	if got := w.answers(); !slices.Equal(got, answers) {
		w.t.Errorf("the client got %q, want %q", got, answers)
	}
}

func TestAcknowledgementsKeepTheOrderOfThePublishes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, 5, 8, nil)
		a, b, c, d := w.begin(11, 1), w.begin(12, 2), w.begin(0, 0), w.begin(14, 1)
		d.Settle(nil)
		c.Settle(nil)
		w.want()
		a.Settle(nil)
		w.want("Puback 11")
		b.Settle(nil)
		w.want("Puback 11", "Pubrec 12", "Puback 14")
	})
}

func TestAnswerSaysWhatWasStored(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		version byte
		change  func(*packets.Packet)
		props   int
		refused int
	}{
		"MQTT 5":                 {version: 5, props: 3, refused: 2},
		"MQTT 3.1.1":             {version: 4},
		"no problem information": {version: 5, change: func(connect *packets.Packet) { connect.Properties.RequestProblemInfoFlag = true }},
		"small packets":          {version: 5, change: func(connect *packets.Packet) { connect.Properties.MaximumPacketSize = 100 }, refused: 2},
		"smaller packets":        {version: 5, change: func(connect *packets.Packet) { connect.Properties.MaximumPacketSize = 20 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWindow(t, test.version, 8, test.change)
				p := w.begin(1, 1)
				p.Event = chat.Event{ID: conversation, Seq: 1 << 40, CreatedAt: time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC)}
				p.Settle(nil)
				w.begin(2, 1).Settle(&chat.Error{Code: chat.Forbidden, Field: "topic", Msg: "no"})
				synctest.Wait()
				all, _ := w.peer.packets()
				ack, refusal := decodeAck(t, all[0], test.version), decodeAck(t, all[1], test.version)
				if len(ack.Properties.User) != test.props {
					t.Fatalf("PUBACK has the user properties %v", ack.Properties.User)
				}
				if test.props > 0 {
					u := ack.Properties.User
					if u[0].Key != "id" || u[0].Val != conversation.String() || u[1].Key != "seq" || u[1].Val != "1099511627776" || u[2].Key != "createdAt" || u[2].Val != "2026-03-04T05:06:07.089Z" {
						t.Errorf("PUBACK has the user properties %v", u)
					}
				}
				if reason := refusal.Properties.ReasonString; test.version == 5 && refusal.ReasonCode != 0x87 || (reason == "topic: no") == (test.change != nil && name == "no problem information" || test.version < 5) {
					t.Errorf("the refusal says %#x %q", refusal.ReasonCode, reason)
				}
				if u := refusal.Properties.User; len(u) != test.refused || len(u) == 2 && (u[0] != (packets.UserProperty{Key: "code", Val: "forbidden"}) || u[1] != (packets.UserProperty{Key: "field", Val: "topic"})) {
					t.Errorf("the refusal has the user properties %v", u)
				}
			})
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	forbidden := &chat.Error{Code: chat.Forbidden}
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, 5, 8, nil)
		w.begin(1, 1).Settle(forbidden)
		w.begin(2, 2).Settle(forbidden)
		w.begin(0, 0).Settle(forbidden)
		if waited, err := w.Release(2); waited || err != nil {
			t.Error("an exchange that was refused waits for PUBREL")
		}
		w.begin(2, 1).Settle(nil) // the identifier is free
		w.want("Puback 1 0x87", "Pubrec 2 0x87", "Puback 2")
		if len(w.refused) != 1 || w.refused[0].QoS != 0 {
			t.Errorf("told otherwise: %v, want the one at QoS 0", w.refused)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, 4, 8, nil)
		w.begin(1, 1).Settle(forbidden)
		w.begin(2, 2).Settle(forbidden)
		w.begin(0, 0).Settle(forbidden)
		w.want("Puback 1", "Pubrec 2")
		for _, want := range []bool{true, false} { // the second is another's, or of an earlier connection
			if waited, err := w.Release(2); waited != want || err != nil {
				t.Errorf("PUBREL: %v, %v, want %v", waited, err, want)
			}
		}
		if len(w.refused) != 3 || w.refused[0].PacketID != 1 || w.refused[1].PacketID != 2 {
			t.Errorf("told otherwise: %v, want all three", w.refused)
		}
	})
}

// PUBREL answers PUBREC: before that it is a protocol error, at whatever QoS.
func TestPubrelBeforePubrec(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, 5, 8, nil)
		for qos := byte(1); qos <= 2; qos++ {
			p := w.begin(uint16(qos), qos)
			if waited, err := w.Release(p.PacketID); waited || err != broker.ErrEarlyPubrel {
				t.Errorf("PUBREL before the acknowledgement at QoS %d: %v, %v", qos, waited, err)
			}
			p.Settle(nil)
			if waited, err := w.Release(p.PacketID); waited != (qos == 2) || err != nil {
				t.Errorf("PUBREL after the acknowledgement at QoS %d: %v, %v", qos, waited, err)
			}
		}
	})
}

// What could not be stored is not answered, and nothing after it: the connection
// ends, and the client sends again.
func TestUnavailableEndsTheConnection(t *testing.T) {
	t.Parallel()
	for qos := byte(0); qos < 3; qos++ {
		for _, version := range []byte{4, 5} {
			synctest.Test(t, func(t *testing.T) {
				w := newWindow(t, version, 8, nil)
				id := uint16(2)
				if qos == 0 {
					id = 0
				}
				a, b, c := w.begin(1, 1), w.begin(id, qos), w.begin(3, 1)
				c.Settle(nil)
				b.Settle(&chat.Error{Code: chat.Unavailable})
				a.Settle(nil)
				want := []string{"Puback 1"}
				if version == 5 {
					want = append(want, "Disconnect 0x89")
				}
				w.want(want...)
				if _, ok := w.Begin(chat.Topic{}, 4, 1, false); ok {
					t.Error("another publish was taken")
				}
				if len(w.refused) > 0 {
					t.Errorf("told otherwise: %v", w.refused)
				}
				if _, err := w.conn.Next(); err == nil {
					t.Error("the reader goes on")
				}
			})
		}
	}
}

// The publishes at QoS 2 for which no PUBREL comes cannot be held back by not reading. They
// take memory, so there is an end to them.
func TestTooManyPublishesWithoutPubrel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, 5, 3, nil)
		const most = 1024
		for id := uint16(1); id <= most; id++ {
			w.begin(id, 2).Settle(nil)
		}
		if waited, err := w.Release(2); !waited || err != nil {
			t.Error("PUBREL of 2 is unknown")
		}
		w.begin(most+1, 2).Settle(nil)
		w.begin(most+2, 1).Settle(nil)
		if _, ok := w.Begin(chat.Topic{}, most+3, 2, false); ok {
			t.Errorf("the publish %d at QoS 2 was taken", most+1)
		}
		if got := w.answers(); got[len(got)-1] != "Disconnect 0x93" {
			t.Errorf("the last answer is %s", got[len(got)-1])
		}
	})
}

func TestFullWindowHoldsTheReaderUp(t *testing.T) {
	t.Parallel()
	for _, version := range []byte{4, 5} {
		testFullWindow(t, version)
	}
}

func testFullWindow(t *testing.T, version byte) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, version, 2, nil)
		a, b := w.begin(1, 1), w.begin(2, 1)
		taken := make(chan *broker.Publish)
		go func() {
			p, _ := w.Begin(chat.Topic{}, 3, 1, false)
			taken <- p
		}()
		b.Settle(nil) // not the oldest: no place is free
		synctest.Wait()
		select {
		case <-taken:
			t.Fatal("a third was taken")
		default:
		}
		a.Settle(nil)
		if p := <-taken; p == nil {
			t.Fatal("the window is closed")
		}
		w.begin(4, 1)
		go func() {
			p, ok := w.Begin(chat.Topic{}, 5, 1, false)
			if ok {
				t.Error("Begin after Close: taken")
			}
			taken <- p
		}()
		synctest.Wait()
		w.Close()
		<-taken
	})
}

func TestPacketIdentifierInUse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, 4, 8, nil)
		w.begin(1, 1)
		w.begin(2, 2).Settle(nil)
		again := func(id uint16, qos byte) {
			t.Helper()
			if p, ok := w.Begin(chat.Topic{}, id, qos, true); p != nil || !ok {
				t.Errorf("packet %d sent again: %v, %v, want nil, true", id, p, ok)
			}
		}
		again(1, 1)
		again(2, 2)
		w.want() // the first is not settled
		if _, ok := w.Begin(chat.Topic{}, 1, 1, false); ok {
			t.Error("an identifier that is in use was taken for another publish")
		}
	})
	synctest.Test(t, func(t *testing.T) { // PUBREC was lost on the way: it is written again
		w := newWindow(t, 4, 8, nil)
		w.begin(2, 2).Settle(nil)
		if p, ok := w.Begin(chat.Topic{}, 2, 2, true); p != nil || !ok {
			t.Errorf("packet 2 sent again: %v, %v, want nil, true", p, ok)
		}
		w.want("Pubrec 2", "Pubrec 2")
	})
	for _, dup := range []bool{false, true} { // MQTT 5 sends nothing again on a connection
		synctest.Test(t, func(t *testing.T) {
			w := newWindow(t, 5, 8, nil)
			w.begin(1, 1)
			if _, ok := w.Begin(chat.Topic{}, 1, 1, dup); ok {
				t.Error("an identifier that is in use was taken")
			}
			w.want("Disconnect 0x82")
		})
	}
}

func TestOutcomesAfterClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(t, 5, 8, nil)
		a, b, c := w.begin(1, 1), w.begin(2, 1), w.begin(0, 0)
		w.Close()
		a.Settle(nil)
		b.Settle(&chat.Error{Code: chat.Unavailable})
		c.Settle(&chat.Error{Code: chat.Forbidden})
		w.want()
		if len(w.refused) > 0 {
			t.Errorf("told otherwise: %v", w.refused)
		}
	})
}

// Commits end in any order, from several goroutines, while the reader takes more.
func TestIntakeRaces(t *testing.T) {
	t.Parallel()
	for _, version := range []byte{4, 5} {
		c, p := pipe(broker.Limits{ReceiveMaximum: 16, MaxBuffer: 10 << 20})
		in := broker.NewIntake(c, func(*broker.Publish, bool) {})
		accept(c, version, nil, nil)
		p.readAll()
		const n = 3000
		work := make(chan *broker.Publish, 16)
		var committers sync.WaitGroup
		for seed := range 4 {
			committers.Go(func() {
				r := rand.New(rand.NewPCG(uint64(seed), 1))
				var held []*broker.Publish
				ready := make(chan struct{})
				close(ready)
				for open := true; open || len(held) > 0; {
					if open && (len(held) == 0 || r.IntN(3) == 0) {
						var idle <-chan struct{}
						if len(held) > 0 { // nobody waits for more while the window may be full of what is held
							idle = ready
						}
						select {
						case pub, ok := <-work:
							if open = ok; ok {
								held = append(held, pub)
							}
						case <-idle:
						}
						continue
					}
					i := r.IntN(len(held))
					var err error
					if r.IntN(5) == 0 {
						err = &chat.Error{Code: chat.Invalid}
					}
					held[i].Settle(err)
					held = slices.Delete(held, i, i+1)
				}
			})
		}
		acked := func() int { all, _ := p.packets(); return len(all) }
		for i := range n {
			for version == 5 && i-acked() >= 16 {
				time.Sleep(20 * time.Microsecond) // a client that keeps to its Receive Maximum
			}
			pub, ok := in.Begin(chat.Topic{}, uint16(i+1), 1, false)
			if !ok {
				t.Fatal("the window is closed")
			}
			work <- pub
		}
		close(work)
		committers.Wait()
		in.Close()
		c.Finish()
		for p.ended() == nil {
			time.Sleep(time.Millisecond)
		}
		all, _ := p.packets()
		if len(all) != n {
			t.Fatalf("version %d: %d acknowledgements, want %d", version, len(all), n)
		}
		for i, b := range all {
			if pk := decodeAck(t, b, version); pk.PacketID != uint16(i+1) {
				t.Fatalf("version %d: acknowledgement %d is for packet %d", version, i+1, pk.PacketID)
			}
		}
		_ = p.Close()
	}
}

func TestReasonTables(t *testing.T) {
	t.Parallel()
	codes := append(chat.Codes(), "no code at all")
	for _, code := range codes {
		err := &chat.Error{Code: code, Msg: "because"}
		connack, old := broker.ConnackReason(err, 5), broker.ConnackReason(err, 4)
		if connack.Code < 0x80 || connack.Reason == "" {
			t.Errorf("%s: CONNACK %#x %q", code, connack.Code, connack.Reason)
		}
		if old.Code < 1 || old.Code > 5 {
			t.Errorf("%s: CONNACK of 3.1.1 %d", code, old.Code)
		}
		// What the packets may carry: MQTT 5.0, tables 3-4, 3-9 and 3-13.
		puback, answer := broker.PubackReason(err)
		if answer != (code != chat.Unavailable) || answer && !slices.Contains([]byte{0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99}, puback) {
			t.Errorf("%s: PUBACK %#x, %v", code, puback, answer)
		}
		if s := broker.SubackReason(err); !slices.Contains([]byte{0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2}, s) {
			t.Errorf("%s: SUBACK %#x", code, s)
		}
		d := broker.DisconnectReason(err)
		pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, ReasonCode: d}
		if d < 0x80 || pk.ReasonCode == 0x84 || pk.ReasonCode == 0x85 || pk.ReasonCode == 0x86 {
			t.Errorf("%s: DISCONNECT %#x", code, d)
		}
	}
	if broker.DisconnectReason(errors.New("?")) != 0x80 {
		t.Error("what is not known is not 0x80")
	}
}
