package app_test

import (
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// Only the sessions that were away were once counted: one user could have any
// number of connections, each with its buffers and its copy of every message.
func TestConnectionsOfOneUserAreLimited(t *testing.T) {
	t.Parallel()
	const most = 3
	a := apptest.Start(t, func(o *app.Options) { o.MaxUserSessions = most })
	r := newRig(t, a)
	var devices []*apptest.Device
	for i := range most {
		devices = append(devices, a.Device(t, r.eve, brokertest.Connect{ClientID: fmt.Sprint(i), Version: versions[i%2], SessionExpiry: 3600}))
	}
	for _, v := range versions {
		want := map[byte]byte{5: packets.ErrQuotaExceeded.Code, 4: packets.Err3ServerUnavailable.Code}[v]
		c := a.Dial(t)
		if ack := c.Connect(r.eve.As(brokertest.Connect{ClientID: "another", Version: v})); ack.ReasonCode != want {
			t.Errorf("%s: one too many: CONNACK %#x, want %#x", versionName(v), ack.ReasonCode, want)
		}
		c.ExpectClosed()
	}
	for _, d := range devices {
		d.Ping()
	}
	again := a.Device(t, r.eve, brokertest.Connect{ClientID: "0", Version: 5}) // the same device may always come back
	devices[0].ExpectDisconnect(packets.ErrSessionTakenOver.Code)
	again.Ping()

	devices[1].Disconnect()
	apptest.Eventually(t, "there is room for another", func() bool {
		c := a.Dial(t)
		defer c.Close()
		return c.Connect(r.eve.As(brokertest.Connect{ClientID: "another"})).ReasonCode == 0
	})
	r.undisturbed(t)
}
