package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
)

// parse is what the look at a fixed header must agree with. It returns the length of the
// packet that b begins with, 0 if that is not whole.
func parse(b []byte, first bool, limit int) (size int, err error) {
	if first && b[0] != 0x10 {
		return 0, broker.ErrNotConnect
	}
	kind, flags := b[0]>>4, b[0]&0xf
	switch kind {
	case packets.Publish:
		if flags>>1&3 == 3 || flags>>1&3 == 0 && flags&8 != 0 {
			return 0, errViolation
		}
	case packets.Pubrel, packets.Subscribe, packets.Unsubscribe:
		if flags != 2 {
			return 0, errViolation
		}
	case packets.Connect, packets.Puback, packets.Pubrec, packets.Pubcomp, packets.Pingreq, packets.Disconnect:
		if flags != 0 || kind == packets.Connect && !first {
			return 0, errViolation
		}
	default:
		return 0, errViolation
	}
	length, digits := 0, 0
	for more := true; more; digits++ {
		switch {
		case digits == 4:
			return 0, errViolation
		case 1+digits == len(b):
			return 0, nil
		}
		more = b[1+digits] > 0x7f
		length += int(b[1+digits]&0x7f) << (7 * digits)
	}
	switch {
	case 1+digits+length > limit:
		return 0, broker.ErrPacketTooBig
	case 1+digits+length > len(b):
		return 0, nil
	}
	return 1 + digits + length, nil
}

var errViolation = errors.New("violation")

func FuzzFraming(f *testing.F) {
	f.Add(true, []byte{0x10, 5, 'h', 'e', 'l', 'l', 'o'}, 7)
	f.Add(true, []byte{0x10, 5, 'h', 'e', 'l', 'l', 'o'}, 6)
	f.Add(true, []byte{0xc0, 0}, 100)
	f.Add(false, []byte{0xc0, 0}, 100)
	f.Add(false, []byte{0x10, 0}, 100)
	f.Add(false, []byte{0x36, 0}, 100)
	f.Add(false, []byte{0x30, 0xff, 0xff, 0xff, 0x7f}, 1000)
	f.Add(false, []byte{0x30, 0xff, 0xff, 0xff, 0xff}, 1000)
	f.Add(false, []byte{0x30, 0xff, 0xff}, 1000)
	f.Add(false, []byte{0xc0, 0x80, 0x80, 0x80, 0}, 1000) // longer than need be
	f.Add(false, append([]byte{0x30, 0xa9, 2}, make([]byte, 297)...), 300)
	f.Add(false, append([]byte{0x30, 0xaa, 2}, make([]byte, 298)...), 300)
	f.Fuzz(func(t *testing.T, first bool, b []byte, limit int) {
		if len(b) == 0 || limit < 1 || limit > 1<<20 {
			return
		}
		want, wantErr := parse(b, first, limit)
		got, err := broker.Frame(b, first, limit)
		if got != want || (err == nil) != (wantErr == nil) || !errors.Is(err, wantErr) && (!errors.Is(wantErr, errViolation) || broker.ViolationCode(err) == 0) {
			t.Errorf("% x: %d, %v, want %d, %v", b, got, err, want, wantErr)
		}
	})
}

// Whatever pieces a stream comes in, all of it is read
// up to the packet that is wrong.
func TestReadInPieces(t *testing.T) {
	t.Parallel()
	valid := validPackets(5)
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(valid)), func(name string) bool { return strings.HasPrefix(name, "CONNECT") })
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 1))
			good := slices.Clone(valid["CONNECT, all of it"])
			for range r.IntN(20) {
				good = append(good, valid[names[r.IntN(len(names))]]...)
				if r.IntN(8) == 0 {
					body := append([]byte(str("a")+"\x00"), make([]byte, r.IntN(200_000))...)
					good = append(broker.AppendVarint(append(good, 0x30), len(body)), body...)
				}
			}
			stream := slices.Concat(good, []byte{0xc0, 1, 0, 0xc0, 0})
			server, client := net.Pipe()
			defer func() { _ = client.Close() }()
			go func() { // ends when the stream is written, or the client closed
				for rest := stream; len(rest) > 0; {
					n := min(len(rest), 1+r.IntN(1<<r.IntN(17)))
					if _, err := client.Write(rest[:n]); err != nil {
						return
					}
					rest = rest[n:]
				}
			}()
			c := broker.NewConn(server, broker.Limits{})
			var got []byte
			for {
				b, err := c.Next()
				got = append(got, b...)
				if err != nil {
					if broker.ViolationCode(err) != 0x81 || !bytes.Equal(got, good) {
						t.Errorf("%v after %d bytes of %d, want a violation after all", err, len(got), len(good))
					}
					return
				}
				if len(b) == 0 {
					t.Fatal("Next returned nothing")
				}
			}
		})
	}
}
