// Package bench makes load: MQTT 5 clients that cost next to nothing, so that what
// is measured on a machine shared with the server is the server. They speak just
// enough of the protocol to publish at QoS 1 with a window, and to receive and
// acknowledge.
package bench

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// client is one connection. All of it is owned by the goroutine that reads.
type client struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	buf  []byte
	next uint16 // packet identifier of the next publish
}

// Packet types (MQTT 5.0, 2.1.2).
const (
	typeConnect   = 1
	typeConnack   = 2
	typePublish   = 3
	typePuback    = 4
	typeSubscribe = 8
	typeSuback    = 9
)

// dial connects and logs in.
func dial(addr, clientID, token string) (*client, error) {
	return dialSized(addr, clientID, token, 16<<10)
}

// dialSized is dial with buffers of the given size.
func dialSized(addr, clientID, token string, size int) (*client, error) {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, size), w: bufio.NewWriterSize(conn, size), next: 1}
	body := append(appendString(nil, "MQTT"), 5, 0x42, 0, 120, 0) // clean start, password; keepalive 120 s; no properties
	body = appendString(appendString(body, clientID), token)
	c.packet(typeConnect<<4, body)
	if err := c.expect(typeConnack, 1); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect as %s: %w", clientID, err)
	}
	return c, nil
}

func (c *client) subscribe(filter string, qos byte) error {
	body := append(appendString([]byte{0, 1, 0}, filter), qos)
	c.packet(typeSubscribe<<4|2, body)
	return c.expect(typeSuback, 3)
}

// expect flushes, reads one packet and checks its type and the reason code at the
// given place.
func (c *client) expect(kind byte, code int) error {
	if err := c.w.Flush(); err != nil {
		return err
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	header, body, err := c.read()
	switch {
	case err != nil:
		return err
	case header>>4 != kind:
		return fmt.Errorf("packet type %d where %d is due", header>>4, kind)
	case len(body) > code && body[code] >= 0x80:
		return fmt.Errorf("refused: reason code %#x", body[code])
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	return nil
}

// publish buffers a PUBLISH at QoS 1.
func (c *client) publish(topic string, payload []byte) {
	b := appendString(c.buf[:0], topic)
	b = binary.BigEndian.AppendUint16(b, c.next)
	b = append(append(b, 0), payload...)
	c.buf = b
	if c.next++; c.next == 0 {
		c.next = 1
	}
	c.packet(typePublish<<4|2, b)
}

// puback buffers a PUBACK.
func (c *client) puback(id uint16) {
	_, _ = c.w.Write([]byte{typePuback << 4, 2, byte(id >> 8), byte(id)}) // an error comes back from Flush
}

func (c *client) packet(header byte, body []byte) {
	var head [5]byte
	head[0] = header
	n := 1 + binary.PutUvarint(head[1:], uint64(len(body)))
	_, _ = c.w.Write(head[:n]) // an error comes back from Flush
	_, _ = c.w.Write(body)
}

var errTooLong = errors.New("packet over 1 MiB")

// read returns the next packet. The body is good until the next call.
func (c *client) read() (header byte, body []byte, err error) {
	if header, err = c.r.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(c.r)
	if err != nil {
		return 0, nil, err
	}
	if n > 1<<20 {
		return 0, nil, errTooLong
	}
	if n <= uint64(c.r.Size()) { // in place
		if body, err = c.r.Peek(int(n)); err == nil {
			_, err = c.r.Discard(int(n))
		}
		return header, body, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(c.r, body)
	return header, body, err
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
