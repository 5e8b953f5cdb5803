package app_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// impatient has limits that a test can wait for.
func impatient(o *app.Options) {
	o.Limits.ConnectTimeout = 300 * time.Millisecond
	o.Limits.PacketTimeout = 300 * time.Millisecond
	o.Limits.WriteTimeout = 500 * time.Millisecond
}

// Whoever does not send CONNECT in time is cut off, however busy they look.
func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, impatient)
	u := a.User(t, "slow")
	connect := brokertestEncode(t, a, u.As(brokertest.Connect{ClientID: "slow"}))
	for name, send := range map[string]func(*brokertest.Client){
		"nothing":                  func(*brokertest.Client) {},
		"a byte":                   func(c *brokertest.Client) { c.SendBytes(connect[:1]) },
		"half a length":            func(c *brokertest.Client) { c.SendBytes([]byte{0x10, 0xff}) },
		"half a CONNECT":           func(c *brokertest.Client) { c.SendBytes(connect[:len(connect)/2]) },
		"a CONNECT byte for byte":  func(c *brokertest.Client) { drip(c, connect) },
		"all but the last byte":    func(c *brokertest.Client) { c.SendBytes(connect[:len(connect)-1]) },
		"a large CONNECT, no body": func(c *brokertest.Client) { c.SendBytes([]byte{0x10, 0xf0, 0xff, 0x03}) },
	} {
		for _, dial := range []struct {
			name string
			dial func(testing.TB) *brokertest.Client
		}{{"TCP", a.Dial}, {"WebSocket", a.DialWebSocket}} {
			t.Run(name+"/"+dial.name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				c := dial.dial(t)
				start := time.Now()
				send(c)
				c.ExpectClosed()
				if d := time.Since(start); d < 200*time.Millisecond {
					t.Errorf("cut off after %v, want 300ms or, on a busy machine, more", d)
				}
				r.undisturbed(t)
			})
		}
	}
}

// drip sends a byte every 10 ms until the peer does not take any more.
func drip(c *brokertest.Client, b []byte) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range b {
		<-tick.C
		if c.Write(b[i:i+1]) != nil {
			return
		}
	}
}

// A packet that has begun must end in time; between packets a client may be
// silent for its keepalive.
func TestPacketTimeout(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, impatient)
	for _, v := range versions {
		for name, send := range map[string]func(*brokertest.Client, []byte){
			"a byte":         func(c *brokertest.Client, b []byte) { c.SendBytes(b[:1]) },
			"half a length":  func(c *brokertest.Client, _ []byte) { c.SendBytes([]byte{0x30, 0xff}) },
			"half a PUBLISH": func(c *brokertest.Client, b []byte) { c.SendBytes(b[:len(b)/2]) },
			"byte for byte":  drip,
		} {
			t.Run(name+"/"+versionName(v), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
				start := time.Now()
				send(d.Client, d.Encode(brokertest.Publish(r.conv.Topic("messages"), 1, 1, strings.Repeat("a", 200))))
				d.ExpectDisconnect(packets.ErrKeepAliveTimeout.Code)
				if d := time.Since(start); d < 200*time.Millisecond {
					t.Errorf("cut off after %v, want 300ms or, on a busy machine, more", d)
				}
				r.undisturbed(t)
			})
		}
	}
}

// A client that is silent for one and a half times its keepalive is cut off; one
// that has none is not.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, impatient)
	r := newRig(t, a)
	never := a.Device(t, r.eve, brokertest.Connect{ClientID: "never", Change: func(pk *packets.Packet) { pk.Connect.Keepalive = 0 }})
	start := time.Now()
	five := a.Device(t, r.eve, brokertest.Connect{ClientID: "five", KeepAlive: 1})
	four := a.Device(t, r.eve, brokertest.Connect{ClientID: "four", KeepAlive: 1, Version: 4})
	five.ExpectDisconnect(packets.ErrKeepAliveTimeout.Code)
	four.ExpectDisconnect(0)
	if d := time.Since(start); d < 1400*time.Millisecond {
		t.Errorf("cut off after %v, want 1.5s or, on a busy machine, more", d)
	}
	never.Ping()
	r.undisturbed(t)
}

// Announcing a packet costs five bytes and reserves nothing. Before CONNECT such
// a connection is closed, afterwards it is told why (0x95). Memory is measured,
// roughly, because other tests run beside: one packet's body would show.
func TestAnnouncedPacket(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 40
	for i := range n {
		c := a.Dial(t)
		c.SendBytes([]byte{0x10, 0xff, 0xff, 0xff, 0x7f}) // 256 MiB
		c.ExpectClosed()
		v := versions[i%2]
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: fmt.Sprint(i), Version: v})
		d.SendBytes([]byte{0x32, 0xff, 0xff, 0xff, 0x7f})
		d.ExpectDisconnect(packets.ErrPacketTooLarge.Code)
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 200<<20 {
		t.Errorf("%d announcements of 256 MiB took %d MiB", 2*n, grown>>20)
	}
	r.undisturbed(t)
}

// Many connections that each hold half of the largest CONNECT cost what was sent.
func TestHalfConnects(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 200
	for range n {
		a.Dial(t).SendBytes([]byte{0x10, 0xf0, 0xff, 0x03, 0, 4, 'M'}) // 64 KiB
	}
	r.undisturbed(t)
	runtime.ReadMemStats(&after)
	if grown := int64(after.Sys) - int64(before.Sys); grown > 200<<20 {
		t.Errorf("%d half CONNECTs took %d MiB", n, grown>>20)
	}
}

// When there are as many connections as there may be, one more is closed at once,
// and one that ends makes room.
func TestMaxConnections(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.Limits.MaxConnections = 3 })
	r := newRig(t, a) // has one
	first := a.Device(t, r.eve, brokertest.Connect{ClientID: "a"})
	a.Device(t, r.eve, brokertest.Connect{ClientID: "b"})
	for range 10 {
		c := a.Dial(t)
		_ = c.Write(c.Encode(r.eve.As(brokertest.Connect{ClientID: "c"}).Packet()))
		c.ExpectClosed()
	}
	first.Disconnect()
	apptest.Eventually(t, "there is room for another", func() bool {
		c := a.Dial(t)
		defer c.Close()
		_ = c.Write(c.Encode(r.eve.As(brokertest.Connect{ClientID: "c"}).Packet()))
		pk, err := c.Recv(brokertest.Patience)
		return err == nil && pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == 0
	})
	r.undisturbed(t)
}

// Goodbyes: when the server stops, every client hears so (0x8B), those that have
// not sent CONNECT too by the end of their connection, and nothing hangs.
func TestStop(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	old := a.Device(t, r.eve, brokertest.Connect{ClientID: "old", Version: 4})
	web := a.DialWebSocket(t)
	web.MustConnect(r.eve.As(brokertest.Connect{ClientID: "web"}))
	silent, half := a.Dial(t), a.Dial(t)
	half.SendBytes([]byte{0x10})
	r.near.Ping()
	if err := a.Stop(t.Context()); err != nil { // it says so when a step runs out of time
		t.Error(err)
	}
	r.near.ExpectDisconnect(packets.ErrServerShuttingDown.Code)
	web.ExpectDisconnect(packets.ErrServerShuttingDown.Code)
	old.ExpectDisconnect(0)
	silent.ExpectClosed()
	half.ExpectClosed()
}
