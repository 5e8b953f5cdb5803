package app_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// The contract's filters are granted, at the QoS asked for, and every other one
// is refused with the right code: in MQTT 3.1.1 that is always 0x80. A filter
// that is refused does not touch those beside it.
func TestSubscribe(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	others := string(a.Direct(t, r.nan, a.User(t, "third")))
	r.near.ExpectEvent(apptest.Conv(others), 1)
	mine, me, nan, none := string(r.conv), r.eve.ID.String(), r.nan.ID.String(), chat.NewID().String()
	const granted = 0
	cases := []struct {
		filter string
		code   byte
	}{
		{"conv/" + mine + "/messages", granted},
		{"conv/" + strings.ToUpper(mine) + "/messages", granted},
		{"conv/" + mine + "/typing", granted},
		{"conv/" + mine + "/reads", granted},
		{"conv/" + mine + "/+", granted},
		{"conv/" + mine + "/#", granted},
		{"conv/+/messages", granted},
		{"conv/+/typing", granted},
		{"conv/+/reads", granted},
		{"conv/+/+", granted},
		{"conv/+/#", granted},
		{"conv/#", granted},
		{"user/" + me + "/presence", granted},
		{"user/" + me + "/errors", granted},
		{"user/" + me + "/+", granted},
		{"user/" + me + "/#", granted},
		{"user/+/presence", granted},
		{"user/" + nan + "/presence", granted},
		{"user/" + none + "/presence", granted}, // a stranger's and nobody's look the same

		{"conv/" + others + "/messages", 0x87},
		{"conv/" + others + "/typing", 0x87},
		{"conv/" + others + "/+", 0x87},
		{"conv/" + others + "/#", 0x87},
		{"conv/" + none + "/messages", 0x87},
		{"conv/" + none + "/#", 0x87},
		{"user/" + nan + "/errors", 0x87},
		{"user/" + nan + "/+", 0x87},
		{"user/" + nan + "/#", 0x87},
		{"user/" + none + "/errors", 0x87},
		{"$SYS/#", 0x87},
		{"$SYS/broker/uptime", 0x87},
		{"$SYS", 0x87},
		{"$share/g/conv/+/messages", 0x9e},
		{"$share/g/conv/" + mine + "/messages", 0x9e},
		{"$share/g/hello", 0x87},
		{"$share/g/#", 0x87},
		{"$share//conv/#", 0x8f},
		{"$share/", 0x8f},

		{"#", 0x87}, // device topics, and none of them is hers
		{"+", 0x87},
		{"+/+", 0x87},
		{"+/#", 0x87},
		{"+/+/messages", 0x87},
		{"+/" + mine + "/messages", 0x87},
		{"conv", 0x87},
		{"hello", 0x87},
		{"a/+/b/#", 0x87},
		{"/conv/+/messages", 0x87},
		{"$share", 0x87},
		{"$queue/conv/#", 0x87},
		{" ", 0x87},

		{"conv/", 0x8f},
		{"conv/+", 0x8f},
		{"conv/" + mine, 0x8f},
		{"conv/+/messages/#", 0x8f},
		{"conv/" + mine + "/messages/", 0x8f},
		{"conv/" + mine + "/messages/#", 0x8f},
		{"conv/+/errors", 0x8f},
		{"conv/+/presence", 0x8f},
		{"conv/#/messages", 0x8f},
		{"conv/" + mine[:35] + "+/messages", 0x8f},
		{"conv+/messages", 0x8f},
		{"user/#", 0x8f},
		{"user/+/errors", 0x8f},
		{"user/+/#", 0x8f},
		{"user/+/+", 0x8f},
		{"user/" + me + "/messages", 0x8f},
		{strings.Repeat("+/", 500) + "#", 0x8f},
		{strings.Repeat("a/", 32_000) + "#", 0x8f},
		{strings.Repeat("/", 65_535), 0x8f},
		{"conv/" + strings.Repeat("+/", 32_000), 0x8f},
		{"$share/g/" + strings.Repeat("/", 65_000), 0x8f},
	}
	for _, v := range versions {
		for qos := range byte(3) {
			d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
			for _, c := range cases {
				got := d.Subscribe(qos, c.filter, "conv/+/messages", c.filter)
				want := c.code
				switch {
				case want == granted:
					want = qos
				case v == 4:
					want = 0x80
				}
				if got[0] != want || got[1] != qos || got[2] != want {
					t.Errorf("%s: %.100q: got % x, want %02x %02x %02x", versionName(v), c.filter, got, want, qos, want)
				}
			}
			d.SendBytes([]byte{packets.Pingreq << 4, 0})
			d.Await(packets.Pingresp) // beside presence, which it has asked for
			d.Close()
		}
	}
	r.undisturbed(t)
}

// A SUBSCRIBE or UNSUBSCRIBE that breaks MQTT itself ends the connection, with
// the reason in MQTT 5, and nobody else's.
func TestMalformedSubscribe(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	cases := []struct {
		name   string
		v5, v4 string // the bytes; "": not in this version
		code   byte
	}{
		{name: "no options byte", v5: "\x82\x06\x00\x01\x00\x00\x01a", v4: "\x82\x05\x00\x01\x00\x01a", code: 0x81}, // mochi panics at the first
		{name: "no filters", v5: "\x82\x03\x00\x01\x00", v4: "\x82\x02\x00\x01", code: 0x82},
		{name: "packet id 0", v5: packetText(0x82, "\x00\x00\x00"+str("conv/#")+"\x00"), v4: packetText(0x82, "\x00\x00"+str("conv/#")+"\x00"), code: 0x82},
		{name: "empty filter", v5: packetText(0x82, "\x00\x01\x00"+str("")+"\x00"), v4: packetText(0x82, "\x00\x01"+str("")+"\x00"), code: 0x81},
		{name: "QoS 3", v5: packetText(0x82, "\x00\x01\x00"+str("conv/#")+"\x03"), v4: packetText(0x82, "\x00\x01"+str("conv/#")+"\x03"), code: 0x82},
		{name: "retain handling 3", v5: packetText(0x82, "\x00\x01\x00"+str("conv/#")+"\x30"), code: 0x82},
		{name: "reserved options", v4: packetText(0x82, "\x00\x01"+str("conv/#")+"\x80"), code: 0x81},
		{name: "subscription identifier 0", v5: packetText(0x82, "\x00\x01\x02\x0b\x00"+str("conv/#")+"\x00"), code: 0x82},
		{name: "two subscription identifiers", v5: packetText(0x82, "\x00\x01\x04\x0b\x01\x0b\x02"+str("conv/#")+"\x00"), code: 0x82},
		{name: "NUL in the filter", v5: packetText(0x82, "\x00\x01\x00"+str("a\x00")+"\x00"), v4: packetText(0x82, "\x00\x01"+str("a\x00")+"\x00"), code: 0x81},
		{name: "filter not UTF-8", v5: packetText(0x82, "\x00\x01\x00"+str("a\xff")+"\x00"), v4: packetText(0x82, "\x00\x01"+str("a\xff")+"\x00"), code: 0x81},
		{name: "filter over the end", v5: packetText(0x82, "\x00\x01\x00\xff\xffa\x00"), v4: packetText(0x82, "\x00\x01\xff\xffa\x00"), code: 0x81},
		{name: "reserved flags", v5: packetText(0x80, "\x00\x01\x00"+str("a")+"\x00"), v4: packetText(0x80, "\x00\x01"+str("a")+"\x00"), code: 0x81},
		{name: "property of PUBLISH", v5: packetText(0x82, "\x00\x01\x03\x23\x00\x01"+str("a")+"\x00"), code: 0x81},
		{name: "unsubscribe from nothing", v5: packetText(0xa2, "\x00\x01\x00"), v4: packetText(0xa2, "\x00\x01"), code: 0x82},
		{name: "unsubscribe, packet id 0", v5: packetText(0xa2, "\x00\x00\x00"+str("a")), v4: packetText(0xa2, "\x00\x00"+str("a")), code: 0x82},
		{name: "unsubscribe, reserved flags", v5: packetText(0xa0, "\x00\x01\x00"+str("a")), v4: packetText(0xa0, "\x00\x01"+str("a")), code: 0x81},
		{name: "unsubscribe over the end", v5: packetText(0xa2, "\x00\x01\x00\x00\x09a"), v4: packetText(0xa2, "\x00\x01\x00\x09a"), code: 0x81},
		{name: "6,000 filters", v5: packetText(0x82, "\x00\x01\x00"+strings.Repeat(str("conv/#")+"\x00", 6000)), v4: packetText(0x82, "\x00\x01"+strings.Repeat(str("conv/#")+"\x00", 6000)), code: 0x97},
	}
	for _, c := range cases {
		for _, v := range versions {
			bytes := map[byte]string{5: c.v5, 4: c.v4}[v]
			if bytes == "" {
				continue
			}
			t.Run(c.name+"/"+versionName(v), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
				d.SendBytes([]byte(bytes))
				d.ExpectDisconnect(c.code)
				r.undisturbed(t)
			})
		}
	}
}

// A session holds a bounded number of filters; one more is refused (0x97), and
// the same again is not one more.
func TestSubscribeQuota(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve"})
	filters := make([]string, 1000)
	for range 5 {
		for j := range filters {
			filters[j] = "user/" + chat.NewID().String() + "/presence"
		}
		d.MustSubscribe(0, filters...)
	}
	if code := d.Subscribe(0, "conv/#"); code[0] != packets.ErrQuotaExceeded.Code {
		t.Errorf("filter 5,001 got 0x%02x, want 0x97", code[0])
	}
	d.MustSubscribe(0, filters[0])
	d.Unsubscribe(filters[0])
	d.MustSubscribe(1, "conv/#")
	r.undisturbed(t)
	d.ExpectEvent(r.conv, r.seq)
	d.Ping()
}

// A packet of a type, or with flags, that a client must not send ends its
// connection; so does a second CONNECT.
func TestForbiddenPackets(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u := a.User(t, "somebody")
	connect := map[byte]string{}
	for _, v := range versions {
		connect[v] = string(brokertestEncode(t, a, u.As(brokertest.Connect{ClientID: "other", Version: v})))
	}
	cases := []struct {
		name   string
		v5, v4 string
		code   byte
	}{
		{"CONNECT again", connect[5], connect[4], 0x82},
		{"CONNECT of the other version", connect[4], connect[5], 0x82},
		{"CONNACK", "\x20\x03\x00\x00\x00", "\x20\x02\x00\x00", 0x82},
		{"SUBACK", "\x90\x04\x00\x01\x00\x00", "\x90\x03\x00\x01\x00", 0x82},
		{"UNSUBACK", "\xb0\x04\x00\x01\x00\x00", "\xb0\x02\x00\x01", 0x82},
		{"PINGRESP", "\xd0\x00", "\xd0\x00", 0x82},
		{"AUTH", "\xf0\x02\x18\x00", "\xf0\x02\x18\x00", 0x82},
		{"type 0", "\x00\x00", "\x00\x00", 0x81},
		{"PINGREQ with flags", "\xc1\x00", "\xc1\x00", 0x81},
		{"PUBREL without flags", "\x60\x02\x00\x01", "\x60\x02\x00\x01", 0x81},
		{"PUBACK with flags", "\x42\x02\x00\x01", "\x42\x02\x00\x01", 0x81},
		{"DISCONNECT with flags", "\xe1\x00", "\xe1\x00", 0x81},
		{"PUBACK of one byte", "\x40\x01\x00", "\x40\x01\x00", 0x81},
		{"PUBACK of nothing", "\x40\x00", "\x40\x00", 0x81},
		{"PUBREC of one byte", "\x50\x01\x00", "\x50\x01\x00", 0x81},
		{"PUBREL of one byte", "\x62\x01\x00", "\x62\x01\x00", 0x81},
		{"PUBCOMP of one byte", "\x70\x01\x00", "\x70\x01\x00", 0x81},
		{"length of five bytes", "\xc0\x80\x80\x80\x80\x00", "\xc0\x80\x80\x80\x80\x00", 0x81},
		{"DISCONNECT that lengthens the session", "\xe0\x07\x00\x05\x11\x00\x00\x00\x10", "", 0x82},
	}
	for _, c := range cases {
		for _, v := range versions {
			bytes := map[byte]string{5: c.v5, 4: c.v4}[v]
			if bytes == "" {
				continue
			}
			t.Run(c.name+"/"+versionName(v), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
				d.SendBytes([]byte(bytes))
				d.ExpectDisconnect(c.code)
				r.undisturbed(t)
			})
		}
	}
}

// A client that answers a publication with a packet that is not due has lost count: it is
// disconnected, and gets the publication again. So it is with device topics.
func TestWrongAcknowledgements(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	const ack, rec, comp = packets.Puback << 4, packets.Pubrec << 4, packets.Pubcomp << 4
	for _, c := range []struct {
		name string
		qos  byte
		send []byte // types of packets, of which the last is wrong
	}{
		{"PUBREC at QoS 1", 1, []byte{rec}},
		{"PUBCOMP at QoS 1", 1, []byte{comp}},
		{"PUBACK at QoS 2", 2, []byte{ack}},
		{"PUBCOMP before PUBREC", 2, []byte{comp}},
		{"PUBACK after PUBREC", 2, []byte{rec, ack}},
	} {
		for _, v := range versions {
			for _, topic := range []string{r.conv.Topic("messages"), "dev/lamp"} {
				t.Run(c.name+"/"+versionName(v)+"/"+topic[:3], func(t *testing.T) {
					as := brokertest.Connect{ClientID: fmt.Sprint(c.name, v, topic), Version: v, Persistent: true, SessionExpiry: 600}
					d := a.Device(t, r.eve, as)
					d.AutoAck = false
					d.MustSubscribe(c.qos, topic)
					a.Device(t, r.eve, brokertest.Connect{ClientID: "publisher"}).Publish(c.qos, topic, "1")
					pk := d.Expect(packets.Publish)
					for _, kind := range c.send {
						d.SendBytes([]byte{kind, 2, byte(pk.PacketID >> 8), byte(pk.PacketID)})
						if kind == rec && len(c.send) > 1 {
							d.Expect(packets.Pubrel)
						}
					}
					d.ExpectDisconnect(0x82)
					d = a.Device(t, r.eve, as)
					d.AutoAck = false
					if c.send[0] == rec && len(c.send) > 1 {
						if again := d.Expect(packets.Pubrel); again.PacketID != pk.PacketID {
							t.Errorf("the client has got %s", brokertest.Describe(again))
						}
					} else if again := d.Expect(packets.Publish); string(again.Payload) != string(pk.Payload) || !again.FixedHeader.Dup {
						t.Errorf("the client has got %s again", brokertest.Describe(again))
					}
					d.Disconnect()
				})
			}
		}
	}
}

// What is allowed, or can do no harm, does not end the connection.
func TestOddPackets(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
		d.AutoAck = false
		for name, bytes := range map[string]string{
			"PUBACK of nothing on its way":  "\x40\x02\x00\x07",
			"PUBCOMP of nothing on its way": "\x70\x02\x00\x07",
			"two PINGREQ as one":            "\xc0\x00\xc0\x00",
			"a length longer than needed":   "\x40\x82\x00\x00\x07",
		} {
			d.SendBytes([]byte(bytes))
			if strings.HasPrefix(name, "two") {
				d.Expect(packets.Pingresp)
				d.Expect(packets.Pingresp)
			}
			d.Ping()
		}
		notFound := byte(0)
		if v == 5 {
			notFound = packets.ErrPacketIdentifierNotFound.Code
		}
		d.SendBytes([]byte("\x62\x02\x00\x07")) // PUBREL without PUBLISH
		if pk := d.Expect(packets.Pubcomp); pk.PacketID != 7 || pk.ReasonCode != notFound {
			t.Errorf("PUBREL of nothing was answered %s", brokertest.Describe(pk))
		}
		d.SendBytes([]byte("\x50\x02\x00\x07")) // PUBREC for nothing
		if pk := d.Expect(packets.Pubrel); pk.PacketID != 7 || pk.ReasonCode != notFound {
			t.Errorf("PUBREC of nothing was answered %s", brokertest.Describe(pk))
		}
		d.Unsubscribe("conv/#", strings.Repeat("a/", 30_000), "#", "\u0001")
		d.Ping()
		d.Disconnect()
	}
	r.undisturbed(t)
}
