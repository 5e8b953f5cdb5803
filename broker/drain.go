package broker

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

var shuttingDown = parting{code: packets.ErrServerShuttingDown.Code, reason: "the server is stopping; connect again in a moment"}

// Drain sends every client away, one after the other, spread evenly and in random
// order over the time given, so that they do not all connect elsewhere at once. Each
// is no longer read from, its publishes on their way are stored and acknowledged
// (Limits.Drain), and it is told 0x9C (Use another server) with Options.Reference,
// or 0x8B (Server shutting down) where there is none; MQTT 3.1.1 has no word for it,
// and the connection is closed.
//
// The listeners should be closed before. Who comes all the same, over WebSocket, is
// refused, see Leaving. Drain returns when the last has been turned away, or when ctx
// ends; Shutdown does the rest, and waits for all.
func (s *Server) Drain(ctx context.Context, over time.Duration) {
	s.mu.Lock()
	s.leaving = true
	open := make([]*Conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	rand.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	s.logger.Info("sending clients away", "connections", len(open), "over", over)
	begun, wait := time.Now(), time.NewTimer(0)
	defer wait.Stop()
	for i, c := range open {
		due := time.Duration(float64(over) / float64(len(open)) * (float64(i) + rand.Float64()))
		wait.Reset(due - time.Since(begun))
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
		if c.connected.Load() { // in the middle of CONNECT it is answered by CONNACK
			c.sendAway(s.elsewhere())
		}
	}
	s.mu.Lock()
	open = open[:0]
	for c := range s.conns { // who was in the middle of CONNECT then
		if c.connected.Load() {
			open = append(open, c)
		}
	}
	s.mu.Unlock()
	for _, c := range open {
		c.sendAway(s.elsewhere())
	}
}

func (s *Server) elsewhere() parting {
	if s.reference == "" {
		return shuttingDown
	}
	return parting{packets.ErrUseAnotherServer.Code, "the server is stopping; connect to another one", s.reference}
}

// Leaving reports whether Drain or Shutdown was called, so that nobody may connect
// any more: CONNACK says 0x9C (3 in MQTT 3.1.1), with the reference to other servers,
// if there is one.
func (s *Server) Leaving() (reference string, leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reference, s.leaving || s.closing
}
