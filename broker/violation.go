package broker

import (
	"errors"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Errors that end a connection, beside violations.
var (
	errPacketTooLarge = errors.New("packet larger than the limit")
	errNotConnect     = errors.New("first packet is not CONNECT")
)

// violation is what is wrong with a packet: its reason code (MQTT 5.0, 4.13), and a
// reason string for the developer of the client.
type violation struct {
	code   byte
	reason string
}

func (v *violation) Error() string { return v.reason }

func malformed(reason string) *violation { return &violation{packets.ErrMalformedPacket.Code, reason} }

func protocolError(reason string) *violation {
	return &violation{packets.ErrProtocolViolation.Code, reason}
}

// Made once: a peer that sends garbage costs no memory.
var (
	errMalformed      = malformed("the remaining length has more than four bytes") // [MQTT-1.5.5-1]
	errType           = malformed("packet type 0 does not exist")                  // mochi closes without a word
	errAuthV3         = malformed("packet type 15 does not exist before MQTT 5.0")
	errQoS            = malformed("QoS 3 does not exist")                                      // [MQTT-3.3.1-4]; mochi calls it a protocol error
	errFlags          = malformed("the fixed header's flags are not those of the packet type") // [MQTT-2.1.3-1]
	errDup            = protocolError("DUP at QoS 0")                                          // [MQTT-3.3.1-2]
	errNotClient      = protocolError("a client does not send packets of this type")
	errAuth           = protocolError("AUTH without an authentication method in CONNECT") // [MQTT-4.12.0-6]
	errConnectAgain   = protocolError("a second CONNECT")                                 // [MQTT-3.1.0-2]
	errShort          = malformed("the packet ends within a field")
	errTrailing       = malformed("bytes after the last field")
	errOverrun        = malformed("length exceeds the enclosing field")
	errVarint         = malformed("a variable byte integer has more than four bytes") // [MQTT-1.5.5-1]
	errProperty       = malformed("a property that is not allowed in this packet")    // MQTT 5.0, 2.2.2.2
	errTwice          = protocolError("a property is there more than once")
	errValue          = protocolError("the value of a property is out of range")
	errSubscriptionID = protocolError("a client must not send a subscription identifier in PUBLISH") // [MQTT-3.3.4-6]
	errResponseTopic  = protocolError("a response topic must not contain wildcards")                 // [MQTT-3.3.2-14]
	errAuthData       = protocolError("authentication data without a method")                        // MQTT 5.0, 3.1.2.11.10
	errText           = malformed("a string is not UTF-8, or contains U+0000")                       // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
	errPacketID       = protocolError("a packet identifier of 0")                                    // [MQTT-2.2.1-3]
	errReason         = protocolError("a reason code that is not allowed in this packet")
	errNoFilter       = protocolError("SUBSCRIBE and UNSUBSCRIBE need at least one filter")                                  // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
	errEmptyFilter    = malformed("a topic filter must not be empty")                                                        // [MQTT-4.7.3-1]
	errOptions        = malformed("reserved bits of the subscription options are set")                                       // [MQTT-3.8.3-5]
	errMaximumQoS     = protocolError("a subscription at QoS 3")                                                             // MQTT 5.0, 3.8.3.1
	errRetainHandling = protocolError("retain handling 3 does not exist")                                                    // MQTT 5.0, 3.8.3.1
	errVersion        = &violation{packets.ErrUnsupportedProtocolVersion.Code, "only MQTT 3.1, 3.1.1 and 5.0 are supported"} // [MQTT-3.1.2-1], [MQTT-3.1.2-2]
	errReserved       = malformed("the reserved flag of CONNECT is set")                                                     // [MQTT-3.1.2-3]
	errWillQoS        = malformed("a will at QoS 3")                                                                         // [MQTT-3.1.2-12]
	errWillFlags      = malformed("Will QoS or Will Retain without a will")                                                  // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
)
