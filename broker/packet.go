package broker

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// Packets are written here, straight into the connection's buffer; mochi's encoder, which
// CONNACK alone is left to, copies its 700-byte Packet several times for each (2 µs against
// 0.1).

func itoa(n int) string { return strconv.Itoa(n) }

// Publish implements delivery.Sink.
func (c *Conn) Publish(f *delivery.Frame, p delivery.Packet) delivery.Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	start, outcome := c.startPublish()
	switch {
	case start < 0:
		return outcome
	case len(p.Subscriptions) > 0 && c.version == 5:
		c.out = appendFrame(c.buffer(), f, c.version, p)
	default:
		c.out = appendCached(c.buffer(), f, c.version, p)
	}
	return c.endPublish(start)
}

// Deliver implements delivery.Sink.
func (c *Conn) Deliver(d *chat.Publication, p delivery.Packet) delivery.Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	start, outcome := c.startPublish()
	if start < 0 {
		return outcome
	}
	c.out = appendDevice(c.buffer(), d, c.version, p, time.Now())
	return c.endPublish(start)
}

// startPublish returns where in the buffer a PUBLISH is to begin; -1: it is not to be
// written, and the outcome is that. mu is held.
func (c *Conn) startPublish() (int, delivery.Outcome) {
	switch {
	case c.shut():
		return -1, delivery.Written
	case len(c.out) >= c.server.limits.HighWater:
		c.full = true
		return -1, delivery.NoRoom
	}
	return len(c.out), 0
}

// endPublish takes a PUBLISH that is too large for the client out of the buffer again, and
// has any other one written. mu is held.
func (c *Conn) endPublish(start int) delivery.Outcome {
	if c.maxPacket > 0 && len(c.out)-start > c.maxPacket {
		c.out = c.out[:start]
		return delivery.TooLarge
	}
	c.server.counts.publishSent.Add(1)
	_ = c.kick()
	return delivery.Written
}

// appendCached appends the frame's encoding for this version, made on first need,
// and puts the packet identifier and flags of this copy into it.
func appendCached(b []byte, f *delivery.Frame, version byte, p delivery.Packet) []byte {
	slot := &f.Wire[wireSlot(version, p.QoS)]
	wire := slot.Load()
	if wire == nil {
		w := appendFrame(nil, f, version, delivery.Packet{QoS: min(p.QoS, 1)})
		wire = &w
		slot.Store(wire)
	}
	start := len(b)
	b = append(b, *wire...)
	b[start] = publishHeader(p)
	if p.QoS > 0 {
		at := start + 1
		for b[at]&0x80 != 0 { // the remaining length
			at++
		}
		at += 1 + 2 + topicLen(f.Topic)
		binary.BigEndian.PutUint16(b[at:], p.ID)
	}
	return b
}

func wireSlot(version, qos byte) int {
	slot := 0
	if version == 5 {
		slot = 2
	}
	if qos > 0 {
		slot++
	}
	return slot
}

func publishHeader(p delivery.Packet) byte {
	h := packets.Publish<<4 | p.QoS<<1
	if p.Dup {
		h |= 1 << 3
	}
	if p.Retain {
		h |= 1
	}
	return h
}

func topicLen(t chat.Topic) int {
	var buf [64]byte
	return len(t.Append(buf[:0]))
}

// maxOwnProps is the length of the properties that differ from copy to copy, where a
// buffer on the stack is enough: message expiry, and four subscription identifiers.
const maxOwnProps = 5 + 4*(1+4)

// appendFrame appends the PUBLISH of a frame.
func appendFrame(b []byte, f *delivery.Frame, version byte, p delivery.Packet) []byte {
	var topicBuf [64]byte
	var propsBuf [maxOwnProps]byte
	return appendPublish(b, version, p, f.Topic.Append(topicBuf[:0]), appendSubscriptionIDs(propsBuf[:0], p.Subscriptions), nil, f.Payload())
}

// appendDevice appends the PUBLISH of a publication to a device topic, with what is left
// of its expiry (MQTT 5.0, 3.3.2.3.3).
func appendDevice(b []byte, d *chat.Publication, version byte, p delivery.Packet, now time.Time) []byte {
	var propsBuf [maxOwnProps]byte
	own := propsBuf[:0]
	if version == 5 && !d.Expires.IsZero() {
		remaining, _ := d.Remaining(now)
		own = binary.BigEndian.AppendUint32(append(own, propMessageExpiry), remaining)
	}
	return appendPublish(b, version, p, d.Topic, appendSubscriptionIDs(own, p.Subscriptions), d.Properties, d.Payload)
}

func appendSubscriptionIDs(b []byte, ids []uint32) []byte {
	for _, id := range ids {
		b = appendVarint(append(b, propSubscriptionID), int(id))
	}
	return b
}

// appendPublish appends a PUBLISH (MQTT 5.0 and 3.1.1, 3.3). own and passedOn are its
// properties, encoded; MQTT 3.1.1 has none.
func appendPublish[T []byte | string](b []byte, version byte, p delivery.Packet, topic T, own, passedOn, payload []byte) []byte {
	length := 2 + len(topic) + len(payload)
	if p.QoS > 0 {
		length += 2
	}
	props := len(own) + len(passedOn)
	if version == 5 {
		length += varintLen(props) + props
	}
	b = slices.Grow(b, 1+varintLen(length)+length)
	b = appendVarint(append(b, publishHeader(p)), length)
	b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	if p.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, p.ID)
	}
	if version == 5 {
		b = appendVarint(b, props)
		b = append(append(b, own...), passedOn...)
	}
	return append(b, payload...)
}

// Identifiers of properties (MQTT 5.0, 2.2.2.2).
const (
	propMessageExpiry   = 0x02
	propSubscriptionID  = 0x0B
	propReasonString    = 0x1F
	propServerReference = 0x1C
	propUser            = 0x26
)

// Pubrel implements delivery.Sink.
func (c *Conn) Pubrel(packetID uint16) {
	c.pubrels.Add(1)
	c.WriteAck(packets.Pubrel, packetID, 0)
}

// WriteAck writes an acknowledgement without properties: PUBACK, PUBREC, PUBREL
// or PUBCOMP.
func (c *Conn) WriteAck(kind byte, packetID uint16, code byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shut() {
		c.out = appendAck(c.buffer(), kind, packetID, code, c.version, nil)
		_ = c.kick()
	}
}

// appendAck appends an acknowledgement (MQTT 5.0, 3.4 to 3.7); props are its
// properties, encoded. The short forms are used where they say the same.
func appendAck(b []byte, kind byte, packetID uint16, code, version byte, props []byte) []byte {
	flags := byte(0)
	if kind == packets.Pubrel {
		flags = 2 // [MQTT-3.6.1-1]
	}
	b = append(b, kind<<4|flags)
	switch {
	case version < 5 || code == 0 && len(props) == 0:
		b = append(b, 2)
		return binary.BigEndian.AppendUint16(b, packetID)
	case len(props) == 0:
		b = append(b, 3)
		return append(binary.BigEndian.AppendUint16(b, packetID), code)
	}
	b = appendVarint(b, 3+varintLen(len(props))+len(props))
	b = append(binary.BigEndian.AppendUint16(b, packetID), code)
	return append(appendVarint(b, len(props)), props...)
}

// WritePingresp answers PINGREQ.
func (c *Conn) WritePingresp() { _ = c.write([]byte{packets.Pingresp << 4, 0}) }

// WriteConnack answers a CONNECT: with the session present flag, reason code and properties
// of ack, as far as the client has asked for them, and takes them. After an error it is not written.
func (c *Conn) WriteConnack(connect, ack *packets.Packet) error {
	ack.FixedHeader.Type, ack.ProtocolVersion = packets.Connack, connect.ProtocolVersion
	asked := &connect.Properties
	ack.Mods = packets.Mods{
		MaxSize:             asked.MaximumPacketSize,
		DisallowProblemInfo: asked.RequestProblemInfoFlag && asked.RequestProblemInfo == 0, // [MQTT-3.1.2-29]
		AllowResponseInfo:   asked.RequestResponseInfo == 1,                                // [MQTT-3.1.2-28]
	}
	var b bytes.Buffer
	if err := ack.ConnackEncode(&b); err != nil {
		return err
	}
	if limit := int(asked.MaximumPacketSize); limit > 0 && b.Len() > limit { // [MQTT-3.1.2-24]
		return packets.ErrPacketTooLarge
	}
	return c.queue(b.Bytes(), c.connected.Load())
}

// WriteSubAck writes SUBACK or UNSUBACK with a code for each filter. In MQTT
// 3.1.1 a refusal is 0x80, and UNSUBACK has no codes.
func (c *Conn) WriteSubAck(kind byte, packetID uint16, codes []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut() {
		return
	}
	length := 2 + len(codes)
	switch {
	case c.version == 5:
		length++
	case kind == packets.Unsuback:
		codes, length = nil, 2
	}
	b := appendVarint(append(c.buffer(), kind<<4), length)
	b = binary.BigEndian.AppendUint16(b, packetID)
	if c.version == 5 {
		b = append(b, 0)
	}
	for _, code := range codes {
		if c.version < 5 && code > 2 {
			code = 0x80
		}
		b = append(b, code)
	}
	c.out = b
	_ = c.kick()
}

// appendDisconnect appends a DISCONNECT, with Reason String and Server Reference (MQTT
// 5.0, 3.14.2.2) if they fit into limit (0: any). The reason string is left out first.
func appendDisconnect(b []byte, d disconnection, limit int) []byte {
	var props []byte
	if d.reason != "" {
		props = appendStringProp(props, propReasonString, d.reason)
	}
	if d.reference != "" {
		props = appendStringProp(props, propServerReference, d.reference)
	}
	length := 1 + varintLen(len(props)) + len(props)
	if limit > 0 && 1+varintLen(length)+length > limit && d.reason != "" {
		return appendDisconnect(b, disconnection{code: d.code, reference: d.reference}, limit)
	}
	if len(props) == 0 || limit > 0 && 1+varintLen(length)+length > limit {
		return append(b, packets.Disconnect<<4, 1, d.code)
	}
	b = append(appendVarint(append(b, packets.Disconnect<<4), length), d.code)
	return append(appendVarint(b, len(props)), props...)
}

// appendRefusal appends the CONNACK for a CONNECT that is not one, where the version
// has a word for it: the client's Maximum Packet Size is limit, or 0.
func appendRefusal(b []byte, version byte, v *violation, limit uint32) []byte {
	switch {
	case version == 5:
		props := appendStringProp(nil, propReasonString, v.reason)
		if limit > 0 && 2+3+len(props) > int(limit) { // [MQTT-3.2.2-19]
			props = nil
		}
		b = append(b, packets.Connack<<4, byte(3+len(props)), 0, v.code, byte(len(props)))
		return append(b, props...)
	case version == 4 && v == errVersion:
		return append(b, packets.Connack<<4, 2, 0, packets.Err3UnsupportedProtocolVersion.Code)
	}
	return b
}

// PassedOn returns the properties of a PUBLISH, or of a will, that are passed on as
// they are, for chat.Publication; nil if there are none. The order of user properties
// is kept [MQTT-3.3.2-18].
func PassedOn(p *packets.Properties) []byte {
	var b []byte
	if p.PayloadFormatFlag {
		b = append(b, chat.PropPayloadFormat, p.PayloadFormat)
	}
	if p.ContentType != "" {
		b = appendStringProp(b, chat.PropContentType, p.ContentType)
	}
	if p.ResponseTopic != "" {
		b = appendStringProp(b, chat.PropResponseTopic, p.ResponseTopic)
	}
	if len(p.CorrelationData) > 0 {
		b = append(b, chat.PropCorrelationData)
		b = binary.BigEndian.AppendUint16(b, uint16(len(p.CorrelationData)))
		b = append(b, p.CorrelationData...)
	}
	for _, u := range p.User {
		b = appendUserProp(b, u.Key, []byte(u.Val))
	}
	return b
}

func appendStringProp(b []byte, id byte, s string) []byte {
	return appendUTF8(append(b, id), s)
}

func appendUserProp(b []byte, key string, value []byte) []byte {
	b = appendUTF8(append(b, propUser), key)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	return append(b, value...)
}

func appendUTF8(b []byte, s string) []byte {
	if n := 0xffff; len(s) > n {
		for !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n]
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// appendVarint appends a Variable Byte Integer (MQTT 5.0, 1.5.5).
func appendVarint(b []byte, n int) []byte {
	for n > 0x7f {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func varintLen(n int) int {
	switch {
	case n < 1<<7:
		return 1
	case n < 1<<14:
		return 2
	case n < 1<<21:
		return 3
	}
	return 4
}
