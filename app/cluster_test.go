package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/cluster/redistest"
	"github.com/parleymq/parley/store/storetest"
)

// startNodes starts n nodes over one database and one Redis, and returns when they
// know of each other.
func startNodes(t *testing.T, n int, redisURL string, options ...apptest.Option) []*apptest.App {
	t.Helper()
	dsn := storetest.DSN(t)
	nodes := make([]*apptest.App, n)
	for i := range nodes {
		nodes[i] = apptest.StartOn(t, dsn, append(options, func(o *app.Options) {
			o.RedisURL, o.Node = redisURL, fmt.Sprint("node-", i)
		})...)
	}
	return nodes
}

// meet waits until the nodes hear of each other.
func meet(t *testing.T, nodes ...*apptest.App) {
	t.Helper()
	for _, node := range nodes {
		apptest.Eventually(t, "every node knows the others", func() bool {
			return node.Peers() == len(nodes)-1
		})
	}
}

// Any device connects to any node, and all of it is as on one: messages in both
// directions, typing, reads, what was delivered, history.
func TestNodes(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 3, redis.URL())
	meet(t, nodes...)
	ann, bob, eve := nodes[0].User(t, "ann"), nodes[0].User(t, "bob"), nodes[0].User(t, "eve")
	group := nodes[1].Group(t, ann, bob, eve)
	var devices []*apptest.Device
	for i, u := range []apptest.User{ann, bob, eve} {
		d := nodes[i].Device(t, u, brokertest.Connect{ClientID: "phone", Version: versions[i%2]})
		d.MustSubscribe(1, "conv/+/messages", "conv/+/typing", "conv/+/reads", "conv/+/delivered")
		devices = append(devices, d)
	}
	seq := int64(1)
	for round := range 3 {
		for i, from := range devices {
			seq++
			from.Send(group, fmt.Sprintf("%d from %d", round, i))
			for j, d := range devices {
				awaitEvent(t, d, group, seq)
				if j == i {
					continue
				}
			}
		}
	}
	devices[0].Publish(0, group.Topic("typing"), `{"typing":true}`)
	for _, d := range devices[1:] {
		awaitTopic(t, d, group.Topic("typing"), `"typing":true`)
	}
	late := nodes[2].Device(t, bob, brokertest.Connect{ClientID: "late"})
	late.MustSubscribe(0, "conv/+/typing")
	awaitTopic(t, late, group.Topic("typing"), ann.ID.String())
	devices[0].Send(group, "done")
	seq++
	for _, d := range devices[1:] {
		awaitTopic(t, d, group.Topic("typing"), `"typing":false`)
	}
	devices[1].Publish(1, group.Topic("reads"), fmt.Sprintf(`{"upTo":%d}`, seq))
	for _, d := range devices {
		awaitTopic(t, d, group.Topic("reads"), bob.ID.String(), fmt.Sprintf(`"upTo":%d`, seq))
	}
	devices[0].Send(group, "received?")
	seq++
	awaitEvent(t, devices[2], group, seq)
	awaitTopic(t, devices[0], group.Topic("delivered"), eve.ID.String(), fmt.Sprintf(`"upTo":%d`, seq))

	// A conversation that begins at one node is there at the others.
	direct := nodes[2].Direct(t, eve, ann)
	awaitEvent(t, devices[0], direct, 1)
	devices[0].Send(direct, "hello eve")
	awaitEvent(t, devices[2], direct, 2)
}

// awaitEvent passes over everything but the event.
func awaitEvent(t *testing.T, d *apptest.Device, c apptest.Conv, seq int64) apptest.Event {
	t.Helper()
	for {
		pk := d.Await(packets.Publish)
		if pk.TopicName != c.Topic("messages") {
			continue
		}
		if e := apptest.EventOf(t, pk); e.Seq == seq {
			return e
		} else if e.Seq > seq {
			t.Fatalf("event %d came, and %d had not", e.Seq, seq)
		}
	}
}

// awaitTopic passes over everything but a publication on the topic that holds the
// texts.
func awaitTopic(t *testing.T, d *apptest.Device, topic string, texts ...string) {
	t.Helper()
	for {
		pk := d.Await(packets.Publish)
		if pk.TopicName == topic && !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(string(pk.Payload), s) }) {
			return
		}
	}
}

// A session goes on at another node: what it has subscribed, and what it has missed.
// The connection that the device had is ended, whichever node it is at.
func TestSessionMoves(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL())
	meet(t, nodes...)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			ann, bob := nodes[0].User(t, "ann"), nodes[0].User(t, "bob")
			conv := nodes[0].Direct(t, ann, bob)
			sender := nodes[1].Device(t, bob, brokertest.Connect{ClientID: "sender"})
			keep := brokertest.Connect{ClientID: "phone", Version: v, Persistent: true, SessionExpiry: 3600}
			seq := int64(1)
			send := func() int64 { sender.Send(conv, "hello"); seq++; return seq }
			d := nodes[0].Device(t, ann, keep)
			d.MustSubscribe(1, "conv/+/messages")
			for i := range 6 {
				awaitEvent(t, d, conv, send())
				node := nodes[(i+1)%2]
				missed := int64(0)
				if i%3 == 0 { // gone before it comes to the other node
					d.Close()
					missed = send()
				}
				next := node.Dial(t)
				if ack := next.MustConnect(ann.As(keep)); !ack.SessionPresent {
					t.Fatal("the session is not there")
				}
				next.AutoAck = true
				if missed == 0 {
					if v == 5 {
						awaitDisconnect(t, d.Client, packets.ErrSessionTakenOver.Code)
					} else {
						awaitClosed(t, d.Client)
					}
				}
				d = &apptest.Device{Client: next, User: ann}
				if missed > 0 {
					awaitEvent(t, d, conv, missed)
				}
			}
			// The same without a session, and with a clean start.
			for i := range 4 {
				next := nodes[i%2].Device(t, ann, brokertest.Connect{ClientID: "phone", Version: v})
				if v == 5 {
					awaitDisconnect(t, d.Client, packets.ErrSessionTakenOver.Code)
				} else {
					awaitClosed(t, d.Client)
				}
				d = next
			}
			d.Ping()
		})
	}
}

// awaitDisconnect passes over everything but a DISCONNECT with the code.
func awaitDisconnect(t *testing.T, c *brokertest.Client, code byte) {
	t.Helper()
	if pk := c.Await(packets.Disconnect); pk.ReasonCode != code {
		t.Errorf("disconnected with %#x, want %#x", pk.ReasonCode, code)
	}
}

// awaitClosed reads until the connection has ended.
func awaitClosed(t *testing.T, c *brokertest.Client) {
	t.Helper()
	for {
		if _, err := c.Recv(brokertest.Patience); err != nil {
			return
		}
	}
}

// Messages reach the other nodes while Redis is away, frozen, or emptied, a little
// later; when it is back, all is as before.
func TestRedisIsAway(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL())
	meet(t, nodes...)
	ann, bob := nodes[0].User(t, "ann"), nodes[0].User(t, "bob")
	conv := nodes[0].Direct(t, ann, bob)
	a, b := nodes[0].Device(t, ann, brokertest.Connect{}), nodes[1].Device(t, bob, brokertest.Connect{})
	a.MustSubscribe(1, "conv/#")
	b.MustSubscribe(1, "conv/#")
	seq := int64(1)
	exchange := func(n int) {
		t.Helper()
		for range n {
			seq += 2
			a.Send(conv, "from ann")
			b.Send(conv, "from bob")
		}
		for _, d := range []*apptest.Device{a, b} {
			awaitEvent(t, d, conv, seq)
		}
	}
	exchange(10)
	redis.Do("FLUSHALL")
	exchange(10)
	redis.Kill()
	exchange(10)
	fresh := nodes[0].Group(t, ann, bob) // and what is new
	awaitEvent(t, b, fresh, 1)
	redis.Restart()
	meet(t, nodes...)
	exchange(10)
	redis.Pause()
	exchange(10)
	redis.Resume()
	exchange(10)
	apptest.Eventually(t, "typing is told again", func() bool {
		a.Publish(0, conv.Topic("typing"), `{"typing":true}`)
		for {
			pk, err := b.Recv(3 * time.Second)
			if err != nil {
				return false
			}
			if pk.FixedHeader.Type == packets.Publish && pk.TopicName == conv.Topic("typing") {
				return true
			}
		}
	})
}

// Who is removed from a group at one node hears nothing of it at another, however soon,
// and whose login is revoked is cut off there.
func TestNodesForget(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL())
	meet(t, nodes...)
	ann, bob, eve := nodes[0].User(t, "ann"), nodes[0].User(t, "bob"), nodes[0].User(t, "eve")
	group := nodes[0].Group(t, ann, bob, eve)
	a := nodes[0].Device(t, ann, brokertest.Connect{})
	a.MustSubscribe(1, "conv/#")
	e := nodes[1].Device(t, eve, brokertest.Connect{})
	e.MustSubscribe(1, "conv/#")
	a.Send(group, "all of us")
	awaitEvent(t, e, group, 2)
	for range 3 {
		if r := nodes[0].REST(t, ann, http.MethodDelete, "/api/conversations/"+string(group)+"/participants/"+eve.ID.String(), nil); r.Status != http.StatusNoContent {
			t.Fatal(r)
		}
		hidden := a.Send(group, "without eve").Seq
		a.Publish(0, group.Topic("typing"), `{"typing":true}`)
		if ack := e.Publish(1, group.Topic("messages"), "me too"); ack.Code != packets.ErrNotAuthorized.Code {
			t.Errorf("eve, who was removed at the other node, wrote: %+v", ack)
		}
		if r := nodes[0].REST(t, ann, http.MethodPost, "/api/conversations/"+string(group)+"/participants", map[string]any{"userIds": []any{eve.ID}}); r.Status/100 != 2 {
			t.Fatal(r)
		}
		for {
			pk := e.Await(packets.Publish)
			if strings.HasSuffix(pk.TopicName, "/typing") {
				t.Errorf("eve heard %s", pk.Payload)
				continue
			}
			ev := apptest.EventOf(t, pk)
			if ev.Seq == hidden || ev.Content == "without eve" {
				t.Errorf("eve received event %d", ev.Seq)
			}
			if ev.Op == "joined" {
				break
			}
		}
		again := a.Send(group, "with eve").Seq
		awaitEvent(t, e, group, again)
		a.Publish(0, group.Topic("typing"), `{"typing":false}`)
	}
}

// A session that moves between nodes that both live goes on exactly where it was:
// nothing that was acknowledged comes again, and what was not comes with its packet
// identifier and DUP.
func TestSessionMovesExactly(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis.URL())
	meet(t, nodes...)
	ann, bob := nodes[0].User(t, "ann"), nodes[0].User(t, "bob")
	conv := nodes[0].Direct(t, ann, bob)
	sender := nodes[1].Device(t, bob, brokertest.Connect{ClientID: "sender"})
	keep := brokertest.Connect{ClientID: "phone", Persistent: true, SessionExpiry: 3600}
	d := nodes[0].Device(t, ann, keep)
	d.AutoAck = false
	d.MustSubscribe(1, "conv/+/messages")
	seq := int64(1)
	for i := range 10 {
		for range 5 {
			sender.Send(conv, "hello")
			seq++
		}
		var last packets.Packet
		for j := range 5 { // all but the last are acknowledged
			last = awaitEvent(t, d, conv, seq-4+int64(j)).Packet
			if j < 4 {
				d.SendBytes([]byte{packets.Puback << 4, 2, byte(last.PacketID >> 8), byte(last.PacketID)})
			}
		}
		d.Ping() // the acknowledgements have been read
		if i%2 == 0 {
			d.Close() // the line is cut; otherwise the old connection is still there
		}
		next := nodes[(i+1)%2].Dial(t)
		next.MustConnect(ann.As(keep))
		d = &apptest.Device{Client: next, User: ann}
		again := d.Expect(packets.Publish)
		if e := apptest.EventOf(t, again); e.Seq != seq || !again.FixedHeader.Dup || again.PacketID != last.PacketID {
			t.Fatalf("move %d: event %d came first, packet %d, DUP %v; want event %d again, packet %d", i, e.Seq, again.PacketID, again.FixedHeader.Dup, seq, last.PacketID)
		}
		d.SendBytes([]byte{packets.Puback << 4, 2, byte(again.PacketID >> 8), byte(again.PacketID)})
		d.Ping() // and nothing else
	}
}
