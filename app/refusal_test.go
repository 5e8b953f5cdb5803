package app_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster/redistest"
)

// logBuffer keeps what is logged as JSON.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // mu guards
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// lines returns the lines with the message.
func (l *logBuffer) lines(t *testing.T, msg string) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []map[string]any
	for line := range bytes.Lines(l.buf.Bytes()) {
		var entry map[string]any
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if entry[slog.MessageKey] == msg {
			found = append(found, entry)
		}
	}
	return found
}

// A sensor that speaks MQTT 3.1.1 has its publishes acknowledged and refused, and looks at
// nothing that comes back. Its owner's other devices hear of it, wherever they are
// connected; so do the log, once a minute for each connection, and the metrics.
func TestRefusalsAreHeard(t *testing.T) {
	t.Parallel()
	var logged logBuffer
	nodes := startNodes(t, 2, redistest.Start(t).URL(), func(o *app.Options) { o.Logger = slog.New(slog.NewJSONHandler(&logged, nil)) })
	meet(t, nodes...)
	eve, nan := nodes[0].User(t, "eve"), nodes[0].User(t, "nan")
	var owners []*apptest.Device
	for i, version := range []byte{4, 5, 4, 5} {
		d := nodes[i/2].Device(t, eve, brokertest.Connect{ClientID: "owner" + string(rune('0'+i)), Version: version})
		d.MustSubscribe(0, eve.Topic("errors"))
		owners = append(owners, d)
	}
	stranger := nodes[1].Device(t, nan, brokertest.Connect{ClientID: "stranger"})
	stranger.MustSubscribe(0, nan.Topic("errors"))
	sensor := nodes[0].Device(t, eve, brokertest.Connect{ClientID: "sensor", Version: 4})
	topic := "conv/" + chat.NewID().String() + "/messages"
	for range 3 {
		sensor.Publish(1, topic, "20.5")
		for _, d := range owners {
			if p := expectProblem(t, d); p.Code != "forbidden" || p.Topic != topic || p.ClientID != "sensor" {
				t.Errorf("an owner's device received %+v", p)
			}
		}
	}
	stranger.Ping() // and has received nothing
	if lines := logged.lines(t, "publish refused"); len(lines) != 1 || lines[0]["client_id"] != "sensor" || lines[0]["topic"] != topic || lines[0]["code"] != "forbidden" {
		t.Errorf("logged %v", lines)
	}

	// MQTT 5 says it in the acknowledgement: counted and logged, and nobody else is told.
	modern := nodes[0].Device(t, eve, brokertest.Connect{ClientID: "modern", Version: 5})
	if ack := modern.Publish(1, topic, "20.5"); ack.Code != 0x87 {
		t.Errorf("acknowledged with %#x", ack.Code)
	}
	for _, d := range owners {
		d.Ping()
	}
	apptest.Eventually(t, "the refusal that was acknowledged is logged", func() bool {
		lines := logged.lines(t, "publish refused")
		return len(lines) == 2 && lines[1]["client_id"] == "modern"
	})
	if want := `parley_mqtt_refused_publishes_total{code="forbidden"} 4` + "\n"; !strings.Contains(nodes[0].Metrics(t), want) {
		t.Errorf("the metrics lack %s", want)
	}
}
