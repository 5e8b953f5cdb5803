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

// lamp is a device whose will says "offline" on its topic, and conversation.
type lamp struct {
	topic   string
	connect brokertest.Connect
}

func newLamp(name, topic string, v byte, keep bool, delay uint32) lamp {
	o := brokertest.Connect{ClientID: name, Version: v, WillTopic: topic, WillPayload: "offline", WillQoS: 1}
	if keep {
		o.Persistent, o.SessionExpiry = true, uint32(v-4)*3600
	}
	o.Change = func(pk *packets.Packet) {
		pk.Connect.WillRetain = true
		if v == 5 {
			pk.Connect.WillProperties.WillDelayInterval = delay
		}
	}
	return lamp{topic, o}
}

// say publishes what is retained, and waits until that is stored.
func (l lamp) say(t *testing.T, d *apptest.Device, payload string) {
	t.Helper()
	pk := brokertest.Publish(l.topic, 1, 99, payload)
	pk.FixedHeader.Retain = true
	d.Client.Send(pk)
	if ack := d.Await(packets.Puback); ack.ReasonCode >= 0x80 {
		t.Fatalf("%q got %s", payload, brokertest.Describe(ack))
	}
}

// willsAreDone returns when everything has been done that a node's wills so far have asked for.
func willsAreDone(t *testing.T, node *apptest.App, u apptest.User, watch *apptest.Device) (before []packets.Packet) {
	t.Helper()
	node.Device(t, u, brokertest.Connect{ClientID: "marker", WillTopic: "dev/marker", WillPayload: "done"}).Close()
	for {
		pk := watch.Await(packets.Publish)
		if pk.TopicName == "dev/marker" {
			return before
		}
		before = append(before, pk)
	}
}

// A lamp's line to one node is half open. It connects to another node and says that it is
// back; then the first node notices. Its "offline" was stored over the newer state, and
// every subscriber was told that the lamp is off.
func TestWillAfterTheDeviceIsBackElsewhere(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL())
	meet(t, nodes...)
	for _, away := range []bool{false, true} {
		if away {
			redis.Kill()
		}
		for _, v := range versions {
			for _, keep := range []bool{false, true} {
				for delay := range uint32(v - 3) { // 0, and in MQTT 5 1
					for _, onConversation := range []bool{false, true} {
						what := fmt.Sprintf("Redis away %v, %s, kept %v, delay %d, conversation %v", away, versionName(v), keep, delay, onConversation)
						ann, bob := nodes[0].User(t, "ann"), nodes[0].User(t, "bob")
						conv := nodes[0].Direct(t, ann, bob)
						topic := "dev/lamp"
						if onConversation {
							topic = conv.Topic("messages")
						}
						l := newLamp("lamp", topic, v, keep, delay)
						watch := nodes[0].Device(t, ann, brokertest.Connect{ClientID: "watch"})
						watch.MustSubscribe(1, "dev/#", "conv/+/messages")
						old := nodes[0].Device(t, ann, l.connect)
						l.say(t, old, "online")
						newer := nodes[1].Device(t, ann, l.connect)
						l.say(t, newer, "back")
						if !onConversation {
							l.say(t, newer, "here")
						}
						old.Close() // as far as it is not, already
						waitForDelay(t, nodes[0], ann, watch, delay)
						var got []string
						for _, pk := range willsAreDone(t, nodes[0], ann, watch) {
							got = append(got, string(pk.Payload))
						}
						if onConversation {
							got = nil
							for _, e := range nodes[0].Log(t, bob, conv, 1) {
								got = append(got, e.Content)
							}
						} else {
							late := nodes[0].Device(t, ann, brokertest.Connect{ClientID: "late"})
							late.MustSubscribe(1, topic)
							if pk := late.Await(packets.Publish); string(pk.Payload) != "here" {
								t.Errorf("%s: %q is retained, want the newest state", what, pk.Payload)
							}
						}
						i, offline := slices.Index(got, "back"), slices.Index(got, "offline")
						if offline >= 0 && i >= 0 && offline > i || delay > 0 && keep && offline >= 0 {
							t.Errorf("%s: the will came after what the device has said since: %q", what, got)
						}
					}
				}
			}
		}
	}
}

// waitForDelay waits until a will with the delay, whose connection has ended, is due: another
// device's with the same one has come.
func waitForDelay(t *testing.T, node *apptest.App, u apptest.User, watch *apptest.Device, delay uint32) {
	t.Helper()
	if delay == 0 {
		return
	}
	l := newLamp("clock", "dev/clock", 5, true, delay)
	node.Device(t, u, l.connect).Close()
	awaitTopic(t, watch, l.topic, "offline")
}

// What an old connection publishes after the device is back at another node is not retained
// over what it has said there: the node has not heard of it yet.
func TestRetainedAfterTheDeviceIsBackElsewhere(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL())
	meet(t, nodes...)
	redis.Kill()
	for _, v := range versions {
		ann := nodes[0].User(t, "ann")
		l := newLamp("lamp", "dev/lamp", v, true, 0)
		l.connect.WillTopic, l.connect.WillQoS, l.connect.Change = "", 0, nil
		old := nodes[0].Device(t, ann, l.connect)
		l.say(t, old, "online")
		newer := nodes[1].Device(t, ann, l.connect)
		l.say(t, newer, "back")
		pk := brokertest.Publish(l.topic, 1, 7, "stale")
		pk.FixedHeader.Retain = true
		_ = old.Write(old.Encode(pk)) // it may have been cut already
		awaitClosed(t, old.Client)
		late := nodes[0].Device(t, ann, brokertest.Connect{ClientID: "late"})
		late.MustSubscribe(1, l.topic)
		if pk := late.Await(packets.Publish); string(pk.Payload) != "back" {
			t.Errorf("%s: %q is retained, want what the device has said last", versionName(v), pk.Payload)
		}
	}
}

// On one node, too, the will of the connection that is taken over comes before everything
// of the new one.
func TestWillComesBeforeTheNextConnection(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		ann := a.User(t, "ann")
		watch := a.Device(t, ann, brokertest.Connect{ClientID: "watch"})
		watch.MustSubscribe(1, "dev/#")
		for i := range 50 {
			l := newLamp("lamp", "dev/lamp", v, i%2 == 0, 0)
			a.Device(t, ann, l.connect)
			newer := a.Device(t, ann, l.connect)
			newer.Publish(1, l.topic, "back")
			for _, want := range []string{"offline", "back"} {
				pk := watch.Await(packets.Publish)
				for pk.FixedHeader.Retain { // what SUBSCRIBE asked for, and reads after the first will was stored
					pk = watch.Await(packets.Publish)
				}
				if string(pk.Payload) != want {
					t.Fatalf("%s, round %d: got %q, want %q", versionName(v), i, pk.Payload, want)
				}
			}
			newer.Disconnect()
		}
	}
}
