package app_test

import (
	"fmt"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// A watch subscribes at QoS 0 and keeps its session. Its line is dead, and neither end has
// been told; five messages are written to it. When the watch was back, only the sixth came.
func TestQoS0OnADeadLine(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, web := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, WebSocket %v", versionName(v), web), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				o := r.eve.As(kept("watch", v))
				connect := func() *brokertest.Client {
					c := a.Dial(t)
					if web {
						c = a.DialWebSocket(t)
					}
					c.MustConnect(o)
					return c
				}
				c := connect()
				c.MustSubscribe(0, "conv/+/messages")
				say := func(n int) {
					for range n {
						r.seq++
						r.near.Send(r.conv, "hello")
						r.near.ExpectEvent(r.conv, r.seq)
					}
				}
				say(3)
				d := apptest.NewDevice(t, c, r.eve)
				for seq := int64(2); seq <= 4; seq++ {
					d.ExpectEvent(r.conv, seq)
				}
				d.Ping()
				d.Ping() // shows that the answer to the first has come, and so have 2 to 4
				say(5)   // written, and never read
				d = apptest.NewDevice(t, connect(), r.eve)
				say(1)
				for seq := int64(5); seq <= 10; seq++ {
					d.ExpectEvent(r.conv, seq)
				}
				// The line is cut before anything is shown: all of it comes again.
				d.Close()
				d = apptest.NewDevice(t, connect(), r.eve)
				for seq := int64(5); seq <= 10; seq++ {
					d.ExpectEvent(r.conv, seq)
				}
				d.Ping()
				r.undisturbed(t)
			})
		}
	}
}
