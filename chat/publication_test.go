package chat_test

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
)

func publications() []*chat.Publication {
	return []*chat.Publication{
		{Topic: "a"},
		{Topic: "dev/lamp/é", QoS: 2, Retain: true, Space: chat.MustParseID("00000000-0000-7000-8000-0000000000a1"), Origin: 1<<48 - 1, Payload: []byte("x")},
		{Topic: "a/b", QoS: 1, Expires: time.UnixMilli(1_800_000_000_123), Properties: []byte("\x01\x01\x03\x00\x01c\x08\x00\x01r\x09\x00\x02\x00\x01\x26\x00\x01k\x00\x01v"), Payload: bytes.Repeat([]byte{0}, 1000)},
	}
}

func TestPublicationEncoding(t *testing.T) {
	t.Parallel()
	for _, p := range publications() {
		b, _ := p.AppendBinary([]byte("before"))
		got, err := chat.ParsePublication(b[len("before"):])
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Payload) == 0 {
			got.Payload = nil
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%+v became %+v", p, got)
		}
		for n := range b[len("before"):] { // no part of one is read beyond its end
			if cut, err := chat.ParsePublication(b[len("before"):][:n:n]); err == nil && len(cut.Payload) >= len(p.Payload) && len(p.Payload) > 0 {
				t.Errorf("%d bytes of %d were taken for %+v", n, len(b), cut)
			}
		}
	}
	if _, err := chat.ParsePublication(make([]byte, chat.MaxPublicationBytes+1)); chat.CodeOf(err) != chat.Invalid {
		t.Errorf("one that is too large: %v", err)
	}
}

func FuzzParsePublication(f *testing.F) {
	for _, p := range publications() {
		b, _ := p.AppendBinary(nil)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := chat.ParsePublication(b)
		if err != nil {
			if chat.CodeOf(err) != chat.Invalid {
				t.Errorf("error %v", err)
			}
			return
		}
		if p.QoS > 2 || len(p.Topic) == 0 || len(p.Topic) > chat.MaxTopicBytes || !chat.ValidProperties(p.Properties) {
			t.Errorf("took %+v", p)
		}
		again, _ := p.AppendBinary(nil)
		if !bytes.Equal(again, b) {
			t.Errorf("% x became % x", b, again)
		}
	})
}

func TestRemaining(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1_800_000_000_000)
	for left, want := range map[time.Duration]uint32{time.Second: 1, 999 * time.Millisecond: 1, time.Millisecond: 1, 1001 * time.Millisecond: 2, 0: 0, -time.Hour: 0} {
		p := &chat.Publication{Expires: at.Add(left)}
		if got, ok := p.Remaining(at); got != want || ok != (want > 0) {
			t.Errorf("%v before its expiry %d s are left (%v), want %d", left, got, ok, want)
		}
	}
	if got, ok := new(chat.Publication).Remaining(at); got != 0 || !ok {
		t.Errorf("without expiry: %d, %v", got, ok)
	}
}
