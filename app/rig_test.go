package app_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// The versions of the protocol, for tests that are the same in both.
var versions = []byte{5, 4}

func versionName(v byte) string {
	if v == 4 {
		return "MQTT 3.1.1"
	}
	return "MQTT 5"
}

// rig is what a test with bad input stands on: eve, who sends it, and nan, who
// shares a conversation with her and must notice nothing.
type rig struct {
	*apptest.App
	eve, nan apptest.User
	conv     apptest.Conv    // of both
	near     *apptest.Device // nan's, subscribed to everything of hers
	seq      int64           // of the last event in conv
}

func newRig(t *testing.T, a *apptest.App) *rig {
	t.Helper()
	r := &rig{App: a, eve: a.User(t, "eve"), nan: a.User(t, "nan"), seq: 1}
	r.conv = a.Direct(t, r.eve, r.nan)
	r.watch(t)
	return r
}

// watch connects nan. What she hears from here on is for undisturbed.
func (r *rig) watch(t *testing.T) {
	t.Helper()
	// She says nothing while a test's cases wait for their turn, which in a run of all
	// tests has been longer than the usual keepalive lets her.
	r.near = r.Device(t, r.nan, brokertest.Connect{ClientID: "near", KeepAlive: 3600})
	settled(t, r.App, r.nan)
	r.near.MustSubscribe(1, "conv/#", r.nan.Topic("#"))
	expectSeen(t, r.near, r.nan, "online") // which is to be the last of it
}

// undisturbed checks that nan's connection lives, has received nothing since the
// last time, and that the next event of the conversation is hers: nothing else
// was stored.
func (r *rig) undisturbed(t *testing.T) {
	t.Helper()
	r.near.Ping()
	r.seq++
	if ack := r.near.Send(r.conv, "still here"); ack.Seq != r.seq {
		t.Errorf("nan's message was stored as event %d, want %d: something else has been stored", ack.Seq, r.seq)
		r.seq = ack.Seq
	}
	if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "still here" {
		t.Errorf("nan received %+v", e)
	}
}

// problem is an object on user/{me}/errors.
type problem struct {
	Type, Title, Code, Detail, Topic, ClientID, ClientMsgID string
}

func expectProblem(t *testing.T, d *apptest.Device) problem {
	t.Helper()
	pk := d.Await(packets.Publish)
	if pk.TopicName != d.User.Topic("errors") || pk.FixedHeader.Qos != 0 {
		t.Fatalf("got %s, want an error", brokertest.Describe(pk))
	}
	var p problem
	if err := json.Unmarshal(pk.Payload, &p); err != nil {
		t.Fatalf("%s: %v", pk.Payload, err)
	}
	return p
}

// uuid returns an id for clients to send.
func uuid(n int) string { return fmt.Sprintf("0198c0de-0000-7000-8000-%012d", n) }
