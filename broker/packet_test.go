package broker_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

var conversation = chat.MustParseID("00000000-0000-7000-8000-00000000c0a0")

const topicLen = len("conv/") + 36 + len("/messages")

func frame(payload string) *delivery.Frame {
	return delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicMessages, ID: conversation}, []byte(payload))
}

// split returns the body of the one packet in b, after its fixed header.
func split(t *testing.T, b []byte) (packets.FixedHeader, []byte) {
	t.Helper()
	r := bytes.NewBuffer(slices.Clone(b))
	first, err := r.ReadByte()
	if err != nil {
		t.Fatal(err)
	}
	var fh packets.FixedHeader
	if err := fh.Decode(first); err != nil {
		t.Fatalf("header %#x: %v", first, err)
	}
	n, _, err := packets.DecodeLength(r)
	if err != nil || n != r.Len() {
		t.Fatalf("remaining length %d (%v), and %d bytes follow", n, err, r.Len())
	}
	fh.Remaining = n
	return fh, r.Bytes()
}

// mochi's own encoder is the reference for PUBLISH, at every length at which the
// remaining length gets another byte.
func TestPublishPacket(t *testing.T) {
	t.Parallel()
	for _, version := range []byte{4, 5} {
		for qos := byte(0); qos < 3; qos++ {
			for _, ids := range [][]uint32{nil, {1}, {127, 128}, {16383, 16384, 268435455}} {
				for _, remaining := range []int{100, 127, 128, 16383, 16384, 2097151, 2097152} {
					if remaining > 1<<16 && (len(ids) > 1 || qos == 2) {
						continue // the race detector is slow
					}
					for _, dup := range []bool{false, qos > 0} {
						checkPublish(t, version, qos, dup, ids, remaining)
					}
				}
			}
		}
	}
}

func checkPublish(t *testing.T, version, qos byte, dup bool, ids []uint32, remaining int) {
	t.Helper()
	name := fmt.Sprintf("version %d, QoS %d, DUP %v, subscriptions %v, remaining length %d", version, qos, dup, ids, remaining)
	p := delivery.Packet{QoS: qos, Dup: dup, Subscriptions: ids}
	over := 2 + topicLen
	if qos > 0 {
		p.ID = 0xA1B2
		over += 2
	}
	want := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos, Dup: dup}, ProtocolVersion: version,
		TopicName: "conv/" + conversation.String() + "/messages", PacketID: p.ID,
	}
	if version == 5 {
		over++
		for _, id := range ids {
			want.Properties.SubscriptionIdentifier = append(want.Properties.SubscriptionIdentifier, int(id))
			over += len(broker.AppendVarint(nil, int(id))) + 1
		}
	}
	want.Payload = []byte(strings.Repeat("é", remaining)[:remaining-over])
	var b bytes.Buffer
	if err := want.PublishEncode(&b); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	f := frame(string(want.Payload))
	prefix := []byte("what is there already")
	got := broker.AppendPublish(slices.Clone(prefix), f, version, p)
	if !bytes.Equal(got[len(prefix):], b.Bytes()) {
		t.Errorf("%s: AppendPublish = % x…, want % x…", name, got[len(prefix):][:70], b.Bytes()[:70])
	}
	if fh, _ := split(t, got[len(prefix):]); fh.Remaining != remaining {
		t.Fatalf("%s: the test is wrong: it made %d", name, fh.Remaining)
	}
	if version == 5 && len(ids) > 0 {
		return // not for the cache
	}
	p.Subscriptions = nil
	for range 2 { // made, and used again
		got := broker.AppendCached(slices.Clone(prefix), f, version, p)
		if !bytes.Equal(got[len(prefix):], b.Bytes()) {
			t.Errorf("%s: AppendCached = % x…, want % x…", name, got[len(prefix):][:70], b.Bytes()[:70])
		}
	}
}

// One frame for all kinds of session: no copy may leave a trace in another.
func TestCachedEncodingsAreApart(t *testing.T) {
	t.Parallel()
	f := frame("payload")
	for _, p := range []struct {
		version byte
		delivery.Packet
	}{
		{5, delivery.Packet{QoS: 2, ID: 65535, Dup: true}},
		{5, delivery.Packet{QoS: 1, ID: 1}},
		{5, delivery.Packet{}},
		{4, delivery.Packet{QoS: 1, ID: 7}},
		{4, delivery.Packet{}},
		{4, delivery.Packet{QoS: 2, ID: 8, Dup: true}},
		{4, delivery.Packet{QoS: 1, ID: 9}},
		{5, delivery.Packet{QoS: 1, ID: 10, Dup: true}},
	} {
		got := broker.AppendCached(nil, f, p.version, p.Packet)
		want := broker.AppendPublish(nil, frame("payload"), p.version, p.Packet)
		if !bytes.Equal(got, want) {
			t.Errorf("%+v: % x, want % x", p, got, want)
		}
	}
}

func TestAckPackets(t *testing.T) {
	t.Parallel()
	for _, kind := range []byte{packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp} {
		for _, version := range []byte{4, 5} {
			for _, code := range []byte{0, 0x87, 0x92} {
				b := broker.AppendAck(nil, kind, 0xFF01, code, version, nil)
				if version == 4 && len(b) != 4 {
					t.Errorf("version 4, type %d: % x", kind, b)
				}
				pk := decodeAck(t, b, version)
				if version == 4 {
					code = 0
				}
				if pk.FixedHeader.Type != kind || pk.PacketID != 0xFF01 || pk.ReasonCode != code {
					t.Errorf("version %d, type %d, code %#x: % x is read as %+v", version, kind, code, b, pk)
				}
			}
		}
	}
}

func decodeAck(t *testing.T, b []byte, version byte) packets.Packet {
	t.Helper()
	fh, body := split(t, b)
	pk := packets.Packet{FixedHeader: fh, ProtocolVersion: version}
	var err error
	switch fh.Type {
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec:
		err = pk.PubrecDecode(body)
	case packets.Pubrel:
		err = pk.PubrelDecode(body)
	case packets.Pubcomp:
		err = pk.PubcompDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Disconnect:
		err = pk.DisconnectDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	default:
		t.Fatalf("what is % x?", b)
	}
	if err != nil {
		t.Fatalf("% x: %v", b, err)
	}
	return pk
}

func TestDisconnectPacket(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{"", "short", strings.Repeat("long ", 100), strings.Repeat("é", 40000)} {
		for _, limit := range []int{0, 3, 10, 12, 200, 100000} {
			b := broker.AppendDisconnect(nil, 0x8B, reason, "", limit)
			if limit > 0 && len(b) > max(3, limit) {
				t.Errorf("limit %d: %d bytes", limit, len(b))
			}
			if len(b) == 3 { // mochi overlooks the code of the short form
				if !bytes.Equal(b, []byte{0xE0, 1, 0x8B}) {
					t.Errorf("short form % x", b)
				}
				continue
			}
			pk := decodeAck(t, b, 5)
			if pk.ReasonCode != 0x8B || !strings.HasPrefix(reason, pk.Properties.ReasonString) || !utf8.ValidString(pk.Properties.ReasonString) {
				t.Errorf("limit %d: read as %#x %q", limit, pk.ReasonCode, pk.Properties.ReasonString)
			}
		}
	}
}

// Where there is room for one property only, it is the one that says where to go.
func TestDisconnectPacketWithReference(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int][2]string{0: {"stopping", "b.example.com"}, 100: {"stopping", "b.example.com"}, 22: {"", "b.example.com"}, 15: {"", ""}} {
		b := broker.AppendDisconnect(nil, 0x9C, "stopping", "b.example.com", limit)
		if limit > 0 && len(b) > limit {
			t.Errorf("limit %d: %d bytes", limit, len(b))
		}
		if want == [2]string{} {
			if !bytes.Equal(b, []byte{0xE0, 1, 0x9C}) {
				t.Errorf("limit %d: % x", limit, b)
			}
			continue
		}
		if p := decodeAck(t, b, 5).Properties; p.ReasonString != want[0] || p.ServerReference != want[1] {
			t.Errorf("limit %d: %q, %q, want %q", limit, p.ReasonString, p.ServerReference, want)
		}
	}
}
