package app_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// badPublish is a PUBLISH that must be refused, and how.
type badPublish struct {
	name    string
	topic   string // "": eve's conversation; {conv}, {eve} and {nan} stand for their ids
	payload string
	code    byte   // in MQTT 5
	kind    string // code of the problem object
	detail  string // why, in both
	key     string // clientMsgId of the problem object
}

// Every PUBLISH that is well-formed MQTT and that Parley does not take is
// answered: in MQTT 5 by the acknowledgement's reason code and string, in 3.1.1
// and at QoS 0 by an object on user/{me}/errors. It goes no further, and the
// connection stays.
func TestBadPublish(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	invalid := func(name, payload, detail string) badPublish {
		return badPublish{name: name, payload: payload, code: 0x99, kind: "invalid", detail: detail}
	}
	keyed := func(b badPublish) badPublish { b.key = uuid(1); return b }
	const version8 = "0198c0de-0000-8000-8000-000000000001"
	large := func(name, payload, detail string) badPublish {
		return badPublish{name: name, payload: payload, code: 0x99, kind: "too_large", detail: detail}
	}
	notTopic := func(name, topic string) badPublish {
		return badPublish{
			name: name, topic: topic, payload: "hello", code: 0x87, kind: "forbidden", detail: "topic: must be conv/{id}/messages, " +
				"conv/{id}/typing, conv/{id}/reads or user/{id}/presence, with a UUID as the id",
		}
	}
	notOurs := func(name, topic string) badPublish {
		return badPublish{name: name, topic: topic, payload: "hello", code: 0x87, kind: "forbidden", detail: "topic: you may not publish here"}
	}
	on := func(topic string, b badPublish) badPublish { b.topic, b.name = topic, topic+": "+b.name; return b }
	id, other := chat.NewID().String(), chat.NewID().String()
	const zero = "00000000-0000-0000-0000-000000000000"
	cases := []badPublish{
		invalid("empty payload", "", "content: must not be empty"),
		invalid("empty object", "{}", "content: must not be empty"),
		invalid("null content", `{"content":null}`, "content: must not be empty"),
		invalid("empty content", `{"content":""}`, "content: must not be empty"),
		keyed(invalid("empty content with a key", `{"content":"","clientMsgId":"`+uuid(1)+`"}`, "content: must not be empty")),
		large("nested without end, which is a text", `{"a":`+strings.Repeat("[", 150_000), "content: has 150005 bytes, limit 65536"),
		invalid("a name twice", `{"content":"a","content":"b"}`, `payload: names "content" twice in one object`),
		invalid("a name in other letters", `{"content":"a","CONTENT":"b"}`, `payload: names "CONTENT", which is written "content"`),
		invalid("a name twice within", `{"content":"a","x":[{"a":1,"\u0061":2}]}`, `payload: names "a" twice in one object`),
		invalid("half a surrogate pair", `{"content":"a\ud800"}`, `payload: has the escape \ud800, a surrogate without its other half`),

		invalid("type is a number", `{"type":1,"content":"a"}`, "type: must be a string, not a number"),
		invalid("type is unknown", `{"type":"dance","content":"a"}`, `type: must be "message", "edit", "delete" or "reaction"`),
		invalid("type is empty", `{"type":"","content":"a"}`, `type: must be "message", "edit", "delete" or "reaction"`),
		invalid("type is the server's", `{"type":"conversation","op":"joined"}`, `type: must be "message", "edit", "delete" or "reaction"`),
		invalid("content is a number", `{"content":1}`, "content: must be a string, not a number"),
		invalid("content is an array", `{"content":["a"]}`, "content: must be a string, not an array"),
		invalid("content is an object", `{"content":{"a":1}}`, "content: must be a string, not an object"),
		invalid("content is a bool", `{"content":true}`, "content: must be a string, not a bool"),
		keyed(invalid("content is a number, with a key", `{"content":1,"clientMsgId":"`+uuid(1)+`"}`, "content: must be a string, not a number")),
		invalid("clientMsgId is a number", `{"content":"a","clientMsgId":1}`, "clientMsgId: must be a string, not a number"),
		invalid("clientMsgId is no UUID", `{"content":"a","clientMsgId":"1"}`, "clientMsgId: must be a UUID"),
		invalid("clientMsgId is empty", `{"content":"a","clientMsgId":""}`, "clientMsgId: must be a UUID"),
		{
			name: "clientMsgId as the server makes them", payload: `{"content":"a","clientMsgId":"` + version8 + `"}`,
			code: 0x99, kind: "invalid", detail: "clientMsgId: must be a UUID of version 1 to 7", key: version8,
		},
		invalid("replyTo is an object", `{"content":"a","replyTo":{}}`, "replyTo: must be a string, not an object"),
		invalid("replyTo is no UUID", `{"content":"a","replyTo":"x"}`, "replyTo: must be a UUID"),
		keyed(invalid("replyTo does not exist", `{"content":"a","replyTo":"`+id+`","clientMsgId":"`+uuid(1)+`"}`, "replyTo: there is no message "+id+" in this conversation")),
		invalid("attachments is a string", `{"content":"a","attachments":"`+id+`"}`, "attachments: must be an array of ids, not a string"),
		invalid("attachments holds a number", `{"content":"a","attachments":[1]}`, "attachments: must be an array of ids, not a number"),
		invalid("attachments holds no UUID", `{"content":"a","attachments":["x"]}`, "attachments: must hold UUIDs"),
		invalid("attachment does not exist", `{"content":"a","attachments":["`+id+`"]}`, "attachments: there is no attachment "+id),
		invalid("too many attachments", `{"content":"a","attachments":["`+strings.Repeat(id+`","`, 20)+id+`"]}`, "attachments: has 21 ids, limit 20"),
		invalid("edit of nothing", `{"type":"edit","content":"a"}`, "messageId: must be the id of a message"),
		invalid("edit to nothing", `{"type":"edit","messageId":"`+id+`"}`, "content: must not be empty; to take a message back, delete it"),
		invalid("edit of a number", `{"type":"edit","messageId":7,"content":"a"}`, "messageId: must be a string, not a number"),
		invalid("delete of nothing", `{"type":"delete"}`, "messageId: must be the id of a message"),
		invalid("reaction without op", `{"type":"reaction","messageId":"`+id+`","emoji":"👍"}`, `op: must be "add" or "remove"`),
		invalid("reaction with a number", `{"type":"reaction","messageId":"`+id+`","emoji":1,"op":"add"}`, "emoji: must be a string, not a number"),
		invalid("reaction without emoji", `{"type":"reaction","messageId":"`+id+`","op":"add"}`, "emoji: must be one emoji, of at most 64 bytes"),

		invalid("edit of the zero id", `{"type":"edit","content":"a","messageId":"`+zero+`"}`, "messageId: must not be the zero id"),
		invalid("reply to the zero id", `{"content":"a","replyTo":"`+zero+`"}`, "replyTo: must not be the zero id"),
		invalid("clientMsgId is zero", `{"content":"a","clientMsgId":"`+zero+`"}`, "clientMsgId: must not be the zero id"),
		invalid("10,000 attachments", `{"content":"a","attachments":[`+strings.Repeat(`"",`, 9_999)+`""]}`, "attachments: has 10000 ids, limit 20"),

		invalid("NUL in text", "a\x00b", "content: must be valid UTF-8 without NUL"),
		invalid("NUL in JSON", `{"content":"a\u0000b"}`, "content: must be valid UTF-8 without NUL"),
		invalid("not UTF-8", "a\xffb", "payload: must be valid UTF-8"),
		invalid("not UTF-8 in JSON", "{\"content\":\"\xc3\x28\"}", "payload: must be valid UTF-8"),
		invalid("overlong UTF-8", "\xc0\xaf", "payload: must be valid UTF-8"),
		large("a byte too many", strings.Repeat("a", 64<<10+1), "content: has 65537 bytes, limit 65536"),
		keyed(large("a byte too many in JSON", `{"clientMsgId":"`+uuid(1)+`","content":"`+strings.Repeat("a", 64<<10+1)+`"}`, "content: has 65537 bytes, limit 65536")),
		large("a large command", `{"content":"a","x":"`+strings.Repeat("a", 192<<10)+`"}`, "payload: has 196630 bytes, limit 196608"),

		notOurs("one level", "hello"),
		notOurs("no id", "conv"),
		notOurs("slash before", "/conv/"+id+"/messages"),
		notOurs("capitals", "CONV/"+id+"/messages"),
		notOurs("slash", "/"),
		notOurs("server's", "$SYS/broker/uptime"),
		notOurs("shared", "$share/g/conv/"+id+"/messages"),
		notOurs("1,000 levels", strings.Repeat("/", 999)),
		notOurs("65,535 bytes", strings.Repeat("t", 65535)),
		notOurs("32,000 levels", strings.Repeat("a/", 32_000)),
		notTopic("nothing of a conversation", "conv/"+id),
		notTopic("empty id", "conv//messages"),
		notTopic("id in braces", "conv/{"+id+"}/messages"),
		notTopic("slash after", "conv/"+id+"/messages/"),
		notTopic("two ids", "conv/"+id+"/"+other+"/messages"),
		notTopic("unknown word", "conv/"+id+"/attachments"),
		notTopic("word of users", "conv/"+id+"/errors"),
		notTopic("word of conversations", "user/"+id+"/messages"),
		notTopic("65,535 bytes of conv", "conv/"+strings.Repeat("t", 65530)),
		notTopic("32,000 levels of conv", "conv"+strings.Repeat("/a", 32_000)),

		{name: "no such conversation", topic: "conv/" + id + "/messages", payload: "hello", code: 0x87, kind: "forbidden", detail: "conversationId: you are not a participant of conversation " + id},
		{name: "zero id", topic: "conv/" + chat.ID{}.String() + "/messages", payload: "hello", code: 0x87, kind: "forbidden", detail: "conversationId: you are not a participant of conversation " + chat.ID{}.String()},
		{name: "no such conversation, and nonsense", topic: "conv/" + id + "/messages", payload: "{", code: 0x87, kind: "forbidden", detail: "conversationId: you are not a participant of conversation " + id},
	}
	const reads, typing, presence = "conv/{conv}/reads", "conv/{conv}/typing", "user/{eve}/presence"
	bad := func(topic, detail string, payloads ...string) {
		for _, payload := range payloads {
			cases = append(cases, on(topic, invalid(fmt.Sprintf("%.60q", payload), payload, detail)))
		}
	}
	nested, long := `{"x":`+strings.Repeat("[", 150_000), `{"x":"`+strings.Repeat("x", 100_000)+`"}`
	noRead := `payload: must be a JSON object: {"upTo":seq} or {"messageIds":[…]}`
	largeRead := `payload: must be a JSON object of at most 65536 bytes of UTF-8: {"upTo":seq} or {"messageIds":[…]}`
	bad(reads, noRead, "", "hello", "1", "[]", `"x"`, "{", `{"upTo":1}{"upTo":1}`, "\x00")
	bad(reads, largeRead, "\xff", "{\"upTo\":1,\"\xc3\x28\":1}", nested, long, `{"messageIds":[`+strings.Repeat(`"`+id+`",`, 5_999)+`"`+id+`"]}`)
	bad(reads, "upTo: exactly one of upTo and messageIds is required", "{}", "null", `{"upTo":null}`, `{"x":1}`, `{"upTo":1,"messageIds":["`+id+`"]}`)
	bad(reads, "upTo: must be the seq of an event, 1 or more", `{"upTo":0}`, `{"upTo":-1}`)
	bad(reads, "messageIds: must not be the zero id", `{"messageIds":["`+zero+`"]}`)
	bad(reads, "messageIds: must hold UUIDs", `{"messageIds":["`+uuid(1)[:35]+`G"]}`, `{"messageIds":[""]}`, `{"messageIds":[null]}`)
	bad(reads, "messageIds: has 10000 ids, limit 1 to 1000", `{"messageIds":[`+strings.Repeat(`"",`, 9_999)+`""]}`)
	bad(typing, `typing: must be true or false, in a JSON object of at most 1024 bytes: {"typing":true}`,
		"", "hello", "true", "[]", "null", "{", "{}", `{"typing":null}`, `{"typing":1}`, `{"typing":"true"}`, `{"typing":[]}`, `{"typing":{}}`,
		`{"typing":true}x`, "{\"typing\":true,\"\xff\":1}", "\x00", nested, long)
	bad(presence, `status: must be "online", "away", "invisible" or "offline", in a JSON object of at most 1024 bytes: {"status":"away"}`,
		"", "away", `"away"`, "[]", "null", "{", "{}", `{"status":null}`, `{"status":1}`, `{"status":"AWAY"}`, `{"status":"busy"}`, `{"status":""}`, `{"status":["away"]}`,
		`{"status":"away"}x`, "{\"status\":\"away\",\"\xff\":1}", "\x00", nested, long)
	for _, payload := range []string{"{", `{"upTo":1}`, `{"typing":true}`, `{"status":"away"}`} {
		for _, what := range []string{"reads", "typing"} {
			cases = append(cases, badPublish{
				name: what + " of a conversation that is not there: " + payload, topic: "conv/" + id + "/" + what, payload: payload,
				code: 0x87, kind: "forbidden", detail: "conversationId: you are not a participant of conversation " + id,
			})
		}
		for _, topic := range []string{"user/{nan}/presence", "user/" + id + "/presence", "user/" + zero + "/presence"} {
			cases = append(cases, badPublish{name: topic + ": " + payload, topic: topic, payload: payload, code: 0x87, kind: "forbidden", detail: "topic: only your own presence"})
		}
		for _, topic := range []string{"conv/{conv}/delivered", "user/{eve}/errors", "user/{nan}/errors"} {
			cases = append(cases, badPublish{name: topic + ": " + payload, topic: topic, payload: payload, code: 0x87, kind: "forbidden", detail: "topic: nothing may be published here"})
		}
	}
	for _, b := range cases {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			b.topic = strings.NewReplacer("{conv}", string(r.conv), "{eve}", r.eve.ID.String(), "{nan}", r.nan.ID.String()).Replace(b.topic)
			if b.topic == "" {
				b.topic = r.conv.Topic("messages")
			}
			for _, v := range versions {
				d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
				d.MustSubscribe(0, r.eve.Topic("errors"))
				for qos := range byte(3) {
					refused(t, d, qos, b)
				}
				d.Ping()
				d.Disconnect()
			}
			r.undisturbed(t)
		})
	}
}

// refused publishes b and checks the answer.
func refused(t *testing.T, d *apptest.Device, qos byte, b badPublish) {
	t.Helper()
	what := fmt.Sprintf("%s, QoS %d", versionName(d.Version), qos)
	ack := d.Publish(qos, b.topic, b.payload)
	if d.Version == 5 && qos > 0 {
		if want := (brokertest.Ack{Code: b.code, Reason: b.detail}); ack != want {
			t.Errorf("%s: acknowledged with %+v, want %+v", what, ack, want)
		}
		return
	}
	if ack.Code != 0 {
		t.Errorf("%s: acknowledged with %+v", what, ack)
	}
	topic := b.topic
	if len(topic) > 200 {
		topic = topic[:200] + "…"
	}
	want := problem{Type: "about:blank", Title: "publish refused", Code: b.kind, Detail: b.detail, Topic: topic, ClientID: "eve", ClientMsgID: b.key}
	if got := expectProblem(t, d); got != want {
		t.Errorf("%s: got the problem %+v\nwant %+v", what, got, want)
	}
}

// A stranger hears the same of a conversation that is there as of one that is
// not, whatever they send, in every version and at every QoS; only the id that
// they sent themselves differs.
func TestStrangersConversation(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	stranger := a.User(t, "stranger")
	absent := apptest.Conv(chat.NewID().String())
	for _, v := range versions {
		for _, payload := range []string{"hello", "", "{", `{"type":"edit","messageId":"` + uuid(1) + `","content":"a"}`, "\xff", `{"content":"a","replyTo":"` + uuid(1) + `"}`} {
			for qos := range byte(3) {
				heard := func(c apptest.Conv) string {
					d := a.Device(t, stranger, brokertest.Connect{ClientID: "s", Version: v})
					defer d.Disconnect()
					d.MustSubscribe(0, stranger.Topic("errors"))
					ack := d.Publish(qos, c.Topic("messages"), payload)
					text := fmt.Sprintf("%+v", ack)
					if v == 4 || qos == 0 {
						text += fmt.Sprintf(" %+v", expectProblem(t, d))
					}
					d.Ping()
					return strings.ReplaceAll(text, string(c), "ID")
				}
				if there, not := heard(r.conv), heard(absent); there != not || !strings.Contains(there, "not a participant") {
					t.Errorf("%s, QoS %d, %q: of a conversation of others: %s\nof none: %s", versionName(v), qos, payload, there, not)
				}
			}
		}
		d := a.Device(t, stranger, brokertest.Connect{ClientID: "s", Version: v})
		for _, what := range []string{"messages", "typing", "reads", "+", "#"} {
			there, not := d.Subscribe(1, r.conv.Topic(what)), d.Subscribe(1, absent.Topic(what))
			if there[0] != not[0] || there[0] < 0x80 {
				t.Errorf("%s: subscribe to %s of others: 0x%02x, of none: 0x%02x", versionName(v), what, there[0], not[0])
			}
		}
		d.Disconnect()
	}
	r.undisturbed(t)
}

// A PUBLISH that breaks MQTT itself ends the connection, with the reason in MQTT 5.
func TestMalformedPublish(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	topic := "conv/" + uuid(1) + "/messages"
	publish := func(change func(*packets.Packet)) func(*brokertest.Client) []byte {
		return func(c *brokertest.Client) []byte {
			pk := brokertest.Publish(topic, 1, 1, "hello")
			change(&pk)
			return c.Encode(pk)
		}
	}
	whole := func(first byte, body string) func(*brokertest.Client) []byte {
		return func(*brokertest.Client) []byte { return packet(first, body) }
	}
	raw := func(first byte, head string) func(*brokertest.Client) []byte { // with no properties, and a payload
		return func(c *brokertest.Client) []byte {
			body := head
			if c.Version == 5 {
				body += "\x00"
			}
			return packet(first, body+"hello")
		}
	}
	cases := []struct {
		name  string
		bytes func(*brokertest.Client) []byte
		code  byte
		only5 bool
	}{
		{name: "topic of nothing", bytes: publish(func(pk *packets.Packet) { pk.TopicName = "" }), code: 0x90},
		{name: "plus in the topic", bytes: publish(func(pk *packets.Packet) { pk.TopicName = "conv/+/messages" }), code: 0x90},
		{name: "hash in the topic", bytes: publish(func(pk *packets.Packet) { pk.TopicName = "#" }), code: 0x90},
		{name: "NUL in the topic", bytes: publish(func(pk *packets.Packet) { pk.TopicName = "a\x00b" }), code: 0x81},
		{name: "topic not UTF-8", bytes: publish(func(pk *packets.Packet) { pk.TopicName = "a\xffb" }), code: 0x81},
		{name: "surrogate in the topic", bytes: publish(func(pk *packets.Packet) { pk.TopicName = "a\xed\xa0\x80b" }), code: 0x81},
		{name: "packet id 0 at QoS 1", bytes: raw(0x32, str(topic)+"\x00\x00"), code: 0x82},
		{name: "packet id 0 at QoS 2", bytes: raw(0x34, str(topic)+"\x00\x00"), code: 0x82},
		{name: "QoS 3", bytes: raw(0x36, str(topic)+"\x00\x01"), code: 0x81},
		{name: "DUP at QoS 0", bytes: raw(0x38, str(topic)), code: 0x82},
		{name: "no packet id", bytes: whole(0x32, str(topic)), code: 0x81},
		{name: "half a packet id", bytes: whole(0x32, str(topic)+"\x00"), code: 0x81},
		{name: "topic longer than the packet", bytes: whole(0x32, "\x10\x00conv"), code: 0x81},
		{name: "nothing at all", bytes: whole(0x30, ""), code: 0x81},
		{name: "properties longer than the packet", bytes: whole(0x30, str(topic)+"\x7f\x01"), code: 0x81, only5: true},
		{name: "no properties", bytes: whole(0x30, str(topic)), code: 0x81, only5: true},
		{name: "property of CONNECT", bytes: whole(0x30, str(topic)+"\x03\x21\x00\x10hello"), code: 0x81, only5: true},
		{name: "unknown property", bytes: whole(0x30, str(topic)+"\x02\x7f\x00hello"), code: 0x81, only5: true},
		{name: "topic alias 11", bytes: publish(func(pk *packets.Packet) { pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = 11, true }), code: 0x94, only5: true},
		{name: "topic alias 0", bytes: whole(0x30, str(topic)+"\x03\x23\x00\x00hello"), code: 0x94, only5: true},
		{name: "topic alias without topic", bytes: publish(func(pk *packets.Packet) {
			pk.TopicName, pk.Properties.TopicAlias, pk.Properties.TopicAliasFlag = "", 1, true
		}), code: 0x82, only5: true},
		{name: "subscription identifier", bytes: whole(0x30, str(topic)+"\x02\x0b\x01hello"), code: 0x82, only5: true},
	}
	for _, c := range cases {
		for _, v := range versions {
			if v == 4 && c.only5 {
				continue
			}
			t.Run(c.name+"/"+versionName(v), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve", Version: v})
				d.SendBytes(c.bytes(d.Client))
				d.ExpectDisconnect(c.code)
				r.undisturbed(t)
			})
		}
	}
}

// str returns a string with its length before it (MQTT 5.0, 1.5.4).
func str(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// packet returns the bytes of a packet.
func packet(first byte, body string) []byte {
	b := []byte{first}
	for n := len(body); ; {
		c := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			b = append(b, c|0x80)
			continue
		}
		return append(append(b, c), body...)
	}
}

// A packet over the server's Maximum Packet Size ends the connection before its
// body has been read (0x95).
func TestPublishTooLarge(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			c := a.Dial(t)
			ack := c.MustConnect(r.eve.As(brokertest.Connect{ClientID: "eve", Version: v}))
			if v == 5 && ack.Properties.MaximumPacketSize != 256<<10 {
				t.Errorf("CONNACK says Maximum Packet Size %d, want %d", ack.Properties.MaximumPacketSize, 256<<10)
			}
			_ = c.Write(c.Encode(brokertest.Publish(r.conv.Topic("messages"), 1, 1, strings.Repeat("a", 1<<20)))) // it may be reset meanwhile
			c.ExpectDisconnect(packets.ErrPacketTooLarge.Code)
			r.undisturbed(t)
		})
	}
}

// What looks odd and is allowed.
func TestOddPublish(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	d := a.Device(t, r.eve, brokertest.Connect{ClientID: "eve"})
	d.Check = nil // the server takes more than the document says: unknown fields, and null
	cases := []struct{ payload, content string }{
		{"hello", "hello"},
		{"[1]", "[1]"},
		{"null", "null"},
		{`"quoted"`, `"quoted"`},
		{" \n\t{\"content\":\"a\"} \n", "a"},
		{`{"content":"a","unknown":{"x":[1,2]}}`, "a"},
		{`{"type":"message","content":"\ud83d\ude00"}`, "😀"},
		{`{"content":"a","clientMsgId":null,"replyTo":null,"attachments":null}`, "a"},
		{"\ufeffhello", "\ufeffhello"},
		{"\u202eolleh", "\u202eolleh"},
		{"line\r\nline\x7f\x01", "line\r\nline\x7f\x01"},
		{strings.Repeat("a", 64<<10), strings.Repeat("a", 64<<10)},
		{strings.Repeat("👍", 16<<10), strings.Repeat("👍", 16<<10)},
		{`{"content":"` + strings.Repeat(`\u0061`, 30<<10) + `"}`, strings.Repeat("a", 30<<10)},
	}
	for _, c := range cases {
		r.seq++
		d.Send(r.conv, c.payload)
		if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != c.content || e.Type != "message" {
			t.Errorf("%.100q was received as %.100q (%s), want %.100q", c.payload, e.Content, e.Type, c.content)
		}
	}
	pk := brokertest.Publish(r.conv.Topic("messages"), 1, d.NextID(), `{"content":"a"}`)
	pk.Properties.ContentType = "text/plain; charset=utf-8"
	d.Client.Send(pk)
	d.AwaitAck(packets.Puback, pk.PacketID)
	r.seq++
	if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != `{"content":"a"}` {
		t.Errorf("JSON as text/plain was received as %q", e.Content)
	}
	r.undisturbed(t)
}
