package broker

import (
	"errors"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Errors that end a connection while its bytes are being framed, beside violations.
var (
	errPacketTooLarge = errors.New("packet larger than the limit")
	errNotConnect     = errors.New("first packet is not CONNECT")
)

// framing follows the packets in a stream of bytes, without copying them, so that
// a packet that is too large, too slow or malformed is found before anything is
// allocated for it. It is owned by the connection's reader.
type framing struct {
	maxFirst int     // bytes of the first packet, CONNECT
	max      int     // bytes of any other
	strict   *strict // looks at the packets; nil: nobody does

	seen       bool          // the first packet has been looked at
	header     byte          // of the packet at hand
	length     int           // remaining length read so far
	shift      int           // bits of length read so far
	phase      phase         //
	since      time.Time     // when the packet at hand began; zero between packets
	waited     time.Duration // spent waiting for the rest of it; kept by the reader
	missing    int           // bytes of the packet at hand that are still to come
	disconnect byte          // reason code of DISCONNECT: the first byte of its body, or 0
}

type phase uint8

const (
	inType phase = iota
	inLength
	inBody
)

// feed takes the next bytes of the stream. The error says why the connection must
// end; whole is then how many of the bytes belong to packets before that.
func (f *framing) feed(b []byte, now time.Time) (whole int, err error) {
	for at := 0; at < len(b); {
		rest := b[at:]
		switch f.phase {
		case inType:
			f.header, f.length, f.shift, f.phase, f.since, f.waited = rest[0], 0, 0, inLength, now, 0
			whole = at
			if !f.seen && f.header != packets.Connect<<4 {
				return whole, errNotConnect
			}
			if f.strict != nil {
				if err := f.strict.header(f.header, !f.seen); err != nil {
					return whole, err
				}
			}
			at++
		case inLength:
			f.length |= int(rest[0]&0x7f) << f.shift
			at++
			if rest[0]&0x80 != 0 {
				if f.shift += 7; f.shift > 21 {
					return whole, errMalformed
				}
				continue
			}
			if err := f.begin(); err != nil {
				return whole, err
			}
		case inBody:
			n := min(len(rest), f.missing)
			if f.header>>4 == packets.Disconnect && f.missing == f.length {
				f.disconnect = rest[0]
			}
			if f.strict != nil {
				if err := f.strict.feed(rest[:n]); err != nil {
					return whole, err
				}
			}
			at += n
			if f.missing -= n; f.missing == 0 {
				f.end()
			}
		}
	}
	return len(b), nil
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
	if f.strict != nil {
		if err := f.strict.begin(f.length); err != nil {
			return err
		}
	}
	f.missing, f.phase = f.length, inBody
	if f.missing == 0 {
		f.end()
	}
	return nil
}

func (f *framing) end() { f.phase, f.since = inType, time.Time{} }
