package apptest

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker/brokertest"
)

// recorder is a test that fails without harm.
type recorder struct {
	testing.TB
	faults []string
}

func (r *recorder) Helper() {}

func (r *recorder) Errorf(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// A payload that the AsyncAPI document does not describe fails the test in whose
// connection it is seen, in either direction.
func TestPayloadsAreChecked(t *testing.T) {
	t.Parallel()
	const conv = "conv/0198c0de-0000-7000-8000-000000000001/"
	for _, tt := range []struct {
		name           string
		version        byte
		sent, received string // on conv/…/typing
		code           byte   // of the PUBACK
		faults         string
	}{
		{"both right", 5, `{"typing":true}`, `{"conversationId":"0198c0de-0000-7000-8000-000000000001","userId":"0198c0de-0000-7000-8000-000000000001","typing":true,"expiresAt":"2026-02-03T04:05:06.789Z"}`, 0, ""},
		{"wrong and received", 5, `{"typing":true}`, `{"typing":true}`, 0, "send on"},
		{"wrong and accepted", 5, `{"typing":1}`, "", 0, "receive on"},
		{"wrong and refused", 5, `{"typing":1}`, "", 0x99, ""},
		{"acknowledged in 3.1.1, which says nothing", 4, `{"typing":1}`, "", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			here, there := net.Pipe()
			defer there.Close()
			r := &recorder{TB: t}
			c := checked(r, brokertest.New(r, here))
			c.Version = tt.version
			var answer []byte
			if tt.received != "" {
				answer = c.Encode(brokertest.Publish(conv+"typing", 0, 0, tt.received))
			}
			ack := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, ProtocolVersion: tt.version, PacketID: 1, ReasonCode: tt.code}
			answer = append(answer, c.Encode(ack)...)
			go func() { // ends with the pipe
				var buf [4096]byte
				_, _ = there.Read(buf[:])
				_, _ = there.Write(answer)
			}()
			c.Publish(1, conv+"typing", tt.sent)
			if got := strings.Join(r.faults, "\n"); (got == "") != (tt.faults == "") || !strings.Contains(got, tt.faults) {
				t.Errorf("the test failed with %q, want something about %q", got, tt.faults)
			}
		})
	}
}
