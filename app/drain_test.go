package app_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// A server that drains sends its clients away one after the other, each with a word
// about where to go; meanwhile it says that it is not ready, answers HTTP, and lets
// nobody in.
func TestDrain(t *testing.T) {
	t.Parallel()
	const clients, slices = 300, 6
	a := apptest.Start(t, func(o *app.Options) { o.Drain, o.ServerReference = 3*time.Second, "b.example.com:1883" })
	u := a.User(t, "u")
	all := make([]*brokertest.Client, clients)
	for i := range all {
		all[i] = a.Dial(t)
		if i%10 == 0 {
			all[i] = a.DialWebSocket(t)
		}
		v := versions[i%3%2] // two of MQTT 5 for each of 3.1.1
		if i%60 == 0 {       // several users: each may have a hundred connections
			u = a.User(t, "u")
		}
		all[i].MustConnect(u.As(brokertest.Connect{ClientID: "c" + string(rune('0'+i%60)), Version: v}))
	}
	begun := time.Now()
	ended := make([]time.Duration, clients)
	said := make([]packets.Packet, clients)
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() {
			said[i], _ = c.Recv(brokertest.Patience)
			ended[i] = time.Since(begun)
		})
	}
	stopped := make(chan error, 1)
	go func() { stopped <- a.Stop(t.Context()) }()

	apptest.Eventually(t, "it is not ready", func() bool {
		return a.REST(t, u, http.MethodGet, "/readyz", nil).Status == http.StatusServiceUnavailable
	})
	if r := a.REST(t, u, http.MethodGet, "/api/users/me", nil); r.Status != http.StatusOK {
		t.Error("while it drains REST answers", r)
	}
	for _, v := range versions {
		var ack packets.Packet
		apptest.Eventually(t, "clients are refused", func() bool {
			late := a.DialWebSocket(t)
			ack = late.Connect(u.As(brokertest.Connect{ClientID: "late", Version: v}))
			late.Close()
			return ack.ReasonCode != 0
		})
		want := packets.ErrUseAnotherServer.Code
		if v == 4 {
			want = packets.Err3ServerUnavailable.Code
		}
		if ack.ReasonCode != want || v == 5 && (ack.Properties.ServerReference != "b.example.com:1883" || ack.Properties.ReasonString == "") {
			t.Errorf("who connects while it drains hears %s", brokertest.Describe(ack))
		}
	}
	wg.Wait()
	if err := <-stopped; err != nil {
		t.Error("Stop:", err)
	}
	for i := range all {
		switch {
		case all[i].Version == 4 && said[i].FixedHeader.Type != 0:
			t.Errorf("MQTT 3.1.1 hears %s", brokertest.Describe(said[i]))
		case all[i].Version == 5 && (said[i].ReasonCode != packets.ErrUseAnotherServer.Code || said[i].Properties.ServerReference != "b.example.com:1883"):
			t.Errorf("MQTT 5 hears %s", brokertest.Describe(said[i]))
		}
	}
	// None is early: a busy machine can only be late. So of the first half second no more than a sixth
	// have ended, and some to spare, and so on.
	for i := 1; i < slices; i++ {
		n := 0
		for _, d := range ended {
			if d < time.Duration(i)*3*time.Second/slices {
				n++
			}
		}
		t.Logf("%d of %d connections ended in the first %d half seconds", n, clients, i)
		if n > clients*i/slices+clients/10 || i == slices-1 && n == 0 {
			t.Errorf("%d of %d connections ended in the first %d of %d parts of the drain", n, clients, i, slices)
		}
	}
}

// Whoever is in a hurry does not wait for the drain: the rest is told at once.
func TestDrainInAHurry(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.Drain = time.Hour })
	r := newRig(t, a)
	stopped := make(chan error, 1)
	go func() { stopped <- a.Stop(t.Context()) }()
	apptest.Eventually(t, "it is not ready", func() bool {
		return a.REST(t, r.eve, http.MethodGet, "/readyz", nil).Status == http.StatusServiceUnavailable
	})
	a.Hurry()
	r.near.ExpectDisconnect(packets.ErrServerShuttingDown.Code)
	if err := <-stopped; err != nil {
		t.Error("Stop:", err)
	}
}
