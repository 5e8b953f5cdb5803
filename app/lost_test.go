package app_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// What a device loses is not lost in silence: the log has a line, which says whose it was,
// and the metrics count it.
func TestLossesAreLogged(t *testing.T) {
	t.Parallel()
	var logged logBuffer
	a := apptest.Start(t, func(o *app.Options) { o.Logger = slog.New(slog.NewJSONHandler(&logged, nil)) })
	r := newRig(t, a)
	expect := func(what, client, metric string) {
		t.Helper()
		if lines := logged.lines(t, what); len(lines) != 1 || lines[0]["client_id"] != client || lines[0]["user"] != r.eve.ID.String() {
			t.Errorf("logged %v", lines)
		}
		if !strings.Contains(a.Metrics(t), metric+"\n") {
			t.Errorf("the metrics do not have %s", metric)
		}
	}
	away := a.Device(t, r.eve, brokertest.Connect{ClientID: "away", Persistent: true, SessionExpiry: 600})
	away.MustSubscribe(1, "dev/#")
	away.Close()
	sensor := a.Device(t, r.eve, brokertest.Connect{ClientID: "sensor"})
	apptest.Eventually(t, "the device is away", func() bool {
		return strings.Contains(a.Metrics(t), "parley_delivery_sessions 2\n") // the other is nan's
	})
	for range chat.MaxQueuedPublications + 10 {
		sensor.Publish(1, "dev/sensor", "21.5")
	}
	expect("device publications dropped", "away", "parley_delivery_device_dropped_total 10")

	small := a.Device(t, r.eve, brokertest.Connect{ClientID: "small", MaximumPacketSize: 400})
	small.MustSubscribe(1, "conv/+/messages")
	sensor.Send(r.conv, strings.Repeat("x", 1000))
	sensor.Ping()
	sensor.Send(r.conv, "small enough")
	small.Event()
	expect("publication not sent: it is over the client's Maximum Packet Size", "small", "parley_delivery_too_large_total 1")
}
