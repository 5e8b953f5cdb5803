package broker_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
)

// str returns a text with its length before it.
func str(s string) string { return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s }

// props returns properties with their length before them.
func props(s string) string { return string(broker.AppendVarint(nil, len(s))) + s }

const everyPublishProperty = "\x01\x01" + "\x02\x00\x00\x00\x3c" + "\x03\x00\x04text" + "\x08\x00\x01r" + "\x09\x00\x02\xff\x00" + "\x23\x00\x01" + "\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01v"

// validPackets are packets that a client may send: for each version, every type, with all that it may hold.
func validPackets(version byte) map[string][]byte {
	p := func(b byte, body string) []byte { return append(broker.AppendVarint([]byte{b}, len(body)), body...) }
	if version < 5 {
		return map[string][]byte{
			"CONNECT":             p(0x10, str("MQTT")+"\x04\x02\x00\x3c"+str("id")),
			"CONNECT, all of it":  p(0x10, str("MQTT")+"\x04\xf6\x00\x3c"+str("id")+str("will")+str("bye\xff")+str("ann")+str("secret\x00\xff")),
			"CONNECT, token":      p(0x10, str("MQTT")+"\x04\x42\x00\x3c"+str("id")+str("token")),
			"PUBLISH, QoS 0":      p(0x30, str("a/b")+"hello"),
			"PUBLISH, empty":      p(0x31, str("a/b")),
			"PUBLISH, QoS 1":      p(0x3b, str("a/b")+"\x00\x01hello"),
			"PUBLISH, QoS 2":      p(0x34, str("a/b")+"\x00\x01hello"),
			"PUBACK":              p(0x40, "\x00\x01"),
			"PUBREC":              p(0x50, "\x00\x01"),
			"PUBREL":              p(0x62, "\x00\x01"),
			"PUBCOMP":             p(0x70, "\x00\x01"),
			"SUBSCRIBE":           p(0x82, "\x00\x01"+str("a")+"\x00"+str("b/#")+"\x02"),
			"UNSUBSCRIBE":         p(0xa2, "\x00\x01"+str("a")+str("b/#")),
			"PINGREQ":             p(0xc0, ""),
			"DISCONNECT":          p(0xe0, ""),
			"PUBLISH, long topic": p(0x30, str(strings.Repeat("t", 200))+"hello"),
		}
	}
	user := "\x26\x00\x01k\x00\x00"
	reason := "\x1f\x00\x03why"
	return map[string][]byte{
		"CONNECT": p(0x10, str("MQTT")+"\x05\x02\x00\x3c\x00"+str("id")),
		"CONNECT, all of it": p(0x10, str("MQTT")+"\x05\xf6\x00\x3c"+props("\x11\x00\x00\x00\x10\x21\x00\x0a\x27\x00\x00\x10\x00\x22\x00\x05\x19\x01\x17\x00"+user+user+"\x15\x00\x01m\x16\x00\x02\xff\x00")+
			str("id")+props("\x18\x00\x00\x00\x01\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x01t\x08\x00\x01r\x09\x00\x01\xff"+user)+str("will")+str("bye\xff")+str("ann")+str("secret\x00\xff")),
		"CONNECT, token":       p(0x10, str("MQTT")+"\x05\x42\x00\x3c\x00"+str("id")+str("token")),
		"PUBLISH, QoS 0":       p(0x30, str("a/b")+"\x00hello"),
		"PUBLISH, empty":       p(0x31, str("a/b")+"\x00"),
		"PUBLISH, alias":       p(0x30, str("")+"\x03\x23\x00\x01hello"),
		"PUBLISH, all of it":   p(0x3b, str("a/b")+"\x00\x01"+props(everyPublishProperty)+"hello"),
		"PUBLISH, QoS 2":       p(0x34, str("a/b")+"\x00\x01\x00hello"),
		"PUBACK":               p(0x40, "\x00\x01"),
		"PUBACK, reason":       p(0x40, "\x00\x01\x10"),
		"PUBACK, all of it":    p(0x40, "\x00\x01\x80"+props(reason+user+user)),
		"PUBREC":               p(0x50, "\x00\x01"),
		"PUBREC, all of it":    p(0x50, "\x00\x01\x97"+props(reason+user)),
		"PUBREL":               p(0x62, "\x00\x01"),
		"PUBREL, all of it":    p(0x62, "\x00\x01\x92"+props(reason+user)),
		"PUBCOMP":              p(0x70, "\x00\x01"),
		"PUBCOMP, all of it":   p(0x70, "\x00\x01\x92"+props(reason+user)),
		"SUBSCRIBE":            p(0x82, "\x00\x01\x00"+str("a")+"\x00"+str("b/#")+"\x02"),
		"SUBSCRIBE, all of it": p(0x82, "\x00\x01"+props("\x0b\x80\x01"+user)+str("a")+"\x2e"+str("b/#")+"\x1d"),
		"UNSUBSCRIBE":          p(0xa2, "\x00\x01"+props(user)+str("a")+str("b/#")),
		"PINGREQ":              p(0xc0, ""),
		"DISCONNECT":           p(0xe0, ""),
		"DISCONNECT, will":     p(0xe0, "\x04"),
		"DISCONNECT, all":      p(0xe0, "\x00"+props("\x11\x00\x00\x00\x10"+reason+user)),
	}
}

// body splits a packet after its header.
func body(packet []byte) (header byte, rest []byte) {
	n := 1
	for packet[n]&0x80 != 0 {
		n++
	}
	return packet[0], packet[n+1:]
}

// What a client may send passes; what is cut short, or goes on, does not, unless the
// shorter or the longer is another valid packet.
func TestStrictTakesWhatIsValid(t *testing.T) {
	t.Parallel()
	for _, v := range []byte{4, 5} {
		for name, p := range validPackets(v) {
			header, rest := body(p)
			check := func(what string, b []byte) {
				t.Helper()
				s := strictFor(v, header)
				err := s.Packet(header, b)
				want := naive(v, header, b)
				if (err == nil) != (want == "") {
					t.Errorf("version %d, %s, %s: %v, want %q: % x", v, name, what, err, want, b)
				}
				if err == nil && s.Version() != v {
					t.Errorf("version %d, %s: the version is %d", v, name, s.Version())
				}
			}
			if want := naive(v, header, rest); want != "" {
				t.Errorf("version %d, %s is not valid: %s", v, name, want)
			}
			check("whole", rest)
			for n := range rest {
				check("cut short", rest[:n])
			}
			check("a byte more", append(slices.Clone(rest), 0))
		}
	}
}

// strictFor returns a checker for the first CONNECT of a connection, or for a later packet.
func strictFor(version, header byte) *broker.Strict {
	if header>>4 == packets.Connect {
		return broker.NewStrict(0)
	}
	return broker.NewStrict(version)
}

// naive is what strict must agree with: it looks at a whole packet at once, and says
// what is wrong with it.
func naive(version, header byte, b []byte) (wrong string) {
	defer func() {
		if p := recover(); p != nil {
			fault, ok := p.(string)
			if !ok {
				panic(p)
			}
			wrong = fault
		}
	}()
	r := &cursor{b: b}
	kind, flags := header>>4, header&0xf
	fixed := map[byte]byte{packets.Pubrel: 2, packets.Subscribe: 2, packets.Unsubscribe: 2}[kind]
	r.must(kind == packets.Publish || flags == fixed, "flags")
	id := func() { r.must(r.number(2) != 0, "packet identifier") }
	inPublish := "\x01\x02\x03\x08\x09\x23\x26"
	switch kind {
	case packets.Connect:
		r.must(r.text() == "MQTT", "name")
		n := r.number(1)
		r.must(n == int(version) || version == 4 && n == 4|0x80, "version") // a bridge of Mosquitto's
		f := r.number(1)
		r.must(f&1 == 0, "reserved")
		r.must(f&0x18 != 0x18 && (f&4 != 0 || f&0x38 == 0), "will's flags")
		r.number(2)
		if version == 5 {
			r.props("\x11\x15\x16\x17\x19\x21\x22\x26\x27")
		}
		r.utf8()
		if f&4 != 0 {
			if version == 5 {
				r.props("\x01\x02\x03\x08\x09\x18\x26")
			}
			r.utf8()
			r.text()
		}
		if f&0x80 != 0 {
			r.utf8()
		}
		if f&0x40 != 0 {
			r.text()
		}
	case packets.Publish:
		r.must(flags&6 != 6 && flags&0xe != 8, "flags")
		r.text()
		if flags&6 != 0 {
			id()
		}
		if version == 5 {
			r.props(inPublish)
		}
		r.b = nil
	case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
		id()
		codes := "\x00\x92"
		if kind <= packets.Pubrec {
			codes = "\x00\x10\x80\x83\x87\x90\x91\x97\x99"
		}
		r.reason(version, codes, "\x1f\x26")
	case packets.Subscribe, packets.Unsubscribe:
		id()
		if version == 5 {
			r.props(map[byte]string{packets.Subscribe: "\x0b\x26", packets.Unsubscribe: "\x26"}[kind])
		}
		r.must(len(r.b) > 0, "filters")
		for len(r.b) > 0 {
			r.must(r.text() != "", "empty filter")
			if kind == packets.Subscribe {
				o := r.number(1)
				r.must(o&3 < 3 && (version == 5 || o < 3) && o&0x30 != 0x30 && o < 0x40, "options")
			}
		}
	case packets.Disconnect:
		r.reason(version, "\x00\x04\x80\x81\x82\x83\x90\x93\x94\x95\x96\x97\x98\x99", "\x11\x1c\x1f\x26")
	case packets.Pingreq:
	default:
		return "type"
	}
	r.must(len(r.b) == 0, "trailing bytes")
	return ""
}

// cursor reads a packet; where it cannot, it panics with what is wrong.
type cursor struct{ b []byte }

func (r *cursor) must(ok bool, what string) {
	if !ok {
		panic(what)
	}
}

func (r *cursor) take(n int) []byte {
	r.must(len(r.b) >= n, "short")
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *cursor) number(n int) (v int) {
	for _, c := range r.take(n) {
		v = v<<8 | int(c)
	}
	return v
}

func (r *cursor) text() string { return string(r.take(r.number(2))) }

func (r *cursor) utf8() {
	s := r.text()
	r.must(utf8.ValidString(s) && !strings.Contains(s, "\x00"), "not UTF-8")
}

func (r *cursor) varint() (v int) {
	for shift := 0; shift < 28; shift += 7 {
		c := r.number(1)
		v |= c & 0x7f << shift
		if c < 0x80 {
			return v
		}
	}
	panic("varint")
}

func (r *cursor) reason(version byte, codes, allowed string) {
	if version == 5 && len(r.b) > 0 {
		r.must(strings.Contains(codes, string(r.take(1))), "reason")
		if len(r.b) > 0 {
			r.props(allowed)
		}
	}
}

// props reads properties. Texts other than CONNECT's are left to mochi, so here only
// those of CONNECT are looked at: the ones with the session expiry.
func (r *cursor) props(allowed string) {
	p := &cursor{r.take(r.varint())}
	isConnect := strings.ContainsAny(allowed, "\x15\x18")
	seen := map[int]bool{}
	text := func() {
		if isConnect {
			p.utf8()
		} else {
			p.text()
		}
	}
	for len(p.b) > 0 {
		id := p.number(1)
		p.must(strings.Contains(allowed, string([]byte{byte(id)})), "property")
		p.must(id == 0x26 || !seen[id], "twice")
		seen[id] = true
		switch id {
		case 0x01, 0x17, 0x19:
			p.must(p.number(1) < 2, "flag")
		case 0x02, 0x11, 0x18:
			p.number(4)
		case 0x27:
			p.must(p.number(4) > 0, "maximum packet size")
		case 0x21:
			p.must(p.number(2) > 0, "receive maximum")
		case 0x22, 0x23:
			p.number(2)
		case 0x0b:
			p.must(p.varint() > 0, "subscription identifier")
		case 0x09, 0x16:
			p.text()
		case 0x08:
			before := p.b
			text()
			p.must(!bytes.ContainsAny(before[2:len(before)-len(p.b)], "+#"), "wildcard")
		case 0x26:
			text()
			text()
		default:
			text()
		}
	}
	r.must(!seen[0x16] || seen[0x15], "data without method")
}

// strict and naive agree on anything; and what they take, mochi decodes without a panic.
func FuzzStrict(f *testing.F) {
	for _, v := range []byte{4, 5} {
		for _, p := range validPackets(v) {
			header, rest := body(p)
			f.Add(v == 5, header, rest)
		}
	}
	f.Fuzz(func(t *testing.T, five bool, header byte, rest []byte) {
		if len(rest) > 1<<16 {
			return
		}
		v := byte(4)
		if five {
			v = 5
		}
		agree(t, v, header, rest)
	})
}

func agree(t *testing.T, v, header byte, rest []byte) {
	t.Helper()
	s := strictFor(v, header)
	err := s.Packet(header, rest)
	want := naive(v, header, rest)
	if err == nil && want == "version" && s.Version() != v {
		return // a CONNECT of the other version
	}
	if (err == nil) != (want == "") {
		t.Fatalf("version %d, %x % x: %v, want %q", v, header, rest, err, want)
	}
	if err != nil && broker.ViolationCode(err) < 0x80 {
		t.Fatalf("%v has no reason code", err)
	}
	if err == nil {
		decode(v, header, rest)
	}
}

// decode has mochi decode a packet.
func decode(version, header byte, rest []byte) {
	pk := packets.Packet{ProtocolVersion: version}
	_ = pk.FixedHeader.Decode(header)
	pk.FixedHeader.Remaining = len(rest)
	decoders := map[byte]func([]byte) error{
		packets.Connect: pk.ConnectDecode, packets.Publish: pk.PublishDecode, packets.Puback: pk.PubackDecode, packets.Pubrec: pk.PubrecDecode,
		packets.Pubrel: pk.PubrelDecode, packets.Pubcomp: pk.PubcompDecode, packets.Subscribe: pk.SubscribeDecode,
		packets.Unsubscribe: pk.UnsubscribeDecode, packets.Disconnect: pk.DisconnectDecode,
	}
	if d := decoders[pk.FixedHeader.Type]; d != nil {
		_ = d(slices.Clone(rest))
	}
}

// The fuzz test's comparison over packets that are nearly right.
func TestStrictAgreesWithNaive(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	for _, v := range []byte{4, 5} {
		for _, p := range validPackets(v) {
			header, rest := body(p)
			for range 2000 {
				b := slices.Clone(rest)
				for range 1 + r.IntN(3) {
					if len(b) == 0 {
						break
					}
					i := r.IntN(len(b))
					switch r.IntN(4) {
					case 0:
						b[i] = byte(r.IntN(256))
					case 1:
						b[i] ^= 1 << r.IntN(8)
					case 2:
						b = slices.Delete(b, i, i+1)
					default:
						b = slices.Insert(b, i, byte(r.IntN(256)))
					}
				}
				agree(t, v, header, b)
			}
		}
	}
}

// Each violation has the reason code that MQTT 5.0 asks for.
func TestStrictCodes(t *testing.T) {
	t.Parallel()
	connect := func(version, flags, rest string) string { return str("MQTT") + version + flags + "\x00\x3c" + rest }
	for _, c := range []struct {
		name    string
		version byte // 0: the packet is CONNECT
		header  byte
		body    string
		code    byte
	}{
		{"type 0", 5, 0x00, "", 0x81},
		{"CONNACK", 5, 0x20, "\x00\x00\x00", 0x82},
		{"AUTH", 5, 0xf0, "\x18\x00", 0x82},
		{"AUTH in 3.1.1", 4, 0xf0, "", 0x81},
		{"second CONNECT", 5, 0x10, "", 0x82},
		{"DUP at QoS 0", 5, 0x38, str("a") + "\x00", 0x82},
		{"QoS 3", 5, 0x36, str("a") + "\x00", 0x81},
		{"flags", 5, 0xc1, "", 0x81},
		{"ping with a body", 5, 0xc0, "\x00", 0x81},
		{"packet identifier 0", 5, 0x40, "\x00\x00", 0x82},
		{"unknown reason", 5, 0x40, "\x00\x01\x42", 0x82},
		{"a reason of others", 5, 0x62, "\x00\x01\x10", 0x82},
		{"length over the end", 5, 0x30, "\x00\x09a", 0x81},
		{"properties over the end", 5, 0x30, str("a") + "\x05\x23", 0x81},
		{"a property over the end of all", 5, 0x30, str("a") + "\x02\x23\x00\x01hello", 0x81},
		{"a text over the end of all", 5, 0x30, str("a") + "\x04\x03\x00\x05hello", 0x81},
		{"varint of five bytes", 5, 0x30, str("a") + "\x80\x80\x80\x80\x00", 0x81},
		{"a property of others", 5, 0x30, str("a") + props("\x21\x00\x01"), 0x81},
		{"an unknown property", 5, 0x30, str("a") + props("\x7f\x00"), 0x81},
		{"a property twice", 5, 0x30, str("a") + props("\x01\x00\x01\x00"), 0x82},
		{"payload format 2", 5, 0x30, str("a") + props("\x01\x02"), 0x82},
		{"response topic with a wildcard", 5, 0x30, str("a") + props("\x08\x00\x01#"), 0x82},
		{"subscription identifier 0", 5, 0x82, "\x00\x01" + props("\x0b\x00") + str("a") + "\x00", 0x82},
		{"no filter", 5, 0xa2, "\x00\x01\x00", 0x82},
		{"empty filter", 5, 0xa2, "\x00\x01\x00\x00\x00", 0x81},
		{"QoS 3 in SUBSCRIBE", 5, 0x82, "\x00\x01\x00" + str("a") + "\x03", 0x82},
		{"retain handling 3", 5, 0x82, "\x00\x01\x00" + str("a") + "\x30", 0x82},
		{"reserved options", 5, 0x82, "\x00\x01\x00" + str("a") + "\x40", 0x81},
		{"reserved options in 3.1.1", 4, 0x82, "\x00\x01" + str("a") + "\x04", 0x81},
		{"DISCONNECT with a body in 3.1.1", 4, 0xe0, "\x00", 0x81},
		{"CONNECT of version 3", 0, 0x10, connect("\x03", "\x02", str("a")), 0x84},
		{"CONNECT of version 6", 0, 0x10, connect("\x06", "\x02", "whatever"), 0x84},
		{"another name", 0, 0x10, str("AMQP") + "\x05\x02\x00\x3c\x00" + str("a"), 0x84},
		{"a longer name", 0, 0x10, str("MQTTMQTT") + "\x05\x02\x00\x3c\x00" + str("a"), 0x84},
		{"reserved flag", 0, 0x10, connect("\x05", "\x03", "\x00"+str("a")), 0x81},
		{"will at QoS 3", 0, 0x10, connect("\x05", "\x1e", "\x00"+str("a")), 0x81},
		{"QoS of no will", 0, 0x10, connect("\x05", "\x0a", "\x00"+str("a")), 0x81},
		{"RETAIN of no will", 0, 0x10, connect("\x04", "\x22", str("a")), 0x81},
		{"receive maximum 0", 0, 0x10, connect("\x05", "\x02", props("\x21\x00\x00")+str("a")), 0x82},
		{"maximum packet size 0", 0, 0x10, connect("\x05", "\x02", props("\x27\x00\x00\x00\x00")+str("a")), 0x82},
		{"problem information 2", 0, 0x10, connect("\x05", "\x02", props("\x17\x02")+str("a")), 0x82},
		{"data without method", 0, 0x10, connect("\x05", "\x02", props("\x16\x00\x01x")+str("a")), 0x82},
		{"client id not UTF-8", 0, 0x10, connect("\x05", "\x02", "\x00"+str("\xff")), 0x81},
		{"half a character", 0, 0x10, connect("\x05", "\x02", "\x00"+str("a\xc3")), 0x81},
		{"user name with NUL", 0, 0x10, connect("\x04", "\x82", str("a")+str("b\x00")), 0x81},
		{"bytes after the password", 0, 0x10, connect("\x04", "\xc2", str("a")+str("b")+str("c")+"d"), 0x81},
	} {
		s := broker.NewStrict(c.version)
		err := s.Packet(c.header, []byte(c.body))
		if got := broker.ViolationCode(err); got != c.code {
			t.Errorf("%s: %v (0x%02x), want 0x%02x", c.name, err, got, c.code)
		}
	}
}

func BenchmarkStrict(b *testing.B) {
	topic := str("conv/0198c0de-0000-7000-8000-000000000001/messages")
	for name, body := range map[string]string{
		"publish":          topic + "\x00\x01\x00" + strings.Repeat("x", 200),
		"publish with key": topic + "\x00\x01" + props("\x03"+str("application/json")+"\x26"+str("k")+str("v")) + strings.Repeat("x", 200),
	} {
		b.Run(name, func(b *testing.B) {
			s := broker.NewStrict(5)
			p := append(broker.AppendVarint([]byte{0x32}, len(body)), body...)
			stream := bytes.Repeat(p, 8)
			b.ReportAllocs()
			for i := 0; i < b.N; i += 8 {
				if n, err := s.Whole(stream); n != len(stream) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}
