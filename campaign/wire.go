package campaign

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker/brokertest"
)

// packet is an MQTT packet, as the test client of the broker writes and reads it.
type packet = packets.Packet

const maxPacket = 1 << 20 // bytes of a packet's body; the server sends no larger ones

// stored is the place in the log that an acknowledgement names.
type stored struct {
	id  string
	seq int64
}

// dial makes the device's connection, over TCP or WebSocket.
func (p *profile) dial(ctx context.Context, node *server) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	if p.web {
		return brokertest.OpenWebSocket(ctx, &d, "ws://"+node.http.addr()+"/mqtt")
	}
	return d.DialContext(ctx, "tcp", node.mqtt.addr())
}

// handshake sends CONNECT and returns the CONNACK.
func (p *profile) handshake(ctx context.Context, c *campaign, u *user, conn net.Conn, r *bufio.Reader) (packet, error) {
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	o := brokertest.Connect{
		Version: p.version, ClientID: p.clientID, Username: u.name, Password: u.token, Persistent: p.persistent, KeepAlive: 30,
		ReceiveMaximum: uint16(p.receiveMaximum),
	}
	if p.persistent {
		o.SessionExpiry = 24 * 3600
	}
	if _, err := conn.Write(p.encode(o.Packet())); err != nil {
		return packet{}, err
	}
	pk, err := p.next(c, r)
	if err == nil && pk.FixedHeader.Type != packets.Connack {
		err = fmt.Errorf("%s instead of CONNACK", brokertest.Describe(pk))
	}
	_ = conn.SetDeadline(time.Time{})
	return pk, err
}

// next returns the next packet. One that no server may send is a violation.
func (p *profile) next(c *campaign, r *bufio.Reader) (packet, error) {
	header, err := r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return packet{}, err
	}
	body := make([]byte, min(n, maxPacket))
	if _, err := io.ReadFull(r, body); err != nil {
		return packet{}, err
	}
	pk, err := brokertest.Decode(header, body, p.version)
	if err == nil && n > maxPacket {
		err = fmt.Errorf("a packet of %d bytes", n)
	}
	if err != nil {
		c.violate("protocol", "%s: %v", p.clientID, err)
	}
	return pk, err
}

// encode returns the bytes of a packet of the device's.
func (p *profile) encode(pk packet) []byte {
	pk.ProtocolVersion = p.version
	b, err := brokertest.Encode(pk)
	if err != nil {
		panic("campaign: " + err.Error()) // a bug of ours
	}
	return b
}

// ack is a PUBACK, PUBREC, PUBREL or PUBCOMP.
func ack(kind byte, id uint16) packet {
	return packet{FixedHeader: packets.FixedHeader{Type: kind}, PacketID: id}
}

func (p *profile) subscribe(id uint16, filters ...string) packet {
	pk := packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: id}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f, Qos: p.subQoS})
	}
	return pk
}
