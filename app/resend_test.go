package app_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/cluster/redistest"
)

// A lamp that says "on" in packet 1 of every connection said so an hour ago. Now its
// first "on" is lost on the line, and it sends the packet again, marked DUP: it was
// once answered with the message of an hour ago, and nothing was stored.
func TestResentPacketIsNotAnOldOne(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, tt := range []struct {
		name     string
		connect  brokertest.Connect
		meantime string // SQL
		repeat   bool
	}{
		{name: "in a new session", connect: brokertest.Connect{ClientID: "lamp"}},
		{
			name: "an hour after the last connection ended", connect: brokertest.Connect{ClientID: "lamp", Persistent: true, SessionExpiry: 86400},
			meantime: `UPDATE sessions SET parted_at = parted_at + interval '1 hour' WHERE client_id = 'lamp' AND user_id = $1 RETURNING 1`,
		},
		{
			name: "just after the last connection ended", connect: brokertest.Connect{ClientID: "lamp", Persistent: true, SessionExpiry: 86400},
			repeat: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			d := a.Device(t, r.eve, tt.connect)
			d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), 1, 1, "on"))
			before := brokertest.AckOf(firstAck(d, 1))
			r.seq++
			r.near.ExpectEvent(r.conv, r.seq)
			d.Close()
			if tt.meantime != "" {
				apptest.Eventually(t, "the connection has ended", func() bool {
					return number(t, a, fmt.Sprintf(`SELECT count(*) FROM sessions WHERE user_id = '%s' AND parted_at IS NOT NULL`, r.eve.ID)) == 1
				})
				number(t, a, tt.meantime, [16]byte(r.eve.ID))
			}
			d = a.Device(t, r.eve, tt.connect)
			again := brokertest.Publish(r.conv.Topic("messages"), 1, 1, "on")
			again.FixedHeader.Dup = true
			d.Client.Send(again)
			after := brokertest.AckOf(firstAck(d, 1))
			if repeat := before == after; repeat != tt.repeat {
				t.Errorf("acknowledged with %+v after %+v", after, before)
			}
			if !tt.repeat {
				r.seq++
				r.near.ExpectEvent(r.conv, r.seq)
			}
			r.undisturbed(t)
		})
	}
}

// MQTT.js publishes a thousand messages in a loop, and the line is cut. It connects again,
// and sends what was not acknowledged under the same packet identifiers, without DUP: all of
// that was stored twice.
func TestPacketsSentAgainWithoutDup(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("%s, QoS %d", versionName(v), qos), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				o := kept("loop", v)
				const n = 120
				send := func(d *apptest.Device, from, to int) {
					for i := from; i < to; i++ {
						d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), qos, uint16(i), fmt.Sprintf("message %d", i/2*2)))
					}
				}
				d := a.Device(t, r.eve, o)
				release := stall(t, a, r.conv)
				send(d, 1, n)
				d.Ping()      // all of it has been taken in
				for range 3 { // the line is cut again and again; the last time it is half open
					d.Close()
					d = a.Device(t, r.eve, o)
					send(d, 1, n/2)
					d.Ping()
				}
				d = a.Device(t, r.eve, o)
				send(d, 1, n)
				send(d, n, n+10) // new ones
				d.Ping()
				release()
				for i := 1; i < n+10; i++ {
					if pk := firstAck(d, qos); int(pk.PacketID) != i || pk.ReasonCode != 0 {
						t.Fatalf("acknowledgement %d is %s", i, brokertest.Describe(pk))
					}
				}
				var contents []string
				for _, e := range a.Log(t, r.nan, r.conv, 1) {
					contents = append(contents, e.Content)
				}
				var want []string
				for i := 1; i < n+10; i++ {
					want = append(want, fmt.Sprintf("message %d", i/2*2))
				}
				if !slices.Equal(contents, want) {
					t.Errorf("%d messages were stored, want %d", len(contents), len(want))
				}
			})
		}
	}
}

// A message is stored, and the server crashes. The client sends it again twice, and the
// line is cut before the first of these is answered: what that connection leaves is not the
// key under which the message is stored.
func TestPacketSentAgainAfterACrashAndALostLine(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			a := apptest.Start(t)
			r := newRig(t, a)
			o := kept("phone", v)
			pk := brokertest.Publish(r.conv.Topic("messages"), 1, 1, "hello")
			a.Device(t, r.eve, o).Client.Send(pk)
			r.seq++
			r.near.ExpectEvent(r.conv, r.seq)
			a.Crash(t)
			b := apptest.StartOn(t, a.DSN())
			pk.FixedHeader.Dup = true
			d := b.Device(t, r.eve, o)
			release := stall(t, b, r.conv)
			d.Client.Send(pk)
			d.Ping()
			d.Close()
			d = b.Device(t, r.eve, o)
			d.Client.Send(pk)
			d.Ping()
			release()
			if ack := firstAck(d, 1); ack.ReasonCode != 0 {
				t.Errorf("got %s", brokertest.Describe(ack))
			}
			if log := b.Log(t, r.nan, r.conv, r.seq-1); len(log) != 1 || log[0].Content != "hello" {
				t.Errorf("the log has %+v", log)
			}
		})
	}
}

// An identifier that was unacknowledged, with other content: the client has given up what
// it meant, and sends something else.
func TestAnotherPacketUnderAnUnacknowledgedIdentifier(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, change := range []func(*packets.Packet, *rig){
			func(pk *packets.Packet, _ *rig) { pk.Payload = []byte("off") },
			func(pk *packets.Packet, _ *rig) { pk.FixedHeader.Qos = 2 },
			func(pk *packets.Packet, r *rig) {
				pk.TopicName = a.Direct(t, r.eve, a.User(t, "ben")).Topic("messages")
			},
		} {
			r := newRig(t, a)
			o := kept("lamp", v)
			d := a.Device(t, r.eve, o)
			release := stall(t, a, r.conv)
			pk := brokertest.Publish(r.conv.Topic("messages"), 1, 1, "on")
			d.Client.Send(pk)
			d.Ping()
			d.Close()
			d = a.Device(t, r.eve, o)
			change(&pk, r)
			d.Client.Send(pk)
			d.Ping()
			release()
			if ack := firstAck(d, pk.FixedHeader.Qos); ack.ReasonCode != 0 {
				t.Errorf("got %s", brokertest.Describe(ack))
			}
			r.seq++
			r.near.ExpectEvent(r.conv, r.seq)
			if pk.TopicName == r.conv.Topic("messages") {
				r.seq++
				if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != string(pk.Payload) {
					t.Errorf("received %+v", e)
				}
			}
			r.undisturbed(t)
		}
	}
}

// The acknowledgement was written, and has not reached the client when the line is cut:
// for the client it was never acknowledged.
func TestAcknowledgementLostOnTheLine(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("%s, QoS %d", versionName(v), qos), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				o := kept("phone", v)
				d := a.Device(t, r.eve, o)
				if tcp, ok := d.Conn().(interface{ SetReadBuffer(int) error }); ok {
					_ = tcp.SetReadBuffer(4 << 10)
				}
				d.MustSubscribe(0, "dev/noise")
				noise := a.Device(t, r.eve, brokertest.Connect{ClientID: "noise"})
				for range 4 { // more than the client's buffer holds, and it does not read
					noise.Publish(1, "dev/noise", string(make([]byte, 100<<10)))
				}
				pk := brokertest.Publish(r.conv.Topic("messages"), qos, 7, "once")
				d.Client.Send(pk)
				r.seq++
				e := r.near.ExpectEvent(r.conv, r.seq)
				d.Close()
				d = a.Device(t, r.eve, o)
				d.Client.Send(pk)
				if ack := brokertest.AckOf(d.Await(firstAckType(qos))); v == 5 && (ack.ID != e.ID || ack.Seq != e.Seq) {
					t.Errorf("acknowledged with %+v, stored as %+v", ack, e)
				}
				r.undisturbed(t)
			})
		}
	}
}

// The same where the device comes back at another node, while the first sending waits at the
// one before to be stored.
func TestPacketsSentAgainToAnotherNode(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL())
	meet(t, nodes...)
	for _, v := range versions {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("%s, QoS %d", versionName(v), qos), func(t *testing.T) {
				t.Parallel()
				ann, bob := nodes[0].User(t, "ann"), nodes[0].User(t, "bob")
				conv := nodes[0].Direct(t, ann, bob)
				o := kept("loop", v)
				const n = 100
				release := stall(t, nodes[0], conv)
				for _, node := range nodes {
					d := node.Device(t, ann, o)
					for i := 1; i <= n; i++ {
						d.Client.Send(brokertest.Publish(conv.Topic("messages"), qos, uint16(i), "hello"))
					}
					d.Ping()
					if node == nodes[0] {
						continue
					}
					release()
					for i := 1; i <= n; i++ {
						if pk := firstAck(d, qos); int(pk.PacketID) != i || pk.ReasonCode != 0 {
							t.Fatalf("acknowledgement %d is %s", i, brokertest.Describe(pk))
						}
					}
				}
				if last := nodes[1].LastSeq(t, bob, conv); last != 1+n {
					t.Errorf("%d messages are stored, want %d", last-1, n)
				}
			})
		}
	}
}
