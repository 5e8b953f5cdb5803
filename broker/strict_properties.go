package broker

import "github.com/mochi-mqtt/server/v2/packets"

// properties is table 2-4 of MQTT 5.0, as far as clients send them: of which type a
// property is, and in which packets: a bit for each. The will's bit is 0, which is no
// type of a packet.
var properties = [...]struct {
	is field
	in uint16
}{
	0x01:               {fieldByte, 1 | 1<<packets.Publish}, // payload format indicator
	0x02:               {fieldUint32, 1 | 1<<packets.Publish},
	0x03:               {fieldString, 1 | 1<<packets.Publish},
	propResponseTopic:  {fieldString, 1 | 1<<packets.Publish},
	0x09:               {fieldBinary, 1 | 1<<packets.Publish},
	propSubscriptionID: {fieldVarint, 1<<packets.Publish | 1<<packets.Subscribe},
	0x11:               {fieldUint32, 1<<packets.Connect | 1<<packets.Disconnect},
	propAuthMethod:     {fieldString, 1 << packets.Connect},
	propAuthData:       {fieldBinary, 1 << packets.Connect},
	0x17:               {fieldByte, 1 << packets.Connect}, // request problem information
	0x18:               {fieldUint32, 1},
	0x19:               {fieldByte, 1 << packets.Connect}, // request response information
	0x1C:               {fieldString, 1 << packets.Disconnect},
	propReasonString:   {fieldString, acknowledgements | 1<<packets.Disconnect},
	propReceiveMaximum: {fieldUint16, 1 << packets.Connect},
	0x22:               {fieldUint16, 1 << packets.Connect},
	0x23:               {fieldUint16, 1 << packets.Publish},
	propUser:           {fieldKey, 1 | 1<<packets.Connect | 1<<packets.Publish | acknowledgements | 1<<packets.Subscribe | 1<<packets.Unsubscribe | 1<<packets.Disconnect},
	propMaximumPacket:  {fieldUint32, 1 << packets.Connect},
}

const acknowledgements = 1<<packets.Puback | 1<<packets.Pubrec | 1<<packets.Pubrel | 1<<packets.Pubcomp

// Identifiers of properties that are looked at.
const (
	propResponseTopic  = 0x08
	propAuthMethod     = 0x15
	propAuthData       = 0x16
	propReceiveMaximum = 0x21
	propMaximumPacket  = 0x27
)

// nextProperty says what follows a property, or their length.
func (s *strict) nextProperty() error {
	switch {
	case s.props > 0:
		s.must(fieldProperty)
		return nil
	case s.seen&(1<<propAuthData) != 0 && s.seen&(1<<propAuthMethod) == 0:
		return errAuthData
	}
	s.afterProps()
	return nil
}

// afterProperty is after for the fields of properties.
func (s *strict) afterProperty(number uint32) error {
	switch s.at {
	case fieldProperty:
		return s.identifier(number)
	case fieldKey:
		s.must(fieldString)
		return nil
	case fieldByte: // all of them are flags
		if number > 1 {
			return errValue
		}
	}
	switch s.property {
	case propSubscriptionID, propReceiveMaximum:
		if number == 0 {
			return errValue
		}
		if s.kind == packets.Publish {
			return errSubscriptionID
		}
	case propMaximumPacket:
		if s.maxPacket = number; number == 0 {
			return errValue
		}
	}
	return s.nextProperty()
}

// identifier looks at the identifier of a property.
func (s *strict) identifier(id uint32) error {
	in := uint16(1) << s.kind
	if s.will {
		in = 1
	}
	if id >= uint32(len(properties)) || properties[id].in&in == 0 {
		return errProperty
	}
	if id != propUser && s.seen&(1<<id) != 0 {
		return errTwice
	}
	s.seen |= 1 << id
	s.property = byte(id)
	s.must(properties[id].is)
	return nil
}
