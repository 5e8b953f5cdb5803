package chat_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
)

func TestResendKeys(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	seen := map[chat.ID][2]uint64{}
	for range 20000 {
		session, packet := r.Uint64(), uint16(1+r.IntN(65535))
		at := time.UnixMilli(r.Int64N(1 << 44))
		n := uint8(r.IntN(256))
		prefix, key := chat.ResendPrefix(session, packet), chat.ResendKey(session, packet, at, n)
		last := chat.ResendLast(key)
		if prefix.Compare(key) > 0 || key.Compare(last) > 0 {
			t.Fatalf("%s ≤ %s ≤ %s does not hold", prefix, key, last)
		}
		if chat.ResendLast(prefix) != last || chat.ResendLast(last) != last {
			t.Fatalf("keys of one packet have two last ones: %s, %s", chat.ResendLast(prefix), last)
		}
		if key[6]>>4 != 8 || key[8]>>6 != 2 {
			t.Fatalf("%s is no UUIDv8", key)
		}
		if next := chat.ResendKey(session, packet, at.Add(time.Millisecond), 0); next.Compare(key) <= 0 {
			t.Fatalf("a millisecond later comes before: %s, %s", next, key)
		}
		if n < 255 {
			if next := chat.ResendKey(session, packet, at, n+1); next.Compare(key) <= 0 {
				t.Fatalf("the next of the same millisecond comes before: %s, %s", next, key)
			}
		}
		source := [2]uint64{session & (1<<48 - 1), uint64(packet)}
		if other, ok := seen[prefix]; ok && other != source {
			t.Fatalf("%v and %v share a prefix", other, source)
		}
		seen[prefix] = source
		// A neighbour's keys are outside.
		for _, other := range []chat.ID{chat.ResendKey(session+1, packet, at, n), chat.ResendKey(session, packet+1, at, n), chat.ResendKey(session, packet^0x0f, at, n), chat.ResendKey(session, packet^0xf000, at, n)} {
			if prefix.Compare(other) <= 0 && other.Compare(last) <= 0 {
				t.Fatalf("%s is between %s and %s", other, prefix, last)
			}
		}
	}
}

func TestResendPrefixOfEveryPacketIdentifier(t *testing.T) {
	t.Parallel()
	seen := map[chat.ID]bool{}
	last := chat.ID{}
	for packet := range 65536 {
		p := chat.ResendPrefix(0xABCDEF012345, uint16(packet))
		if seen[p] || packet > 0 && p.Compare(chat.ResendLast(last)) <= 0 {
			t.Fatalf("packet %d has the prefix %s, which is another's", packet, p)
		}
		seen[p], last = true, p
	}
}

func TestSessionHash(t *testing.T) {
	t.Parallel()
	a, b := chat.ID{1}, chat.ID{2}
	seen := map[uint64]string{}
	for _, user := range []chat.ID{a, b} {
		for _, device := range []string{"", "a", "b", "ab", "ba", "phone", "phone "} {
			h := chat.SessionHash(user, device)
			if h>>48 != 0 || h != chat.SessionHash(user, device) {
				t.Errorf("SessionHash(%s, %q) = %x", user, device, h)
			}
			if other, ok := seen[h]; ok {
				t.Errorf("%s/%q and %s have one hash", user, device, other)
			}
			seen[h] = user.String() + device
		}
	}
	// Keys are kept in the database: the hash must be the same in every process and version.
	if h := chat.SessionHash(a, "phone"); h != 0x33b73e13e8db {
		t.Errorf("SessionHash has changed: %#x", h)
	}
}
