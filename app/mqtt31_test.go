package app_test

import (
	"net"
	"slices"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// An old device speaks MQTT 3.1. It talks with the others of its user, at every QoS, and
// sets flags of the fixed header that 3.1.1 forbids: DUP of what it sends again. It keeps
// its session, though its CONNACK does not say so, and it has a will.
func TestMQTT31(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	as := brokertest.Connect{ClientID: "a lamp of many years ago", Version: 3, Persistent: true, WillTopic: "dev/lamp", WillPayload: "gone", WillQoS: 1}
	phone := a.Device(t, r.eve, brokertest.Connect{ClientID: "phone"})
	phone.MustSubscribe(2, "dev/lamp")
	lamp := a.Device(t, r.eve, as)
	lamp.SendBytes([]byte(packetText(0x8a, "\x00\x01"+str("dev/set")+"\x02"+str("conv/#")+"\x01"+str("$share/a/conv/#")+"\x01")))
	if codes := lamp.Expect(packets.Suback).ReasonCodes; !slices.Equal(codes, []byte{2, 1, 0x80}) {
		t.Errorf("SUBACK says % x", codes)
	}
	for qos := range byte(3) {
		lamp.Publish(qos, "dev/lamp", "on")
		if pk := phone.Expect(packets.Publish); string(pk.Payload) != "on" || pk.FixedHeader.Qos != qos {
			t.Errorf("the phone got %s", brokertest.Describe(pk))
		}
		phone.Publish(qos, "dev/set", "off")
		if pk := lamp.Expect(packets.Publish); string(pk.Payload) != "off" || pk.FixedHeader.Qos != qos {
			t.Errorf("the lamp got %s", brokertest.Describe(pk))
		}
	}
	lamp.Client.Send(brokertest.Publish("dev/lamp", 2, 9, "once"))
	lamp.Expect(packets.Pubrec)
	for _, first := range []byte{0x62, 0x6a} { // PUBREL, and again
		lamp.SendBytes([]byte{first, 2, 0, 9})
		lamp.AwaitAck(packets.Pubcomp, 9)
	}
	phone.Expect(packets.Publish)
	r.undisturbed(t)
	lamp.ExpectEvent(r.conv, r.seq)
	lamp.SendBytes([]byte(packetText(0xaa, "\x00\x02"+str("conv/#"))))
	lamp.Expect(packets.Unsuback)
	lamp.Ping()
	lamp.Close()
	if pk := phone.Expect(packets.Publish); string(pk.Payload) != "gone" {
		t.Errorf("the phone got %s", brokertest.Describe(pk))
	}
	phone.Publish(1, "dev/set", "while away")
	lamp = &apptest.Device{Client: a.Dial(t)}
	if ack := lamp.MustConnect(r.eve.As(as)); ack.SessionPresent {
		t.Error("CONNACK has a flag that MQTT 3.1 does not know")
	}
	if pk := lamp.Expect(packets.Publish); string(pk.Payload) != "while away" {
		t.Errorf("the lamp got %s", brokertest.Describe(pk))
	}
	lamp.Disconnect()
	r.undisturbed(t)
}

// What MQTT 3.1 does not allow is refused with its codes, which are those of 3.1.1.
func TestMQTT31Refusals(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u := a.User(t, "old")
	for _, c := range []struct {
		name string
		o    brokertest.Connect
		code byte
	}{
		{"no client id", u.As(brokertest.Connect{}), 2},
		{"no client id for a session", u.As(brokertest.Connect{Persistent: true}), 2},
		{"a wrong password", brokertest.Connect{ClientID: "a", Username: u.Username, Password: "wrong"}, 5},
		{"version 4", u.As(brokertest.Connect{ClientID: "a", Change: func(pk *packets.Packet) { pk.ProtocolVersion = 4 }}), 1},
		{"the name of 3.1.1", u.As(brokertest.Connect{ClientID: "a", Change: func(pk *packets.Packet) { pk.Connect.ProtocolName = []byte("MQTT") }}), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := a.Dial(t)
			c.o.Version = 3
			if ack := d.Connect(c.o); ack.ReasonCode != c.code {
				t.Errorf("got %s, want %d", brokertest.Describe(ack), c.code)
			}
			d.ExpectClosed()
		})
	}
}

// Over WebSocket, clients of MQTT 3.1 ask for a subprotocol of their own.
func TestMQTT31OverWebSocket(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u := a.User(t, "old")
	d := websocket.Dialer{NetDialContext: (&net.Dialer{}).DialContext, Subprotocols: []string{"mqttv3.1"}}
	ws, resp, err := d.DialContext(t.Context(), a.WebSocketURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if ws.Subprotocol() != "mqttv3.1" {
		t.Errorf("the server chose the subprotocol %q", ws.Subprotocol())
	}
	c := brokertest.New(t, brokertest.WebSocketStream(ws))
	c.MustConnect(u.As(brokertest.Connect{ClientID: "page", Version: 3}))
	c.MustSubscribe(1, "dev/page")
	c.AutoAck = true
	c.Publish(1, "dev/page", "hello")
	if pk := c.Await(packets.Publish); string(pk.Payload) != "hello" {
		t.Errorf("got %s", brokertest.Describe(pk))
	}
	c.Disconnect()
}
