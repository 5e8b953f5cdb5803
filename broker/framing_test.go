package broker_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/parleymq/parley/broker"
)

// parse is what framing must agree with: it looks at the whole stream at once. It
// returns whether the stream ends within a packet.
func parse(s []byte, maxFirst, maxOther int) (within bool, err error) {
	for limit := maxFirst; len(s) > 0; limit = maxOther {
		switch {
		case limit == maxFirst && s[0] != 0x10:
			return true, broker.ErrNotConnect
		}
		length, digits := 0, 0
		for {
			if 1+digits == len(s) {
				return true, nil
			}
			d := s[1+digits]
			length |= int(d&0x7f) << (7 * digits)
			digits++
			if d < 0x80 {
				break
			}
			if digits == 4 {
				return true, broker.ErrMalformed
			}
		}
		total := 1 + digits + length
		switch {
		case total > limit:
			return true, broker.ErrPacketTooBig
		case total > len(s):
			return true, nil
		}
		s = s[total:]
	}
	return false, nil
}

const (
	fuzzMaxFirst = 40 // unlike each other, so that it shows which is used
	fuzzMax      = 300
)

func FuzzFraming(f *testing.F) {
	connect := append([]byte{0x10, 5}, "hello"...)
	f.Add([]byte{}, uint64(0))
	f.Add([]byte{0xc0, 0}, uint64(1))
	f.Add([]byte{0x10, 0xff, 0xff, 0xff, 0xff, 1}, uint64(2))
	f.Add([]byte{0x10, 0x80, 0x80, 0x80, 0}, uint64(3)) // longer than need be
	f.Add(append(bytes.Clone(connect), 0xc0, 0, 0xe0, 0), uint64(4))
	f.Add(append(bytes.Clone(connect), append([]byte{0x30, 0xa9, 2}, make([]byte, 297)...)...), uint64(5))
	f.Add(append(bytes.Clone(connect), append([]byte{0x30, 0xaa, 2}, make([]byte, 298)...)...), uint64(6))
	f.Add(append([]byte{0x10, 38}, make([]byte, 38)...), uint64(7))
	f.Add(append([]byte{0x10, 39}, make([]byte, 39)...), uint64(8))
	f.Add(append(bytes.Clone(connect), 0x36, 0), uint64(9))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		wantWithin, wantErr := parse(stream, fuzzMaxFirst, fuzzMax)
		chunks := rand.New(rand.NewPCG(seed, 1))
		fr := broker.NewFraming(fuzzMaxFirst, fuzzMax)
		var within bool
		var err error
		for rest := stream; len(rest) > 0 && err == nil; {
			n := 1 + chunks.IntN(len(rest))
			within, err = fr.Feed(rest[:n:n])
			rest = rest[n:]
		}
		if !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
			t.Fatalf("% x: error %v, want %v", stream, err, wantErr)
		}
		if err == nil && within != wantWithin {
			t.Fatalf("% x: within a packet = %v, want %v", stream, within, wantWithin)
		}
	})
}

// The fuzz test's comparison over streams that are mostly right.
func TestFraming(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		var stream []byte
		for i := range r.IntN(6) {
			header, body := byte(0x10), r.IntN(fuzzMaxFirst)
			if i > 0 {
				header, body = byte(r.IntN(256)), r.IntN(fuzzMax+5)
			}
			stream = append(stream, header)
			n := body
			for ; n > 0x7f; n >>= 7 {
				stream = append(stream, byte(n)|0x80)
			}
			stream = append(append(stream, byte(n)), make([]byte, body)...)
		}
		stream = stream[:len(stream)-min(len(stream), r.IntN(3))]
		wantWithin, wantErr := parse(stream, fuzzMaxFirst, fuzzMax)
		fr := broker.NewFraming(fuzzMaxFirst, fuzzMax)
		var within bool
		var err error
		for rest := stream; len(rest) > 0 && err == nil; {
			n := 1 + r.IntN(min(len(rest), 90))
			within, err = fr.Feed(rest[:n:n])
			rest = rest[n:]
		}
		if !errors.Is(err, wantErr) || err == nil && (wantErr != nil || within != wantWithin) {
			t.Fatalf("% x: within %v, error %v, want %v, %v", stream, within, err, wantWithin, wantErr)
		}
	}
}
