package redis_test

import (
	"bytes"
	"testing"

	"github.com/parleymq/parley/cluster"
	"github.com/parleymq/parley/cluster/redis"
)

func TestMessage(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("x"), cluster.MaxFrame)
	for _, frames := range [][][]byte{nil, {[]byte("a")}, {{}, []byte("b"), {}}, {bytes.Repeat([]byte("c"), 300), []byte("d")}, {large}} {
		sender, seq, got, ok := redis.ReadMessage(redis.Message("node-1", 1<<40, frames...))
		if !ok || sender != "node-1" || seq != 1<<40 || len(got) != len(frames) {
			t.Fatalf("ReadMessage = %q, %d, %d frames, %v, want node-1, 1<<40, %d frames", sender, seq, len(got), ok, len(frames))
		}
		for i := range frames {
			if !bytes.Equal(got[i], frames[i]) {
				t.Errorf("frame %d is %.20q, want %.20q", i, got[i], frames[i])
			}
			if cap(got[i]) != len(got[i]) {
				t.Errorf("appending to frame %d would write into the next one", i)
			}
		}
	}
	// Each prefix of a message is either refused or a message of fewer frames.
	whole := redis.Message("n", 7, []byte("abc"), []byte("defg"))
	for n := range whole {
		if _, _, frames, ok := redis.ReadMessage(whole[:n]); ok && len(frames) > 1 {
			t.Errorf("the first %d bytes of a message read as %d frames", n, len(frames))
		}
	}
	for what, b := range map[string][]byte{
		"too large":                  redis.Message("n", 1, large, large),
		"another version":            append([]byte{2}, whole[1:]...),
		"a frame too large":          append(redis.Message("n", 1), 0x81, 0x80, 0x40),
		"a length of 64 bits":        append(redis.Message("n", 1), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01),
		"a length that does not end": append(redis.Message("n", 1), 0xff),
		"a bad sender":               redis.Message("n n", 1),
		"no sender":                  redis.Message("", 1),
		"sequence 0":                 redis.Message("n", 0),
	} {
		if _, _, _, ok := redis.ReadMessage(b); ok {
			t.Errorf("a message with %s is read", what)
		}
	}
}

// FuzzMessage: what is read is within the bounds, and says the same when written again.
func FuzzMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add(redis.Message("a", 1))
	f.Add(redis.Message("0123456789abcdef", 1<<63, []byte("frame"), nil, bytes.Repeat([]byte("x"), 200)))
	f.Add(append(redis.Message("a", 1), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01))
	f.Fuzz(func(t *testing.T, b []byte) {
		sender, seq, frames, ok := redis.ReadMessage(b)
		if !ok {
			return
		}
		if len(b) > redis.MaxMessage || len(sender) > 64 {
			t.Fatalf("%d bytes of %q are over the bounds", len(b), sender)
		}
		sender2, seq2, frames2, ok := redis.ReadMessage(redis.Message(sender, seq, frames...))
		if !ok || sender2 != sender || seq2 != seq || len(frames2) != len(frames) {
			t.Fatalf("%q %d %q reads as %q %d %q, %v", sender, seq, frames, sender2, seq2, frames2, ok)
		}
		for i := range frames {
			if !bytes.Equal(frames[i], frames2[i]) {
				t.Fatalf("frame %d: %q, want %q", i, frames2[i], frames[i])
			}
		}
	})
}
