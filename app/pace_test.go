package app_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/jackc/pgx/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// packetRate makes it easy to exceed the pace of a connection.
func packetRate(n int) apptest.Option {
	return func(o *app.Options) { o.Limits.PacketRate = n }
}

// heldBack reports whether the metrics say that connections were held back by a budget.
func heldBack(t *testing.T, a *apptest.App, budget string) bool {
	t.Helper()
	return strings.Contains(a.Metrics(t), `parley_mqtt_held_back_seconds_total{budget="`+budget+`"}`)
}

// Whoever sends more than their connection may is read more slowly: all of it is served, in
// order, and nobody is disconnected, also with a keepalive shorter than the wait.
func TestPaceOfAConnection(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			a := apptest.Start(t, packetRate(500))
			u := a.User(t, "eve")
			for name, c := range map[string]*brokertest.Client{"TCP": a.Dial(t), "WebSocket": a.DialWebSocket(t)} {
				c.MustConnect(u.As(brokertest.Connect{ClientID: name, Version: v, KeepAlive: 1}))
				const n = 1500
				start := time.Now()
				var all []byte
				for id := range uint16(n) {
					all = append(all, c.Encode(brokertest.Publish("dev/a", 1, id+1, "x"))...)
				}
				c.SendBytes(all)
				for id := range uint16(n) {
					if ack := c.Expect(packets.Puback); ack.PacketID != id+1 {
						t.Fatalf("%s: got %s, want the PUBACK of %d", name, brokertest.Describe(ack), id+1)
					}
				}
				if took, least := time.Since(start), time.Second*(n-500-100)/500; took < least {
					t.Errorf("%s: %d packets took %s, want %s at least", name, n, took, least)
				}
				c.Ping()
				c.Disconnect()
			}
			if !heldBack(t, a, "connection") {
				t.Error("the metrics say nothing")
			}
		})
	}
}

// What a WebSocket has beside packets counts, too: pings, which are answered, and messages
// without content.
func TestPaceOfAWebSocket(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(*websocket.Conn) error{
		"pings": func(ws *websocket.Conn) error {
			return ws.WriteControl(websocket.PingMessage, []byte("x"), time.Time{})
		},
		"empty messages": func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.BinaryMessage, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := apptest.Start(t, packetRate(100))
			d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
			ws, _, err := d.Dial(a.WebSocketURL(), nil)
			if err != nil {
				t.Fatal(err)
			}
			c := brokertest.New(t, brokertest.WebSocketStream(ws))
			c.MustConnect(a.User(t, "eve").As(brokertest.Connect{ClientID: "page"}))
			for range 200 {
				if err := send(ws); err != nil {
					t.Fatal(err)
				}
			}
			c.Ping()
			if !heldBack(t, a, "connection") {
				t.Error("the connection was not held back")
			}
		})
	}
}

// PUBCOMPs that answer the server's PUBRELs are not held back: after crashes a device may have to
// send tens of thousands, and could otherwise not finish before it gives the connection up.
func TestPaceOfReleasedIdentifiers(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			a := apptest.Start(t, packetRate(200))
			u := a.User(t, "ann")
			connect := u.As(brokertest.Connect{ClientID: "phone", Version: v, Persistent: true, SessionExpiry: 3600})
			c := a.Dial(t)
			c.MustConnect(connect)
			c.MustSubscribe(2, "conv/+/messages")
			c.Disconnect()
			db, err := pgx.Connect(t.Context(), a.DSN())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close(context.Background()) }()
			apptest.Eventually(t, "the session is parted", func() bool {
				tag, err := db.Exec(t.Context(), `UPDATE sessions SET held_packet_ids = '{100}' WHERE client_id = 'phone' AND parted_at IS NOT NULL`)
				return err == nil && tag.RowsAffected() == 1
			})
			c = a.Dial(t)
			c.MustConnect(connect)
			const n = 512 + 4096
			var all []byte
			for range n {
				id := c.Expect(packets.Pubrel).PacketID
				all = append(all, packets.Pubcomp<<4, 2, byte(id>>8), byte(id))
			}
			c.SendBytes(all)
			c.Ping()
			if heldBack(t, a, "connection") {
				t.Error("the connection was held back")
			}
			c.SendBytes(all) // nobody has asked for these
			c.Ping()
			if !heldBack(t, a, "connection") {
				t.Error("the connection was not held back")
			}
		})
	}
}

// The connections of a user share a budget, and so do those of an address, whoever they
// belong to. A packet over 2 KiB counts for several.
func TestPaceOfUsersAndAddresses(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, packetRate(20), func(o *app.Options) { o.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")} })
	run := func(users []apptest.User, address string, send []byte) {
		var wg sync.WaitGroup
		for i, u := range users {
			c := a.Dial(t)
			c.SendBytes([]byte("PROXY TCP4 " + address + " 10.0.0.1 4660 1883\r\n"))
			c.MustConnect(u.As(brokertest.Connect{ClientID: fmt.Sprint(i)}))
			wg.Go(func() {
				_ = c.Write(send)
				_ = c.Write([]byte{0xc0, 0})
				for {
					if pk, err := c.Recv(brokertest.Patience); err != nil {
						t.Error(err)
						return
					} else if pk.FixedHeader.Type == packets.Pingresp {
						return
					}
				}
			})
		}
		wg.Wait()
	}
	eve := a.User(t, "eve")
	encode := func(payload string) []byte { return a.Dial(t).Encode(brokertest.Publish("dev/a", 0, 0, payload)) }
	run([]apptest.User{eve, eve, eve, eve}, "203.0.113.7", encode(strings.Repeat("x", 50_000))) // 25 units
	if !heldBack(t, a, "user") {
		t.Error("the connections of a user were not held back")
	}
	if heldBack(t, a, "address") {
		t.Error("those of an address were")
	}
	var users []apptest.User
	for i := range 30 {
		users = append(users, a.User(t, fmt.Sprint("u", i)))
	}
	run(users, "203.0.113.8", bytes.Repeat(encode("x"), 60))
	if !heldBack(t, a, "address") {
		t.Error("the connections of an address were not held back")
	}
}
