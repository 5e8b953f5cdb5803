package broker

import "github.com/mochi-mqtt/server/v2/packets"

// violation is what is wrong with a packet: the reason code that MQTT 5.0 has for it
// (4.13), and why, for whoever looks for the fault in the client.
type violation struct {
	code   byte
	reason string
}

func (v *violation) Error() string { return v.reason }

func malformed(reason string) *violation { return &violation{packets.ErrMalformedPacket.Code, reason} }

func protocolError(reason string) *violation {
	return &violation{packets.ErrProtocolViolation.Code, reason}
}

// Made once: a peer that sends rubbish costs no memory.
var (
	errMalformed      = malformed("the remaining length has more than four bytes") // [MQTT-1.5.5-1]
	errType           = malformed("packet type 0 does not exist")                  // mochi closes without a word
	errAuthV3         = malformed("packet type 15 does not exist in MQTT 3.1.1")
	errQoS            = malformed("QoS 3 does not exist")                              // [MQTT-3.3.1-4]; mochi calls it a protocol error
	errFlags          = malformed("the flags of the packet are not those of its type") // [MQTT-2.1.3-1]
	errDup            = protocolError("DUP at QoS 0")                                  // [MQTT-3.3.1-2]
	errNotClient      = protocolError("a client does not send packets of this type")
	errAuth           = protocolError("AUTH without an authentication method in CONNECT") // [MQTT-4.12.0-6]
	errConnectAgain   = protocolError("CONNECT for a second time")                        // [MQTT-3.1.0-2]
	errShort          = malformed("the packet ends within a field")
	errTrailing       = malformed("the packet goes on after its last field")
	errOverrun        = malformed("a length reaches beyond what it is in")
	errVarint         = malformed("a variable byte integer has more than four bytes") // [MQTT-1.5.5-1]
	errProperty       = malformed("a property that this packet does not have")        // MQTT 5.0, 2.2.2.2
	errTwice          = protocolError("a property twice")
	errValue          = protocolError("a property has a value that it cannot have")
	errSubscriptionID = protocolError("a subscription identifier in a PUBLISH of a client's") // [MQTT-3.3.4-6]
	errResponseTopic  = protocolError("a response topic holds no wildcards")                  // [MQTT-3.3.2-14]
	errAuthData       = protocolError("authentication data without a method")                 // MQTT 5.0, 3.1.2.11.10
	errText           = malformed("a text is not UTF-8, or holds NUL")                        // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
	errPacketID       = protocolError("a packet identifier of 0")                             // [MQTT-2.2.1-3]
	errReason         = protocolError("a reason code that this packet does not have")
	errNoFilter       = protocolError("SUBSCRIBE and UNSUBSCRIBE need at least one filter")                              // [MQTT-3.8.3-2], [MQTT-3.10.3-2]
	errEmptyFilter    = malformed("a topic filter has at least one character")                                           // [MQTT-4.7.3-1]
	errOptions        = malformed("reserved bits of the subscription options are set")                                   // [MQTT-3.8.3-5]
	errMaximumQoS     = protocolError("a subscription at QoS 3")                                                         // MQTT 5.0, 3.8.3.1
	errRetainHandling = protocolError("retain handling 3 does not exist")                                                // MQTT 5.0, 3.8.3.1
	errVersion        = &violation{packets.ErrUnsupportedProtocolVersion.Code, "the protocol is MQTT 3.1.1 or 5.0 here"} // [MQTT-3.1.2-1], [MQTT-3.1.2-2]
	errReserved       = malformed("the reserved flag of CONNECT is set")                                                 // [MQTT-3.1.2-3]
	errWillQoS        = malformed("a will at QoS 3")                                                                     // [MQTT-3.1.2-12]
	errWillFlags      = malformed("QoS or RETAIN of a will that is not there")                                           // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
)
