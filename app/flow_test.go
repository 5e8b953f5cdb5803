package app_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// stall keeps everything that is sent to the conversation from being committed
// until release is called, or the test ends.
func stall(t *testing.T, a *apptest.App, c apptest.Conv) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), a.DSN())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	tx, err := conn.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), `SELECT FROM conversations WHERE id = $1 FOR UPDATE`, c.ID())
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// firstAck returns what answers a publish first at its QoS.
func firstAck(d *apptest.Device, qos byte) packets.Packet { return d.Expect(firstAckType(qos)) }

func firstAckType(qos byte) byte {
	if qos == 2 {
		return packets.Pubrec
	}
	return packets.Puback
}

// PUBACK and PUBREC say what was stored, in MQTT 5, unless the client does not
// want to know (Request Problem Information, MQTT 5.0, 3.1.2.11.7).
func TestAcknowledgement(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, noInfo := range []bool{false, true} {
		d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", NoProblemInfo: noInfo})
		for _, qos := range []byte{1, 2} {
			ack := d.Publish(qos, r.conv.Topic("messages"), "hello")
			r.seq++
			e := r.near.ExpectEvent(r.conv, r.seq)
			want := brokertest.Ack{ID: e.ID, Seq: e.Seq, CreatedAt: e.CreatedAt}
			if noInfo {
				want = brokertest.Ack{}
			}
			if ack != want {
				t.Errorf("QoS %d: got %+v, want %+v", qos, ack, want)
			}
			refused := d.Publish(qos, r.conv.Topic("messages"), "")
			want = brokertest.Ack{Code: 0x99, Reason: "content: must not be empty"}
			if noInfo {
				want.Reason = ""
			}
			if refused != want {
				t.Errorf("QoS %d: refused with %+v, want %+v", qos, refused, want)
			}
		}
		d.Disconnect()
	}
	r.undisturbed(t)
}

// A client may have as many publishes on their way as it likes within the window.
// They are acknowledged, and stored, in their order.
func TestPipeline(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
			const n, window = 1000, 256
			sent, seen := 0, 0
			for acked := 1; acked <= n; acked++ {
				var batch []byte
				for sent < n && sent-acked+1 < window {
					sent++
					batch = append(batch, d.Encode(brokertest.Publish(r.conv.Topic("messages"), 1, uint16(sent), fmt.Sprintf("message %d", sent)))...)
				}
				if len(batch) > 0 {
					d.SendBytes(batch)
				}
				pk := d.Expect(packets.Puback)
				if ack := brokertest.AckOf(pk); int(pk.PacketID) != acked || ack.Code != 0 || v == 5 && (ack.Seq != r.seq+int64(acked) || ack.ID == "") {
					t.Fatalf("acknowledgement %d is %s, %+v", acked, brokertest.Describe(pk), ack)
				}
				if acked%100 == 0 {
					for ; seen < acked; seen++ {
						if e := r.near.ExpectEvent(r.conv, r.seq+int64(seen)+1); e.Content != fmt.Sprintf("message %d", seen+1) {
							t.Fatalf("event %d is %q", e.Seq, e.Content)
						}
					}
				}
			}
			r.seq += n
			d.Ping()
			r.undisturbed(t)
		})
	}
}

// A client with more publishes on their way than Receive Maximum is held back by TCP, in
// both versions: the reader waits, and goes on.
func TestReceiveMaximum(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) { o.Limits.ReceiveMaximum = 4 })
	for _, v := range versions {
		for _, qos := range []byte{0, 1, 2} {
			t.Run(fmt.Sprintf("%s, QoS %d", versionName(v), qos), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
				release := stall(t, a, r.conv)
				const n = 12
				for i := range n {
					_ = d.Write(d.Encode(brokertest.Publish(r.conv.Topic("messages"), qos, uint16(i+1)*uint16(min(qos, 1)), fmt.Sprint(i))))
				}
				release()
				for i := range n {
					r.seq++
					if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != fmt.Sprint(i) {
						t.Errorf("event %d is %q", e.Seq, e.Content)
					}
				}
				for i := range n * int(min(qos, 1)) {
					if pk := firstAck(d, qos); int(pk.PacketID) != i+1 {
						t.Errorf("acknowledgement %d is %s", i+1, brokertest.Describe(pk))
					}
				}
				d.Ping()
				r.undisturbed(t)
			})
		}
	}
}

// A packet identifier that is in use is not used again: that ends the connection.
// In MQTT 3.1.1 the same publish marked DUP is the same publish.
func TestPacketIDInUse(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, dup := range []bool{false, true} {
			for _, qos := range []byte{1, 2} {
				t.Run(fmt.Sprintf("%s, QoS %d, DUP %v", versionName(v), qos, dup), func(t *testing.T) {
					t.Parallel()
					r := newRig(t, a)
					d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
					release := stall(t, a, r.conv)
					pk := brokertest.Publish(r.conv.Topic("messages"), qos, 7, "once")
					d.Client.Send(pk)
					pk.FixedHeader.Dup = dup
					d.Client.Send(pk)
					if dup && v == 4 {
						release()
						if ack := firstAck(d, qos); ack.PacketID != 7 {
							t.Errorf("got %s", brokertest.Describe(ack))
						}
						d.Ping()
					} else {
						d.ExpectDisconnect(packets.ErrProtocolViolation.Code)
						release()
					}
					r.seq++
					if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "once" {
						t.Errorf("received %+v", e)
					}
					r.undisturbed(t)
				})
			}
		}
	}
}

// The halves of QoS 2 in any order: until PUBREL, the same publish is answered
// again and stored once [MQTT-4.3.3-10]; after it, the identifier is free.
func TestQoS2Order(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, dup := range []bool{false, true} {
			r := newRig(t, a)
			d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
			pk := brokertest.Publish(r.conv.Topic("messages"), 2, 9, "once")
			d.Client.Send(pk)
			if ack := d.Expect(packets.Pubrec); ack.PacketID != 9 || ack.ReasonCode != 0 {
				t.Fatalf("got %s", brokertest.Describe(ack))
			}
			pk.FixedHeader.Dup = dup
			for range 2 {
				d.Client.Send(pk)
				if ack := d.Expect(packets.Pubrec); ack.PacketID != 9 || ack.ReasonCode != 0 {
					t.Fatalf("got %s", brokertest.Describe(ack))
				}
			}
			for i := range 2 {
				want := byte(0)
				if i == 1 && v == 5 {
					want = packets.ErrPacketIdentifierNotFound.Code
				}
				d.SendBytes([]byte{packets.Pubrel<<4 | 2, 2, 0, 9})
				if comp := d.Expect(packets.Pubcomp); comp.PacketID != 9 || comp.ReasonCode != want {
					t.Errorf("PUBREL %d was answered %s", i+1, brokertest.Describe(comp))
				}
			}
			r.seq++
			r.near.ExpectEvent(r.conv, r.seq)
			d.Client.Send(brokertest.Publish(r.conv.Topic("messages"), 2, 9, "another"))
			d.Expect(packets.Pubrec)
			r.seq++
			if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "another" {
				t.Errorf("received %+v", e)
			}
			r.undisturbed(t)
		}
	}
}

// A clientMsgId is stored once, whichever device, version, QoS or door it comes
// by; with other content it is refused.
func TestClientMsgID(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	topic := r.conv.Topic("messages")
	key := uuid(1)
	payload := `{"content":"once","clientMsgId":"` + key + `"}`
	d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve"})
	first := d.Send(r.conv, payload)
	r.seq++
	if e := r.near.ExpectEvent(r.conv, r.seq); e.ClientMsgID != key || e.ID != first.ID {
		t.Errorf("received %+v", e)
	}
	other := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve's other"})
	old := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve's old", Version: 4})
	old.MustSubscribe(0, r.eve.Topic("errors"))
	for _, x := range []*apptest.Device{d, other} {
		for _, qos := range []byte{1, 2} {
			if ack := x.Publish(qos, topic, payload); ack != first {
				t.Errorf("QoS %d: the repeat was acknowledged with %+v, want %+v", qos, ack, first)
			}
			if ack := x.Publish(qos, topic, `{"content":"other","clientMsgId":"`+key+`"}`); ack.Code != 0x83 || ack.ID != "" || ack.Reason == "" {
				t.Errorf("QoS %d: other content was acknowledged with %+v, want 0x83 and why", qos, ack)
			}
		}
	}
	for qos := range byte(3) {
		old.Publish(qos, topic, payload)
		old.Ping()
		old.Publish(qos, topic, `{"content":"other","clientMsgId":"`+key+`"}`)
		if p := expectProblem(t, old); p.Code != "conflict" || p.ClientMsgID != key || p.Topic != topic || p.Detail == "" {
			t.Errorf("QoS %d: other content was answered %+v", qos, p)
		}
	}
	body := map[string]string{"conversationId": string(r.conv), "content": "once", "clientMsgId": key}
	if resp := a.REST(t, r.eve, http.MethodPost, "/api/messages", body); resp.Status != http.StatusOK || resp.JSON["id"] != first.ID || resp.JSON["seq"] != float64(first.Seq) {
		t.Errorf("REST answered the repeat with %s", resp)
	}
	body["content"] = "other"
	if resp := a.REST(t, r.eve, http.MethodPost, "/api/messages", body); resp.Status != http.StatusConflict || resp.JSON["code"] != "conflict" {
		t.Errorf("REST answered other content with %s", resp)
	}

	// The key is the sender's own, and the conversation's.
	if ack := r.near.Send(r.conv, payload); ack.ID == first.ID {
		t.Error("nan's message with the same key was taken for eve's")
	}
	r.seq++
	r.near.ExpectEvent(r.conv, r.seq)
	c2 := a.Direct(t, r.eve, a.User(t, "third"))
	if ack := d.Send(c2, payload); ack.ID == first.ID || ack.Seq != 2 {
		t.Errorf("the same key in another conversation was acknowledged with %+v", ack)
	}
	r.undisturbed(t)
}

// A client that sets no clientMsgId and lost the acknowledgement with its
// connection sends the same packet again, marked DUP: it is stored once.
func TestResentPacket(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, qos := range []byte{1, 2} {
			t.Run(fmt.Sprintf("%s, QoS %d", versionName(v), qos), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				o := brokertest.Connect{ClientID: "eve", Version: v, Persistent: true}
				if v == 5 {
					o.SessionExpiry = 3600
				}
				pk := brokertest.Publish(r.conv.Topic("messages"), qos, 77, "once")

				// Not committed yet when the line is cut.
				d := a.Device(t, r.eve, o)
				release := stall(t, a, r.conv)
				d.Client.Send(pk)
				d.Ping() // the publish has been taken in
				d.Close()
				d = a.Device(t, r.eve, o)
				pk.FixedHeader.Dup = true
				d.Client.Send(pk)
				d.Ping()
				release()
				ack := brokertest.AckOf(firstAck(d, qos))
				r.seq++
				e := r.near.ExpectEvent(r.conv, r.seq)
				if v == 5 && (ack.ID != e.ID || ack.Seq != e.Seq) {
					t.Errorf("acknowledged with %+v, stored as %+v", ack, e)
				}

				// Committed, and the acknowledgement lost.
				d.Close()
				d = a.Device(t, r.eve, o)
				d.Client.Send(pk)
				if again := brokertest.AckOf(firstAck(d, qos)); v == 5 && again != ack {
					t.Errorf("acknowledged with %+v and %+v", ack, again)
				}
				r.near.Ping()

				// The identifier comes round: another message, although marked DUP.
				d.Close()
				d = a.Device(t, r.eve, o)
				pk.Payload = []byte("twice")
				d.Client.Send(pk)
				firstAck(d, qos)
				r.seq++
				if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "twice" {
					t.Errorf("received %+v", e)
				}
				// And the same content again, not marked: a message of its own.
				d.Close()
				d = a.Device(t, r.eve, o)
				pk.FixedHeader.Dup = false
				d.Client.Send(pk)
				firstAck(d, qos)
				r.seq++
				if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "twice" {
					t.Errorf("received %+v", e)
				}
				r.undisturbed(t)
			})
		}
	}
}
