package broker

import (
	"bytes"

	"github.com/mochi-mqtt/server/v2/packets"
)

// propertyType is the type of a property's value.
type propertyType byte

const (
	isFlag propertyType = iota // a byte, 0 or 1
	isUint16
	isUint32
	isVarint
	isText
	isBinary
	isPair // two texts
)

// knownProperties is table 2-4 of MQTT 5.0, as far as clients send them: of which type a
// property is, and in which packets: a bit for each.
var knownProperties = [...]struct {
	is propertyType
	in uint16
}{
	0x01:               {isFlag, inWill | 1<<packets.Publish}, // payload format indicator
	0x02:               {isUint32, inWill | 1<<packets.Publish},
	0x03:               {isText, inWill | 1<<packets.Publish},
	propResponseTopic:  {isText, inWill | 1<<packets.Publish},
	0x09:               {isBinary, inWill | 1<<packets.Publish},
	propSubscriptionID: {isVarint, 1<<packets.Publish | 1<<packets.Subscribe},
	0x11:               {isUint32, 1<<packets.Connect | 1<<packets.Disconnect},
	propAuthMethod:     {isText, 1 << packets.Connect},
	propAuthData:       {isBinary, 1 << packets.Connect},
	0x17:               {isFlag, 1 << packets.Connect}, // request problem information
	0x18:               {isUint32, inWill},
	0x19:               {isFlag, 1 << packets.Connect}, // request response information
	0x1C:               {isText, 1 << packets.Disconnect},
	propReasonString:   {isText, acknowledgements | 1<<packets.Disconnect},
	propReceiveMaximum: {isUint16, 1 << packets.Connect},
	0x22:               {isUint16, 1 << packets.Connect},
	0x23:               {isUint16, 1 << packets.Publish},
	propUser:           {isPair, inWill | 1<<packets.Connect | 1<<packets.Publish | acknowledgements | 1<<packets.Subscribe | 1<<packets.Unsubscribe | 1<<packets.Disconnect},
	propMaximumPacket:  {isUint32, 1 << packets.Connect},
}

const (
	inWill           = 1 // the bit of type 0, which no packet has
	acknowledgements = 1<<packets.Puback | 1<<packets.Pubrec | 1<<packets.Pubrel | 1<<packets.Pubcomp
)

// Identifiers of properties that are looked at.
const (
	propResponseTopic  = 0x08
	propAuthMethod     = 0x15
	propAuthData       = 0x16
	propReceiveMaximum = 0x21
	propMaximumPacket  = 0x27
)

// properties checks properties, which MQTT 3.1.1 does not have; in is the packet's bit.
func (s *strict) properties(f *fields, in uint16) {
	if s.version < 5 {
		return
	}
	list := f.take(int(f.varint()), errOverrun)
	after := f.rest
	f.rest = list
	var seen uint64
	for len(f.rest) > 0 {
		id := f.byte()
		if int(id) >= len(knownProperties) || knownProperties[id].in&in == 0 {
			f.check(false, errProperty)
			return
		}
		f.check(id == propUser || seen&(1<<id) == 0, errTwice)
		seen |= 1 << id
		s.property(f, id, in)
	}
	f.check(seen&(1<<propAuthData) == 0 || seen&(1<<propAuthMethod) != 0, errAuthData)
	if f.err == nil {
		f.rest = after
	}
}

// property checks the value of a property.
func (s *strict) property(f *fields, id byte, in uint16) {
	switch knownProperties[id].is {
	case isFlag:
		f.check(f.byte() < 2, errValue)
	case isUint16:
		n := f.number(2)
		f.check(n > 0 || id != propReceiveMaximum, errValue)
	case isUint32:
		if n := f.number(4); id == propMaximumPacket {
			s.maxPacket = n
			f.check(n > 0, errValue)
		}
	case isVarint: // the subscription identifier
		f.check(f.varint() > 0, errValue)
		f.check(in != 1<<packets.Publish, errSubscriptionID)
	case isText:
		text := f.text()
		f.check(id != propResponseTopic || !bytes.ContainsAny(text, "+#"), errResponseTopic)
	case isBinary:
		f.binary()
	case isPair:
		f.text()
		f.text()
	}
}
