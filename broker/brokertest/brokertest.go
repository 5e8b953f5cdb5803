// Package brokertest is an MQTT client for tests that want to see, and to send,
// every packet: also wrong ones, halves, and too many. For tests only.
//
// A Client reads when it is asked to and does nothing by itself, so what a test
// sees is what is on the wire, in its order; one that does not read is a slow
// reader. Nothing here sleeps: that nothing has come is shown by Ping, whose
// answer would have come after it.
//
// The methods that take no error back fail the test, and must be called from its
// goroutine. A Client belongs to one goroutine at a time.
package brokertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"
)

// Patience is how long the helpers wait for what must come. It is long, because
// it passes in full only where a test fails.
const Patience = 20 * time.Second

// Client is one connection.
type Client struct {
	// Version is the protocol version in which packets are written and read: 5
	// until Connect says otherwise.
	Version byte
	// AutoAck acknowledges each PUBLISH as it is received: PUBACK at QoS 1, and
	// PUBREC and PUBCOMP at QoS 2, where PUBREL is not shown then.
	AutoAck bool
	// Check is asked about each PUBLISH that is received, and each one sent that the
	// server has accepted by name: in MQTT 5, at QoS 1 and 2. What it finds wrong
	// fails the test. nil: nothing is asked.
	Check func(received bool, pk packets.Packet) error

	t      testing.TB
	conn   net.Conn
	in     []byte           // read, and not decoded yet
	held   []packets.Packet // decoded, and passed over by Await
	lastID uint16
	sent   map[uint16]packets.Packet // for Check: by Send, and not acknowledged yet
}

// Dial opens a TCP connection, which is closed when the test ends.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, Patience)
	if err != nil {
		t.Fatalf("brokertest: dial %s: %v", addr, err)
	}
	return New(t, conn)
}

// DialWebSocket opens MQTT over WebSocket at a URL such as ws://host:port/mqtt.
func DialWebSocket(t testing.TB, url string) *Client {
	t.Helper()
	return DialWebSocketBy(t, &net.Dialer{}, url)
}

// DialWebSocketBy is DialWebSocket over connections that dialer makes.
func DialWebSocketBy(t testing.TB, dialer *net.Dialer, url string) *Client {
	t.Helper()
	conn, err := OpenWebSocket(t.Context(), dialer, url)
	if err != nil {
		t.Fatalf("brokertest: dial %s: %v", url, err)
	}
	return New(t, conn)
}

// OpenWebSocket opens a WebSocket of the subprotocol mqtt, and returns it as a stream of bytes.
func OpenWebSocket(ctx context.Context, dialer *net.Dialer, url string) (net.Conn, error) {
	d := websocket.Dialer{NetDialContext: dialer.DialContext, Subprotocols: []string{"mqtt"}, HandshakeTimeout: Patience}
	ws, resp, err := d.DialContext(ctx, url, nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	if ws.Subprotocol() != "mqtt" {
		_ = ws.Close()
		return nil, fmt.Errorf("the server chose the subprotocol %q", ws.Subprotocol())
	}
	return WebSocketStream(ws), nil
}

// New returns a client over a connection, which is closed when the test ends.
func New(t testing.TB, conn net.Conn) *Client {
	t.Cleanup(func() { _ = conn.Close() })
	return &Client{Version: 5, t: t, conn: conn}
}

// WebSocketStream returns a WebSocket as a stream of bytes, for New.
func WebSocketStream(ws *websocket.Conn) net.Conn { return &wsStream{Conn: ws.NetConn(), ws: ws} }

// wsStream is a WebSocket as a stream of bytes. After a read that timed out it
// cannot be read again, unlike TCP.
type wsStream struct {
	net.Conn
	ws *websocket.Conn
	r  io.Reader
}

func (s *wsStream) Read(p []byte) (int, error) {
	for {
		if s.r == nil {
			_, r, err := s.ws.NextReader()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseAbnormalClosure) {
				err = io.EOF
			}
			if err != nil {
				return 0, err
			}
			s.r = r
		}
		n, err := s.r.Read(p)
		if errors.Is(err, io.EOF) {
			s.r, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (s *wsStream) Write(p []byte) (int, error) {
	return len(p), s.ws.WriteMessage(websocket.BinaryMessage, p)
}

// SetWriteDeadline and SetDeadline tell the WebSocket, which sets the deadline of each write anew.
func (s *wsStream) SetWriteDeadline(at time.Time) error { return s.ws.SetWriteDeadline(at) }

// SetDeadline implements net.Conn.
func (s *wsStream) SetDeadline(at time.Time) error {
	return errors.Join(s.SetReadDeadline(at), s.SetWriteDeadline(at))
}

// Conn returns the connection below, for what a Client does not do.
func (c *Client) Conn() net.Conn { return c.conn }

// Close closes the connection without a DISCONNECT: the line is cut.
func (c *Client) Close() { _ = c.conn.Close() }

// Connect is what a CONNECT says; the zero value is MQTT 5 with clean start, a
// keepalive of a minute, and neither client id nor password.
type Connect struct {
	Version           byte // 3, 4 or 5; 0: 5
	ClientID          string
	Username          string // empty: no user name
	Password          string // empty: no password
	Persistent        bool   // clean start (clean session) is 0
	SessionExpiry     uint32
	KeepAlive         uint16 // seconds; 0: 60
	ReceiveMaximum    uint16 // 0: not sent
	MaximumPacketSize uint32 // 0: not sent
	NoProblemInfo     bool   // Request Problem Information is 0
	WillTopic         string // empty: no will
	WillPayload       string
	WillQoS           byte
	AuthMethod        string
	Change            func(*packets.Packet) // the last word; may be nil
}

// Packet returns the CONNECT.
func (o Connect) Packet() packets.Packet {
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: o.Version}
	if pk.ProtocolVersion == 0 {
		pk.ProtocolVersion = 5
	}
	pk.Connect = packets.ConnectParams{
		ProtocolName: []byte("MQTT"), ClientIdentifier: o.ClientID, Clean: !o.Persistent, Keepalive: o.KeepAlive,
		Username: []byte(o.Username), UsernameFlag: o.Username != "", Password: []byte(o.Password), PasswordFlag: o.Password != "",
		WillTopic: o.WillTopic, WillPayload: []byte(o.WillPayload), WillFlag: o.WillTopic != "", WillQos: o.WillQoS,
	}
	if o.Version == 3 {
		pk.Connect.ProtocolName = []byte("MQIsdp")
	}
	if o.KeepAlive == 0 {
		pk.Connect.Keepalive = 60
	}
	p := &pk.Properties
	p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = o.SessionExpiry, o.SessionExpiry > 0
	p.ReceiveMaximum, p.MaximumPacketSize = o.ReceiveMaximum, o.MaximumPacketSize
	p.RequestProblemInfoFlag = o.NoProblemInfo
	p.AuthenticationMethod = o.AuthMethod
	if o.Change != nil {
		o.Change(&pk)
	}
	return pk
}

// Connect sends CONNECT and returns the CONNACK, whatever it says.
func (c *Client) Connect(o Connect) packets.Packet {
	c.t.Helper()
	pk := o.Packet()
	c.Version = pk.ProtocolVersion
	c.Send(pk)
	return c.Expect(packets.Connack)
}

// MustConnect is Connect for a connection that must be accepted.
func (c *Client) MustConnect(o Connect) packets.Packet {
	c.t.Helper()
	ack := c.Connect(o)
	if ack.ReasonCode != 0 {
		c.t.Fatalf("brokertest: connect as %q: %s", o.ClientID, Describe(ack))
	}
	return ack
}

// Open dials, connects and must be accepted.
func Open(t testing.TB, addr string, o Connect) *Client {
	t.Helper()
	c := Dial(t, addr)
	c.MustConnect(o)
	return c
}

// Encode returns the bytes of a packet; a version of 0 is the client's.
func (c *Client) Encode(pk packets.Packet) []byte {
	c.t.Helper()
	if pk.ProtocolVersion == 0 {
		pk.ProtocolVersion = c.Version
	}
	b, err := Encode(pk)
	if err != nil {
		c.t.Fatalf("brokertest: encode %s: %v", Describe(pk), err)
	}
	return b
}

// Send sends a packet.
func (c *Client) Send(pk packets.Packet) {
	c.t.Helper()
	if c.Check != nil && pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos > 0 {
		if c.sent == nil {
			c.sent = map[uint16]packets.Packet{}
		}
		c.sent[pk.PacketID] = pk
	}
	c.SendBytes(c.Encode(pk))
}

// SendBytes sends bytes as they are.
func (c *Client) SendBytes(b []byte) {
	c.t.Helper()
	if err := c.Write(b); err != nil {
		c.t.Fatalf("brokertest: send %d bytes: %v", len(b), err)
	}
}

// Write is SendBytes for those who expect it to fail.
func (c *Client) Write(b []byte) error {
	_ = c.conn.SetWriteDeadline(time.Now().Add(Patience))
	_, err := c.conn.Write(b)
	return err
}

// Recv returns the next packet. It fails with os.ErrDeadlineExceeded when none
// has come in time, and with io.EOF when the peer has closed the connection or
// reset it.
func (c *Client) Recv(timeout time.Duration) (packets.Packet, error) {
	if len(c.held) > 0 {
		pk := c.held[0]
		c.held = c.held[1:]
		return pk, nil
	}
	return c.read(time.Now().Add(timeout))
}

// read returns the next packet from the wire that is to be shown.
func (c *Client) read(deadline time.Time) (packets.Packet, error) {
	for {
		raw, err := c.frame(deadline)
		if err != nil {
			return packets.Packet{}, err
		}
		pk, err := decode(raw, c.Version)
		if err != nil {
			return pk, err
		}
		c.check(pk)
		if !c.AutoAck || !c.acknowledge(pk) {
			return pk, nil
		}
	}
}

// check has what was received, or is acknowledged with it, looked at by Check.
func (c *Client) check(pk packets.Packet) {
	if c.Check == nil {
		return
	}
	var err error
	switch pk.FixedHeader.Type {
	case packets.Publish:
		err = c.Check(true, pk)
	case packets.Puback, packets.Pubrec:
		sent, ok := c.sent[pk.PacketID]
		delete(c.sent, pk.PacketID)
		if ok && c.Version == 5 && pk.ReasonCode < packets.ErrUnspecifiedError.Code { // 3.1.1 acknowledges refusals, too
			err = c.Check(false, sent)
		}
	}
	if err != nil {
		c.t.Errorf("brokertest: %v", err)
	}
}

// acknowledge does what AutoAck says, and reports whether pk is not to be shown.
// That the peer does not take the acknowledgement shows when it is read again.
func (c *Client) acknowledge(pk packets.Packet) (hide bool) {
	var kind byte
	switch {
	case pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos == 1:
		kind = packets.Puback
	case pk.FixedHeader.Type == packets.Publish && pk.FixedHeader.Qos == 2:
		kind = packets.Pubrec
	case pk.FixedHeader.Type == packets.Pubrel:
		kind, hide = packets.Pubcomp, true
	default:
		return false
	}
	_ = c.Write([]byte{kind << 4, 2, byte(pk.PacketID >> 8), byte(pk.PacketID)})
	return hide
}

// frame returns the bytes of the next packet. What has been read of one is kept
// when the time is over.
func (c *Client) frame(deadline time.Time) ([]byte, error) {
	_ = c.conn.SetReadDeadline(deadline)
	var buf [4096]byte
	for {
		if n := wholePacket(c.in); n > 0 {
			raw := c.in[:n:n]
			c.in = c.in[n:]
			return raw, nil
		}
		n, err := c.conn.Read(buf[:])
		c.in = append(c.in, buf[:n]...)
		switch {
		case n > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		case err != nil && len(c.in) > 0:
			return nil, fmt.Errorf("the connection ended within a packet, after % x: %w", c.in, err)
		case err != nil:
			return nil, io.EOF
		}
	}
}

// wholePacket returns the length of the packet at the start of b, or 0 if it is
// not all there.
func wholePacket(b []byte) int {
	length, shift := 0, 0
	for i := 1; i < len(b) && i <= 4; i++ {
		length |= int(b[i]&0x7f) << shift
		shift += 7
		if b[i]&0x80 == 0 {
			if n := i + 1 + length; n <= len(b) {
				return n
			}
			return 0
		}
	}
	return 0
}

// Expect returns the next packet, which must be of the given type.
func (c *Client) Expect(kind byte) packets.Packet {
	c.t.Helper()
	pk, err := c.Recv(Patience)
	if err != nil {
		c.t.Fatalf("brokertest: waiting for %s: %v", packets.PacketNames[kind], err)
	}
	if pk.FixedHeader.Type != kind {
		c.t.Fatalf("brokertest: got %s, want %s", Describe(pk), packets.PacketNames[kind])
	}
	return pk
}

// Await returns the next packet of the given type. Others that come before it
// are kept, in their order, for later.
func (c *Client) Await(kind byte) packets.Packet {
	c.t.Helper()
	for i, pk := range c.held {
		if pk.FixedHeader.Type == kind {
			c.held = append(c.held[:i:i], c.held[i+1:]...)
			return pk
		}
	}
	deadline := time.Now().Add(Patience)
	for {
		pk, err := c.read(deadline)
		if err != nil {
			c.t.Fatalf("brokertest: waiting for %s: %v (%d other packets came)", packets.PacketNames[kind], err, len(c.held))
		}
		if pk.FixedHeader.Type == kind {
			return pk
		}
		c.held = append(c.held, pk)
	}
}

// ExpectClosed waits until the peer has closed the connection. No packet may
// come before.
func (c *Client) ExpectClosed() {
	c.t.Helper()
	pk, err := c.Recv(Patience)
	switch {
	case err == nil:
		c.t.Fatalf("brokertest: got %s, want the connection closed", Describe(pk))
	case !errors.Is(err, io.EOF):
		c.t.Fatalf("brokertest: waiting for the end of the connection: %v", err)
	}
}

// ExpectDisconnect waits until the peer has ended the connection: in MQTT 5 with
// a DISCONNECT of the given reason code, which it returns, in 3.1.1 without.
func (c *Client) ExpectDisconnect(code byte) packets.Packet {
	c.t.Helper()
	var pk packets.Packet
	if c.Version == 5 {
		pk = c.Expect(packets.Disconnect)
		if pk.ReasonCode != code {
			c.t.Fatalf("brokertest: got %s, want reason code 0x%02x", Describe(pk), code)
		}
	}
	c.ExpectClosed()
	return pk
}

// Ping sends PINGREQ and expects its answer next: the connection lives, and
// nothing else has been sent to it.
func (c *Client) Ping() {
	c.t.Helper()
	c.SendBytes([]byte{packets.Pingreq << 4, 0})
	c.Expect(packets.Pingresp)
}

// Disconnect sends DISCONNECT and waits until the peer has closed.
func (c *Client) Disconnect() {
	c.t.Helper()
	c.SendBytes([]byte{packets.Disconnect << 4, 0})
	c.ExpectClosed()
}

// NextID returns a packet identifier that has not been used for long.
func (c *Client) NextID() uint16 {
	if c.lastID++; c.lastID == 0 {
		c.lastID = 1
	}
	return c.lastID
}

// Subscribe subscribes to filters with one QoS and returns SUBACK's codes.
func (c *Client) Subscribe(qos byte, filters ...string) []byte {
	c.t.Helper()
	subs := make(packets.Subscriptions, 0, len(filters))
	for _, f := range filters {
		subs = append(subs, packets.Subscription{Filter: f, Qos: qos})
	}
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Subscribe}, PacketID: c.NextID(), Filters: subs}
	c.Send(pk)
	ack := c.Await(packets.Suback)
	if ack.PacketID != pk.PacketID || len(ack.ReasonCodes) != len(filters) {
		c.t.Fatalf("brokertest: subscribe to %q with id %d: got %s", filters, pk.PacketID, Describe(ack))
	}
	return ack.ReasonCodes
}

// MustSubscribe is Subscribe for filters that must all be granted.
func (c *Client) MustSubscribe(qos byte, filters ...string) {
	c.t.Helper()
	for i, code := range c.Subscribe(qos, filters...) {
		if code != qos {
			c.t.Fatalf("brokertest: subscribe to %q: got code 0x%02x, want 0x%02x", filters[i], code, qos)
		}
	}
}

// Unsubscribe removes filters and returns UNSUBACK's codes (none in 3.1.1).
func (c *Client) Unsubscribe(filters ...string) []byte {
	c.t.Helper()
	pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe}, PacketID: c.NextID()}
	for _, f := range filters {
		pk.Filters = append(pk.Filters, packets.Subscription{Filter: f})
	}
	c.Send(pk)
	ack := c.Await(packets.Unsuback)
	if ack.PacketID != pk.PacketID {
		c.t.Fatalf("brokertest: unsubscribe from %q with id %d: got %s", filters, pk.PacketID, Describe(ack))
	}
	return ack.ReasonCodes
}

// Publish returns a PUBLISH, to be sent; id must be 0 at QoS 0.
func Publish(topic string, qos byte, id uint16, payload string) packets.Packet {
	return packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, PacketID: id, Payload: []byte(payload),
	}
}

// PublishAsync sends a PUBLISH with an identifier of its own, which is returned,
// and does not wait for the acknowledgement.
func (c *Client) PublishAsync(qos byte, topic, payload string) (id uint16) {
	c.t.Helper()
	if qos > 0 {
		id = c.NextID()
	}
	c.Send(Publish(topic, qos, id, payload))
	return id
}

// Publish publishes and waits for the end of the exchange: PUBACK at QoS 1, and
// PUBREC and PUBCOMP at QoS 2. What else comes is kept for later. At QoS 0 the
// answer is a zero Ack.
func (c *Client) Publish(qos byte, topic, payload string) Ack {
	c.t.Helper()
	id := c.PublishAsync(qos, topic, payload)
	switch qos {
	case 1:
		return c.AwaitAck(packets.Puback, id)
	case 2:
		ack := c.AwaitAck(packets.Pubrec, id)
		if ack.Code < packets.ErrUnspecifiedError.Code {
			c.SendBytes([]byte{packets.Pubrel<<4 | 2, 2, byte(id >> 8), byte(id)})
			if comp := c.AwaitAck(packets.Pubcomp, id); comp.Code != 0 {
				c.t.Fatalf("brokertest: PUBREL %d was answered 0x%02x", id, comp.Code)
			}
		}
		return ack
	}
	return Ack{}
}

// AwaitAck returns the next acknowledgement of a type, which must be for id.
func (c *Client) AwaitAck(kind byte, id uint16) Ack {
	c.t.Helper()
	pk := c.Await(kind)
	if pk.PacketID != id {
		c.t.Fatalf("brokertest: got %s, want it for id %d", Describe(pk), id)
	}
	return AckOf(pk)
}

// Ack is what a PUBACK or PUBREC says.
type Ack struct {
	Code      byte
	Reason    string // reason string
	ID        string // user property id: of what was stored
	Seq       int64  // user property seq
	CreatedAt string // user property createdAt
}

// AckOf reads an acknowledgement.
func AckOf(pk packets.Packet) Ack {
	a := Ack{Code: pk.ReasonCode, Reason: pk.Properties.ReasonString}
	for _, p := range pk.Properties.User {
		switch p.Key {
		case "id":
			a.ID = p.Val
		case "seq":
			a.Seq, _ = strconv.ParseInt(p.Val, 10, 64)
		case "createdAt":
			a.CreatedAt = p.Val
		}
	}
	return a
}

// Describe returns a packet in one line, for messages.
func Describe(pk packets.Packet) string {
	s := fmt.Sprintf("%s id=%d", packets.PacketNames[pk.FixedHeader.Type], pk.PacketID)
	switch pk.FixedHeader.Type {
	case packets.Publish:
		payload := pk.Payload
		if len(payload) > 200 {
			payload = append(bytes.Clone(payload[:200]), "…"...)
		}
		s += fmt.Sprintf(" qos=%d dup=%v topic=%q payload=%q", pk.FixedHeader.Qos, pk.FixedHeader.Dup, pk.TopicName, payload)
	case packets.Suback, packets.Unsuback:
		s += fmt.Sprintf(" codes=% x", pk.ReasonCodes)
	default:
		s += fmt.Sprintf(" reason=0x%02x %q", pk.ReasonCode, pk.Properties.ReasonString)
	}
	return s
}

// Encode returns the bytes of a packet of a client's.
func Encode(pk packets.Packet) ([]byte, error) {
	var b bytes.Buffer
	var err error
	pk.Mods.AllowResponseInfo = true // or mochi leaves response topic and correlation data out
	switch pk.FixedHeader.Type {
	case packets.Connect:
		err = pk.ConnectEncode(&b)
	case packets.Publish:
		err = pk.PublishEncode(&b)
	case packets.Puback:
		err = pk.PubackEncode(&b)
	case packets.Pubrec:
		err = pk.PubrecEncode(&b)
	case packets.Pubrel:
		pk.FixedHeader.Qos = 1
		err = pk.PubrelEncode(&b)
	case packets.Pubcomp:
		err = pk.PubcompEncode(&b)
	case packets.Subscribe:
		pk.FixedHeader.Qos = 1
		err = pk.SubscribeEncode(&b)
	case packets.Unsubscribe:
		pk.FixedHeader.Qos = 1
		err = pk.UnsubscribeEncode(&b)
	case packets.Pingreq:
		err = pk.PingreqEncode(&b)
	case packets.Disconnect:
		err = pk.DisconnectEncode(&b)
	case packets.Auth:
		err = pk.AuthEncode(&b)
	default:
		err = fmt.Errorf("a client does not send %s: use SendBytes", packets.PacketNames[pk.FixedHeader.Type])
	}
	return b.Bytes(), err
}

func decode(raw []byte, version byte) (pk packets.Packet, err error) {
	body := raw[1:]
	for body[0]&0x80 != 0 {
		body = body[1:]
	}
	return Decode(raw[0], body[1:], version)
}

// Decode reads a packet of the server's, of which it is given the first byte and what
// follows the length. What a server does not send is an error.
func Decode(header byte, body []byte, version byte) (pk packets.Packet, err error) {
	if err := pk.FixedHeader.Decode(header); err != nil {
		return pk, fmt.Errorf("header 0x%02x: %w", header, err)
	}
	pk.FixedHeader.Remaining, pk.ProtocolVersion = len(body), version
	switch pk.FixedHeader.Type {
	case packets.Connack:
		err = pk.ConnackDecode(body)
	case packets.Publish:
		err = pk.PublishDecode(body)
	case packets.Puback:
		err = pk.PubackDecode(body)
	case packets.Pubrec:
		err = pk.PubrecDecode(body)
	case packets.Pubrel:
		err = pk.PubrelDecode(body)
	case packets.Pubcomp:
		err = pk.PubcompDecode(body)
	case packets.Suback:
		err = pk.SubackDecode(body)
	case packets.Unsuback:
		err = pk.UnsubackDecode(body)
	case packets.Pingresp:
	case packets.Disconnect:
		if version < 5 {
			return pk, fmt.Errorf("the server sent DISCONNECT in MQTT 3.1.1: % x", body)
		}
		if err = pk.DisconnectDecode(body); len(body) == 1 {
			pk.ReasonCode = body[0] // which mochi overlooks
		}
	case packets.Auth:
		err = pk.AuthDecode(body)
	default:
		err = errors.New("a server does not send it")
	}
	if err != nil {
		return pk, fmt.Errorf("%s 0x%02x of % x: %w", packets.PacketNames[pk.FixedHeader.Type], header, body[:min(len(body), 64)], err)
	}
	return pk, nil
}
