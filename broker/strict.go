package broker

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"
)

// strict checks the packets of a client while their bytes pass, in pieces of any
// size, and keeps none of them. It finds what mochi's decoder accepts, or what makes it
// panic: fields longer than their packet, bytes after the last one, properties twice or
// out of range, reserved bits. Whether the strings of packets other than CONNECT are
// UTF-8 is left to mochi, and what a packet means to the hooks. It is owned by the
// connection's reader.
type strict struct {
	version   byte   // of MQTT, once CONNECT has said it; 0 before, and if its answer could not be read
	maxPacket uint32 // the client's Maximum Packet Size, or 0

	kind   byte   // type of the packet at hand
	flags  byte   // of its fixed header; of CONNECT its own, once they are read
	body   int    // bytes of it that are still to come
	at     field  // what comes next, or is being read
	mayEnd bool   // the packet may end before that
	have   byte   // bytes read of the number at hand
	number uint32 // and what they say
	inText bool   // its length is read
	left   int    // bytes of the text at hand that are still to come

	props    int    // bytes of the properties that are still to come
	property byte   // the identifier of the one at hand
	seen     uint64 // a bit for each that was there
	will     bool   // they are the will's

	name  [6]byte // of the protocol
	named int     // its length
	text  runes
}

// field is a part of a packet. Fields of properties are next to each other, and so
// are those that are texts: two bytes of length, and as many as it says.
type field byte

const (
	fieldEnd     field = iota // nothing may follow
	fieldPayload              // anything may
	fieldPacketID
	fieldReason
	fieldOptions
	fieldVersion
	fieldFlags // of CONNECT
	fieldKeepAlive
	fieldProps // the length of the properties
	fieldProperty
	fieldByte
	fieldUint16
	fieldUint32
	fieldVarint
	fieldKey // of a user property
	fieldString
	fieldBinary
	fieldName
	fieldTopic
	fieldFilter
	fieldClientID
	fieldWillTopic
	fieldWillPayload
	fieldUsername
	fieldPassword
)

func (f field) isText() bool { return f >= fieldKey }
func (f field) isBinary() bool {
	return f == fieldBinary || f == fieldWillPayload || f == fieldPassword
}
func (f field) isVarint() bool { return f == fieldProps || f == fieldVarint }
func (f field) inProps() bool  { return f >= fieldProperty && f <= fieldBinary }

// must says what follows; may, what follows if anything does.
func (s *strict) must(next field) { s.at, s.mayEnd = next, false }
func (s *strict) may(next field)  { s.at, s.mayEnd = next, true }

// widths is how many bytes a number has.
var widths = [fieldPassword + 1]byte{
	fieldPacketID: 2, fieldReason: 1, fieldOptions: 1, fieldVersion: 1, fieldFlags: 1, fieldKeepAlive: 2,
	fieldProperty: 1, fieldByte: 1, fieldUint16: 2, fieldUint32: 4,
	fieldKey: 2, fieldString: 2, fieldBinary: 2, fieldName: 2, fieldTopic: 2, fieldFilter: 2,
	fieldClientID: 2, fieldWillTopic: 2, fieldWillPayload: 2, fieldUsername: 2, fieldPassword: 2,
}

// header looks at the first byte of a packet; first tells that it is the connection's.
func (s *strict) header(b byte, first bool) error {
	s.kind, s.flags = b>>4, b&0xf
	switch s.kind {
	case packets.Reserved:
		return errType
	case packets.Publish:
		switch {
		case s.flags&6 == 6:
			return errQoS
		case s.flags&0xe == 8:
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
		if !first {
			return errConnectAgain
		}
	case packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		s.flags ^= 2
	}
	if s.flags != 0 {
		return errFlags
	}
	return nil
}

// begin starts the body of a packet, of n bytes.
func (s *strict) begin(n int) error {
	s.body, s.props, s.seen, s.will = n, 0, 0, false
	s.have, s.number, s.inText = 0, 0, false
	s.must(fieldEnd) // PINGREQ
	switch s.kind {
	case packets.Connect:
		s.at = fieldName
	case packets.Publish:
		s.at = fieldTopic
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp, packets.Subscribe, packets.Unsubscribe:
		s.at = fieldPacketID
	case packets.Disconnect:
		if s.version == 5 {
			s.may(fieldReason)
		}
	}
	return s.end()
}

// feed takes the next bytes of the body.
func (s *strict) feed(b []byte) error {
	for len(b) > 0 {
		var n int
		var err error
		switch {
		case s.at == fieldPayload:
			n = len(b)
			s.body -= n
		case s.at == fieldEnd:
			return errTrailing
		case s.inText:
			n, err = s.feedText(b)
		case s.at.isVarint():
			n, err = s.feedVarint(b)
		default:
			n, err = s.feedNumber(b)
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return s.end()
}

// end says what is wrong with a packet that has no bytes left.
func (s *strict) end() error {
	switch {
	case s.body > 0, s.at <= fieldPayload, s.mayEnd && s.have == 0 && !s.inText:
		return nil
	case s.at == fieldFilter && s.have == 0 && !s.inText:
		return errNoFilter
	}
	return errShort
}

// room is how many bytes there are for the field at hand.
func (s *strict) room() int {
	if s.at.inProps() {
		return s.props
	}
	return s.body
}

// took accounts for n bytes of the field at hand.
func (s *strict) took(n int) {
	s.body -= n
	if s.at.inProps() {
		s.props -= n
	}
}

// feedNumber reads a number, which may be the length of a text.
func (s *strict) feedNumber(b []byte) (n int, err error) {
	width := widths[s.at]
	if int(width-s.have) > s.room() {
		return 0, errShort
	}
	for n < len(b) && s.have < width {
		s.number = s.number<<8 | uint32(b[n])
		s.have++
		n++
	}
	s.took(n)
	if s.have < width {
		return n, nil
	}
	number := s.number
	s.have, s.number = 0, 0
	if !s.at.isText() {
		return n, s.after(number)
	}
	s.left, s.inText = int(number), true
	switch {
	case s.left > s.room():
		return n, errOverrun
	case s.left == 0 && s.at == fieldFilter:
		return n, errEmptyFilter
	case s.left > 0:
		return n, nil
	}
	return n, s.textEnds()
}

// feedVarint reads a variable byte integer (MQTT 5.0, 1.5.5).
func (s *strict) feedVarint(b []byte) (n int, err error) {
	for n < len(b) {
		if s.room() == 0 {
			return n, errShort
		}
		c := b[n]
		n++
		s.took(1)
		s.number |= uint32(c&0x7f) << (7 * s.have)
		if s.have++; c < 0x80 {
			number := s.number
			s.have, s.number = 0, 0
			return n, s.after(number)
		}
		if s.have == 4 {
			return n, errVarint
		}
	}
	return n, nil
}

// feedText passes over a text, or a part of it.
func (s *strict) feedText(b []byte) (n int, err error) {
	n = min(len(b), s.left)
	piece := b[:n]
	s.left -= n
	s.took(n)
	switch {
	case s.kind == packets.Connect && s.at == fieldName:
		copy(s.name[min(s.named, len(s.name)):], piece)
		s.named += n
	case s.kind == packets.Connect && !s.at.isBinary() && !s.text.feed(piece):
		return n, errText
	case s.at == fieldString && s.property == propResponseTopic && bytes.ContainsAny(piece, "+#"):
		return n, errResponseTopic
	}
	if s.left > 0 {
		return n, nil
	}
	return n, s.textEnds()
}

func (s *strict) textEnds() error {
	s.inText = false
	if s.text.within() {
		return errText
	}
	return s.after(0)
}
