package app_test

import (
	"encoding/json"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// typed is what members receive on conv/{id}/typing.
type typed struct {
	ConversationID, UserID, ExpiresAt string
	Typing                            bool
}

func expectTyping(t *testing.T, d *apptest.Device, c apptest.Conv, by apptest.User, typing bool) {
	t.Helper()
	pk := d.Await(packets.Publish)
	var got typed
	if err := json.Unmarshal(pk.Payload, &got); err != nil || pk.TopicName != c.Topic("typing") || pk.FixedHeader.Qos != 0 {
		t.Fatalf("got %s, %v; want typing", brokertest.Describe(pk), err)
	}
	if got.ConversationID != string(c) || got.UserID != by.ID.String() || got.Typing != typing || got.ExpiresAt == "" {
		t.Errorf("got %+v, want typing %v", got, typing)
	}
}

func TestTyping(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	conv := a.Direct(t, ann, bob)
	phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	phone.MustSubscribe(1, "conv/+/typing")
	bobs := a.Device(t, bob, brokertest.Connect{ClientID: "bobs"})
	bobs.MustSubscribe(1, "conv/+/typing")
	stranger := a.Device(t, eve, brokertest.Connect{ClientID: "stranger"})
	stranger.MustSubscribe(1, "conv/+/typing", eve.Topic("errors"))

	say := func(typing string) {
		phone.Client.Send(brokertest.Publish(conv.Topic("typing"), 0, 0, `{"typing":`+typing+`}`))
	}
	say("true")
	expectTyping(t, bobs, conv, ann, true)

	late := a.Device(t, bob, brokertest.Connect{ClientID: "late", Version: 4})
	late.MustSubscribe(0, conv.Topic("#"))
	expectTyping(t, late, conv, ann, true)

	say("false")
	expectTyping(t, bobs, conv, ann, false)
	expectTyping(t, late, conv, ann, false)

	say("true")
	expectTyping(t, bobs, conv, ann, true)
	if ack := phone.Publish(1, conv.Topic("messages"), "sent"); ack.Code != 0 {
		t.Fatalf("message refused: %+v", ack)
	}
	expectTyping(t, bobs, conv, ann, false)

	say("true")
	expectTyping(t, bobs, conv, ann, true)
	phone.Close()
	expectTyping(t, bobs, conv, ann, false)

	if ack := stranger.Publish(1, conv.Topic("typing"), `{"typing":true}`); ack.Code != packets.ErrNotAuthorized.Code {
		t.Errorf("a stranger's typing was answered %+v", ack)
	}
	if ack := bobs.Publish(1, conv.Topic("typing"), `{"typing":"yes"}`); ack.Code != packets.ErrPayloadFormatInvalid.Code {
		t.Errorf("typing that is no boolean was answered %+v", ack)
	}
	stranger.Ping() // and has heard nothing
	bobs.Ping()
}

// A session that is resumed hears who types, as one that has just subscribed does.
func TestTypingAfterResuming(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	for _, v := range versions {
		o := brokertest.Connect{ClientID: "bobs" + versionName(v), Version: v, Persistent: true, SessionExpiry: 60}
		bobs := a.Device(t, bob, o)
		bobs.MustSubscribe(0, conv.Topic("typing"))
		witness := a.Device(t, bob, brokertest.Connect{ClientID: "witness" + versionName(v)})
		witness.MustSubscribe(0, conv.Topic("typing"))
		bobs.Close()
		phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
		phone.Client.Send(brokertest.Publish(conv.Topic("typing"), 0, 0, `{"typing":true}`))
		expectTyping(t, witness, conv, ann, true)
		bobs = a.Device(t, bob, o)
		expectTyping(t, bobs, conv, ann, true)
		phone.Disconnect()
		expectTyping(t, bobs, conv, ann, false)
	}
}
