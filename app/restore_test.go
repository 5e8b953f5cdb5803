package app_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/store/storetest"
)

// There is a dump at event 7 of a conversation, five more events, and the dump is restored.
// Devices of both versions, which had acknowledged all of them, receive the new events 8 to
// 12, and see by the epoch that the numbers begin again. So do clients of REST.
func TestRestore(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	phone := func(v byte) brokertest.Connect {
		return brokertest.Connect{ClientID: "phone-" + versionName(v)[5:6], Version: v, Persistent: true, SessionExpiry: 3600}
	}
	phones := map[byte]*apptest.Device{}
	for _, v := range versions {
		phones[v] = a.Device(t, bob, phone(v))
		phones[v].MustSubscribe(1, "conv/+/messages")
	}
	talk := func(a *apptest.App, from, to int64, what string) (epoch string) {
		t.Helper()
		sender := a.Device(t, ann, brokertest.Connect{})
		for seq := from; seq <= to; seq++ {
			sender.Send(conv, fmt.Sprint(what, seq))
		}
		for _, v := range versions {
			for seq := from; seq <= to; seq++ {
				e := awaitLater(t, phones[v], from)
				if e.Seq != seq || e.Content != fmt.Sprint(what, seq) || epoch != "" && e.Epoch != epoch {
					t.Errorf("%s received event %d, %q, in epoch %q, want %d, %q, in %q", versionName(v), e.Seq, e.Content, e.Epoch, seq, fmt.Sprint(what, seq), epoch)
				}
				epoch = e.Epoch
			}
		}
		return epoch
	}
	first := talk(a, 2, 7, "event ")
	dump := storetest.Dump(t, dsn)
	if epoch := talk(a, 8, 12, "old "); epoch != first {
		t.Errorf("the epoch has changed from %s to %s", first, epoch)
	}
	var page struct{ NextCursor string }
	a.REST(t, bob, http.MethodGet, "/api/sync?from=now", nil).Into(&page)
	for _, d := range phones {
		d.Ping() // what it has acknowledged was read
		d.Close()
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	storetest.Restore(t, dsn, dump)

	a = apptest.StartOn(t, dsn)
	for _, v := range versions {
		c := a.Dial(t)
		ack := c.MustConnect(bob.As(phone(v)))
		if !ack.SessionPresent {
			t.Error("the session of", versionName(v), "is gone")
		}
		if epoch := userProperty(ack, "epoch"); v == 5 && (epoch == first || epoch == "") {
			t.Errorf("CONNACK has epoch %q, and had %q before the restore", epoch, first)
		}
		c.AutoAck = true
		phones[v] = &apptest.Device{Client: c, User: bob}
	}
	second := talk(a, 8, 12, "new ")
	if second == first {
		t.Errorf("the epoch is still %s", first)
	}
	r := a.REST(t, bob, http.MethodGet, "/api/sync?cursor="+page.NextCursor, nil)
	if r.Status != http.StatusBadRequest || r.Header.Get("Parley-Epoch") != second {
		t.Errorf("a cursor of before the restore: %s, epoch %q", r, r.Header.Get("Parley-Epoch"))
	}
	r = a.REST(t, bob, http.MethodGet, "/api/messages?after=12&conversationId="+string(conv), nil)
	if r.Status != http.StatusOK || r.Header.Get("Parley-Epoch") != second {
		t.Errorf("a page after 12: %s, epoch %q", r, r.Header.Get("Parley-Epoch"))
	}
}

// awaitLater returns the next event from seq on: the state of sessions in a dump may be a
// second old, and what was acknowledged in it comes again.
func awaitLater(t *testing.T, d *apptest.Device, seq int64) apptest.Event {
	t.Helper()
	for {
		if e := apptest.EventOf(t, d.Await(packets.Publish)); e.Seq >= seq {
			return e
		}
	}
}

func userProperty(pk packets.Packet, key string) string {
	for _, p := range pk.Properties.User {
		if p.Key == key {
			return p.Val
		}
	}
	return ""
}
