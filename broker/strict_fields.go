package broker

import "github.com/mochi-mqtt/server/v2/packets"

// after is called at the end of each field, with its number, and says what follows.
// This is the layout of the packets (MQTT 5.0 and 3.1.1, 3), with what each field may say.
func (s *strict) after(number uint32) error {
	if s.at.inProps() {
		return s.afterProperty(number)
	}
	switch s.at {
	case fieldPacketID:
		if number == 0 {
			return errPacketID
		}
		s.afterPacketID()
	case fieldReason:
		if !hasReason(s.kind, byte(number)) {
			return errReason
		}
		s.may(fieldProps)
	case fieldProps:
		if s.props = int(number); s.props > s.body {
			return errOverrun
		}
		return s.nextProperty()
	case fieldTopic:
		if s.flags&6 != 0 {
			s.must(fieldPacketID)
			return nil
		}
		s.afterPacketID()
	case fieldFilter:
		if s.kind == packets.Unsubscribe {
			s.may(fieldFilter)
			return nil
		}
		s.must(fieldOptions)
	case fieldOptions:
		s.may(fieldFilter)
		return s.options(byte(number))
	default:
		return s.afterConnect(byte(number))
	}
	return nil
}

// afterPacketID says what follows a packet identifier, or the topic at QoS 0.
func (s *strict) afterPacketID() {
	switch {
	case s.version == 5 && (s.kind == packets.Publish || s.kind == packets.Subscribe || s.kind == packets.Unsubscribe):
		s.must(fieldProps)
	case s.version == 5:
		s.may(fieldReason)
	default:
		s.afterProps()
	}
}

// afterProps says what follows the properties, or where they would be.
func (s *strict) afterProps() {
	switch s.kind {
	case packets.Connect:
		if s.must(fieldClientID); s.will {
			s.must(fieldWillTopic)
		}
	case packets.Publish:
		s.must(fieldPayload)
	case packets.Subscribe, packets.Unsubscribe:
		s.must(fieldFilter)
	default:
		s.must(fieldEnd)
	}
}

// afterConnect is after for the fields that only CONNECT has.
func (s *strict) afterConnect(number byte) error {
	switch s.at {
	case fieldName:
		s.must(fieldVersion)
	case fieldVersion:
		s.must(fieldFlags)
		return s.protocol(number)
	case fieldFlags:
		s.flags = number
		s.must(fieldKeepAlive)
		return connectFlags(number)
	case fieldKeepAlive:
		if s.must(fieldProps); s.version < 5 {
			s.afterProps()
		}
	case fieldClientID:
		if s.flags&hasWill == 0 {
			s.credentials(s.flags)
			return nil
		}
		s.will, s.seen = true, 0
		if s.must(fieldProps); s.version < 5 {
			s.afterProps()
		}
	case fieldWillTopic:
		s.must(fieldWillPayload)
	case fieldWillPayload:
		s.credentials(s.flags)
	case fieldUsername:
		s.credentials(s.flags &^ hasUsername)
	default:
		s.must(fieldEnd)
	}
	return nil
}

// Flags of CONNECT.
const hasWill, hasPassword, hasUsername = 1 << 2, 1 << 6, 1 << 7

// credentials says what follows, by the flags of CONNECT.
func (s *strict) credentials(flags byte) {
	switch {
	case flags&hasUsername != 0:
		s.must(fieldUsername)
	case flags&hasPassword != 0:
		s.must(fieldPassword)
	default:
		s.must(fieldEnd)
	}
}

// protocol looks at the protocol's name and version. Where it is another, version says
// in which the answer can be read. Mosquitto's bridges set the highest bit, which hooks
// take for what it says.
func (s *strict) protocol(version byte) error {
	name := string(s.name[:min(s.named, len(s.name))])
	switch {
	case s.named == 4 && name == "MQTT" && (version == 4 || version == 5):
		s.version = version
		return nil
	case s.named == 4 && name == "MQTT" && version == 4|1<<7:
		s.version = 4
		return nil
	case s.named == 4 && name == "MQTT" && version&0x7f < 5, s.named == 6 && name == "MQIsdp":
		s.version = 4
	case s.named == 4 && name == "MQTT", version == 5:
		s.version = 5
	}
	return errVersion
}

// connectFlags looks at the flags of CONNECT (MQTT 5.0, 3.1.2.3). A password without a
// user name, which 3.1.1 does not allow, is taken: an access token needs none.
func connectFlags(b byte) error {
	will, qos, retain := b&hasWill != 0, b>>3&3, b&(1<<5) != 0
	switch {
	case b&1 != 0:
		return errReserved
	case qos == 3:
		return errWillQoS
	case !will && (qos > 0 || retain):
		return errWillFlags
	}
	return nil
}

// options looks at the subscription options, in MQTT 3.1.1 the QoS.
func (s *strict) options(b byte) error {
	switch {
	case s.version < 5 && b > 2, b&0xc0 != 0:
		return errOptions
	case b&3 == 3:
		return errMaximumQoS
	case b>>4&3 == 3:
		return errRetainHandling
	}
	return nil
}

// hasReason reports whether a client may send the reason code in a packet of the kind
// (MQTT 5.0, 2.4).
func hasReason(kind, code byte) bool {
	switch kind {
	case packets.Pubrel, packets.Pubcomp:
		return code == 0 || code == 0x92
	case packets.Disconnect:
		switch code {
		case 0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99:
			return true
		}
		return false
	}
	switch code { // PUBACK and PUBREC
	case 0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99:
		return true
	}
	return false
}
