package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// receipt is what members receive on conv/{id}/reads and conv/{id}/delivered.
type receipt struct {
	ConversationID, UserID, At string
	UpTo                       int64
}

func expectReceipt(t *testing.T, d *apptest.Device, c apptest.Conv, what string, by apptest.User, upTo int64) {
	t.Helper()
	pk := d.Await(packets.Publish)
	var got receipt
	if err := json.Unmarshal(pk.Payload, &got); err != nil || pk.TopicName != c.Topic(what) || pk.FixedHeader.Qos != 0 {
		t.Fatalf("got %s, %v; want %s", brokertest.Describe(pk), err, what)
	}
	if got.ConversationID != string(c) || got.UserID != by.ID.String() || got.UpTo != upTo || got.At == "" {
		t.Errorf("got %+v, want up to %d by %s", got, upTo, by.Username)
	}
}

// unread returns what GET /api/conversations/{id} says of it.
func unread(t *testing.T, a *apptest.App, u apptest.User, c apptest.Conv) (n int64, lastReadAt string) {
	t.Helper()
	var got struct {
		UnreadCount int64
		HasUnread   bool
		LastReadAt  *string
	}
	if r := a.REST(t, u, http.MethodGet, "/api/conversations/"+string(c), nil).Into(&got); r.Status != http.StatusOK {
		t.Fatal(r)
	}
	if got.HasUnread != (got.UnreadCount > 0) {
		t.Errorf("unreadCount %d, hasUnread %v", got.UnreadCount, got.HasUnread)
	}
	if got.LastReadAt != nil {
		lastReadAt = *got.LastReadAt
	}
	return got.UnreadCount, lastReadAt
}

// detail is what GET /api/messages/{id} says of it.
type detail struct {
	ReadBy         []struct{ UserID, At string }
	ReadCount      int
	DeliveredTo    []struct{ UserID string }
	DeliveredCount int
}

func messageDetail(t *testing.T, a *apptest.App, u apptest.User, id string) (d detail) {
	t.Helper()
	if r := a.REST(t, u, http.MethodGet, "/api/messages/"+id, nil).Into(&d); r.Status != http.StatusOK {
		t.Fatal(r)
	}
	return d
}

// What a device reads, the other members and the reader's other devices hear of,
// and it counts as read from the acknowledgement on.
func TestReads(t *testing.T) {
	t.Parallel()
	for _, version := range versions {
		t.Run(versionName(version), func(t *testing.T) {
			t.Parallel()
			a := apptest.Start(t)
			ann, bob := a.User(t, "ann"), a.User(t, "bob")
			conv := a.Direct(t, ann, bob)
			anns := a.Device(t, ann, brokertest.Connect{ClientID: "anns", Version: version})
			anns.MustSubscribe(1, "conv/+/reads")
			phone := a.Device(t, bob, brokertest.Connect{ClientID: "phone", Version: version})
			laptop := a.Device(t, bob, brokertest.Connect{ClientID: "laptop", Version: version})
			laptop.MustSubscribe(0, conv.Topic("#"))
			ids := make([]string, 5) // by seq
			for seq := 2; seq <= 4; seq++ {
				anns.Send(conv, "hello")
				ids[seq] = laptop.ExpectEvent(conv, int64(seq)).ID
			}
			if n, at := unread(t, a, bob, conv); n != 3 || at != "" {
				t.Errorf("bob has %d unread, and read last at %q", n, at)
			}
			if n, _ := unread(t, a, ann, conv); n != 0 {
				t.Errorf("ann has %d unread of her own messages", n)
			}

			read := func(qos byte, payload string, left, upTo int64) {
				t.Helper()
				if ack := phone.Publish(qos, conv.Topic("reads"), payload); ack.Code != 0 {
					t.Fatalf("%s was answered %+v", payload, ack)
				}
				if n, at := unread(t, a, bob, conv); n != left || at == "" {
					t.Errorf("after %s bob has %d unread, want %d; read last at %q", payload, n, left, at)
				}
				if upTo > 0 {
					expectReceipt(t, anns, conv, "reads", bob, upTo)
					expectReceipt(t, laptop, conv, "reads", bob, upTo)
				}
			}
			read(1, `{"upTo":2}`, 2, 2)
			read(1, `{"upTo":1}`, 2, 0) // not back
			read(2, `{"messageIds":["`+ids[2]+`","`+ids[3]+`"]}`, 1, 3)
			phone.Client.Send(brokertest.Publish(conv.Topic("reads"), 0, 0, `{"upTo":4}`))
			expectReceipt(t, anns, conv, "reads", bob, 4)
			expectReceipt(t, laptop, conv, "reads", bob, 4)

			for seq := 2; seq <= 4; seq++ {
				d := messageDetail(t, a, ann, ids[seq])
				if len(d.ReadBy) != 1 || d.ReadCount != 1 || d.ReadBy[0].UserID != bob.ID.String() || d.DeliveredCount != 1 {
					t.Errorf("message %d: %+v", seq, d)
				}
			}
			if a, b := messageDetail(t, a, ann, ids[3]), messageDetail(t, a, ann, ids[4]); a.ReadBy[0].At > b.ReadBy[0].At {
				t.Errorf("read at %s, and the one after it at %s", a.ReadBy[0].At, b.ReadBy[0].At)
			}
			anns.Ping()
			laptop.Ping()
		})
	}
}

// The same over REST: of several conversations at once, and up to a place.
func TestReadsOverREST(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	direct, group, other := a.Direct(t, ann, bob), a.Group(t, ann, bob), a.Direct(t, ann, eve)
	anns := a.Device(t, ann, brokertest.Connect{ClientID: "anns"})
	anns.MustSubscribe(1, "conv/#")
	ids := map[apptest.Conv][]string{}
	for _, c := range []apptest.Conv{direct, group, other} {
		for seq := int64(2); seq <= 4; seq++ {
			anns.Send(c, "hello")
			ids[c] = append(ids[c], anns.ExpectEvent(c, seq).ID)
		}
	}
	read := func(status int, field, says string, messages ...string) {
		t.Helper()
		r := a.REST(t, bob, http.MethodPost, "/api/messages/read", map[string]any{"messageIds": messages})
		if r.Status != status || !strings.Contains(string(r.Body), says) || field != "" && !strings.Contains(string(r.Body), `"field":"`+field+`"`) {
			t.Errorf("read %.100v: %s, want %d about %s, with %q", messages, r, status, field, says)
		}
	}
	wantUnread := func(c apptest.Conv, want int64) {
		t.Helper()
		if n, _ := unread(t, a, bob, c); n != want {
			t.Errorf("%d unread, want %d", n, want)
		}
	}
	many := make([]string, chat.MaxReadIDs+1)
	for i := range many {
		many[i] = ids[direct][0]
	}
	read(404, "messageIds", uuid(1), ids[direct][2], uuid(1))
	read(404, "messageIds", ids[other][0], ids[direct][2], ids[other][0])
	read(400, "messageIds[0]", "UUID", "x")
	read(400, "messageIds", "1000", many...)
	read(400, "messageIds", "")
	wantUnread(direct, 3) // nothing was half done
	read(204, "", "", ids[direct][1], ids[group][0], ids[direct][0])
	wantUnread(direct, 1)
	wantUnread(group, 2)
	for range 2 { // in any order
		switch pk := anns.Await(packets.Publish); pk.TopicName {
		case direct.Topic("reads"), group.Topic("reads"):
		default:
			t.Errorf("ann received %s", brokertest.Describe(pk))
		}
	}
	read(204, "", "", many[1:]...)

	upTo := func(u apptest.User, c apptest.Conv, body string, status int, says string) {
		t.Helper()
		r := a.REST(t, u, http.MethodPost, "/api/conversations/"+string(c)+"/read", body)
		if r.Status != status || !strings.Contains(string(r.Body), says) {
			t.Errorf("%s: %s, want %d with %q", body, r, status, says)
		}
	}
	upTo(bob, direct, `{"upTo":5}`, 400, `upTo: is 5, and the conversation ends at seq 4`)
	upTo(bob, direct, `{"upTo":9223372036854775807}`, 400, `ends at seq 4`)
	upTo(bob, direct, `{"upTo":0}`, 400, "upTo")
	upTo(bob, direct, `{"upTo":"4"}`, 400, "upTo")
	upTo(bob, direct, `{}`, 400, "upTo")
	upTo(bob, direct, `{"upTo":4,"x":1}`, 400, "is unknown")
	upTo(bob, other, `{"upTo":4}`, 403, "not a participant")
	upTo(eve, apptest.Conv(uuid(1)), `{"upTo":4}`, 403, "not a participant")
	upTo(apptest.User{}, direct, `{"upTo":4}`, 401, "")
	wantUnread(direct, 1)
	upTo(bob, direct, `{"upTo":4}`, 204, "")
	expectReceipt(t, anns, direct, "reads", bob, 4)
	upTo(bob, direct, `{"upTo":3}`, 204, "")
	wantUnread(direct, 0)
	anns.Ping()
}

// What cannot be is refused with the field and the reason, at every QoS, and
// spoils nothing that is sent beside it.
func TestBadReads(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	eve := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve"})
	eve.MustSubscribe(0, r.eve.Topic("errors"))
	old := a.Device(t, r.eve, brokertest.Connect{ClientID: "old", Version: 4})
	old.MustSubscribe(0, r.eve.Topic("errors"))
	others := a.Direct(t, a.User(t, "bob"), a.User(t, "ann"))
	many := strings.TrimSuffix(strings.Repeat(`"`+uuid(1)+`",`, 1001), ",")
	for _, tt := range []struct{ payload, field, says string }{
		{``, "payload", "JSON object"},
		{`[1]`, "payload", "JSON object"},
		{`{}`, "upTo", "exactly one of upTo and messageIds"},
		{`{"upTo":null}`, "upTo", "is required"},
		{`{"upTo":1,"messageIds":["` + uuid(1) + `"]}`, "upTo", "exactly one"},
		{`{"upTo":0}`, "upTo", "1 or more"},
		{`{"upTo":-5}`, "upTo", "1 or more"},
		{`{"upTo":1.5}`, "upTo", "number 1.5"},
		{`{"upTo":1e400}`, "upTo", "number 1e400"},
		{`{"upTo":"1"}`, "upTo", "string"},
		{`{"upTo":2}`, "upTo", "is 2, and the conversation ends at seq 1"},
		{`{"upTo":9223372036854775807}`, "upTo", "ends at seq 1"},
		{`{"messageIds":[]}`, "messageIds", "1 to 1000"},
		{`{"messageIds":["x"]}`, "messageIds", "UUIDs"},
		{`{"messageIds":[1]}`, "messageIds", "array of ids"},
		{`{"messageIds":{}}`, "messageIds", "array of ids"},
		{`{"messageIds":["` + uuid(1) + `"]}`, "messageIds", uuid(1)},
		{`{"messageIds":[` + many + `]}`, "messageIds", "1001 ids, limit 1 to 1000"},
	} {
		want := tt.field + ": "
		ack := eve.Publish(1, r.conv.Topic("reads"), tt.payload)
		if ack.Code != packets.ErrPayloadFormatInvalid.Code || !strings.HasPrefix(ack.Reason, want) || !strings.Contains(ack.Reason, tt.says) {
			t.Errorf("%.60s was answered %+v, want %s%s", tt.payload, ack, want, tt.says)
		}
		for clientID, from := range map[string]*apptest.Device{"eve": eve, "old": old} {
			from.Client.Send(brokertest.Publish(r.conv.Topic("reads"), 0, 0, tt.payload))
			for _, d := range []*apptest.Device{eve, old} { // both are told
				p := expectProblem(t, d)
				if p.Code != "invalid" || !strings.HasPrefix(p.Detail, want) || !strings.Contains(p.Detail, tt.says) || p.Topic != r.conv.Topic("reads") || p.ClientID != clientID {
					t.Errorf("%.60s at QoS 0: %+v, want %s%s", tt.payload, p, want, tt.says)
				}
			}
		}
	}
	for _, c := range []apptest.Conv{others, apptest.Conv(uuid(7))} {
		for _, payload := range []string{`{"upTo":1}`, `{"messageIds":["` + uuid(1) + `"]}`, `nonsense`} {
			if ack := eve.Publish(1, c.Topic("reads"), payload); ack.Code != packets.ErrNotAuthorized.Code {
				t.Errorf("a stranger's %s was answered %+v", payload, ack)
			}
		}
		if code := eve.Subscribe(0, c.Topic("reads")); code[0] < 0x80 {
			t.Errorf("a stranger may subscribe to what is read: %x", code)
		}
	}
	if ack := eve.Publish(1, r.conv.Topic("delivered"), `{"upTo":1}`); ack.Code != packets.ErrNotAuthorized.Code {
		t.Errorf("a publish of what was delivered was answered %+v", ack)
	}
	// One that is beyond the end, and one that is not, in one transaction.
	for i := range uint16(50) {
		eve.Client.Send(brokertest.Publish(r.conv.Topic("reads"), 1, 1000+i, fmt.Sprintf(`{"upTo":%d}`, 1+i%2)))
	}
	for i := range uint16(50) {
		pk := eve.Await(packets.Puback)
		if ack := brokertest.AckOf(pk); (ack.Code == 0) != (i%2 == 0) || pk.PacketID != 1000+i {
			t.Errorf("read %d was answered %+v", i, ack)
		}
	}
	expectReceipt(t, r.near, r.conv, "reads", r.eve, 1)
	r.undisturbed(t)
}

// A message is delivered when a device of the recipient has acknowledged it, also
// one whose session ends with its connection. Who asks for it, by name, hears of it.
func TestDelivered(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	conv := a.Direct(t, ann, bob)
	anns := a.Device(t, ann, brokertest.Connect{ClientID: "anns"})
	anns.MustSubscribe(0, "conv/+/delivered")
	all := a.Device(t, ann, brokertest.Connect{ClientID: "all"}) // has not asked for it
	all.MustSubscribe(0, "conv/+/reads", "conv/+/typing")
	if code := all.Subscribe(0, conv.Topic("delivered"), "conv/"+uuid(1)+"/delivered"); code[0] != 0 || code[1] < 0x80 {
		t.Errorf("SUBACK %x", code)
	}
	all.Unsubscribe(conv.Topic("delivered"))
	stranger := a.Device(t, eve, brokertest.Connect{ClientID: "stranger"})
	stranger.MustSubscribe(0, "conv/+/delivered", "conv/#")

	one := anns.Send(conv, "one")
	if d := messageDetail(t, a, ann, one.ID); len(d.DeliveredTo) != 0 || len(d.ReadBy) != 0 {
		t.Errorf("before anybody was there: %+v", d)
	}
	phone := a.Device(t, bob, brokertest.Connect{ClientID: "phone", Version: 4})
	phone.MustSubscribe(1, conv.Topic("messages"))
	two := anns.Send(conv, "two")
	phone.ExpectEvent(conv, two.Seq)
	expectReceipt(t, anns, conv, "delivered", bob, two.Seq)
	d := messageDetail(t, a, ann, one.ID)
	if len(d.DeliveredTo) != 1 || d.DeliveredTo[0].UserID != bob.ID.String() || d.DeliveredCount != 1 || d.ReadCount != 0 {
		t.Errorf("after it was acknowledged: %+v", d)
	}

	phone.AutoAck = false // what is received and not acknowledged is not delivered
	three := anns.Send(conv, "three")
	pk := phone.Expect(packets.Publish)
	anns.Ping()
	if d := messageDetail(t, a, ann, three.ID); d.DeliveredCount != 0 {
		t.Errorf("before it was acknowledged: %+v", d)
	}
	phone.Client.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
	phone.Ping()
	phone.Disconnect() // at once: its session ends here, and what it acknowledged counts
	expectReceipt(t, anns, conv, "delivered", bob, three.Seq)

	kept := a.Device(t, bob, brokertest.Connect{ClientID: "kept", SessionExpiry: 600})
	kept.MustSubscribe(2, "conv/+/messages")
	four := anns.Send(conv, "four")
	kept.ExpectEvent(conv, four.Seq)
	kept.Ping() // PUBREL is answered
	expectReceipt(t, anns, conv, "delivered", bob, four.Seq)
	all.Ping()
	stranger.Ping()
}
