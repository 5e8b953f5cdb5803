package app_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// MQTT over WebSocket is MQTT: a message goes both ways, in frames that are cut
// anywhere.
func TestWebSocket(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		c := a.DialWebSocket(t)
		c.MustConnect(r.eve.As(brokertest.Connect{ClientID: "web", Version: v}))
		c.AutoAck = true
		c.MustSubscribe(1, "conv/#")
		for _, b := range c.Encode(brokertest.Publish(r.conv.Topic("messages"), 1, 3, "byte for byte")) {
			c.SendBytes([]byte{b})
		}
		if ack := c.Await(packets.Puback); ack.PacketID != 3 || ack.ReasonCode != 0 {
			t.Errorf("got %s", brokertest.Describe(ack))
		}
		c.SendBytes(nil) // an empty frame
		two := append(c.Encode(brokertest.Publish(r.conv.Topic("messages"), 1, 4, "two")), c.Encode(brokertest.Publish(r.conv.Topic("messages"), 1, 5, "in one"))...)
		c.SendBytes(two)
		c.Await(packets.Puback)
		c.Await(packets.Puback)
		large := strings.Repeat("a", 64<<10)
		c.Publish(1, r.conv.Topic("messages"), large)
		for _, want := range []string{"byte for byte", "two", "in one", large} {
			r.seq++
			if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != want {
				t.Errorf("nan received %.100q, want %.100q", e.Content, want)
			}
			if e := apptest.EventOf(t, c.Expect(packets.Publish)); e.Content != want || e.Seq != r.seq {
				t.Errorf("the browser received %.100q, want %.100q", e.Content, want)
			}
		}
		c.Ping()
		c.Disconnect()
	}
	r.undisturbed(t)
}

// A browser was offline for a while, and its MQTT.js sends what it has queued meanwhile as
// one WebSocket message: 2,000 packets, 640 KB, of which each is small. All of them are
// served, in their order, also where the message comes in fragments.
func TestLargeWebSocketMessage(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		for name, buffer := range map[string]int{"one frame": 1 << 20, "fragments": 1000} {
			t.Run(versionName(v)+"/"+name, func(t *testing.T) {
				d := websocket.Dialer{Subprotocols: []string{"mqtt"}, WriteBufferSize: buffer}
				ws, _, err := d.Dial(a.WebSocketURL(), nil)
				if err != nil {
					t.Fatal(err)
				}
				c := brokertest.New(t, brokertest.WebSocketStream(ws))
				c.MustConnect(r.eve.As(brokertest.Connect{ClientID: "queue", Version: v}))
				const n = 2000
				var queue []byte
				for id := range uint16(n) {
					queue = append(queue, c.Encode(brokertest.Publish("dev/queue", 1, id+1, strings.Repeat("q", 300)))...)
				}
				go func() { _ = ws.WriteMessage(websocket.BinaryMessage, queue) }() // ends when the server has read it
				for id := range uint16(n) {
					if ack := c.Expect(packets.Puback); ack.PacketID != id+1 || ack.ReasonCode >= 0x80 {
						t.Fatalf("got %s, want the PUBACK of %d", brokertest.Describe(ack), id+1)
					}
				}
				c.Close()
			})
		}
	}
	r.undisturbed(t)
}

// Whoever does not speak MQTT over WebSocket, or comes from a foreign web page, is
// turned away before there is a connection.
func TestBadWebSocketHandshake(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.AllowedOrigins = []string{"https://chat.example.com"} })
	host := a.HTTPAddr()
	cases := []struct {
		name        string
		subprotocol []string
		origin      string
		status      int
	}{
		{"no browser", []string{"mqtt"}, "", 101},
		{"own origin", []string{"mqtt"}, "http://" + host, 101},
		{"allowed origin", []string{"mqtt"}, "https://chat.example.com", 101},
		{"among others", []string{"chat", "mqtt"}, "", 101},
		{"no subprotocol", nil, "", 400},
		{"another subprotocol", []string{"chat"}, "", 400},
		{"subprotocol of MQTT 3.1", []string{"mqttv3.1"}, "", 101},
		{"foreign origin", []string{"mqtt"}, "https://evil.example.com", 403},
		{"allowed host over http", []string{"mqtt"}, "http://chat.example.com", 403},
		{"allowed origin as a prefix", []string{"mqtt"}, "https://chat.example.com.evil.example", 403},
		{"null origin", []string{"mqtt"}, "null", 403},
		{"origin that is no URL", []string{"mqtt"}, "::", 403},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := websocket.Dialer{Subprotocols: c.subprotocol}
			h := http.Header{}
			if c.origin != "" {
				h.Set("Origin", c.origin)
			}
			ws, resp, err := d.Dial(a.WebSocketURL(), h)
			if resp == nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.status {
				t.Errorf("got %s, want %d", resp.Status, c.status)
			}
			if err == nil {
				if ws.Subprotocol() != c.subprotocol[len(c.subprotocol)-1] {
					t.Errorf("the server chose the subprotocol %q", ws.Subprotocol())
				}
				_ = ws.Close()
			}
		})
	}
	if resp := a.REST(t, apptest.User{}, http.MethodGet, "/mqtt", nil); resp.Status != http.StatusBadRequest {
		t.Errorf("GET /mqtt without upgrade: %s, want 400", resp)
	}
}

// Frames that MQTT does not allow end the connection, before CONNECT and after.
func TestBadWebSocketFrames(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u := a.User(t, "web")
	for name, send := range map[string]func(*websocket.Conn) error{
		"text":           func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, []byte("\xc0\x00")) },
		"empty text":     func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, nil) },
		"a large packet": func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.BinaryMessage, make([]byte, 1<<20)) },
		"unmasked": func(ws *websocket.Conn) error {
			_, err := ws.NetConn().Write([]byte{0x82, 0x02, 0xc0, 0x00})
			return err
		},
		"reserved opcode": func(ws *websocket.Conn) error {
			_, err := ws.NetConn().Write([]byte{0x83, 0x80, 0, 0, 0, 0})
			return err
		},
		"a frame of 2^63 bytes": func(ws *websocket.Conn) error {
			_, err := ws.NetConn().Write([]byte{0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
			return err
		},
	} {
		for _, connected := range []bool{false, true} {
			when := "before CONNECT"
			if connected {
				when = "after CONNECT"
			}
			t.Run(name+"/"+when, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
				ws, _, err := d.Dial(a.WebSocketURL(), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer ws.Close()
				if connected { // each as a device of its own: they would take each other's session over
					connect := brokertestEncode(t, a, u.As(brokertest.Connect{ClientID: name}))
					if err := ws.WriteMessage(websocket.BinaryMessage, connect); err != nil {
						t.Fatal(err)
					}
					if _, b, err := ws.ReadMessage(); err != nil || len(b) < 4 || b[0] != packets.Connack<<4 || b[3] != 0 {
						t.Fatalf("CONNACK is % x, %v", b, err)
					}
				}
				_ = send(ws)
				for {
					if _, _, err := ws.ReadMessage(); err != nil {
						break
					}
				}
				r.undisturbed(t)
			})
		}
	}
}
