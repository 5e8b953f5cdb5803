package broker

import (
	"errors"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Errors that end a connection while its bytes are being framed.
var (
	errPacketTooLarge = errors.New("packet larger than the limit")
	errNotConnect     = errors.New("first packet is not CONNECT")
	errMalformed      = errors.New("malformed remaining length")
	errType           = errors.New("packet type 0 does not exist") // mochi closes without a word
	errQoS            = errors.New("QoS 3 does not exist")         // [MQTT-3.3.1-4]; mochi calls it a protocol error
)

// framing follows the packets in a stream of bytes, without copying them, so that
// a packet that is too large or too slow is found before anything is allocated
// for it. It is owned by the connection's reader.
type framing struct {
	maxFirst int // bytes of the first packet, CONNECT
	max      int // bytes of any other

	seen    bool          // the first packet has been looked at
	header  byte          // of the packet at hand
	length  int           // remaining length read so far
	shift   int           // bits of length read so far
	phase   phase         //
	since   time.Time     // when the packet at hand began; zero between packets
	waited  time.Duration // spent waiting for the rest of it; kept by the reader
	missing int           // bytes of the packet at hand that are still to come
	goodbye byte          // the first byte of the body of DISCONNECT
}

type phase uint8

const (
	inType phase = iota
	inLength
	inBody
)

// feed takes the next bytes of the stream. The error says why the connection must
// end; it is one of those above.
func (f *framing) feed(b []byte, now time.Time) error {
	for len(b) > 0 {
		switch f.phase {
		case inType:
			f.header, f.length, f.shift, f.phase, f.since, f.waited = b[0], 0, 0, inLength, now, 0
			if !f.seen && f.header != packets.Connect<<4 {
				return errNotConnect
			}
			switch {
			case f.header>>4 == packets.Reserved:
				return errType
			case f.header>>4 == packets.Publish && f.header&6 == 6:
				return errQoS
			}
			b = b[1:]
		case inLength:
			f.length |= int(b[0]&0x7f) << f.shift
			if b[0]&0x80 != 0 {
				if f.shift += 7; f.shift > 21 {
					return errMalformed
				}
				b = b[1:]
				continue
			}
			b = b[1:]
			if err := f.begin(); err != nil {
				return err
			}
		case inBody:
			n := min(len(b), f.missing)
			if f.header>>4 == packets.Disconnect && f.missing == f.length {
				f.goodbye = b[0]
			}
			b = b[n:]
			if f.missing -= n; f.missing == 0 {
				f.end()
			}
		}
	}
	return nil
}

func (f *framing) begin() error {
	limit := f.max
	if !f.seen {
		limit = f.maxFirst
	}
	f.seen = true
	if f.length+2+f.shift/7 > limit {
		return errPacketTooLarge
	}
	f.missing, f.phase = f.length, inBody
	if f.missing == 0 {
		f.end()
	}
	return nil
}

func (f *framing) end() { f.phase, f.since = inType, time.Time{} }
