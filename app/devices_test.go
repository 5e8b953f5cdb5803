package app_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/store/storetest"
	"github.com/parleymq/parley/topics"
)

func openTopics(o *app.Options) { o.TopicAccess = topics.Open{} }

// nameless connects without an account, and without AutoAck.
func nameless(t *testing.T, a *apptest.App, o brokertest.Connect) *brokertest.Client {
	t.Helper()
	return brokertest.Open(t, a.MQTTAddr(), o)
}

// subscribe subscribes with options, and must be granted what it asks for.
func subscribe(t *testing.T, c *brokertest.Client, id int, subs ...packets.Subscription) {
	t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.NextID(), Filters: subs}
	if id > 0 {
		pk.Properties.SubscriptionIdentifier = []int{id}
	}
	c.Send(pk)
	ack := c.Await(packets.Suback)
	for i, code := range ack.ReasonCodes {
		if code != subs[i].Qos {
			t.Fatalf("subscribe to %q: 0x%02x", subs[i].Filter, code)
		}
	}
}

// retain publishes a retained message and waits until it is acknowledged.
func retain(t *testing.T, c *brokertest.Client, topic, payload string) {
	t.Helper()
	pk := brokertest.Publish(topic, 1, c.NextID(), payload)
	pk.FixedHeader.Retain = true
	c.Send(pk)
	if ack := c.AwaitAck(packets.Puback, pk.PacketID); ack.Code >= 0x80 {
		t.Fatalf("retain on %q: %+v", topic, ack)
	}
}

// hears expects the next packet to be a PUBLISH of that topic, payload and QoS.
func hears(t *testing.T, c *brokertest.Client, topic, payload string, qos byte, retain bool) packets.Packet {
	t.Helper()
	pk := c.Expect(packets.Publish)
	if pk.TopicName != topic || string(pk.Payload) != payload || pk.FixedHeader.Qos != qos || pk.FixedHeader.Retain != retain {
		t.Fatalf("got %s retain=%v, want %q on %q at QoS %d, retain=%v", brokertest.Describe(pk), pk.FixedHeader.Retain, payload, topic, qos, retain)
	}
	return pk
}

// acknowledge acknowledges a PUBLISH, QoS 2 to the end.
func acknowledge(t *testing.T, c *brokertest.Client, pk packets.Packet) {
	t.Helper()
	id := []byte{byte(pk.PacketID >> 8), byte(pk.PacketID)}
	switch pk.FixedHeader.Qos {
	case 1:
		c.SendBytes(append([]byte{packets.Puback << 4, 2}, id...))
	case 2:
		c.SendBytes(append([]byte{packets.Pubrec << 4, 2}, id...))
		if rel := c.Await(packets.Pubrel); rel.PacketID != pk.PacketID {
			t.Fatalf("got %s for %d", brokertest.Describe(rel), pk.PacketID)
		}
		c.SendBytes(append([]byte{packets.Pubcomp << 4, 2}, id...))
	}
}

// What is below dev/ belongs to each user: their devices talk to each other at every
// QoS, and nobody else hears, though they use the same names. Everything else is
// closed, in the words of each version.
func TestDevicesOfAUser(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			ann, bob := a.User(t, "ann"), a.User(t, "bob")
			lamp := a.Device(t, ann, brokertest.Connect{ClientID: "lamp", Version: v})
			phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone", Version: v})
			others := a.Device(t, bob, brokertest.Connect{ClientID: "lamp", Version: v})
			phone.MustSubscribe(2, "dev/lamp/#")
			others.MustSubscribe(2, "dev/#", "dev/lamp/+", "conv/#")
			for qos := range byte(3) {
				if ack := lamp.Publish(qos, "dev/lamp/state", "on"); ack.Code != 0 {
					t.Errorf("QoS %d: acknowledged with %+v", qos, ack)
				}
				hears(t, phone.Client, "dev/lamp/state", "on", qos, false)
			}
			retain(t, lamp.Client, "dev/lamp/kept", "1")
			hears(t, phone.Client, "dev/lamp/kept", "1", 1, false)
			others.MustSubscribe(1, "dev/lamp/kept")
			others.Ping() // and has heard nothing
			if ack := lamp.Publish(1, "dev/nobody/listens", "x"); v == 5 && ack.Code != 0x10 {
				t.Errorf("a publish that nobody hears was acknowledged with %+v, want 0x10", ack)
			}
			for _, filter := range []string{"#", "+/lamp/state", "home/#", "dev", "$share/g/home/x", "$SYS/#", "$share/g/$SYS/#"} {
				if got, no := lamp.Subscribe(1, filter)[0], map[byte]byte{5: 0x87, 4: 0x80}[v]; got != no {
					t.Errorf("subscribe to %q: 0x%02x, want 0x%02x", filter, got, no)
				}
			}
			if ack := lamp.Publish(1, "home/lamp", "x"); v == 5 && ack.Code != 0x87 {
				t.Errorf("publish outside of dev/: %+v", ack)
			}
			lamp.MustSubscribe(0, ann.Topic("errors"))
			lamp.Publish(0, "home/lamp", "x")
			if p := expectProblem(t, lamp); p.Code != "forbidden" || p.Topic != "home/lamp" {
				t.Errorf("the refusal at QoS 0 is told as %+v", p)
			}
			if codes := phone.Unsubscribe("dev/lamp/#", "dev/lamp/#"); v == 5 && !bytes.Equal(codes, []byte{0, 0x11}) {
				t.Errorf("UNSUBACK % x, want 00 11", codes)
			}
			lamp.Publish(1, "dev/lamp/state", "off")
			phone.Ping()
			others.Ping()
		})
	}
}

// Where device topics are open, whoever has no account may use them all, and nothing
// that is an account's.
func TestOpenTopics(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			prefix := fmt.Sprintf("v%d/", v)
			c := nameless(t, a, brokertest.Connect{ClientID: "c", Version: v})
			c.AutoAck = true
			no := map[byte]byte{5: 0x87, 4: 0x80}[v]
			for _, filter := range []string{conv.Topic("messages"), "conv/#", "conv/+/messages", ann.Topic("presence"), "user/+/presence", "$SYS/#", "$SYS/broker/uptime"} {
				if got := c.Subscribe(1, filter)[0]; got != no {
					t.Errorf("subscribe to %q: 0x%02x, want 0x%02x", filter, got, no)
				}
			}
			for _, topic := range []string{conv.Topic("messages"), conv.Topic("typing"), conv.Topic("reads"), ann.Topic("presence"), ann.Topic("errors"), "$SYS/broker/uptime"} {
				if ack := c.Publish(1, topic, `{"content":"x"}`); v == 5 && ack.Code != 0x87 {
					t.Errorf("publish to %q: %+v", topic, ack)
				}
			}
			c.MustSubscribe(2, "#")
			known := a.Device(t, ann, brokertest.Connect{ClientID: "known", Version: v})
			known.MustSubscribe(0, "conv/#", "dev/+/"+prefix+"x", prefix+"+/x", "+/x")
			known.Publish(2, "dev/lamp/"+prefix+"x", "1")
			hears(t, known.Client, "dev/lamp/"+prefix+"x", "1", 0, false)
			hears(t, c, "dev/lamp/"+prefix+"x", "1", 2, false)
			c.Publish(1, prefix+"/x", "2")
			hears(t, known.Client, prefix+"/x", "2", 0, false)
			hears(t, c, prefix+"/x", "2", 1, false)
			c.Publish(1, "$other/x", "3") // covered by no wildcard [MQTT-4.7.2-1]
			a.Device(t, bob, brokertest.Connect{ClientID: "bob", Version: v}).Send(conv, "secret")
			if e := known.Event(); e.Content != "secret" {
				t.Errorf("got %+v", e)
			}
			c.Ping() // and # has not heard of it
		})
	}
	closed := apptest.Start(t)
	if ack := closed.Dial(t).Connect(brokertest.Connect{ClientID: "c"}); ack.ReasonCode != 0x86 {
		t.Errorf("without --open-topics a client without password got %s", brokertest.Describe(ack))
	}
}

// What a publisher says with properties reaches subscribers as it was, with what is
// left of the expiry, and no more of a session's own.
func TestProperties(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	c := nameless(t, a, brokertest.Connect{ClientID: "a"})
	old := nameless(t, a, brokertest.Connect{ClientID: "b", Version: 4})
	c.AutoAck, old.AutoAck = true, true
	c.MustSubscribe(2, "req/#")
	old.MustSubscribe(2, "req/#")
	user := []packets.UserProperty{{Key: "b", Val: "2"}, {Key: "a", Val: "1"}, {Key: "b", Val: "1"}}
	pk := brokertest.Publish("req/1", 1, c.NextID(), "body")
	pk.Properties = packets.Properties{
		PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "text/plain", ResponseTopic: "resp/1", CorrelationData: []byte{0, 1, 2},
		MessageExpiryInterval: 60, User: user,
	}
	c.Send(pk)
	got := hears(t, c, "req/1", "body", 1, false).Properties
	if got.PayloadFormat != 1 || !got.PayloadFormatFlag || got.ContentType != "text/plain" || got.ResponseTopic != "resp/1" ||
		!bytes.Equal(got.CorrelationData, []byte{0, 1, 2}) || !slices.Equal(got.User, user) || got.MessageExpiryInterval > 60 || got.MessageExpiryInterval < 30 || got.TopicAlias != 0 {
		t.Errorf("got properties %+v", got)
	}
	c.AwaitAck(packets.Puback, pk.PacketID)
	hears(t, old, "req/1", "body", 1, false)
	d := nameless(t, a, brokertest.Connect{ClientID: "d"})
	d.SendBytes([]byte(packetText(0x32, str("req/2")+"\x00\x01\x06\x08"+str("a/+")+"body"))) // [MQTT-3.3.2-14]
	d.ExpectDisconnect(0x82)
	c.Ping()
}

// Topic aliases stand for names while the connection lives, of conversations, too.
func TestTopicAliases(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	ann := a.User(t, "ann")
	conv := a.Direct(t, ann, a.User(t, "bob"))
	c := a.Dial(t)
	if ack := c.MustConnect(ann.As(brokertest.Connect{ClientID: "a"})); ack.Properties.TopicAliasMaximum != 10 {
		t.Errorf("CONNACK says topic alias maximum %d", ack.Properties.TopicAliasMaximum)
	}
	c.AutoAck = true
	c.MustSubscribe(1, "x/#", "conv/#")
	aliased := func(c *brokertest.Client, topic string, alias uint16, payload string) {
		pk := brokertest.Publish(topic, 0, 0, payload)
		pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = alias, true
		c.Send(pk)
	}
	aliased(c, "x/1", 1, "1")
	aliased(c, "x/2", 10, "2")
	aliased(c, "", 1, "3")
	aliased(c, "x/3", 1, "4")
	aliased(c, "", 1, "5")
	aliased(c, "", 10, "6")
	for i, topic := range []string{"x/1", "x/2", "x/1", "x/3", "x/3", "x/2"} {
		hears(t, c, topic, fmt.Sprint(i+1), 0, false)
	}
	aliased(c, conv.Topic("messages"), 2, "7")
	aliased(c, "", 2, "8")
	for i := range 2 {
		if e := apptest.EventOf(t, c.Expect(packets.Publish)); e.Content != fmt.Sprint(7+i) {
			t.Errorf("got %+v", e)
		}
	}
	for _, bad := range []struct {
		topic string
		alias uint16
		code  byte
	}{{"x", 0, 0x94}, {"x", 11, 0x94}, {"", 65535, 0x94}, {"", 1, 0x82}} { // the last: another connection's
		d := nameless(t, a, brokertest.Connect{ClientID: "d"})
		d.SendBytes([]byte(packetText(0x30, str(bad.topic)+"\x03\x23"+string([]byte{byte(bad.alias >> 8), byte(bad.alias)})+"x")))
		d.ExpectDisconnect(bad.code)
	}
}

// Retained messages come as retain handling says, with the flag as it is due, outlive
// the process, expire, and go with an empty payload.
func TestRetained(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn, openTopics)
	c := nameless(t, a, brokertest.Connect{ClientID: "c"})
	retain(t, c, "r/1", "old")
	retain(t, c, "r/1", "one")
	retain(t, c, "r", "zero")
	retain(t, c, "r/2/3", "two")
	retain(t, c, "rest", "no")
	retain(t, c, "r/gone", "x")
	retain(t, c, "r/gone", "")
	short := brokertest.Publish("r/short", 2, c.NextID(), "x")
	short.FixedHeader.Retain, short.Properties.MessageExpiryInterval = true, 1
	c.Send(short)
	c.AwaitAck(packets.Pubrec, short.PacketID)
	long := brokertest.Publish("r/long", 2, c.NextID(), "x")
	long.FixedHeader.Retain, long.Properties.MessageExpiryInterval, long.Properties.ContentType = true, 3600, "a/b"
	c.Send(long)
	c.AwaitAck(packets.Pubrec, long.PacketID)
	sql(t, a, `UPDATE retained_messages SET expires_at = expires_at - interval '10 s' WHERE topic LIKE 'r/%'`)

	ctx := t.Context()
	if err := a.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	a = apptest.StartOn(t, dsn, openTopics)
	for _, v := range versions {
		d := nameless(t, a, brokertest.Connect{ClientID: "d", Version: v})
		d.AutoAck = true
		d.MustSubscribe(1, "r/#")
		hears(t, d, "r", "zero", 1, true)
		hears(t, d, "r/1", "one", 1, true)
		hears(t, d, "r/2/3", "two", 1, true)
		if pk := hears(t, d, "r/long", "x", 1, true); v == 5 && (pk.Properties.MessageExpiryInterval == 0 || pk.Properties.MessageExpiryInterval > 3590 || pk.Properties.ContentType != "a/b") {
			t.Errorf("got properties %+v", pk.Properties)
		}
		d.Ping()
		d.MustSubscribe(0, "r/1") // an exact name, and at a lower QoS
		hears(t, d, "r/1", "one", 0, true)
		d.MustSubscribe(1, "+/1") // nothing before the wildcard
		hears(t, d, "r/1", "one", 1, true)
		d.MustSubscribe(1, "r/#") // again: they come again
		for range 4 {
			d.Expect(packets.Publish)
		}
		d.Unsubscribe("r/#", "r/1", "+/1")
		d.MustSubscribe(1, "$share/g/r/#") // those get none
		d.Ping()
	}

	d := nameless(t, a, brokertest.Connect{ClientID: "e"})
	d.AutoAck = true
	filter := func(handling byte, asPublished bool) packets.Subscription {
		return packets.Subscription{Filter: "r/1", Qos: 1, RetainHandling: handling, RetainAsPublished: asPublished}
	}
	subscribe(t, d, 0, filter(2, false))
	d.Ping()
	subscribe(t, d, 0, filter(1, false))
	d.Ping() // it was there before
	d.Unsubscribe("r/1")
	subscribe(t, d, 7, filter(1, true))
	if pk := hears(t, d, "r/1", "one", 1, true); !slices.Equal(pk.Properties.SubscriptionIdentifier, []int{7}) {
		t.Errorf("got subscription identifiers %v", pk.Properties.SubscriptionIdentifier)
	}
	c = nameless(t, a, brokertest.Connect{ClientID: "c"})
	retain(t, c, "r/1", "three")
	hears(t, d, "r/1", "three", 1, true) // as published
	c.Publish(1, "r/1", "four")
	hears(t, d, "r/1", "four", 1, false)
	subscribe(t, d, 0, filter(2, false))
	retain(t, c, "r/1", "")
	hears(t, d, "r/1", "", 1, false)
	d.MustSubscribe(1, "r/1")
	d.Ping()
}

// More retained messages than a session's queue holds all arrive, whatever the client's
// Receive Maximum, and none is older than what has come live.
func TestManyRetained(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	c := nameless(t, a, brokertest.Connect{ClientID: "c"})
	c.AutoAck = true
	const n = 2500
	for i := 0; i < n; i += 100 { // within its window
		for j := range 100 {
			pk := brokertest.Publish(fmt.Sprintf("many/%04d", i+j), 1, uint16(1+j), strings.Repeat("x", 100))
			pk.FixedHeader.Retain = true
			c.Send(pk)
		}
		for j := range 100 {
			c.AwaitAck(packets.Puback, uint16(1+j))
		}
	}
	d := nameless(t, a, brokertest.Connect{ClientID: "d", ReceiveMaximum: 5})
	d.AutoAck = true
	d.MustSubscribe(1, "many/#")
	seen := map[string]bool{}
	for range n {
		pk := d.Expect(packets.Publish)
		if seen[pk.TopicName] || !pk.FixedHeader.Retain {
			t.Fatalf("got %s", brokertest.Describe(pk))
		}
		seen[pk.TopicName] = true
	}
	d.Ping()
}

// Overlapping filters make one copy at the highest QoS with all identifiers; no local
// spares the publisher; shared subscriptions take turns.
func TestOptions(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	c := nameless(t, a, brokertest.Connect{ClientID: "c"})
	d := nameless(t, a, brokertest.Connect{ClientID: "d"})
	c.AutoAck, d.AutoAck = true, true
	subscribe(t, d, 1, packets.Subscription{Filter: "o/+", Qos: 0})
	subscribe(t, d, 268435455, packets.Subscription{Filter: "o/#", Qos: 2})
	subscribe(t, d, 0, packets.Subscription{Filter: "o/x", Qos: 1})
	c.Publish(2, "o/x", "1")
	pk := hears(t, d, "o/x", "1", 2, false)
	ids := pk.Properties.SubscriptionIdentifier
	if slices.Sort(ids); !slices.Equal(ids, []int{1, 268435455}) {
		t.Errorf("got subscription identifiers %v", ids)
	}
	d.Ping()
	subscribe(t, d, 2, packets.Subscription{Filter: "o/+", Qos: 1}) // in place of the first
	c.Publish(1, "o/y", "2")
	if ids := hears(t, d, "o/y", "2", 1, false).Properties.SubscriptionIdentifier; len(ids) != 2 || !slices.Contains(ids, 2) {
		t.Errorf("got subscription identifiers %v", ids)
	}

	subscribe(t, c, 0, packets.Subscription{Filter: "nl", Qos: 1, NoLocal: true})
	c.Publish(1, "nl", "mine")
	d.Publish(1, "nl", "other's")
	hears(t, c, "nl", "other's", 1, false)
	e := nameless(t, a, brokertest.Connect{ClientID: "e"})
	e.Send(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: 1,
		Filters: packets.Subscriptions{{Filter: "$share/g/nl", NoLocal: true}},
	})
	e.ExpectDisconnect(0x82) // [MQTT-3.8.3-4]

	for _, filter := range []string{"$share", "$share/", "$share/g", "$share//x", "$share/+/x", "$share/g#/x", "a#", "a/#/b", "a+", "+a/b", strings.Repeat("a/", 40), strings.Repeat("a", 1025)} {
		code := byte(0x8f)
		if filter == "$share" {
			code = 0 // a filter like others
		}
		if got := c.Subscribe(0, filter)[0]; got != code {
			t.Errorf("subscribe to %.50q: 0x%02x, want 0x%02x", filter, got, code)
		}
	}
	if ack := c.Publish(1, strings.Repeat("a/", 40), "x"); ack.Code != 0x90 {
		t.Errorf("a publish with 41 levels: %+v", ack)
	}
}

func TestSharedSubscriptions(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			a := apptest.Start(t, openTopics)
			const n = 3
			var members [n]*brokertest.Client
			for i := range members {
				members[i] = nameless(t, a, kept(fmt.Sprintf("m%d", i), v))
				members[i].AutoAck = true
				members[i].MustSubscribe(1, "$share/g/s/+", "$share/other/none")
			}
			alone := nameless(t, a, brokertest.Connect{ClientID: "alone", Version: v})
			alone.AutoAck = true
			alone.MustSubscribe(1, "$share/h/s/#", "s/1")
			c := nameless(t, a, brokertest.Connect{ClientID: "c", Version: v})
			for i := range 2 * n {
				c.Publish(1, "s/1", fmt.Sprint(i))
			}
			for i := range 2 * n { // its own filter, and the group's
				for range 2 {
					hears(t, alone, "s/1", fmt.Sprint(i), 1, false)
				}
			}
			got := map[string]int{}
			for i, m := range members {
				for range 2 {
					pk := m.Expect(packets.Publish)
					got[string(pk.Payload)]++
				}
				m.Ping()
				if i > 0 {
					m.Disconnect() // and is away: the others come first
				}
			}
			if len(got) != 2*n {
				t.Errorf("the members got %v", got)
			}
			for i := range n {
				c.Publish(1, "s/2", fmt.Sprint(i))
				hears(t, members[0], "s/2", fmt.Sprint(i), 1, false)
				hears(t, alone, "s/2", fmt.Sprint(i), 1, false)
			}
			members[0].Unsubscribe("$share/g/s/+")
			c.Publish(1, "s/3", "kept") // for one of those who are away
			var back int
			for i := 1; i < n; i++ {
				m := nameless(t, a, kept(fmt.Sprintf("m%d", i), v))
				m.AutoAck = true
				m.SendBytes([]byte{packets.Pingreq << 4, 0})
				if pk, err := m.Recv(brokertest.Patience); err == nil && pk.FixedHeader.Type == packets.Publish {
					back++
				}
			}
			if back != 1 {
				t.Errorf("%d members got what was kept for one", back)
			}
		})
	}
}

// A session that is kept gets what was published while its device was away, after what
// was on its way, under its packet identifiers and with DUP.
func TestDeviceSessionResumes(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			p := fmt.Sprintf("k%d/", v)
			c := nameless(t, a, brokertest.Connect{ClientID: p + "c", Version: v})
			o := kept(p+"d", v)
			o.ReceiveMaximum = 4
			d := nameless(t, a, o)
			d.MustSubscribe(2, p+"#")
			for i := range 6 {
				c.Publish(byte(1+i%2), p+"x", fmt.Sprint(i))
			}
			var first []packets.Packet
			sent := 4
			if v == 4 {
				sent = 6 // it knows no Receive Maximum
			}
			for i := range sent {
				first = append(first, hears(t, d, p+"x", fmt.Sprint(i), byte(1+i%2), false))
			}
			d.Ping()
			acknowledge(t, d, first[1]) // out of order
			d.SendBytes([]byte{packets.Pubrec << 4, 2, byte(first[3].PacketID >> 8), byte(first[3].PacketID)})
			d.Await(packets.Pubrel)
			if v == 5 {
				first = append(first, hears(t, d, p+"x", "4", 1, false))
			}
			d.Close()
			apptest.Eventually(t, "the connection has ended", func() bool {
				return number(t, a, `SELECT count(*) FROM sessions WHERE client_id = $1 AND expires_at IS NOT NULL`, p+"d") == 1
			})
			c.Publish(0, p+"x", "not kept")
			c.Publish(1, p+"x", "6")
			c.Publish(2, p+"x", "7")

			o.ReceiveMaximum = 0
			d = brokertest.Dial(t, a.MQTTAddr())
			if ack := d.MustConnect(o); !ack.SessionPresent {
				t.Fatal("the session is not there")
			}
			for _, pk := range first {
				switch pk.PacketID {
				case first[1].PacketID: // acknowledged
				case first[3].PacketID:
					if rel := d.Expect(packets.Pubrel); rel.PacketID != pk.PacketID {
						t.Fatalf("got %s, want PUBREL %d", brokertest.Describe(rel), pk.PacketID)
					}
					d.SendBytes([]byte{packets.Pubcomp << 4, 2, byte(pk.PacketID >> 8), byte(pk.PacketID)})
				default:
					again := hears(t, d, p+"x", string(pk.Payload), pk.FixedHeader.Qos, false)
					if !again.FixedHeader.Dup || again.PacketID != pk.PacketID {
						t.Errorf("got %s, want id %d again", brokertest.Describe(again), pk.PacketID)
					}
					acknowledge(t, d, again)
				}
			}
			for i := len(first); i < 8; i++ {
				pk := hears(t, d, p+"x", fmt.Sprint(i), []byte{1, 2}[i%2], false)
				if pk.FixedHeader.Dup {
					t.Errorf("%d came first with DUP", i)
				}
				acknowledge(t, d, pk)
			}
			d.Ping()
			d.Disconnect()
			o.Persistent = false
			d = nameless(t, a, o) // a clean start forgets it
			c.Publish(1, p+"x", "8")
			d.Ping()
		})
	}
}

// While a device is away its session's queue is bounded: what comes is dropped then.
func TestDeviceQueueIsBounded(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	d := nameless(t, a, kept("d", 5))
	d.MustSubscribe(1, "q/#")
	d.Disconnect()
	c := nameless(t, a, brokertest.Connect{ClientID: "c"})
	c.AutoAck = true
	for i := range 1100 {
		c.Publish(1, "q/x", fmt.Sprint(i))
	}
	d = nameless(t, a, kept("d", 5))
	d.AutoAck = true
	for i := range 1000 {
		hears(t, d, "q/x", fmt.Sprint(i), 1, false)
	}
	d.Ping()
}

// A QoS 2 publish that is sent again after a reconnect is published once, whether the
// old connection has ended or was taken over.
func TestDevicePublishOnce(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			topic := fmt.Sprintf("once/%d", v)
			d := nameless(t, a, brokertest.Connect{ClientID: "d", Version: v})
			d.AutoAck = true
			d.MustSubscribe(2, topic)
			o := kept("c"+topic, v)
			c := nameless(t, a, o)
			pk := brokertest.Publish(topic, 2, 7, "x")
			c.Send(pk)
			c.AwaitAck(packets.Pubrec, 7)
			hears(t, d, topic, "x", 2, false)
			for i := range 4 {
				if i%2 == 0 {
					c.Disconnect()
				}
				c = nameless(t, a, o) // or takes over
				pk.FixedHeader.Dup = true
				c.Send(pk)
				c.AwaitAck(packets.Pubrec, 7)
			}
			c.SendBytes([]byte{packets.Pubrel<<4 | 2, 2, 0, 7})
			c.AwaitAck(packets.Pubcomp, 7)
			pk.FixedHeader.Dup, pk.Payload = false, []byte("y")
			c.Send(pk) // the identifier is free again
			c.AwaitAck(packets.Pubrec, 7)
			hears(t, d, topic, "y", 2, false)
			d.Ping()
		})
	}
}

// Wills on device topics are sent with their properties, when and only when they are due.
func TestDeviceWills(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			topic := fmt.Sprintf("will/%d", v)
			d := nameless(t, a, brokertest.Connect{ClientID: "d" + topic, Version: v})
			d.AutoAck = true
			d.MustSubscribe(2, topic)
			o := brokertest.Connect{ClientID: "w" + topic, Version: v, WillTopic: topic, WillPayload: "gone", WillQoS: 1, Change: func(pk *packets.Packet) {
				pk.Connect.WillRetain = true
				if pk.ProtocolVersion == 5 {
					pk.Connect.WillProperties = packets.Properties{
						ContentType: "c", ResponseTopic: "r", CorrelationData: []byte("d"), MessageExpiryInterval: 100, User: []packets.UserProperty{{Key: "k", Val: "v"}},
					}
				}
			}}
			nameless(t, a, o).Disconnect() // says goodbye
			nameless(t, a, o).Close()
			pk := hears(t, d, topic, "gone", 1, false)
			if p := pk.Properties; v == 5 && (p.ContentType != "c" || p.ResponseTopic != "r" || string(p.CorrelationData) != "d" ||
				p.MessageExpiryInterval == 0 || p.MessageExpiryInterval > 100 || len(p.User) != 1) {
				t.Errorf("got properties %+v", p)
			}
			late := nameless(t, a, brokertest.Connect{ClientID: "late" + topic, Version: v})
			late.MustSubscribe(1, topic)
			hears(t, late, topic, "gone", 1, true)

			empty := brokertest.Connect{ClientID: "e" + topic, Version: v, WillTopic: topic, Change: func(pk *packets.Packet) {
				pk.Connect.WillRetain = true
			}}
			nameless(t, a, empty).Close() // takes the retained message away
			hears(t, d, topic, "", 0, false)
			nameless(t, a, brokertest.Connect{ClientID: "later" + topic, Version: v}).MustSubscribe(1, topic)

			again := brokertest.Connect{ClientID: "t" + topic, Version: v, WillTopic: topic, WillPayload: "taken over"}
			nameless(t, a, again)
			taken := nameless(t, a, again) // the old connection's is sent
			hears(t, d, topic, "taken over", 0, false)
			taken.Disconnect()
			d.Ping()
		})
	}
}

// A will with a delay is sent when that is over, when the session ends, or never, if the
// device is back.
func TestDeviceWillDelay(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	d := nameless(t, a, brokertest.Connect{ClientID: "d"})
	d.AutoAck = true
	d.MustSubscribe(2, "delay/#")
	o := func(topic string, delay, expiry uint32) brokertest.Connect {
		return brokertest.Connect{ClientID: topic, Persistent: true, SessionExpiry: expiry, WillTopic: topic, WillPayload: "x", Change: func(pk *packets.Packet) {
			pk.Connect.WillProperties.WillDelayInterval = delay
		}}
	}
	nameless(t, a, o("delay/1", 1, 100)).Close()
	hears(t, d, "delay/1", "x", 0, false)
	nameless(t, a, o("delay/none", 100, 0)).Close() // its session ends at once
	hears(t, d, "delay/none", "x", 0, false)
	nameless(t, a, o("delay/long", 3600, 7200)).Close()
	back := nameless(t, a, o("delay/long", 3600, 7200))
	back.Disconnect()
	nameless(t, a, o("delay/other", 3600, 7200)).Close()
	apptest.Eventually(t, "the connection has ended", func() bool {
		return number(t, a, `SELECT count(*) FROM sessions WHERE client_id = 'delay/other' AND expires_at IS NOT NULL`) == 1
	})
	clean := o("delay/other", 0, 0)
	clean.Persistent = false
	nameless(t, a, clean).Disconnect() // begins a new session: the old one has ended
	hears(t, d, "delay/other", "x", 0, false)
	d.Ping()
}

// A message that has expired before there was room for it is not sent.
func TestDeviceExpiry(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	d := nameless(t, a, kept("d", 5))
	d.MustSubscribe(1, "e")
	d.Disconnect()
	c := nameless(t, a, brokertest.Connect{ClientID: "c"})
	send := func(payload string, expiry uint32) {
		pk := brokertest.Publish("e", 1, c.NextID(), payload)
		pk.Properties.MessageExpiryInterval = expiry
		c.Send(pk)
		c.AwaitAck(packets.Puback, pk.PacketID)
	}
	send("short", 1)
	send("long", 100)
	time.Sleep(1100 * time.Millisecond) // the interval itself, in whole seconds: nothing else tells that it is over
	d = nameless(t, a, kept("d", 5))
	if pk := hears(t, d, "e", "long", 1, false); pk.Properties.MessageExpiryInterval == 0 || pk.Properties.MessageExpiryInterval > 99 {
		t.Errorf("expiry %d is left", pk.Properties.MessageExpiryInterval)
	}
}

// Filters on device topics survive a restart of the server; the queue and what was on
// its way do not.
func TestDeviceSubscriptionsSurvive(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	ann := a.User(t, "ann")
	d := device(t, a, ann, kept("d", 5), false)
	subscribe(t, d.Client, 9, packets.Subscription{Filter: "dev/#", Qos: 2, NoLocal: true, RetainAsPublished: true})
	c := a.Device(t, ann, brokertest.Connect{ClientID: "c"})
	c.Publish(2, "dev/x", "1")
	c.Publish(1, "dev/x", "2")
	hears(t, d.Client, "dev/x", "1", 2, false)
	hears(t, d.Client, "dev/x", "2", 1, false)
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	a = apptest.StartOn(t, dsn)
	ann.Token = a.Token(t, ann.Username)
	d = device(t, a, ann, kept("d", 5), true)
	if rel := d.Expect(packets.Pubrel); rel.PacketID != 1 { // the client may hold it
		t.Errorf("got %s", brokertest.Describe(rel))
	}
	c = a.Device(t, ann, brokertest.Connect{ClientID: "c"})
	d.Publish(1, "dev/x", "no local")
	retain(t, c.Client, "dev/x", "3")
	pk := hears(t, d.Client, "dev/x", "3", 1, true)
	if !slices.Equal(pk.Properties.SubscriptionIdentifier, []int{9}) || pk.PacketID != 3 {
		t.Errorf("got id %d, subscription identifiers %v", pk.PacketID, pk.Properties.SubscriptionIdentifier)
	}
}

// $SYS is for admins, by the names that Mosquitto has.
func TestSys(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	root, ann := a.User(t, "root"), a.User(t, "ann")
	sql(t, a, `UPDATE users SET admin = true WHERE id = $1`, root.ID)
	root.Token = a.Token(t, root.Username)
	d := a.Device(t, root, brokertest.Connect{ClientID: "d"})
	d.MustSubscribe(0, "$SYS/#")
	got := map[string]string{}
	for len(got) < 11 {
		pk := d.Expect(packets.Publish)
		if !pk.FixedHeader.Retain {
			t.Errorf("got %s without the flag", brokertest.Describe(pk))
		}
		got[pk.TopicName] = string(pk.Payload)
	}
	for _, topic := range []string{"version", "uptime", "clients/connected", "messages/received", "publish/messages/sent", "subscriptions/count", "retained messages/count"} {
		if got["$SYS/broker/"+topic] == "" {
			t.Errorf("nothing on %q: %v", topic, got)
		}
	}
	if got["$SYS/broker/clients/connected"] != "1" || got["$SYS/broker/subscriptions/count"] != "1" {
		t.Errorf("got %v", got)
	}
	if ack := d.Publish(1, "$SYS/broker/uptime", "0"); ack.Code != 0x87 {
		t.Errorf("publish to $SYS: %+v", ack)
	}
	if code := a.Device(t, ann, brokertest.Connect{ClientID: "d"}).Subscribe(0, "$SYS/broker/uptime")[0]; code != 0x87 {
		t.Errorf("who is no admin got 0x%02x", code)
	}
}

// A subscriber that does not read delays nobody: who publishes, who reads, or who talks in
// a conversation.
func TestSlowDeviceDelaysNobody(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, openTopics)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	var stuck [2]*apptest.Device
	for qos := range stuck {
		stuck[qos] = a.Device(t, ann, brokertest.Connect{ClientID: fmt.Sprint("stuck", qos)})
		stuck[qos].AutoAck = false
		stuck[qos].MustSubscribe(byte(qos), "s/#", "conv/#")
	}
	reader := nameless(t, a, brokertest.Connect{ClientID: "reader"})
	reader.AutoAck = true
	reader.MustSubscribe(1, "s/#")
	c := nameless(t, a, brokertest.Connect{ClientID: "c"})
	payload := strings.Repeat("x", 8<<10)
	for i := range 1500 { // 12 MiB, more than all buffers on the way hold
		if ack := c.Publish(1, "s/x", payload); ack.Code != 0 {
			t.Fatalf("publish %d: %+v", i, ack)
		}
		hears(t, reader, "s/x", payload, 1, false)
	}
	talker := a.Device(t, bob, brokertest.Connect{ClientID: "b"})
	talker.MustSubscribe(1, "conv/#")
	talker.Send(conv, "hello")
	talker.ExpectEvent(conv, 2)
	for qos, d := range stuck { // and what is not lost on the way is there when they read again
		d.AutoAck = true
		got := 0
		for {
			pk := d.Expect(packets.Publish)
			if pk.TopicName == conv.Topic("messages") {
				break // chat is there, whatever was dropped of the other
			}
			got++
		}
		if got == 0 || got == 1500 {
			t.Errorf("QoS %d: %d of 1,500 came", qos, got)
		}
	}
}
