package app_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// BenchmarkNeighbour measures how long a message takes between two users, while a third
// sends from four connections as fast as the server reads: alone and beside that in turns,
// on the same server, with budgets and without. Read the ratios.
//
//	go test -run '^$' -bench Neighbour -benchtime 1x ./app
func BenchmarkNeighbour(b *testing.B) {
	for name, rate := range map[string]int{"budgets": 0, "none": -1} {
		a := apptest.Start(b, func(o *app.Options) { o.Limits.PacketRate = rate })
		ann, bob, eve := a.User(b, "ann"), a.User(b, "bob"), a.User(b, "eve")
		conv, eves := a.Direct(b, ann, bob), a.Direct(b, eve, bob)
		from, to := a.Device(b, ann, brokertest.Connect{}), a.Device(b, bob, brokertest.Connect{})
		to.MustSubscribe(1, conv.Topic("messages"))
		for what, packet := range map[string][]byte{
			"PINGREQ":       {0xc0, 0},
			"device topics": from.Encode(brokertest.Publish("dev/nobody", 0, 0, "x")),
			"SUBSCRIBE":     append([]byte{0x82, 21, 0, 9, 0, 0, 15}, "conv/+/messages\x01"...),
			"typing":        from.Encode(brokertest.Publish(eves.Topic("typing"), 0, 0, `{"typing":true}`)),
		} {
			b.Run(what+"/"+name, func(b *testing.B) {
				turns, n := 3, 100
				if testing.Short() {
					turns, n = 1, 5
				}
				var alone, beside []time.Duration
				for b.Loop() {
					for range turns {
						alone = append(alone, exchange(from, to, conv, n)...)
						stop := flood(b, a, eve, packet)
						exchange(from, to, conv, n/2) // until what may come at once has come
						beside = append(beside, exchange(from, to, conv, n)...)
						stop()
					}
				}
				for i, l := range [][]time.Duration{alone, beside} {
					slices.Sort(l)
					at := [...]string{"alone", "beside"}[i]
					b.ReportMetric(float64(l[len(l)/2].Microseconds())/1000, "p50-ms-"+at)
					b.ReportMetric(float64(l[len(l)*99/100].Microseconds())/1000, "p99-ms-"+at)
				}
			})
		}
	}
}

// exchange sends messages, one every 5 ms, and returns how long each took.
func exchange(from, to *apptest.Device, conv apptest.Conv, n int) []time.Duration {
	var took []time.Duration
	for range n {
		start := time.Now()
		from.Send(conv, "hello")
		to.Event()
		took = append(took, time.Since(start))
		time.Sleep(5 * time.Millisecond)
	}
	return took
}

// flood sends a packet from four connections, as fast as it is read, until stop is called.
func flood(t testing.TB, a *apptest.App, u apptest.User, packet []byte) (stop func()) {
	var wg sync.WaitGroup
	var conns []net.Conn
	for i := range 4 {
		d := a.Device(t, u, brokertest.Connect{ClientID: fmt.Sprint("flood", i)})
		c := d.Conn()
		_ = c.SetDeadline(time.Time{})
		conns = append(conns, c)
		many := bytes.Repeat(packet, 1+4096/len(packet))
		wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
		wg.Go(func() {
			for {
				if _, err := c.Write(many); err != nil {
					return
				}
			}
		})
	}
	return func() {
		for _, c := range conns {
			_ = c.Close()
		}
		wg.Wait()
	}
}
