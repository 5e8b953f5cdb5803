package app_test

import (
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// Statements of the specification that no other test is about; docs/conformance.md
// names one for each.

// A byte order mark is a character like any other [MQTT-1.5.4-3].
func TestByteOrderMark(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u := a.User(t, "u")
	for _, v := range versions {
		device(t, a, u, kept("\ufeffd", v), v == 4).Disconnect() // of either version it is one session
		if v == 5 {
			device(t, a, u, kept("d", v), false).Disconnect()
		}
	}
}

// What would make a packet larger than the client takes is left out of it: the reason in
// words first [MQTT-3.2.2-19], [MQTT-3.4.2-2], [MQTT-3.14.2-3].
func TestReasonsFitTheMaximumPacketSize(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	const size = 25 // CONNACK itself takes some 20
	small := brokertest.Connect{ClientID: "a", MaximumPacketSize: size}
	plain := func(what string, pk packets.Packet, code byte) {
		t.Helper()
		if pk.ReasonCode != code || pk.Properties.ReasonString != "" || len(pk.Properties.User) > 0 || pk.FixedHeader.Remaining+2 > size {
			t.Errorf("%s: got %s of %d bytes with %+v", what, brokertest.Describe(pk), pk.FixedHeader.Remaining+2, pk.Properties)
		}
	}
	refused := a.Dial(t)
	plain("a refused CONNECT", refused.Connect(small), packets.ErrBadUsernameOrPassword.Code)
	refused.ExpectClosed()

	malformed := a.Dial(t)
	malformed.SendBytes([]byte(packetText(0x10, str("MQTT")+"\x05\x02\x00\x3c\x08\x27\x00\x00\x00\x19\x21\x00\x00"+str("a"))))
	plain("a malformed CONNECT", malformed.Expect(packets.Connack), packets.ErrProtocolViolation.Code)
	malformed.ExpectClosed()

	accepted := a.Dial(t)
	plain("an accepted CONNECT", accepted.Connect(r.eve.As(brokertest.Connect{ClientID: "accepted", MaximumPacketSize: size})), 0)

	d := a.Device(t, r.eve, small)
	d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), 1, 1, "{}"))
	plain("a refused publish", d.Expect(packets.Puback), packets.ErrPayloadFormatInvalid.Code)
	d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), 2, 2, "hello"))
	plain("a publish", d.Expect(packets.Pubrec), 0)
	r.seq++
	r.near.ExpectEvent(r.conv, r.seq)
	d.SendBytes([]byte{0xc1, 0})
	plain("a malformed packet", d.Expect(packets.Disconnect), packets.ErrMalformedPacket.Code)
	d.ExpectClosed()
	r.undisturbed(t)
}

// DUP tells of one hop: it is not passed on [MQTT-3.3.1-3].
func TestDupIsNotPassedOn(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
		pk := brokertest.Publish(r.conv.Topic("messages"), 1, uint16(v), "hello")
		pk.FixedHeader.Dup = true
		d.Client.Send(pk)
		d.AwaitAck(packets.Puback, uint16(v))
		r.seq++
		if e := r.near.ExpectEvent(r.conv, r.seq); e.Packet.FixedHeader.Dup {
			t.Errorf("%s: nan received %s", versionName(v), brokertest.Describe(e.Packet))
		}
	}
	r.undisturbed(t)
}

// SUBSCRIBE with a filter that is there replaces the subscription, and nothing is lost
// in between [MQTT-3.8.4-3].
func TestSubscribeAgainReplaces(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
		for _, qos := range []byte{2, 0, 1} {
			d.MustSubscribe(qos, "conv/#")
			r.undisturbed(t)
			if e := d.ExpectEvent(r.conv, r.seq); e.Packet.FixedHeader.Qos != qos {
				t.Errorf("%s: got %s, want QoS %d", versionName(v), brokertest.Describe(e.Packet), qos)
			}
			d.Ping() // and no second copy
		}
		d.Disconnect()
	}
}

// UNSUBSCRIBE ends what has not been sent yet; what has is brought to its end
// [MQTT-3.10.4-2], [MQTT-3.10.4-3].
func TestUnsubscribeFinishesWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
		d.AutoAck = false
		d.MustSubscribe(2, "conv/#")
		r.undisturbed(t)
		e := d.ExpectEvent(r.conv, r.seq)
		d.Unsubscribe("conv/#")
		r.undisturbed(t)
		id := []byte{byte(e.Packet.PacketID >> 8), byte(e.Packet.PacketID)}
		d.SendBytes([]byte{0x50, 2, id[0], id[1]})
		if rel := d.Expect(packets.Pubrel); rel.PacketID != e.Packet.PacketID || rel.ReasonCode != 0 {
			t.Errorf("%s: PUBREC was answered %s", versionName(v), brokertest.Describe(rel))
		}
		d.SendBytes([]byte{0x70, 2, id[0], id[1]})
		d.Ping()
		d.Disconnect()
	}
}

// A delivery that the client refuses is over: it does not come again [MQTT-4.4.0-2].
func TestRefusedDeliveryIsNotRepeated(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	d := device(t, a, r.eve, kept("eve", 5), false)
	for qos, kind := range map[byte]byte{1: 0x40, 2: 0x50} {
		d.MustSubscribe(qos, "conv/#")
		r.undisturbed(t)
		e := d.ExpectEvent(r.conv, r.seq)
		d.SendBytes([]byte{kind, 3, byte(e.Packet.PacketID >> 8), byte(e.Packet.PacketID), 0x97})
		d.Ping() // PUBREL is not due either
		d.Close()
		d = device(t, a, r.eve, kept("eve", 5), true)
		d.Ping()
	}
	r.undisturbed(t)
	d.ExpectEvent(r.conv, r.seq)
}

// What follows a CONNECT that is refused, in the same segment, is not looked at
// [MQTT-3.1.4-6].
func TestNothingAfterARefusedConnect(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		c := a.Dial(t)
		c.Version = v
		o := r.eve.As(brokertest.Connect{Version: v, ClientID: "eve", WillTopic: r.conv.Topic("messages"), WillPayload: "{}"})
		c.SendBytes(append(c.Encode(o.Packet()), c.Encode(brokertest.Publish(r.conv.Topic("messages"), 1, 1, "hello"))...))
		if v == 5 {
			if ack := c.Expect(packets.Connack); ack.ReasonCode != packets.ErrPayloadFormatInvalid.Code {
				t.Errorf("got %s", brokertest.Describe(ack))
			}
		}
		c.ExpectClosed()
		r.undisturbed(t)
	}
}

// After a refusal the packet identifier is free for the next message [MQTT-4.3.3-9].
func TestIdentifierIsFreeAfterARefusal(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve"})
	for _, qos := range []byte{1, 2} {
		d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), qos, 7, "{}"))
		if ack := d.Expect(map[byte]byte{1: packets.Puback, 2: packets.Pubrec}[qos]); ack.ReasonCode != packets.ErrPayloadFormatInvalid.Code {
			t.Errorf("QoS %d: got %s", qos, brokertest.Describe(ack))
		}
		d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), qos, 7, "hello"))
		if ack := d.Expect(map[byte]byte{1: packets.Puback, 2: packets.Pubrec}[qos]); ack.ReasonCode != 0 {
			t.Errorf("QoS %d: got %s", qos, brokertest.Describe(ack))
		}
		r.seq++
		if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "hello" {
			t.Errorf("nan received %+v", e)
		}
		if qos == 2 {
			d.SendBytes([]byte{0x62, 2, 0, 7})
			d.AwaitAck(packets.Pubcomp, 7)
		}
	}
	r.undisturbed(t)
}
