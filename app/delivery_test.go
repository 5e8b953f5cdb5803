package app_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// An event is delivered at the QoS of the subscription, whatever it was sent at,
// with all the acknowledgements of that QoS and nothing after them.
func TestDeliveryQoS(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		for qos := range byte(3) {
			d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
			d.AutoAck = false
			d.MustSubscribe(qos, "conv/#")
			r.undisturbed(t)
			r.undisturbed(t)
			one, two := d.ExpectEvent(r.conv, r.seq-1).Packet, d.ExpectEvent(r.conv, r.seq).Packet
			for _, pk := range []packets.Packet{one, two} {
				if h := pk.FixedHeader; h.Qos != qos || h.Dup || h.Retain || (pk.PacketID != 0) != (qos > 0) {
					t.Errorf("subscribed at QoS %d: got %s", qos, brokertest.Describe(pk))
				}
			}
			if qos > 0 && one.PacketID == two.PacketID {
				t.Errorf("two packets with id %d", one.PacketID)
			}
			d.Ping()
			for _, pk := range []packets.Packet{two, one} { // in the other order, which is allowed
				id := []byte{byte(pk.PacketID >> 8), byte(pk.PacketID)}
				switch qos {
				case 1:
					d.SendBytes(append([]byte{packets.Puback << 4, 2}, id...))
				case 2:
					for range 2 { // the second asks again
						d.SendBytes(append([]byte{packets.Pubrec << 4, 2}, id...))
						if rel := d.Expect(packets.Pubrel); rel.PacketID != pk.PacketID || rel.ReasonCode != 0 {
							t.Errorf("got %s", brokertest.Describe(rel))
						}
					}
					d.SendBytes(append([]byte{packets.Pubcomp << 4, 2}, id...))
				}
			}
			d.Ping()
			d.Disconnect()
		}
	}
}

// A client gets as many unacknowledged events as its Receive Maximum, and the
// others as it acknowledges, in order.
func TestClientReceiveMaximum(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", ReceiveMaximum: 3})
			d.AutoAck = false
			d.MustSubscribe(qos, "conv/#")
			first := r.seq + 1
			for range 20 {
				r.undisturbed(t)
			}
			var way []uint16 // packet identifiers that are not acknowledged
			for seq := first; seq <= r.seq; seq++ {
				if len(way) == 3 {
					d.Ping() // no fourth
					for _, id := range way {
						b := []byte{byte(id >> 8), byte(id)}
						if qos == 1 {
							d.SendBytes(append([]byte{packets.Puback << 4, 2}, b...))
							continue
						}
						d.SendBytes(append([]byte{packets.Pubrec << 4, 2}, b...))
						d.Await(packets.Pubrel)
						d.SendBytes(append([]byte{packets.Pubcomp << 4, 2}, b...))
					}
					way = way[:0]
				}
				pk := d.ExpectEvent(r.conv, seq).Packet
				if slices.Contains(way, pk.PacketID) {
					t.Fatalf("packet identifier %d is used twice at once", pk.PacketID)
				}
				way = append(way, pk.PacketID)
			}
			d.Ping()
		})
	}
}

// Overlapping filters get one copy, at the highest QoS of them, with the
// subscription identifiers of all.
func TestOverlappingFilters(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
		filters := []string{"conv/#", "conv/+/messages", r.conv.Topic("messages"), r.conv.Topic("+"), "conv/+/typing"}
		for i, f := range filters {
			pk := packets.Packet{
				FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: d.NextID(),
				Filters: packets.Subscriptions{{Filter: f, Qos: byte(i % 3)}},
			}
			pk.Properties.SubscriptionIdentifier = []int{100_000 + i}
			d.Client.Send(pk)
			d.Await(packets.Suback)
		}
		expect := func(qos byte, ids ...int) {
			t.Helper()
			r.undisturbed(t)
			pk := d.ExpectEvent(r.conv, r.seq).Packet
			got := slices.Clone(pk.Properties.SubscriptionIdentifier)
			slices.Sort(got)
			if v == 4 {
				ids = nil
			}
			if pk.FixedHeader.Qos != qos || !slices.Equal(got, ids) {
				t.Errorf("%s: got QoS %d and identifiers %d, want QoS %d and %d", versionName(v), pk.FixedHeader.Qos, got, qos, ids)
			}
			d.Ping()
		}
		expect(2, 100_000, 100_001, 100_002, 100_003)
		d.Unsubscribe(filters[2])
		expect(1, 100_000, 100_001, 100_003)
		d.MustSubscribe(0, filters[1]) // in place of the one with an identifier
		expect(0, 100_000, 100_003)
		d.Unsubscribe(filters[0], filters[3])
		expect(0)
		d.Disconnect()
	}
}

// UNSUBSCRIBE ends delivery; SUBSCRIBE after it begins at the end of the log, and
// SUBSCRIBE again without it goes on where it was.
func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
		d.MustSubscribe(1, "conv/+/messages")
		r.undisturbed(t)
		d.ExpectEvent(r.conv, r.seq)
		d.MustSubscribe(2, "conv/+/messages")
		r.undisturbed(t)
		if pk := d.ExpectEvent(r.conv, r.seq).Packet; pk.FixedHeader.Qos != 2 {
			t.Errorf("got %s", brokertest.Describe(pk))
		}
		codes := d.Unsubscribe("conv/+/messages", "conv/#", "nonsense")
		if want := []byte{0, 0x11, 0x11}; v == 5 && string(codes) != string(want) {
			t.Errorf("UNSUBACK % x, want % x", codes, want)
		}
		r.undisturbed(t)
		r.undisturbed(t)
		d.Ping()
		d.MustSubscribe(1, r.conv.Topic("messages"))
		d.Ping()
		r.undisturbed(t)
		d.ExpectEvent(r.conv, r.seq)
		d.Disconnect()
	}
}

// Everything of a user's reaches every device of theirs that subscribed, the
// sending one too.
func TestDevicesOfSender(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	var devices []*apptest.Device
	for i := range 5 {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: fmt.Sprint(i), Version: versions[i%2]})
		d.MustSubscribe(byte(i%3), "conv/+/messages")
		devices = append(devices, d)
	}
	mute := a.Device(t, r.eve, brokertest.Connect{ClientID: "mute"})
	for i, d := range devices {
		d.Send(r.conv, fmt.Sprint(i))
		r.seq++
		r.near.ExpectEvent(r.conv, r.seq)
		for _, other := range devices {
			if e := other.ExpectEvent(r.conv, r.seq); e.Content != fmt.Sprint(i) {
				t.Errorf("received %+v", e)
			}
		}
	}
	body := map[string]string{"conversationId": string(r.conv), "content": "over REST"}
	if resp := a.REST(t, r.eve, http.MethodPost, "/api/messages", body); resp.Status != http.StatusCreated {
		t.Fatal(resp)
	}
	r.seq++
	r.near.ExpectEvent(r.conv, r.seq)
	for _, d := range devices {
		if e := d.ExpectEvent(r.conv, r.seq); e.Content != "over REST" {
			t.Errorf("received %+v", e)
		}
		d.Ping()
	}
	mute.Ping()
}

// A group of a hundred: each member gets each message once, in order, whoever
// sends it.
func TestGroupOf100(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	const n = 100
	users := make([]apptest.User, n)
	for i := range users {
		users[i] = a.User(t, "m")
	}
	c := a.Group(t, users[0], users[1:]...)
	devices := make([]*apptest.Device, n)
	for i, u := range users {
		devices[i] = a.Device(t, u, brokertest.Connect{ClientID: "phone", Version: versions[i%2]})
		devices[i].MustSubscribe(byte(i%3), "conv/+/messages")
	}
	stranger := a.Device(t, a.User(t, "stranger"), brokertest.Connect{ClientID: "phone"})
	stranger.MustSubscribe(1, "conv/#")
	for i := range 10 {
		devices[i*7].PublishAsync(1, c.Topic("messages"), fmt.Sprint(i))
		devices[i*7].Await(packets.Puback)
	}
	for i, d := range devices {
		for j := range 10 {
			if e := d.ExpectEvent(c, int64(j+2)); e.Content != fmt.Sprint(j) {
				t.Errorf("member %d received %q as event %d", i, e.Content, e.Seq)
			}
		}
		d.Ping()
	}
	stranger.Ping()
}

// A wildcard means mine, now and later: a conversation that is made after
// SUBSCRIBE is received from its first event on.
func TestNewConversation(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, filter := range []string{"conv/+/messages", "conv/#", "conv/+/+"} {
			alice, bob := a.User(t, "alice"), a.User(t, "bob")
			da := a.Device(t, alice, brokertest.Connect{ClientID: "a", Version: v})
			db := a.Device(t, bob, brokertest.Connect{ClientID: "b", Version: v})
			da.MustSubscribe(1, filter)
			db.MustSubscribe(1, filter)
			for _, begin := range []func() apptest.Conv{
				func() apptest.Conv { return a.Direct(t, alice, bob) },
				func() apptest.Conv { return a.Group(t, bob, alice) },
			} {
				c := begin()
				da.Send(c, "first")
				db.Send(c, "second")
				for _, d := range []*apptest.Device{da, db} {
					if e := d.ExpectEvent(c, 1); e.Type != "conversation" || e.Op != "created" {
						t.Errorf("event 1 is %+v", e)
					}
					d.ExpectEvent(c, 2)
					d.ExpectEvent(c, 3)
					d.Ping()
				}
			}
		}
	}
}

// An event that is larger than the client takes is skipped for it, and counts as
// delivered; smaller ones before and after arrive (MQTT 5.0, 3.1.2.11.4).
func TestClientMaximumPacketSize(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for qos := range byte(3) {
		r := newRig(t, a)
		small := a.Device(t, r.eve, brokertest.Connect{ClientID: "small", MaximumPacketSize: 2000, ReceiveMaximum: 2})
		small.MustSubscribe(qos, "conv/#")
		for i := range 10 {
			content := fmt.Sprint(i)
			if i%3 == 1 {
				content = strings.Repeat("a", 2000)
			}
			r.near.Send(r.conv, content)
			r.seq++
			r.near.ExpectEvent(r.conv, r.seq)
			if len(content) < 2000 {
				small.ExpectEvent(r.conv, r.seq)
			}
		}
		small.Ping()

		// What the server says about errors is shortened, too.
		tiny := a.Device(t, r.eve, brokertest.Connect{ClientID: "tiny", MaximumPacketSize: 20})
		if ack := tiny.Publish(1, r.conv.Topic("messages"), ""); ack != (brokertest.Ack{Code: 0x99}) {
			t.Errorf("got %+v, want 0x99 without a reason", ack)
		}
		if ack := tiny.Publish(1, r.conv.Topic("messages"), "hello"); ack != (brokertest.Ack{}) {
			t.Errorf("got %+v, want success without properties", ack)
		}
		r.seq++
		r.near.ExpectEvent(r.conv, r.seq)
		small.ExpectEvent(r.conv, r.seq)
		tiny.SendBytes([]byte{0x20, 0x03, 0, 0, 0})
		if pk := tiny.ExpectDisconnect(0x82); pk.Properties.ReasonString != "" {
			t.Errorf("got %s in a packet of at most 20 bytes", brokertest.Describe(pk))
		}
		r.undisturbed(t)
		small.ExpectEvent(r.conv, r.seq)
	}
}

// A client that does not read holds nobody up and costs little memory, however
// much is for it; when it reads again it gets everything, in order. It has the
// process to itself, whose memory it measures.
func TestSlowReader(t *testing.T) {
	for qos := range byte(2) {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			a := apptest.Start(t)
			r := newRig(t, a)
			slow := a.Device(t, r.eve, brokertest.Connect{ClientID: "slow"})
			if tcp, ok := slow.Conn().(interface{ SetReadBuffer(int) error }); ok {
				_ = tcp.SetReadBuffer(64 << 10)
			}
			slow.MustSubscribe(qos, "conv/#")
			from := a.Device(t, r.eve, brokertest.Connect{ClientID: "from"})
			first := r.seq + 1
			payload := strings.Repeat("a", 60<<10)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			const n = 160 // 9 MiB: more than sockets and buffers hold
			for i := range n {
				from.Send(r.conv, fmt.Sprint(i, " ", payload))
				r.seq++
				r.near.ExpectEvent(r.conv, r.seq)
			}
			r.undisturbed(t)
			runtime.ReadMemStats(&after)
			if grown := int64(after.Sys) - int64(before.Sys); grown > 200<<20 {
				t.Errorf("%d MiB for a slow reader took %d MiB of memory", n*60>>10, grown>>20)
			}
			for seq := first; seq <= r.seq; seq++ {
				e := slow.ExpectEvent(r.conv, seq)
				if i := seq - first; i < n && !strings.HasPrefix(e.Content, fmt.Sprint(i, " a")) {
					t.Fatalf("event %d is %.20q", seq, e.Content)
				}
			}
			slow.Ping()
			r.undisturbed(t)
			slow.ExpectEvent(r.conv, r.seq)
			if strings.Contains(a.Metrics(t), "\nparley_delivery_caught_up_events_total 0\n") {
				t.Error("the slow reader was never behind: the test shows nothing")
			}
		})
	}
}

// A client that takes nothing for the write timeout is cut off, and nobody else
// notices.
func TestDeadReader(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, impatient)
	r := newRig(t, a)
	dead := a.Device(t, r.eve, brokertest.Connect{ClientID: "dead"})
	if tcp, ok := dead.Conn().(interface{ SetReadBuffer(int) error }); ok {
		_ = tcp.SetReadBuffer(64 << 10)
	}
	dead.MustSubscribe(0, "conv/#")
	payload := strings.Repeat("a", 60<<10)
	start := time.Now()
	apptest.Eventually(t, "the server has cut the dead reader off", func() bool {
		if time.Since(start) > brokertest.Patience {
			return false
		}
		r.near.Send(r.conv, payload)
		r.seq++
		r.near.ExpectEvent(r.conv, r.seq)
		return dead.Write([]byte{packets.Pingreq << 4, 0}) != nil
	})
	r.undisturbed(t)
}

// A client that sends and does not read its answers is cut off before they take
// much memory.
func TestAnswersNotRead(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.Limits.MaxBuffer = 64 << 10 })
	r := newRig(t, a)
	d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve"})
	publish := d.Encode(brokertest.Publish("conv/", 1, 1, "")) // the answer says why not, and is longer
	batch := []byte(strings.Repeat(string(publish), 4096))
	var err error
	for range 1000 {
		if err = d.Write(batch); err != nil {
			break
		}
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the server has taken everything, or nothing any more: %v", err)
	}
	r.undisturbed(t)
}
