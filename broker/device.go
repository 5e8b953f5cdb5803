package broker

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// Deliver implements delivery.Sink.
func (c *Conn) Deliver(d *chat.Publication, p delivery.Packet) delivery.Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shut() {
		return delivery.Written
	}
	start := len(c.out)
	if start >= c.limits.HighWater {
		c.full = true
		return delivery.NoRoom
	}
	c.out = appendDevice(c.buffer(), d, c.version, p, time.Now())
	if c.maxPacket > 0 && len(c.out)-start > c.maxPacket {
		c.out = c.out[:start]
		return delivery.TooLarge
	}
	c.sent.Add(1)
	_ = c.kick()
	return delivery.Written
}

const (
	propMessageExpiry = 0x02
	maxDeviceProps    = 5 + 4*(1+4) // of those that differ from copy to copy, where a buffer on the stack is enough
)

// appendDevice appends the PUBLISH of a publication to a device topic (MQTT 5.0 and
// 3.1.1, 3.3), with what is left of its expiry (MQTT 5.0, 3.3.2.3.3).
func appendDevice(b []byte, d *chat.Publication, version byte, p delivery.Packet, now time.Time) []byte {
	var buf [maxDeviceProps]byte
	props := buf[:0]
	length := 2 + len(d.Topic) + len(d.Payload)
	if p.QoS > 0 {
		length += 2
	}
	all := 0
	if version == 5 {
		if !d.Expires.IsZero() {
			left, _ := d.Remaining(now)
			props = binary.BigEndian.AppendUint32(append(props, propMessageExpiry), left)
		}
		for _, id := range p.Subscriptions {
			props = appendVarint(append(props, propSubscriptionID), int(id))
		}
		all = len(props) + len(d.Properties)
		length += varintLen(all) + all
	}
	b = slices.Grow(b, 1+varintLen(length)+length)
	header := publishHeader(p)
	if p.Retain {
		header |= 1
	}
	b = appendVarint(append(b, header), length)
	b = binary.BigEndian.AppendUint16(b, uint16(len(d.Topic)))
	b = append(b, d.Topic...)
	if p.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, p.ID)
	}
	if version == 5 {
		b = appendVarint(b, all)
		b = append(append(b, props...), d.Properties...)
	}
	return append(b, d.Payload...)
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

// Counts are what a server has read and written since it started.
type Counts struct {
	Received, PublishReceived, PublishSent int64 // packets; Received: of any type
	BytesReceived                          int64
}

// Counts returns what has been read and written so far.
func (s *Server) Counts() Counts {
	i := s.mochi.Info
	return Counts{
		Received: atomic.LoadInt64(&i.PacketsReceived), PublishReceived: atomic.LoadInt64(&i.MessagesReceived),
		PublishSent: s.sent.Load(), BytesReceived: atomic.LoadInt64(&i.BytesReceived),
	}
}

// Connections returns how many connections are open.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}
