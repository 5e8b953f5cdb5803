package campaign

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"strconv"
)

// Packet types (MQTT 5.0, 2.1.2).
const (
	connect    = 1
	connack    = 2
	publish    = 3
	puback     = 4
	pubrec     = 5
	pubrel     = 6
	pubcomp    = 7
	subscribe  = 8
	suback     = 9
	pingreq    = 12
	pingresp   = 13
	disconnect = 14
)

// packet is one MQTT packet, not looked into.
type packet struct {
	kind, flags byte
	body        []byte
}

var errMalformed = errors.New("malformed packet from the server")

func readPacket(r *bufio.Reader) (packet, error) {
	header, err := r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return packet{}, err
	}
	if n > 1<<20 {
		return packet{}, errMalformed
	}
	body := make([]byte, n)
	_, err = io.ReadFull(r, body)
	return packet{header >> 4, header & 15, body}, err
}

func appendPacket(b []byte, header byte, body []byte) []byte {
	return append(binary.AppendUvarint(append(b, header), uint64(len(body))), body...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

// encodeAck is a PUBACK, PUBREC, PUBREL or PUBCOMP.
func encodeAck(kind byte, id uint16) []byte {
	header := kind << 4
	if kind == pubrel {
		header |= 2
	}
	return []byte{header, 2, byte(id >> 8), byte(id)}
}

func encodeConnect(p *profile, u *user) []byte {
	flags := byte(0xc0) // user name and password
	if !p.persistent {
		flags |= 2
	}
	body := append(appendText(nil, "MQTT"), p.version, flags, 0, 30)
	if p.version == 5 {
		var props []byte
		if p.persistent {
			props = binary.BigEndian.AppendUint32(append(props, 0x11), 24*3600)
		}
		if p.receiveMaximum > 0 {
			props = binary.BigEndian.AppendUint16(append(props, 0x21), uint16(p.receiveMaximum))
		}
		body = append(binary.AppendUvarint(body, uint64(len(props))), props...)
	}
	body = appendText(appendText(appendText(body, p.clientID), u.name), u.token)
	return appendPacket(nil, connect<<4, body)
}

func encodeSubscribe(version byte, id uint16, qos byte, filters []string) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if version == 5 {
		body = append(body, 0)
	}
	for _, f := range filters {
		body = append(appendText(body, f), qos)
	}
	return appendPacket(nil, subscribe<<4|2, body)
}

func encodePublish(version byte, id uint16, qos byte, dup bool, topic string, payload []byte) []byte {
	header := byte(publish<<4) | qos<<1
	if dup {
		header |= 8
	}
	body := binary.BigEndian.AppendUint16(appendText(nil, topic), id)
	if version == 5 {
		body = append(body, 0)
	}
	return appendPacket(nil, header, append(body, payload...))
}

// publication is a PUBLISH from the server.
type publication struct {
	topic   string
	id      uint16
	qos     byte
	dup     bool
	payload []byte
}

func decodePublish(version byte, pk packet) (publication, error) {
	p := publication{qos: pk.flags >> 1 & 3, dup: pk.flags&8 != 0}
	topic, rest, ok := cutText(pk.body)
	p.topic = topic
	if ok && p.qos > 0 {
		if ok = len(rest) >= 2; ok {
			p.id, rest = binary.BigEndian.Uint16(rest), rest[2:]
		}
	}
	if ok && version == 5 {
		n, used := binary.Uvarint(rest)
		if ok = used > 0 && uint64(len(rest)-used) >= n; ok {
			rest = rest[used+int(n):]
		}
	}
	if !ok {
		return p, errMalformed
	}
	p.payload = rest
	return p, nil
}

func cutText(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	return string(b[2 : 2+n]), b[2+n:], true
}

// outcome is what a PUBACK or PUBREC says.
type outcome struct {
	id     uint16
	code   byte
	stored stored // zero in MQTT 3.1.1, and where it says nothing
}

// stored is the place that an acknowledgement names.
type stored struct {
	id  string
	seq int64
}

func decodeAck(pk packet) (o outcome, err error) {
	b := pk.body
	if len(b) < 2 {
		return o, errMalformed
	}
	o.id = binary.BigEndian.Uint16(b)
	if len(b) < 4 {
		if len(b) == 3 {
			o.code = b[2]
		}
		return o, nil
	}
	o.code = b[2]
	n, used := binary.Uvarint(b[3:])
	if used <= 0 || uint64(len(b)-3-used) < n {
		return o, errMalformed
	}
	for b = b[3+used:]; len(b) > 0 && b[0] == 0x26; {
		name, rest, ok := cutText(b[1:])
		value, after, ok2 := cutText(rest)
		if !ok || !ok2 {
			return o, errMalformed
		}
		switch name {
		case "id":
			o.stored.id = value
		case "seq":
			o.stored.seq, err = strconv.ParseInt(value, 10, 64)
		}
		b = after
	}
	return o, err
}
