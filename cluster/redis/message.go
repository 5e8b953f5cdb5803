package redis

import (
	"encoding/binary"
	"iter"

	"github.com/parleymq/parley/cluster"
)

// A message is what one PUBLISH carries to one node:
//
//	version   1 byte
//	sender    length in 1 byte, then that many bytes
//	sequence  8 bytes, big endian: counts the messages of this sender to this node, from 1
//	frames    each its length as a uvarint, then that many bytes; until the end
//
// A message of another version is ignored, so that nodes of both versions can run together
// during an upgrade. A node's message to itself is a probe of its subscription: it has no
// frames, and its sequence means nothing.
const messageVersion = 1

const (
	maxPacked  = 300 << 10              // frames are packed together up to this size
	maxMessage = cluster.MaxFrame + 512 // of a message: one frame and its head
)

func appendHead(b []byte, sender string, seq uint64) []byte {
	b = append(b, messageVersion, byte(len(sender)))
	b = append(b, sender...)
	return binary.BigEndian.AppendUint64(b, seq)
}

func appendFrame(b, frame []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(frame))), frame...)
}

type message struct {
	sender string
	seq    uint64
	frames []byte
}

// verdict says whether a message is passed on, or why not; a label of the metrics.
type verdict string

const (
	good         verdict = ""
	malformed    verdict = "malformed"
	otherVersion verdict = "version"
	repeated     verdict = "repeated"
)

// readMessage splits a message and checks all of it, so that none is passed on in part. It
// keeps b.
func readMessage(b []byte) (message, verdict) {
	switch {
	case len(b) == 0 || len(b) > maxMessage:
		return message{}, malformed
	case b[0] != messageVersion:
		return message{}, otherVersion
	case len(b) < 2 || len(b) < 2+int(b[1])+8:
		return message{}, malformed
	}
	end := 2 + int(b[1])
	m := message{string(b[2:end]), binary.BigEndian.Uint64(b[end:]), b[end+8:]}
	if !validID(m.sender) || m.seq == 0 {
		return message{}, malformed
	}
	for rest := m.frames; len(rest) > 0; {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > cluster.MaxFrame || n > uint64(len(rest)-size) {
			return message{}, malformed
		}
		rest = rest[size+int(n):]
	}
	return m, good
}

// all yields the frames of a message that was read.
func (m message) all() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for rest := m.frames; len(rest) > 0; {
			n, size := binary.Uvarint(rest)
			end := size + int(n)
			if !yield(rest[size:end:end]) {
				return
			}
			rest = rest[end:]
		}
	}
}
