package app_test

import (
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/programtest"
)

func willDelay(seconds uint32) func(*packets.Packet) {
	return func(pk *packets.Packet) { pk.Connect.WillProperties.WillDelayInterval = seconds }
}

// A will on a conversation's messages is the user's message, when it is due.
func TestWillMessages(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			ann, bob := a.User(t, "ann"), a.User(t, "bob")
			conv := a.Direct(t, ann, bob)
			bobs := a.Device(t, bob, brokertest.Connect{ClientID: "bobs", Version: v})
			bobs.MustSubscribe(1, "conv/+/messages")
			will := brokertest.Connect{ClientID: "phone", Version: v, WillTopic: conv.Topic("messages"), WillPayload: "the line was cut", WillQoS: 1}
			seq := int64(1)
			expect := func(content string) {
				t.Helper()
				seq++
				if e := bobs.ExpectEvent(conv, seq); e.Content != content || e.SenderID != ann.ID.String() {
					t.Fatalf("bob received %+v, want %q", e, content)
				}
			}
			a.Device(t, ann, will).Close()
			expect("the line was cut")

			a.Device(t, ann, will).Disconnect()
			if v == 5 {
				back := will
				back.Persistent, back.SessionExpiry, back.Change = true, 60, willDelay(60)
				phone := a.Device(t, ann, back)
				phone.Close()
				a.Device(t, ann, back).Disconnect() // in time
				back.Change = willDelay(1)
				back.WillPayload = "after a second"
				a.Device(t, ann, back).Close()
				expect("after a second")
				back.Change = willDelay(60)
				back.WillPayload = "the session has ended"
				a.Device(t, ann, back).Close()
				fresh := brokertest.Connect{ClientID: "phone", Version: v}
				a.Device(t, ann, fresh).Disconnect()
				expect("the session has ended")
				short := will
				short.Change, short.WillPayload = willDelay(60), "no session, no delay"
				a.Device(t, ann, short).Close()
				expect("no session, no delay")
				a.Device(t, ann, will).SendBytes([]byte{packets.Disconnect << 4, 1, packets.CodeDisconnectWillMessage.Code})
				expect("the line was cut")
			}
			a.Device(t, ann, will).Send(conv, "the last")
			for {
				seq++
				if e := bobs.ExpectEvent(conv, seq); e.Content == "the last" {
					break
				} else if e.Content != "the line was cut" {
					t.Fatalf("bob received %+v", e)
				}
			}
		})
	}
}

// A device that takes its own session over sends the will of its old connection, in
// conversations and on device topics alike: at once where there is no delay, or a new
// session begins, and never if it resumes its session before the delay is over (MQTT 5.0,
// 3.1.3.2.2, [MQTT-3.1.4-3]).
func TestWillAtTakeOver(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	watch := a.Device(t, ann, brokertest.Connect{ClientID: "watch"})
	watch.MustSubscribe(0, "conv/+/messages", "dev/#")
	expect := func(topic, payload string) {
		t.Helper()
		pk := watch.Expect(packets.Publish)
		if pk.TopicName != topic || !strings.Contains(string(pk.Payload), payload) {
			t.Fatalf("got %s, want %s on %s", brokertest.Describe(pk), payload, topic)
		}
	}
	for i, topic := range []string{conv.Topic("messages"), "dev/phone"} {
		for _, delay := range []uint32{0, 3600} {
			for _, clean := range []bool{false, true} {
				what := fmt.Sprintf("will %d, delay %d, clean start %v", i, delay, clean)
				o := brokertest.Connect{ClientID: what, Persistent: true, SessionExpiry: 7200, WillTopic: topic, WillPayload: what, Change: willDelay(delay)}
				old := a.Device(t, ann, o)
				old.Ping() // CONNACK is out, and the will with it
				next := brokertest.Connect{ClientID: what, Persistent: !clean}
				newer := a.Device(t, ann, next)
				old.ExpectDisconnect(packets.ErrSessionTakenOver.Code)
				if delay == 0 || clean {
					expect(topic, what)
				}
				newer.Disconnect()
				watch.Ping() // and nothing else has come
			}
		}
	}
}

// A will that would be refused if it were published refuses the CONNECT, with the same
// reason.
func TestWillsThatAreRefused(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	others := a.Direct(t, bob, a.User(t, "eve"))
	nobodys := apptest.Conv(chat.NewID().String())
	for _, tt := range []struct {
		topic, payload string
		want           byte // in MQTT 5
	}{
		{ann.Topic("presence"), `{"status":"online"}`, packets.ErrPayloadFormatInvalid.Code},
		{ann.Topic("presence"), `{"status":"asleep"}`, packets.ErrPayloadFormatInvalid.Code},
		{ann.Topic("presence"), `away`, packets.ErrPayloadFormatInvalid.Code},
		{bob.Topic("presence"), `{"status":"offline"}`, packets.ErrNotAuthorized.Code},
		{conv.Topic("messages"), `{"type":"message"}`, packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("messages"), `{"type":1}`, packets.ErrPayloadFormatInvalid.Code},
		{ann.Topic("presence"), `{"status":["away"]}`, packets.ErrPayloadFormatInvalid.Code},
		{ann.Topic("presence"), "{\"status\":\"away\",\"\xff\":1}", packets.ErrPayloadFormatInvalid.Code},
		{ann.Topic("presence"), strings.Repeat("[", 8000), packets.ErrPayloadFormatInvalid.Code},
		{"user/" + uuid(1) + "/presence", `{"status":"away"}`, packets.ErrNotAuthorized.Code}, // of nobody
		{conv.Topic("messages"), "a\x00b", packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("messages"), "a\xffb", packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("messages"), `{"type":"dance"}`, packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("messages"), `{"type":"delete","messageId":"x"}`, packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("messages"), `{"content":"a","replyTo":"` + chat.ID{}.String() + `"}`, packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("messages"), `{"type":"reaction","messageId":"` + uuid(1) + `","emoji":"a","op":"add"}`, packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("messages"), strings.Repeat("x", chat.MaxWillBytes+1), packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("typing"), `{"typing":true}`, 0}, // without effect, as is
		{conv.Topic("reads"), `{"upTo":1}`, 0},
		{conv.Topic("typing"), "yes", packets.ErrPayloadFormatInvalid.Code},
		{conv.Topic("reads"), `{"upTo":"a"}`, packets.ErrPayloadFormatInvalid.Code},
		{"dev/lamp", "off", 0},
		{"lamp/state", "off", packets.ErrNotAuthorized.Code},
		{"$SYS/broker/version", "1", packets.ErrNotAuthorized.Code},
		{others.Topic("messages"), "hello", packets.ErrNotAuthorized.Code},
		{others.Topic("typing"), "", packets.ErrNotAuthorized.Code},
		{nobodys.Topic("messages"), "hello", packets.ErrNotAuthorized.Code},
		{conv.Topic("delivered"), "hello", packets.ErrNotAuthorized.Code},
		{conv.Topic("nothing"), "hello", packets.ErrNotAuthorized.Code},
		{ann.Topic("errors"), "hello", packets.ErrNotAuthorized.Code},
		{"conv/+/messages", "hello", packets.ErrTopicNameInvalid.Code},
		{conv.Topic("#"), "hello", packets.ErrTopicNameInvalid.Code},
		{"dev/+", "hello", packets.ErrTopicNameInvalid.Code},
		{"#", "hello", packets.ErrTopicNameInvalid.Code},
		{"dev" + strings.Repeat("/a", 32), "hello", packets.ErrTopicNameInvalid.Code},
		{"dev/" + strings.Repeat("a", 1024), "hello", packets.ErrTopicNameInvalid.Code},
	} {
		for _, v := range versions {
			c := a.Dial(t)
			c.Version = v
			pk := ann.As(brokertest.Connect{Version: v, ClientID: "phone", WillTopic: tt.topic, WillPayload: tt.payload}).Packet()
			c.Send(pk)
			if v == 4 && tt.want > packets.ErrNotAuthorized.Code {
				c.ExpectClosed() // MQTT 3.1.1 has no word for it
				continue
			}
			want := tt.want
			if v == 4 && want != 0 {
				want = packets.Err3NotAuthorized.Code
			}
			if ack := c.Expect(packets.Connack); ack.ReasonCode != want {
				t.Errorf("%s %.100s: %s", tt.topic, tt.payload, brokertest.Describe(ack))
			}
		}
	}
}

// A login that is revoked leaves nothing behind.
func TestWillOfARevokedLogin(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, never)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone", WillTopic: conv.Topic("messages"), WillPayload: "cut"})
	r := a.REST(t, ann, http.MethodPatch, "/api/users/me", map[string]string{"password": "another horse battery", "currentPassword": apptest.Password})
	if r.Status != http.StatusOK {
		t.Fatal(r)
	}
	phone.ExpectDisconnect(packets.ErrNotAuthorized.Code)
	bobs := a.Device(t, bob, brokertest.Connect{ClientID: "bobs"})
	if ack := bobs.Send(conv, "next"); ack.Seq != 2 {
		t.Errorf("the next message is event %d, want 2", ack.Seq)
	}
}

// What the manual of mosquitto_pub says about wills works.
func TestWillOfMosquitto(t *testing.T) {
	t.Parallel()
	path := programtest.Path(t, "mosquitto_sub")
	a := apptest.Start(t, soon)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	a.Direct(t, ann, bob)
	bobs, _ := watcher(t, a, bob, 5, ann)
	host, port, _ := net.SplitHostPort(a.MQTTAddr())
	cmd := exec.CommandContext(t.Context(), path, "-h", host, "-p", port, "-i", "phone", "-u", ann.Username, "-P", apptest.Password,
		"-t", "conv/+/messages", "-c", "-q", "1", "--will-topic", ann.Topic("presence"), "--will-payload", `{"status":"away"}`)
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	expectSeen(t, bobs, ann, "online")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	expectSeen(t, bobs, ann, "away")
}
