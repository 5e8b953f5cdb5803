package chat

import (
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"
)

// MaxPacketBytes is the largest value that the limit of a packet may be set to: everything
// on the way has room for such a packet.
const MaxPacketBytes = 16 << 20

// Limits of device topics.
const (
	MaxTopicBytes         = 1024                   // of a name or a filter, without $share/{name}/
	MaxTopicLevels        = 32                     // of either
	MaxPublicationBytes   = MaxPacketBytes + 2<<10 // of an encoded Publication, whose topic the packet may have as an alias
	MaxRetainedByUser     = 10_000                 // retained messages published by one user
	MaxQueuedPublications = 1000                   // in a session queue
	MaxQueuedBytes        = 1 << 20                // likewise, where a packet has the default limit
)

// Publication is a PUBLISH to a device topic on its way to its receivers. They share it:
// it must not be changed.
type Publication struct {
	Space   ID        // the user whose topic it is: names below dev/ are each user's own; zero: the shared space
	Topic   string    // 1 to MaxTopicBytes bytes of UTF-8
	QoS     byte      // as published: the highest at which it is delivered
	Retain  bool      // the RETAIN flag, as published
	Origin  uint64    // SessionHash of the publishing session, for No Local; 0: none
	Expires time.Time // it is not sent after this (MQTT 5.0, 3.3.2.3.3); zero: never
	// Properties are those that are forwarded unchanged, in the encoding of MQTT 5.0,
	// 2.2.2: payload format indicator, content type, response topic, correlation data and
	// user properties.
	Properties []byte
	Payload    []byte
}

// Cost is the size in bytes that a publication counts for in a queue.
func (p *Publication) Cost() int {
	return 128 + len(p.Topic) + len(p.Properties) + len(p.Payload)
}

// Remaining returns the rest of the message expiry interval at a time, in whole seconds;
// false if it has expired. Without an expiry it is 0, true.
func (p *Publication) Remaining(now time.Time) (seconds uint32, ok bool) {
	if p.Expires.IsZero() {
		return 0, true
	}
	left := p.Expires.Sub(now)
	if left <= 0 {
		return 0, false
	}
	return uint32(min((left+time.Second-1)/time.Second, math.MaxUint32)), true
}

// PublicationCopy is one session's copy of a publication.
type PublicationCopy struct {
	*Publication
	QoS           byte     // the lower of the publication's and the subscription's
	RetainFlag    bool     // [MQTT-3.3.1-12], [MQTT-3.3.1-13]
	Subscriptions []uint32 // MQTT 5 subscription identifiers of the filters that cover it
}

const publicationVersion = 1

// AppendBinary appends the encoding in which nodes send each other publications. It never
// fails.
func (p *Publication) AppendBinary(b []byte) ([]byte, error) {
	flags := p.QoS & 3
	if p.Retain {
		flags |= 1 << 2
	}
	if !p.Expires.IsZero() {
		flags |= 1 << 3
	}
	b = append(b, publicationVersion, flags)
	b = append(b, p.Space[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Origin)
	if !p.Expires.IsZero() {
		b = binary.BigEndian.AppendUint64(b, uint64(p.Expires.UnixMilli()))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Topic)))
	b = append(b, p.Topic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.Properties)))
	b = append(b, p.Properties...)
	return append(b, p.Payload...), nil
}

// ParsePublication parses the encoding of AppendBinary, of at most MaxPublicationBytes;
// otherwise Invalid. The publication refers to b.
func ParsePublication(b []byte) (*Publication, error) {
	bad := func(why string) (*Publication, error) {
		return nil, &Error{Code: Invalid, Op: "chat.ParsePublication", Field: "publication", Msg: why}
	}
	const head = 2 + 16 + 8
	if len(b) > MaxPublicationBytes {
		return bad("has " + itoa(len(b)) + " bytes, limit " + itoa(MaxPublicationBytes))
	}
	if len(b) < head || b[0] != publicationVersion || b[1]>>4 != 0 || b[1]&3 == 3 {
		return bad("has an invalid header")
	}
	flags := b[1]
	p := &Publication{Space: ID(b[2:18]), QoS: flags & 3, Retain: flags&(1<<2) != 0, Origin: binary.BigEndian.Uint64(b[18:])}
	b = b[head:]
	if flags&(1<<3) != 0 {
		if len(b) < 8 {
			return bad("ends within its expiry")
		}
		p.Expires, b = time.UnixMilli(int64(binary.BigEndian.Uint64(b))), b[8:]
	}
	if len(b) < 2 {
		return bad("ends within its topic")
	}
	n := int(binary.BigEndian.Uint16(b))
	if b = b[2:]; n == 0 || n > MaxTopicBytes || n+4 > len(b) || !utf8.Valid(b[:n]) {
		return bad("has an invalid topic")
	}
	p.Topic, b = string(b[:n]), b[n:]
	props := int64(binary.BigEndian.Uint32(b))
	if b = b[4:]; props > int64(len(b)) || !ValidProperties(b[:props]) {
		return bad("has invalid properties")
	}
	p.Properties, p.Payload = b[:props:props], b[props:]
	if len(p.Properties) == 0 {
		p.Properties = nil
	}
	return p, nil
}

// Identifiers of the properties that are forwarded (MQTT 5.0, 2.2.2.2).
const (
	PropPayloadFormat   = 0x01 // one byte
	PropContentType     = 0x03 // a string
	PropResponseTopic   = 0x08 // a string
	PropCorrelationData = 0x09 // binary data
	PropUser            = 0x26 // two strings
)

// ValidProperties reports whether b is a sequence of complete properties that a
// Publication may have.
func ValidProperties(b []byte) bool {
	field := func() bool {
		if len(b) < 2 {
			return false
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		if n > len(b) {
			return false
		}
		b = b[n:]
		return true
	}
	for len(b) > 0 {
		id := b[0]
		b = b[1:]
		switch id {
		case PropPayloadFormat:
			if len(b) < 1 || b[0] > 1 {
				return false
			}
			b = b[1:]
		case PropContentType, PropResponseTopic, PropCorrelationData:
			if !field() {
				return false
			}
		case PropUser:
			if key := field(); !key || !field() {
				return false
			}
		default:
			return false
		}
	}
	return true
}
