package app_test

import (
	"fmt"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// A lamp that says "on" in packet 1 of every connection said so an hour ago. Now its
// first "on" is lost on the line, and it sends the packet again, marked DUP: it was
// once answered with the message of an hour ago, and nothing was stored.
func TestResentPacketIsNotAnOldOne(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, tt := range []struct {
		name     string
		connect  brokertest.Connect
		meantime string // SQL
		repeat   bool
	}{
		{name: "in a new session", connect: brokertest.Connect{ClientID: "lamp"}},
		{
			name: "an hour after the last connection ended", connect: brokertest.Connect{ClientID: "lamp", Persistent: true, SessionExpiry: 86400},
			meantime: `UPDATE sessions SET parted_at = parted_at + interval '1 hour' WHERE client_id = 'lamp' AND user_id = $1 RETURNING 1`,
		},
		{
			name: "just after the last connection ended", connect: brokertest.Connect{ClientID: "lamp", Persistent: true, SessionExpiry: 86400},
			repeat: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			d := a.Device(t, r.eve, tt.connect)
			d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), 1, 1, "on"))
			before := brokertest.AckOf(firstAck(d, 1))
			r.seq++
			r.near.ExpectEvent(r.conv, r.seq)
			d.Close()
			if tt.meantime != "" {
				apptest.Eventually(t, "the connection has ended", func() bool {
					return number(t, a, fmt.Sprintf(`SELECT count(*) FROM sessions WHERE user_id = '%s' AND parted_at IS NOT NULL`, r.eve.ID)) == 1
				})
				number(t, a, tt.meantime, [16]byte(r.eve.ID))
			}
			d = a.Device(t, r.eve, tt.connect)
			again := brokertest.Publish(r.conv.Topic("messages"), 1, 1, "on")
			again.FixedHeader.Dup = true
			d.Client.Send(again)
			after := brokertest.AckOf(firstAck(d, 1))
			if repeat := before == after; repeat != tt.repeat {
				t.Errorf("acknowledged with %+v after %+v", after, before)
			}
			if !tt.repeat {
				r.seq++
				r.near.ExpectEvent(r.conv, r.seq)
			}
			r.undisturbed(t)
		})
	}
}
