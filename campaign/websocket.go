package campaign

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// webConn is MQTT over WebSocket (RFC 6455), as a browser speaks it: binary frames.
type webConn struct {
	net.Conn
	r    *bufio.Reader
	left uint64 // of the frame that is being read
}

var errWebSocket = errors.New("no WebSocket frame that a server may send")

// upgrade makes a connection to the HTTP port one of MQTT over WebSocket.
func upgrade(conn net.Conn) (net.Conn, error) {
	w := &webConn{Conn: conn, r: bufio.NewReader(conn)}
	request := "GET /mqtt HTTP/1.1\r\nHost: " + conn.RemoteAddr().String() + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(w.r, nil)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Sec-WebSocket-Protocol"), "mqtt") {
		return nil, fmt.Errorf("a WebSocket was answered %s", resp.Status)
	}
	return w, nil
}

// Write sends one frame, masked with zeros.
func (w *webConn) Write(b []byte) (int, error) {
	if err := w.frame(2, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (w *webConn) frame(opcode byte, b []byte) error {
	head := []byte{0x80 | opcode}
	switch n := len(b); {
	case n < 126:
		head = append(head, 0x80|byte(n))
	case n < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(n))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(n))
	}
	_, err := w.Conn.Write(append(append(head, 0, 0, 0, 0), b...))
	return err
}

// Read reads what the frames hold, one after the other.
func (w *webConn) Read(b []byte) (int, error) {
	for w.left == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n, err := w.r.Read(b[:min(uint64(len(b)), w.left)])
	w.left -= uint64(n)
	return n, err
}

// next reads the head of a frame; those that control the connection it takes whole.
func (w *webConn) next() error {
	var head [8]byte
	if _, err := io.ReadFull(w.r, head[:2]); err != nil {
		return err
	}
	opcode, n := head[0]&15, uint64(head[1])
	switch n {
	case 126:
		if _, err := io.ReadFull(w.r, head[:2]); err != nil {
			return err
		}
		n = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		if _, err := io.ReadFull(w.r, head[:8]); err != nil {
			return err
		}
		n = binary.BigEndian.Uint64(head[:])
	}
	switch {
	case opcode <= 2:
		w.left = n
		return nil
	case n > 125:
		return errWebSocket
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(w.r, body); err != nil {
		return err
	}
	if opcode == 8 {
		return io.EOF
	}
	if opcode == 9 {
		return w.frame(10, body)
	}
	return nil
}
