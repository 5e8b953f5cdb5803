package app_test

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// badPacket is a packet that breaks MQTT.
type badPacket struct {
	name   string
	header byte
	v5, v4 string // what follows the fixed header; none: not in this version
	code   byte   // of the DISCONNECT in MQTT 5
}

const none = "not in this version"

// badPackets has, for each type, what can be wrong with it.
func badPackets(topic string) []badPacket {
	t, filter := str(topic), str("conv/#")
	all := []badPacket{
		{"type 0", 0x00, "", "", 0x81},
		{"CONNACK", 0x20, "\x00\x00\x00", "\x00\x00", 0x82},
		{"SUBACK", 0x90, "\x00\x01\x00\x00", "\x00\x01\x00", 0x82},
		{"UNSUBACK", 0xb0, "\x00\x01\x00\x00", "\x00\x01", 0x82},
		{"PINGRESP", 0xd0, "", "", 0x82},
		{"AUTH of nothing", 0xf0, "", none, 0x82},
		{"AUTH to go on", 0xf0, "\x18\x00", none, 0x82},
		{"AUTH in 3.1.1", 0xf0, none, "", 0x81},

		{"PUBLISH of nothing", 0x30, "", "", 0x81},
		{"PUBLISH at QoS 3", 0x36, t + "\x00\x01\x00hi", t + "\x00\x01hi", 0x81},
		{"PUBLISH at QoS 0 with DUP", 0x38, t + "\x00hi", t + "hi", 0x82},
		{"PUBLISH without a packet identifier", 0x32, t, t, 0x81},
		{"PUBLISH with half of one", 0x34, t + "\x00", t + "\x00", 0x81},
		{"PUBLISH with the identifier 0", 0x32, t + "\x00\x00\x00hi", t + "\x00\x00hi", 0x82},
		{"PUBLISH whose topic is longer than it", 0x30, "\x10\x00conv", "\x10\x00conv", 0x81},
		{"PUBLISH with half a length", 0x30, "\x00", "\x00", 0x81},
		{"PUBLISH, topic not UTF-8", 0x30, str("a\xffb") + "\x00", str("a\xffb"), 0x81},
		{"PUBLISH, surrogate in the topic", 0x30, str("a\xed\xa0\x80b") + "\x00", str("a\xed\xa0\x80b"), 0x81},
		{"PUBLISH, overlong topic", 0x30, str("a\xc0\xafb") + "\x00", str("a\xc0\xafb"), 0x81},
		{"PUBLISH, NUL in the topic", 0x30, str("a\x00b") + "\x00", str("a\x00b"), 0x81},
		{"PUBLISH, wildcard in the topic", 0x30, str("conv/+/messages") + "\x00", str("conv/+/messages"), 0x90},
		{"PUBLISH, no topic", 0x30, str("") + "\x00", str(""), 0x90},

		{"PINGREQ with something", 0xc0, "\x00", "\x00", 0x81},
		{"DISCONNECT with something", 0xe0, none, "\x00", 0x81},
		{"DISCONNECT, unknown reason", 0xe0, "\x42", none, 0x82},
		{"DISCONNECT, a server's reason", 0xe0, "\x8b", none, 0x82},

		{"SUBSCRIBE without an identifier", 0x82, "", "", 0x81},
		{"SUBSCRIBE to nothing", 0x82, "\x00\x01\x00", "\x00\x01", 0x82},
		{"SUBSCRIBE with the identifier 0", 0x82, "\x00\x00\x00" + filter + "\x00", "\x00\x00" + filter + "\x00", 0x82},
		{"SUBSCRIBE without options", 0x82, "\x00\x01\x00" + filter, "\x00\x01" + filter, 0x81},
		{"SUBSCRIBE, second without options", 0x82, "\x00\x01\x00" + filter + "\x00" + filter, "\x00\x01" + filter + "\x00" + filter, 0x81},
		{"SUBSCRIBE to a filter over the end", 0x82, "\x00\x01\x00\x00\x09a\x00", "\x00\x01\x00\x09a\x00", 0x81},
		{"SUBSCRIBE to the empty filter", 0x82, "\x00\x01\x00\x00\x00\x00", "\x00\x01\x00\x00\x00", 0x81},
		{"SUBSCRIBE at QoS 3", 0x82, "\x00\x01\x00" + filter + "\x03", "\x00\x01" + filter + "\x03", 0x82},
		{"SUBSCRIBE with reserved options", 0x82, "\x00\x01\x00" + filter + "\x41", "\x00\x01" + filter + "\x05", 0x81},
		{"SUBSCRIBE with the highest option", 0x82, "\x00\x01\x00" + filter + "\x80", "\x00\x01" + filter + "\x80", 0x81},
		{"SUBSCRIBE, retain handling 3", 0x82, "\x00\x01\x00" + filter + "\x30", none, 0x82},
		{"SUBSCRIBE, filter not UTF-8", 0x82, "\x00\x01\x00" + str("a\xff") + "\x00", "\x00\x01" + str("a\xff") + "\x00", 0x81},
		{"SUBSCRIBE, NUL in the filter", 0x82, "\x00\x01\x00" + str("a\x00") + "\x00", "\x00\x01" + str("a\x00") + "\x00", 0x81},

		{"UNSUBSCRIBE without an identifier", 0xa2, "\x00", "\x00", 0x81},
		{"UNSUBSCRIBE from nothing", 0xa2, "\x00\x01\x00", "\x00\x01", 0x82},
		{"UNSUBSCRIBE with the identifier 0", 0xa2, "\x00\x00\x00" + filter, "\x00\x00" + filter, 0x82},
		{"UNSUBSCRIBE from the empty filter", 0xa2, "\x00\x01\x00" + str(""), "\x00\x01" + str(""), 0x81},
		{"UNSUBSCRIBE over the end", 0xa2, "\x00\x01\x00\x00\x09a", "\x00\x01\x00\x09a", 0x81},
		{"UNSUBSCRIBE with half a length", 0xa2, "\x00\x01\x00" + filter + "\x00", "\x00\x01" + filter + "\x00", 0x81},
		{"UNSUBSCRIBE, filter not UTF-8", 0xa2, "\x00\x01\x00" + str("a\xff"), "\x00\x01" + str("a\xff"), 0x81},
	}
	for _, h := range []byte{0x41, 0x52, 0x60, 0x63, 0x72, 0x80, 0x83, 0xa0, 0xa3, 0xc1, 0xe1} {
		all = append(all, badPacket{fmt.Sprintf("%s with flags %x", packets.PacketNames[h>>4], h&0xf), h, "\x00\x01", "\x00\x01", 0x81})
	}
	for _, h := range []byte{0x40, 0x50, 0x62, 0x70} {
		name := packets.PacketNames[h>>4]
		all = append(all,
			badPacket{name + " of nothing", h, "", "", 0x81},
			badPacket{name + " of one byte", h, "\x00", "\x00", 0x81},
			badPacket{name + " with the identifier 0", h, "\x00\x00", "\x00\x00", 0x82},
			badPacket{name + " with more in 3.1.1", h, none, "\x00\x01\x00", 0x81},
			badPacket{name + " with an unknown reason", h, "\x00\x01\x42", none, 0x82},
			badPacket{name + " with a reason of others", h, "\x00\x01\x9e", none, 0x82},
			badPacket{name + " with half a property", h, "\x00\x01\x00\x02\x1f\x00", none, 0x81},
			badPacket{name + " with two reasons in words", h, "\x00\x01\x00\x06\x1f\x00\x00\x1f\x00\x00", none, 0x82},
			badPacket{name + " with bytes after it", h, "\x00\x01\x00\x00\x00", none, 0x81},
			badPacket{name + " with a property of PUBLISH", h, "\x00\x01\x00\x02\x01\x00", none, 0x81},
		)
	}
	for name, p := range map[string]struct { // properties of PUBLISH
		props string
		code  byte
	}{
		"that end the packet":                  {"\x7f\x01", 0x81},
		"without end":                          {"\xff\xff\xff\xff\x01", 0x81},
		"with a property of CONNECT":           {"\x03\x21\x00\x10", 0x81},
		"with an unknown property":             {"\x02\x7f\x00", 0x81},
		"with a number over their end":         {"\x02\x23\x00\x01", 0x81},
		"with a text over their end":           {"\x04\x03\x00\x03a", 0x81},
		"with a text that is not UTF-8":        {"\x04\x03\x00\x01\xff", 0x81},
		"with a payload format of 2":           {"\x02\x01\x02", 0x82},
		"with two payload formats":             {"\x04\x01\x00\x01\x00", 0x82},
		"with two expiry intervals":            {"\x0a\x02\x00\x00\x00\x01\x02\x00\x00\x00\x01", 0x82},
		"with two content types":               {"\x06\x03\x00\x00\x03\x00\x00", 0x82},
		"with a response topic for many":       {"\x06\x08\x00\x03a/#", 0x82},
		"with two correlation data":            {"\x06\x09\x00\x00\x09\x00\x00", 0x82},
		"with a subscription identifier":       {"\x02\x0b\x01", 0x82},
		"with two topic aliases":               {"\x06\x23\x00\x01\x23\x00\x01", 0x82},
		"with topic alias 0":                   {"\x03\x23\x00\x00", 0x94},
		"with half a user property":            {"\x04\x26\x00\x01k", 0x81},
		"with a user property with NUL":        {"\x07\x26\x00\x01k\x00\x01\x00", 0x81},
		"with an identifier of several bytes":  {"\x03\x81\x00\x00", 0x81},
		"with subscription identifier 0":       {"\x02\x0b\x00", 0x82},
		"with a subscription identifier, long": {"\x06\x0b\xff\xff\xff\xff\x7f", 0x81},
	} {
		all = append(all, badPacket{"PUBLISH, properties " + name, 0x32, t + "\x00\x01" + p.props + "hi", none, p.code})
	}
	for name, p := range map[string]struct { // and of SUBSCRIBE
		props string
		code  byte
	}{
		"with a property of PUBLISH":        {"\x03\x23\x00\x01", 0x81},
		"over the end":                      {"\x7f", 0x81},
		"with subscription identifier 0":    {"\x02\x0b\x00", 0x82},
		"with two subscription identifiers": {"\x04\x0b\x01\x0b\x02", 0x82},
		"with half a user property":         {"\x04\x26\x00\x01k", 0x81},
	} {
		all = append(all, badPacket{"SUBSCRIBE, properties " + name, 0x82, "\x00\x01" + p.props + filter + "\x00", none, p.code})
	}
	return all
}

func (b badPacket) bytes(version byte) []byte {
	body := b.v5
	if version == 4 {
		body = b.v4
	}
	if body == none {
		return nil
	}
	return packet(b.header, body)
}

// eachBadPacket runs f for every bad packet of a version, in one rig: the neighbour
// must have noticed nothing after any of them.
func eachBadPacket(t *testing.T, a *apptest.App, f func(t *testing.T, r *rig, b badPacket, bytes []byte, version byte)) {
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			for _, b := range badPackets(r.conv.Topic("messages")) {
				bytes := b.bytes(v)
				if bytes == nil {
					continue
				}
				t.Run(b.name, func(t *testing.T) { f(t, r, b, bytes, v) })
				r.undisturbed(t)
			}
		})
	}
}

// Before CONNECT every packet is the wrong one, however it is made: the connection is
// closed without a word [MQTT-3.1.0-1].
func TestMalformedBeforeConnect(t *testing.T) {
	t.Parallel()
	eachBadPacket(t, apptest.Start(t), func(t *testing.T, r *rig, _ badPacket, bytes []byte, v byte) {
		c := r.Dial(t)
		c.Version = v
		_ = c.Write(bytes)
		c.ExpectClosed()
	})
}

// After CONNECT the client hears what is wrong, in MQTT 5, and the connection is closed.
// What it had sent before, in the same segment, is still served.
func TestMalformedAfterConnect(t *testing.T) {
	t.Parallel()
	eachBadPacket(t, apptest.Start(t), func(t *testing.T, r *rig, b badPacket, bytes []byte, v byte) {
		d := r.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
		d.SendBytes(append([]byte{0xc0, 0}, bytes...))
		d.Expect(packets.Pingresp)
		d.ExpectDisconnect(b.code)
	})
}

// With packets on their way in both directions the session loses none of them: what was
// not acknowledged comes again, and what is sent again is stored once.
func TestMalformedWithPacketsOnTheirWay(t *testing.T) {
	t.Parallel()
	eachBadPacket(t, apptest.Start(t), func(t *testing.T, r *rig, b badPacket, bytes []byte, v byte) {
		kept := brokertest.Connect{ClientID: "eve", Version: v, Persistent: true}
		if v == 5 {
			kept.SessionExpiry = 3600
		}
		d := r.Device(t, r.eve, kept)
		d.AutoAck = false
		d.MustSubscribe(1, r.conv.Topic("messages"))
		publish := brokertest.Publish(r.conv.Topic("messages"), 2, 1000, "on its way")
		d.Client.Send(publish)
		rec := d.AwaitAck(packets.Pubrec, 1000) // and PUBREL is due
		r.seq++
		sent := d.ExpectEvent(r.conv, r.seq) // and PUBACK is due
		if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "on its way" {
			t.Errorf("nan received %+v", e)
		}
		d.SendBytes(bytes)
		d.ExpectDisconnect(b.code)

		d = r.Device(t, r.eve, kept)
		d.AutoAck = false
		again := d.ExpectEvent(r.conv, r.seq)
		if h := again.Packet.FixedHeader; !h.Dup || again.Packet.PacketID != sent.Packet.PacketID || again.ID != sent.ID {
			t.Errorf("after coming back: %s, was %s", brokertest.Describe(again.Packet), brokertest.Describe(sent.Packet))
		}
		d.SendBytes([]byte{0x40, 2, byte(again.Packet.PacketID >> 8), byte(again.Packet.PacketID)})
		publish.FixedHeader.Dup = true
		d.Client.Send(publish)
		if ack := d.AwaitAck(packets.Pubrec, 1000); ack != rec {
			t.Errorf("sent again it is acknowledged with %+v, was %+v", ack, rec)
		}
		d.SendBytes([]byte{0x62, 2, 1000 >> 8, 1000 & 0xff})
		d.AwaitAck(packets.Pubcomp, 1000)
		d.Ping()
		d.Disconnect()
		d = r.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v}) // and nothing is kept
		d.Disconnect()
	})
}
