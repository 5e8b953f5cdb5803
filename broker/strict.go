package broker

import (
	"bytes"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
)

// strict checks the packets of a client before mochi sees them, by their layout (MQTT 5.0
// and 3.1.1, 2 and 3), and keeps none of them. It finds what mochi's decoder accepts, or
// what makes it panic: fields longer than their packet, bytes after the last one,
// properties twice or out of range, reserved bits. Whether the strings of packets other
// than CONNECT are UTF-8 is left to mochi, and what a packet means to the hooks. It is
// owned by the connection's reader.
//
// It changes one thing: flags of the fixed header that MQTT 3.1 does not use, or sets on a
// repeat (DUP of SUBSCRIBE, UNSUBSCRIBE and PUBREL), are given the values of 3.1.1.
type strict struct {
	maxFirst int // bytes of the first packet, CONNECT
	max      int // bytes of any other

	seen       bool   // the first packet was there
	version    byte   // of MQTT, once CONNECT has said it; 0 before, and if its answer could not be read
	maxPacket  uint32 // the client's Maximum Packet Size, or 0
	disconnect byte   // reason code of DISCONNECT, or 0

	packets, cost int // of the last call of whole: packets, and what they cost in eighths of units; see pace
	comps         int // of those packets, PUBCOMP
}

// whole returns how many bytes of b, which begins with a packet, are whole packets, of which
// it takes a turn at most. The
// error says what is wrong with the packet after them, of which the fixed header, or a
// part of it, may be enough to see that.
func (s *strict) whole(b []byte) (n int, err error) {
	for s.packets, s.cost, s.comps = 0, 0, 0; n < len(b) && s.packets < turn; s.packets++ {
		header, size, err := s.frame(b[n:])
		if err != nil || size == 0 {
			return n, err
		}
		s.seen = true
		if err := s.packet(b[n], b[n+header:n+size]); err != nil {
			return n, err
		}
		if s.version == 3 {
			b[n] ^= wrongFlags(b[n])
		}
		s.cost += 1 + size*ackUnits/unitBytes
		switch b[n] >> 4 {
		case packets.Puback, packets.Pubrec, packets.Pubrel:
		case packets.Pubcomp:
			s.comps++
		case packets.Subscribe, packets.Unsubscribe:
			s.cost += subscribeUnits*ackUnits - 1
		default:
			s.cost += ackUnits - 1
		}
		n += size
	}
	return n, nil
}

// frame looks at the fixed header of the packet at the beginning of b. It returns how long
// the fixed header and the packet are, or zeros if b does not hold all of it yet.
func (s *strict) frame(b []byte) (header, size int, err error) {
	if !s.seen && b[0] != packets.Connect<<4 {
		return 0, 0, errNotConnect
	}
	if err := s.typeAndFlags(b[0]); err != nil {
		return 0, 0, err
	}
	length, header := 0, 1
	for more := true; more; header++ {
		switch {
		case header > 4:
			return 0, 0, errMalformed
		case header == len(b):
			return 0, 0, nil
		}
		length |= int(b[header]&0x7f) << (7 * (header - 1))
		more = b[header] >= 0x80
	}
	limit := s.max
	if !s.seen {
		limit = s.maxFirst
	}
	switch size = header + length; {
	case size > limit:
		return 0, 0, errPacketTooLarge
	case size > len(b):
		return 0, 0, nil
	}
	return header, size, nil
}

// typeAndFlags checks the first byte of a packet.
func (s *strict) typeAndFlags(b byte) error {
	switch flags := b & 0xf; b >> 4 {
	case packets.Reserved:
		return errType
	case packets.Publish:
		switch {
		case flags&6 == 6:
			return errQoS
		case flags&0xe == 8:
			return errDup
		}
		return nil
	case packets.Connack, packets.Suback, packets.Unsuback, packets.Pingresp:
		return errNotClient
	case packets.Auth:
		if s.version < 5 {
			return errAuthV3
		}
		return errAuth
	case packets.Connect:
		if s.seen {
			return errConnectAgain
		}
	}
	if s.version != 3 && wrongFlags(b) != 0 {
		return errFlags
	}
	return nil
}

// wrongFlags returns those flags of a first byte that are not what they must be [MQTT-2.1.3-1].
func wrongFlags(b byte) byte {
	switch b >> 4 {
	case packets.Publish:
		return 0
	case packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		return b&0xf ^ 2
	}
	return b & 0xf
}

// packet checks a packet after its fixed header.
func (s *strict) packet(header byte, body []byte) error {
	kind := header >> 4
	f := fields{rest: body}
	switch kind {
	case packets.Connect:
		s.connect(&f)
	case packets.Publish:
		f.binary() // the topic
		if header&6 != 0 {
			f.packetID()
		}
		s.properties(&f, 1<<kind)
		f.rest = nil // the payload
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		f.packetID()
		s.reason(&f, kind)
	case packets.Subscribe, packets.Unsubscribe:
		f.packetID()
		s.properties(&f, 1<<kind)
		f.check(len(f.rest) > 0, errNoFilter)
		for len(f.rest) > 0 {
			f.check(len(f.binary()) > 0, errEmptyFilter)
			if kind == packets.Subscribe {
				s.options(&f)
			}
		}
	case packets.Disconnect:
		s.disconnect = s.reason(&f, kind)
	}
	f.check(len(f.rest) == 0, errTrailing)
	return f.err
}

// Flags of CONNECT.
const hasWill, hasPassword, hasUsername = 1 << 2, 1 << 6, 1 << 7

// connect checks CONNECT. A password without a user name, which 3.1.1 does not allow, is
// taken: an access token needs none.
func (s *strict) connect(f *fields) {
	f.utf8 = true
	name, version := f.binary(), f.byte()
	if f.err == nil {
		f.check(s.protocol(string(name), version), errVersion)
	}
	flags := f.byte()
	f.check(flags&1 == 0, errReserved)
	f.check(flags>>3&3 < 3, errWillQoS)
	f.check(flags&hasWill != 0 || flags&0x38 == 0, errWillFlags)
	f.number(2) // keep alive
	s.properties(f, 1<<packets.Connect)
	f.text() // client id
	if flags&hasWill != 0 {
		s.properties(f, inWill)
		f.text()
		f.binary()
	}
	if flags&hasUsername != 0 {
		f.text()
	}
	if flags&hasPassword != 0 {
		f.binary()
	}
}

// protocol reports whether the protocol's name and version are MQTT 3.1, 3.1.1 or 5.0.
// Where they are not, s.version says in which version the answer can be read. Mosquitto's
// bridges set the highest bit, which hooks take for what it says.
func (s *strict) protocol(name string, version byte) bool {
	switch plain := version &^ (1 << 7); {
	case name == "MQTT" && (plain == 4 || version == 5), name == "MQIsdp" && plain == 3:
		s.version = plain
		return true
	case name == "MQTT" && version&0x7f < 5, name == "MQIsdp":
		s.version = 4
	case name == "MQTT", version == 5:
		s.version = 5
	}
	return false
}

// options checks subscription options, in MQTT 3.1.1 the QoS.
func (s *strict) options(f *fields) {
	b := f.byte()
	f.check(b&0xc0 == 0 && (s.version == 5 || b < 3), errOptions)
	f.check(b&3 < 3, errMaximumQoS)
	f.check(b>>4&3 < 3, errRetainHandling)
}

// reason checks and returns the reason code at the end of a packet; it and the properties
// after it may be left out. MQTT 3.1.1 has neither.
func (s *strict) reason(f *fields, kind byte) byte {
	if s.version < 5 || len(f.rest) == 0 {
		return 0
	}
	code := f.byte()
	f.check(bytes.IndexByte(reasonCodes[kind], code) >= 0, errReason)
	if len(f.rest) > 0 {
		s.properties(f, 1<<kind)
	}
	return code
}

// reasonCodes are those that a client may send (MQTT 5.0, 2.4), by type of packet.
var reasonCodes = [...][]byte{
	packets.Puback:     {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	packets.Pubrec:     {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
	packets.Pubrel:     {0, 0x92},
	packets.Pubcomp:    {0, 0x92},
	packets.Disconnect: {0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99},
}

// fields reads the fields of a packet. After the first one that is wrong nothing is left.
type fields struct {
	rest []byte
	utf8 bool // strings are checked
	err  error
}

// check notes what is wrong, unless ok, or something was before.
func (f *fields) check(ok bool, wrong *violation) {
	if !ok && f.err == nil {
		f.rest, f.err = nil, wrong
	}
}

// take returns the next n bytes; nil if there are fewer.
func (f *fields) take(n int, missing *violation) []byte {
	if n > len(f.rest) {
		f.check(false, missing)
		return nil
	}
	b := f.rest[:n]
	f.rest = f.rest[n:]
	return b
}

func (f *fields) number(width int) (n uint32) {
	for _, b := range f.take(width, errShort) {
		n = n<<8 | uint32(b)
	}
	return n
}

func (f *fields) byte() byte { return byte(f.number(1)) }

func (f *fields) packetID() { f.check(f.number(2) > 0, errPacketID) }

// varint reads a variable byte integer (MQTT 5.0, 1.5.5).
func (f *fields) varint() (n uint32) {
	for shift := 0; shift < 28; shift += 7 {
		b := f.byte()
		n |= uint32(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
	f.check(false, errVarint)
	return 0
}

func (f *fields) binary() []byte { return f.take(int(f.number(2)), errOverrun) }

// text reads a string (MQTT 5.0, 1.5.4).
func (f *fields) text() []byte {
	b := f.binary()
	f.check(!f.utf8 || utf8.Valid(b) && bytes.IndexByte(b, 0) < 0, errText)
	return b
}
