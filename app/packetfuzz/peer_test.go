package packetfuzz_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// peer is one of the script's connections. What the server sends is read all the time,
// answered as its policy says, and must be MQTT.
type peer struct {
	conn    net.Conn
	user    apptest.User
	version byte // 0: not known, because CONNECT was changed
	policy  int

	mu     sync.Mutex
	pongs  int           // mu guards: PINGRESPs
	news   chan struct{} // mu guards: closed, and made anew, when there is one
	wrong  error         // mu guards: what was wrong with what the server sent
	closed chan struct{} // closed when the server, or cut, has ended the connection
}

func newPeer(conn net.Conn, version byte, policy int, u apptest.User) *peer {
	p := &peer{conn: conn, user: u, version: version, policy: policy, news: make(chan struct{}), closed: make(chan struct{})}
	go p.read() // ends with the connection
	return p
}

// write sends bytes; that nobody takes them any more is seen by read.
func (p *peer) write(b []byte) {
	_ = p.conn.SetWriteDeadline(time.Now().Add(patience))
	_, _ = p.conn.Write(b)
}

func (p *peer) cut() {
	_ = p.conn.Close()
	<-p.closed
}

// read reads packets until the connection ends.
func (p *peer) read() {
	defer close(p.closed)
	defer p.conn.Close()
	r := bufio.NewReader(p.conn)
	said := byte(0) // the type of the packet before
	for {
		header, err := r.ReadByte()
		if err != nil {
			return
		}
		length, err := binary.ReadUvarint(r)
		if err != nil || length > 1<<28 {
			p.fault(fmt.Errorf("after header %x there is no length: %w", header, err))
			return
		}
		body := make([]byte, length)
		if _, err := io.ReadFull(r, body); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				p.fault(fmt.Errorf("the server ended within a packet, of header %x and %d bytes", header, length))
			}
			return
		}
		kind := header >> 4
		switch {
		case said == 0 && kind != packets.Connack:
			p.fault(fmt.Errorf("the first packet is %s [MQTT-3.2.0-1]", packets.PacketNames[kind]))
		case said != 0 && kind == packets.Connack:
			p.fault(errors.New("a second CONNACK [MQTT-3.2.0-2]"))
		case said == packets.Disconnect:
			p.fault(fmt.Errorf("%s after DISCONNECT [MQTT-3.14.4-1]", packets.PacketNames[kind]))
		case kind == packets.Connack && (len(body) < 2 || body[0] > 1):
			p.fault(fmt.Errorf("CONNACK with the flags %x [MQTT-3.2.2-1]", body))
		case kind == packets.Disconnect && p.version == 4:
			p.fault(errors.New("DISCONNECT in MQTT 3.1.1"))
		}
		said = kind
		if p.version != 0 {
			p.decode(header, body)
		}
		p.answer(header, body)
		if kind == packets.Pingresp {
			p.mu.Lock()
			p.pongs++
			close(p.news)
			p.news = make(chan struct{})
			p.mu.Unlock()
		}
	}
}

func (p *peer) fault(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wrong == nil {
		p.wrong = err
	}
}

// decode looks at whether a packet of the server's is one.
func (p *peer) decode(header byte, body []byte) {
	if _, err := brokertest.Decode(header, body, p.version); err != nil {
		p.fault(err)
	}
}

// answer acknowledges what the server sent, or does not, or wrongly.
func (p *peer) answer(header byte, body []byte) {
	var id []byte
	kind := byte(0)
	switch {
	case header>>4 == packets.Publish && header&6 != 0:
		n := 2 + int(binary.BigEndian.Uint16(body))
		id, kind = body[n:n+2], 0x40
		if header&4 != 0 {
			kind = 0x50
		}
	case header>>4 == packets.Pubrel:
		id, kind = body[:2], 0x70
	default:
		return
	}
	switch p.policy {
	case 0: // never
	case 1: // another one
		p.write([]byte{kind, 2, id[0], id[1] + 1})
	case 2: // twice
		p.write([]byte{kind, 2, id[0], id[1], kind, 2, id[0], id[1]})
	case 3: // with a refusal
		p.write([]byte{kind, 3, id[0], id[1], 0x80})
	default:
		p.write([]byte{kind, 2, id[0], id[1]})
	}
}

// settled checks that the connection lives, or is closed: nothing in between. One that
// is within a packet is closed by and by, or goes on after a PINGREQ that has become
// the rest of it.
func (p *peer) settled() error {
	p.mu.Lock()
	before, news := p.pongs, p.news
	p.mu.Unlock()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	timeout := time.After(patience)
	for waiting := true; waiting; {
		p.write([]byte{0xc0, 0})
		select {
		case <-p.closed:
			waiting = false
		case <-news:
			waiting = false
		case <-again.C:
		case <-timeout:
			return fmt.Errorf("%s's connection (version %d) is neither served nor closed after %v; %d PINGRESPs came before", p.user.Username, p.version, patience, before)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wrong
}
