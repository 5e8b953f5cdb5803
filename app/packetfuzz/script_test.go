package packetfuzz_test

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/parleymq/parley/app/apptest"
)

// A script is what two users do on a few connections: any bytes are one. It is read
// as a list of steps; each takes its choices from the bytes that follow, and the end
// of the bytes is the end of the script.
type script struct{ rest []byte }

const (
	maxSteps = 200 // of one script; what follows is not looked at
	slots    = 4   // connections at a time; the first half are one user's
)

// next returns the next byte, and below(n) one below n.
func (s *script) next() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

func (s *script) below(n int) int { return int(s.next()) % n }

// bytes returns up to n bytes as they are.
func (s *script) bytes(n int) []byte {
	n = min(n, len(s.rest))
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}

// run does what the script says, and leaves the connections that are still open.
func (s *script) run(w *world) (open []*peer) {
	var at [slots]*peer
	for range maxSteps {
		if len(s.rest) == 0 {
			break
		}
		op := s.below(16)
		slot := s.below(slots)
		p := at[slot]
		switch {
		case op == 15 && p != nil: // the line is cut
			p.cut()
			at[slot] = nil
		case p == nil || op == 0:
			if p != nil {
				open = append(open, p)
			}
			at[slot] = s.connect(w, w.users[slot*2/slots])
		case op < 10:
			p.write(s.packet(w, p))
		case op < 14:
			p.write(s.mutate(s.packet(w, p)))
		default:
			p.write(s.bytes(s.below(32)))
		}
	}
	for _, p := range at {
		if p != nil {
			open = append(open, p)
		}
	}
	return open
}

// connect opens a connection and sends what is mostly a CONNECT.
func (s *script) connect(w *world, u apptest.User) *peer {
	version := byte(5 - s.below(2))
	flags := byte(0xc0)
	if s.below(2) == 0 {
		flags |= 2 // clean start
	}
	will := s.below(4)
	if will == 0 {
		flags |= 4
	}
	body := text("MQTT") + string([]byte{version, flags, 0, 60})
	if version == 5 {
		body += props(pick(s, "", "\x11\x00\x00\x0e\x10", "\x11\xff\xff\xff\xff\x21\x00\x01", "\x27\x00\x00\x00\x20\x17\x00", "\x22\x00\x0a\x19\x01\x26\x00\x01k\x00\x01v"))
	}
	body += text(pick(s, "a", "b", "c", ""))
	if will == 0 {
		if version == 5 {
			body += props(pick(s, "", "\x18\x00\x00\x00\x00", "\x01\x01\x02\x00\x00\x00\x3c"))
		}
		body += text(pick(s, u.Topic("presence"), w.conv[0].Topic("messages"), "dev/a")) + text(pick(s, `{"status":"offline"}`, "my last words", "{"))
	}
	body += text(u.Username) + text(apptest.Password)
	b := packet(0x10, body)
	policy, mutated := s.below(6), s.below(6) == 0
	if mutated {
		b = s.mutate(b)
		version = 0 // who knows
	}
	p := w.dial(version, policy, u)
	if s.below(8) == 0 {
		p.write(b[:len(b)/2])
		p.write(b[len(b)/2:])
	} else {
		p.write(b)
	}
	return p
}

// packet makes a packet that is valid in the version of the peer, if not always what a
// client in its state may send.
func (s *script) packet(w *world, p *peer) []byte {
	five := p.version != 4
	none := "" // of properties
	if five {
		none = "\x00"
	}
	id := string([]byte{0, byte(1 + s.below(8))})
	conv := w.conv[s.below(len(w.conv))] // not always one's own
	messages := text(conv.Topic("messages"))
	switch s.below(34) {
	case 0:
		return packet(0xc0, "")
	case 1:
		return packet(0x30, messages+none+"at QoS 0")
	case 2, 3:
		return packet(0x32, messages+id+none+"at QoS 1")
	case 4, 5:
		return packet(0x34, messages+id+none+"at QoS 2")
	case 6:
		return packet(0x3a|byte(s.below(2)), messages+id+none+"once more")
	case 7:
		return packet(0x3c, messages+id+none+"once more")
	case 8, 9:
		return packet(0x62, id)
	case 10:
		return packet(0x40, id)
	case 11:
		return packet(0x50, id)
	case 12:
		return packet(0x70, id)
	case 13, 14:
		return packet(0x82, id+none+text("conv/#")+string(byte(s.below(3))))
	case 15:
		return packet(0x82, id+none+messages+"\x02"+text(conv.Topic("typing"))+"\x00"+text(conv.Topic("+"))+"\x01")
	case 16:
		return packet(0x82, id+none+text(p.user.Topic("#"))+"\x00"+text("user/+/presence")+"\x01")
	case 17:
		return packet(0xa2, id+none+text("conv/#")+messages)
	case 18:
		return packet(0x30, text(conv.Topic("typing"))+none+`{"typing":true}`)
	case 19:
		return packet(0x32, text(conv.Topic("reads"))+id+none+fmt.Sprintf(`{"upTo":%d}`, s.next()))
	case 20:
		return packet(0x32, text(p.user.Topic("presence"))+id+none+pick(s, `{"status":"away"}`, `{"status":"online"}`, `{"status":"invisible"}`, "{"))
	case 21:
		return packet(0x32, messages+id+none+fmt.Sprintf(`{"content":"keyed","clientMsgId":"0198c0de-0000-7000-8000-%012d"}`, s.below(8)))
	case 22:
		return packet(0x32, messages+id+none+pick(s, `{"type":"edit","messageId":"0198c0de-0000-7000-8000-000000000001","content":"x"}`, `{"type":"delete"}`, `{"type":"reaction","emoji":"👍","op":"add"}`, "{", "\xff", ""))
	case 23:
		return packet(0xe0, "")
	case 24:
		if five {
			return packet(0xe0, pick(s, "\x04", "\x00\x00", "\x00\x05\x11\x00\x00\x00\x00", "\x8e"))
		}
		return packet(0xe0, "")
	case 25:
		return packet(0xf0, "\x18\x00")
	case 26:
		return packet(pick(s, byte(0x20), 0x90, 0xb0, 0xd0, 0x00), pick(s, "", "\x00\x01\x00", "\x00\x00"))
	case 27:
		if five {
			return packet(0x32, messages+id+props("\x01\x01\x02\x00\x00\x00\x3c\x03"+text("text/plain")+"\x08"+text("r")+"\x09"+text("c")+"\x26"+text("k")+text("v"))+"with all properties")
		}
		return packet(0x33, messages+id+"retained")
	case 28:
		return packet(0x30|byte(s.below(2)), text(pick(s, "dev/a", "dev/a/b", "$SYS/x", "x", "conv", "user/"))+none+"elsewhere")
	case 29:
		return packet(0x82, id+none+text(pick(s, "#", "+/+", "$share/g/dev/#", "$share/g/conv/#", "$SYS/#", "dev/#", "a//+/#", "conv/+/+/+"))+string(byte(s.below(3))))
	case 30:
		if five {
			return packet(0x30, text(pick(s, "", "dev/a", "conv/x"))+props("\x23\x00"+string(byte(s.below(12))))+"aliased")
		}
		return packet(0xc0, "")
	case 31:
		return packet(0x32, messages+id+none+strings.Repeat("large ", 1+200*s.below(50)))
	case 32:
		if five {
			return packet(0x82, id+props("\x0b"+string(byte(1+s.below(3)))+"\x26"+text("k")+text("v"))+messages+string(byte(0x04|s.below(3)<<4)))
		}
		return packet(0x82, id+text("conv/+/messages")+"\x01")
	default:
		return []byte(pick(s, "\x30\xff\xff\xff\x7f", "\x32\x80\x80\x80\x80\x01", "\x30\xff\xff\x0f", "\xc0\x00\xc0\x00\xc0\x00"))
	}
}

// mutate changes a packet in a few places.
func (s *script) mutate(b []byte) []byte {
	b = append([]byte(nil), b...)
	for range 1 + s.below(3) {
		if len(b) == 0 {
			return b
		}
		// Mostly near the beginning, where the lengths are.
		at := int(s.next()) % len(b)
		if at > 16 && s.below(2) == 0 {
			at %= 16
		}
		switch s.below(8) {
		case 0:
			b[at] ^= 1 << s.below(8)
		case 1:
			b[at] = s.next()
		case 2:
			b[at] = pick(s, byte(0), 1, 0x7f, 0x80, 0xff)
		case 3:
			b = append(b[:at], b[at+1:]...)
		case 4:
			b = append(b[:at], append([]byte{s.next()}, b[at:]...)...)
		case 5:
			b = b[:at]
		case 6:
			b = append(b, b[at:]...)
		default:
			b = b[:len(b)-1]
		}
	}
	if s.below(2) == 0 {
		return b
	}
	return remeasured(b)
}

// remeasured returns a packet whose length is that of what it holds: else few changes
// would get past the framing.
func remeasured(b []byte) []byte {
	for i := 1; i < min(len(b), 5); i++ {
		if b[i] < 0x80 {
			return packet(b[0], string(b[i+1:]))
		}
	}
	return b
}

func pick[T any](s *script, from ...T) T { return from[s.below(len(from))] }

func text(s string) string { return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s }

func props(s string) string { return string(binary.AppendUvarint(nil, uint64(len(s)))) + s }

func packet(first byte, body string) []byte {
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}
