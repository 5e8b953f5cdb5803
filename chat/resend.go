package chat

import (
	"encoding/binary"
	"hash/maphash"
	"time"
)

// A client that sets no clientMsgId is protected against storing a resent packet
// twice through its packet identifier, while its session lives: its messages get a
// key made of session, packet identifier and time, a UUIDv8 (RFC 9562, 5.8).
//
// What was unacknowledged when a connection ended is kept with the session
// (UnackedPublish): one of its identifiers with the same content is the same packet, DUP
// or not, and takes the key of the first sending. That is stored once wherever, and
// whenever, the first sending arrives in the log.
//
// Otherwise (the server crashed, or the acknowledgement was lost behind a proxy) a
// PUBLISH marked DUP, in a session that was there before the connection, is looked
// up by session and identifier among those stored since shortly before the last
// connection ended; if the newest of them has the same content, the packet is a repeat of
// it. An older one is not what the client sends again: its acknowledgement arrived, or
// the identifier has come round.
//
//	bytes 0–5   hash of the session
//	bytes 6–8   version, variant and the packet identifier
//	bytes 9–15  milliseconds since 1970 and a counter

// ResendKey makes the key for a message that came without clientMsgId in the
// packet with the given identifier (1–65535). session is stable while the
// session lives; n tells messages of one millisecond apart.
func ResendKey(session uint64, packetID uint16, at time.Time, n uint8) ID {
	id := ResendPrefix(session, packetID)
	binary.BigEndian.PutUint64(id[8:], uint64(at.UnixMilli())<<8|uint64(n)|uint64(id[8])<<56)
	return id
}

// ResendPrefix returns the smallest key that session and packetID can have; the
// largest has 0xff in its last seven bytes, see ResendLast.
func ResendPrefix(session uint64, packetID uint16) ID {
	var id ID
	binary.BigEndian.PutUint64(id[:], session<<16)
	id[6] = 0x80 | byte(packetID>>12)
	id[7] = byte(packetID >> 4)
	id[8] = 0x80 | byte(packetID&15)
	return id
}

// ResendFrom returns the smallest key with the prefix of key that can have been
// made at or after since; a zero time means any.
func ResendFrom(key ID, since time.Time) ID {
	ms := max(0, since.UnixMilli())
	binary.BigEndian.PutUint64(key[8:], uint64(ms)<<8|uint64(key[8])<<56)
	return key
}

// ResendLast returns the largest key with the prefix of key.
func ResendLast(key ID) ID {
	for i := 9; i < len(key); i++ {
		key[i] = 0xff
	}
	return key
}

// SessionHash returns a stable 48-bit name of a user's device, for ResendKey.
func SessionHash(user ID, clientID string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a: stable across processes, unlike maphash
	for _, c := range user {
		h = (h ^ uint64(c)) * 1099511628211
	}
	for i := range len(clientID) {
		h = (h ^ uint64(clientID[i])) * 1099511628211
	}
	return (h ^ h>>48) & (1<<48 - 1)
}

var shardSeed = maphash.MakeSeed()

// Shard spreads ids over n buckets, evenly and the same way for the life of the
// process. n must be positive.
func (id ID) Shard(n int) int {
	return int(maphash.Bytes(shardSeed, id[:]) % uint64(n))
}
