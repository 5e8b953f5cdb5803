package app_test

import (
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// A message goes from one user to the other and to the sender's own device, in
// both versions of the protocol.
func TestMessage(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	alice, bob := a.User(t, "alice"), a.User(t, "bob")
	c := a.Direct(t, alice, bob)
	to := a.Device(t, bob, brokertest.Connect{ClientID: "phone"})
	to.MustSubscribe(1, "conv/+/messages")
	from := a.Device(t, alice, brokertest.Connect{ClientID: "phone", Version: 4})
	from.MustSubscribe(1, "conv/+/messages")

	from.Send(c, `{"content":"hello","clientMsgId":"0198c0de-0000-7000-8000-000000000001"}`)
	got, own := to.ExpectEvent(c, 2), from.ExpectEvent(c, 2)
	if got.Content != "hello" || got.SenderID != alice.ID.String() || got.ClientMsgID != "0198c0de-0000-7000-8000-000000000001" {
		t.Errorf("bob received %+v", got)
	}
	if string(got.Packet.Payload) != string(own.Packet.Payload) {
		t.Errorf("bob received %s, alice %s", got.Packet.Payload, own.Packet.Payload)
	}
	to.Ping()
	from.Ping()
}
