package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// client is one connection. All of it is owned by the goroutine that reads.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	w       *bufio.Writer
	buf     []byte
	next    uint16 // packet identifier of the next publish
	present bool   // there was a session
}

// Packet types (MQTT 5.0, 2.1.2).
const (
	typeConnect    = 1
	typeConnack    = 2
	typePublish    = 3
	typePuback     = 4
	typeSubscribe  = 8
	typeSuback     = 9
	typePingreq    = 12
	typePingresp   = 13
	typeDisconnect = 14
)

// identity is who connects, and to where.
type identity struct {
	addr     string // "host:port", "mqtt://host:port", or "mqtts://host:port" for TLS
	clientID string
	token    string        // "": no credentials, for a broker that asks for none
	expiry   time.Duration // of the session; 0: it ends with the connection, and begins anew with it
	buffers  int           // bytes, of each; 0: 16 KiB
}

// keepAlive is what CONNECT says. Nothing is sent to keep a connection alive: idle ones are kept for less.
const keepAlive = 10 * time.Minute

// patience bounds the wait for the answer to a packet.
const patience = 30 * time.Second

// refused is an answer with a reason code of 0x80 or above.
type refused byte

func (r refused) Error() string { return fmt.Sprintf("refused: reason code %#x", byte(r)) }

// dial connects and logs in.
func dial(ctx context.Context, id identity) (*client, error) {
	conn, err := dialAddress(ctx, id.addr)
	if err != nil {
		return nil, err
	}
	size := id.buffers
	if size == 0 {
		size = 16 << 10
	}
	c := &client{conn: conn, r: bufio.NewReaderSize(conn, size), w: bufio.NewWriterSize(conn, size), next: 1}
	var flags byte
	if id.token != "" {
		flags |= 0x40
	}
	if id.expiry == 0 {
		flags |= 0x02 // clean start
	}
	body := append(appendString(nil, "MQTT"), 5, flags)
	body = binary.BigEndian.AppendUint16(body, uint16(keepAlive/time.Second))
	if id.expiry == 0 {
		body = append(body, 0)
	} else {
		body = binary.BigEndian.AppendUint32(append(body, 5, 0x11), uint32(id.expiry/time.Second))
	}
	body = appendString(body, id.clientID)
	if id.token != "" {
		body = appendString(body, id.token)
	}
	c.packet(typeConnect<<4, body)
	ack, err := c.expect(typeConnack, 1)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect as %s: %w", id.clientID, err)
	}
	c.present = ack[0]&1 != 0
	return c, nil
}

func dialAddress(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	if host, ok := strings.CutPrefix(addr, "mqtts://"); ok {
		return (&tls.Dialer{NetDialer: &d}).DialContext(ctx, "tcp", host)
	}
	return d.DialContext(ctx, "tcp", strings.TrimPrefix(addr, "mqtt://"))
}

func (c *client) subscribe(filter string, qos byte) error {
	body := append(appendString([]byte{0, 1, 0}, filter), qos)
	c.packet(typeSubscribe<<4|2, body)
	if _, err := c.expect(typeSuback, 3); err != nil {
		return fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	return nil
}

// expect flushes, reads one packet and checks its type and the reason code at the
// given place.
func (c *client) expect(kind byte, code int) (body []byte, err error) {
	if err := c.w.Flush(); err != nil {
		return nil, err
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	header, body, err := c.read()
	switch {
	case err != nil:
		return nil, err
	case header>>4 != kind:
		return nil, fmt.Errorf("packet type %d where %d is due", header>>4, kind)
	case len(body) > code && code >= 0 && body[code] >= 0x80:
		return nil, refused(body[code])
	case len(body) <= code:
		return nil, fmt.Errorf("packet of type %d with %d bytes", kind, len(body))
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	return body, nil
}

// publish buffers a PUBLISH at QoS 1 and returns the payload in it, which may be changed until the next call:
// the packet goes into the buffer by send.
func (c *client) publish(topic string, payload []byte) []byte {
	b := appendString(c.buf[:0], topic)
	b = binary.BigEndian.AppendUint16(b, c.next)
	b = append(append(b, 0), payload...)
	c.buf = b
	if c.next++; c.next == 0 {
		c.next = 1
	}
	return b[len(b)-len(payload):]
}

// send buffers what publish has made.
func (c *client) send() { c.packet(typePublish<<4|2, c.buf) }

// puback buffers a PUBACK.
func (c *client) puback(id uint16) {
	_, _ = c.w.Write([]byte{typePuback << 4, 2, byte(id >> 8), byte(id)}) // an error comes back from Flush
}

// ping asks whether the connection is still there.
func (c *client) ping() error {
	c.packet(typePingreq<<4, nil)
	_, err := c.expect(typePingresp, -1)
	return err
}

// leave sends DISCONNECT, so that nobody waits for the user to come back, and closes. forget ends the session.
func (c *client) leave(forget bool) {
	body := []byte{0, 0}
	if forget {
		body = []byte{0, 5, 0x11, 0, 0, 0, 0}
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	c.packet(typeDisconnect<<4, body)
	_ = c.w.Flush()
	_ = c.conn.Close()
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

// publication is a PUBLISH at QoS 0 or 1 that was received, taken apart.
type publication struct {
	topic   []byte
	id      uint16 // 0 at QoS 0
	payload []byte
}

var errMalformed = errors.New("malformed PUBLISH")

func parsePublish(header byte, body []byte) (p publication, err error) {
	if len(body) < 2 {
		return p, errMalformed
	}
	n := 2 + int(binary.BigEndian.Uint16(body))
	if len(body) < n+3 {
		return p, errMalformed
	}
	p.topic = body[2:n]
	if header>>1&3 != 0 {
		p.id = binary.BigEndian.Uint16(body[n:])
		n += 2
	}
	length, size := binary.Uvarint(body[n:])
	if size <= 0 || uint64(len(body)-n-size) < length {
		return p, errMalformed
	}
	p.payload = body[n+size+int(length):]
	return p, nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}
