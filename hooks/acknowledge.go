package hooks

import "github.com/mochi-mqtt/server/v2/packets"

// acknowledged ends the connection if an acknowledgement was not one that is due.
func (c *connection) acknowledged(err error) error {
	if err != nil {
		c.Disconnect(err)
		return packets.ErrRejectPacket
	}
	return nil
}

// pubrel answers the second half of a QoS 2 publish. An identifier that is not
// waiting for it is said to be unknown (0x92), which after a reconnect is no error
// (MQTT 5.0, 3.7.2.1); MQTT 3.1.1 has no way of saying so.
func (c *connection) pubrel(pk *packets.Packet) error {
	waited, err := c.intake.Release(pk.PacketID)
	if err == nil {
		c.writeAck(packets.Pubcomp, pk.PacketID, waited)
	}
	return c.acknowledged(err)
}

// pubrec answers the first half of the acknowledgement of a QoS 2 delivery.
func (c *connection) pubrec(pk *packets.Packet) error {
	refused := pk.ReasonCode >= packets.ErrUnspecifiedError.Code
	known, err := c.session.Pubrec(pk.PacketID, refused)
	if err == nil && !known && !refused {
		c.writeAck(packets.Pubrel, pk.PacketID, false)
	}
	return c.acknowledged(err)
}

func (c *connection) writeAck(kind byte, packetID uint16, known bool) {
	code := byte(0)
	if !known && c.Version() == 5 {
		code = packets.ErrPacketIdentifierNotFound.Code
	}
	c.WriteAck(kind, packetID, code)
}
