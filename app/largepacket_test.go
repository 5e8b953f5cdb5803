package app_test

import (
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster/redistest"
	"github.com/parleymq/parley/store/storetest"
)

// A mosquitto.conf says max_packet_size 10485760: publications of several MB, one after the
// other, reach every subscriber, at this node and at the other, one that is away, and one
// that comes later and is sent what was retained. Once such a publication was acknowledged,
// and each subscriber cut off for it.
func TestLargePackets(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL(), func(o *app.Options) { o.Limits.MaxPacket = 10485760 })
	meet(t, nodes...)
	u := nodes[0].User(t, "ann")
	camera := nodes[0].Device(t, u, brokertest.Connect{ClientID: "camera"})
	away := brokertest.Connect{ClientID: "away", Persistent: true, SessionExpiry: 600}
	d := nodes[1].Device(t, u, away)
	d.MustSubscribe(1, "dev/#")
	d.Close()
	var subscribers []*apptest.Device
	for i, node := range nodes {
		for j, v := range versions {
			d := node.Device(t, u, brokertest.Connect{ClientID: string(rune('a' + 2*i + j)), Version: v})
			d.MustSubscribe(byte(1+j), "dev/#")
			subscribers = append(subscribers, d)
		}
	}
	web := nodes[0].DialWebSocket(t)
	web.MustConnect(u.As(brokertest.Connect{ClientID: "web"}))
	web.AutoAck = true
	web.MustSubscribe(1, "dev/#")
	subscribers = append(subscribers, &apptest.Device{Client: web, User: u})
	sizes := []int{2_000_000, 300_000, 10_000_000, 2_000_000}
	for i, n := range sizes {
		pk := brokertest.Publish("dev/camera", 1, uint16(i+1), strings.Repeat("x", n))
		pk.FixedHeader.Retain = i == 2
		camera.Client.Send(pk)
	}
	for range sizes {
		if ack := camera.Expect(packets.Puback); ack.ReasonCode != 0 {
			t.Fatalf("got %s", brokertest.Describe(ack))
		}
	}
	expect := func(d *apptest.Device) {
		t.Helper()
		for _, n := range sizes {
			if pk := d.Expect(packets.Publish); len(pk.Payload) != n {
				t.Fatalf("got %d bytes, want %d", len(pk.Payload), n)
			}
		}
	}
	for _, d := range subscribers {
		expect(d)
	}
	late := nodes[1].Device(t, u, brokertest.Connect{ClientID: "late"})
	late.MustSubscribe(1, "dev/camera")
	if pk := late.Expect(packets.Publish); len(pk.Payload) != 10_000_000 || !pk.FixedHeader.Retain {
		t.Errorf("got %d bytes", len(pk.Payload))
	}
	expect(nodes[1].Device(t, u, away))
}

// A limit that not everything on the way has room for is refused.
func TestTooLargeAPacketLimit(t *testing.T) {
	t.Parallel()
	a := app.New(app.Options{DatabaseURL: storetest.DSN(t), MQTTAddr: "127.0.0.1:0", HTTPAddr: "127.0.0.1:0", Limits: broker.Limits{MaxPacket: chat.MaxPacketBytes + 1}})
	if err := a.Start(t.Context()); chat.CodeOf(err) != chat.Invalid || !strings.Contains(err.Error(), "16777216") {
		t.Errorf("Start: %v", err)
	}
}
