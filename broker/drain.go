package broker

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// Drain sends every client away, one after the other, spread evenly and in random
// order over the time given, so that they do not all connect elsewhere at once. Each
// is no longer read from, its publishes under way are stored and acknowledged
// (Limits.Drain), and it is sent DISCONNECT 0x9C (Use another server) with
// Options.Reference, or 0x8B (Server shutting down) where there is none; MQTT 3.1.1 has
// no code for it, and the connection is closed.
//
// The listeners should be closed before. New clients, over WebSocket, are refused, see
// Leaving. Drain returns when it has begun with the last, or when ctx ends; Shutdown does
// the rest, and waits for all.
func (s *Server) Drain(ctx context.Context, over time.Duration) {
	s.mu.Lock()
	s.leaving = true
	s.mu.Unlock()
	open := s.open()
	rand.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	s.logger.Info("sending clients away", "connections", len(open), "over", over)
	begun, wait := time.Now(), time.NewTimer(0)
	defer wait.Stop()
	for i, c := range open {
		due := time.Duration(float64(over) / float64(len(open)) * (float64(i) + rand.Float64()))
		wait.Reset(due - time.Since(begun))
		select {
		case <-wait.C:
			c.drain()
		case <-ctx.Done():
			return
		}
	}
	for _, c := range s.open() { // those that were in the middle of CONNECT then
		c.drain()
	}
}

// drain sends a client away, unless it is in the middle of CONNECT: CONNACK says it then.
func (c *Conn) drain() {
	if c.connected.Load() {
		c.sendAway()
	}
}

func (s *Server) open() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}

// Leaving reports whether Drain or Shutdown was called, so that CONNECT is refused:
// CONNACK says 0x9C (3 in MQTT 3.1.1), with the reference to other servers, if there is one.
func (s *Server) Leaving() (reference string, leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away.reference, s.leaving || s.closing
}
