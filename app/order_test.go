package app_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// stallRetained keeps retained messages from being stored until release is called.
func stallRetained(t *testing.T, a *apptest.App) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), a.DSN())
	if err != nil {
		t.Fatal(err)
	}
	if _, err = conn.Exec(t.Context(), `SELECT pg_advisory_lock(hashtextextended('parley retained messages', 0))`); err != nil {
		t.Fatal(err)
	}
	return func() { _ = conn.Close(t.Context()) }
}

// Packets of one connection take effect in their order, however long a commit takes, and
// without a client that waits for answers: what it has published before SUBSCRIBE is a
// retained message (RETAIN 1) on device topics, and nothing new in a conversation; what it
// has published to a device topic before UNSUBSCRIBE is received.
func TestPacketsTakeEffectInOrder(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		for _, conversation := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, conversation %v", versionName(v), conversation), func(t *testing.T) {
				t.Parallel()
				a := apptest.Start(t)
				ann, bob := a.User(t, "ann"), a.User(t, "bob")
				conv := a.Direct(t, ann, bob)
				topic, stalled := "dev/lamp", func() (release func()) { return stallRetained(t, a) }
				if conversation {
					topic, stalled = conv.Topic("messages"), func() (release func()) { return stall(t, a, conv) }
				}
				d := a.Device(t, ann, brokertest.Connect{ClientID: "phone", Version: v})
				publish := func(id uint16, payload string) {
					pk := brokertest.Publish(topic, 1, id, payload)
					pk.FixedHeader.Retain = !conversation
					d.Client.Send(pk)
				}
				filter := func(kind byte, id uint16) {
					d.Client.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id, Filters: packets.Subscriptions{{Filter: topic, Qos: 1}}})
				}
				expect := func(payload string, retain bool) {
					t.Helper()
					pk := d.Await(packets.Publish)
					got := string(pk.Payload)
					if conversation {
						got = apptest.EventOf(t, pk).Content
					}
					if got != payload || pk.FixedHeader.Retain != retain {
						t.Fatalf("received %q, retain %v, want %q, %v", got, pk.FixedHeader.Retain, payload, retain)
					}
				}

				release := stalled()
				publish(1, "first")
				filter(packets.Subscribe, 2)
				release()
				d.AwaitAck(packets.Puback, 1)
				d.Await(packets.Suback)
				if !conversation {
					expect("first", true)
				}
				d.Ping() // and nothing else
				if conversation {
					return // events are handed out a moment after they are acknowledged
				}

				release = stalled()
				publish(3, "second")
				filter(packets.Unsubscribe, 4)
				publish(5, "third")
				release()
				expect("second", false)
				d.AwaitAck(packets.Puback, 3)
				d.Await(packets.Unsuback)
				d.AwaitAck(packets.Puback, 5)
				d.Ping() // and not the third
			})
		}
	}
}
