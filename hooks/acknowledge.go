package hooks

import "github.com/mochi-mqtt/server/v2/packets"

// pubrel answers the second half of a QoS 2 publish. An identifier that is not
// waiting for it is said to be unknown (0x92), which after a reconnect is no error
// (MQTT 5.0, 3.7.2.1); MQTT 3.1.1 has no way of saying so.
func (h *Hook) pubrel(c *connection, pk *packets.Packet) {
	c.writeAck(packets.Pubcomp, pk.PacketID, c.intake.Release(pk.PacketID))
}

// pubrec answers the first half of the acknowledgement of a QoS 2 delivery.
func (h *Hook) pubrec(c *connection, pk *packets.Packet) {
	refused := pk.ReasonCode >= packets.ErrUnspecifiedError.Code
	if known := c.session.Pubrec(pk.PacketID, refused); !known && !refused {
		c.writeAck(packets.Pubrel, pk.PacketID, false)
	}
}

func (c *connection) writeAck(kind byte, packetID uint16, known bool) {
	code := byte(0)
	if !known && c.Version() == 5 {
		code = packets.ErrPacketIdentifierNotFound.Code
	}
	c.WriteAck(kind, packetID, code)
}
