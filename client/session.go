package client

import (
	"context"
	"io"
	"sync"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho/log"
	"github.com/eclipse/paho.golang/paho/session"
	"github.com/eclipse/paho.golang/paho/session/state"
)

// mqttSession is paho's view of the MQTT session, which differs from paho's own in
// two ways.
//
// What was sent and not acknowledged ends with its connection, instead of being sent
// again by paho: those who wait for the acknowledgement are told at once that the
// connection is lost, and publish again under the same clientMsgId. In paho's session
// they would wait for nothing if the server has forgotten the session.
//
// What was received is acknowledged when the program has handled it, which may be
// after its connection has ended: an acknowledgement belongs to one connection, and
// is dropped if another one is up.
type mqttSession struct {
	mu   sync.Mutex
	of   *state.State       // mu guards: of the present connection; nil: none yet
	ctx  context.Context    // mu guards: the present connection's life
	end  context.CancelFunc // mu guards
	gone *packets.Disconnect
	// mu guards gone: the DISCONNECT with which the server ended the last connection
}

func newMQTTSession() *mqttSession {
	ctx, end := context.WithCancel(context.Background())
	end()
	return &mqttSession{ctx: ctx, end: end}
}

var _ session.SessionManager = (*mqttSession)(nil)

// ConAckReceived implements session.SessionManager.
func (s *mqttSession) ConAckReceived(w io.Writer, cp *packets.Connect, ca *packets.Connack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
	s.ctx, s.end = context.WithCancel(context.Background()) // ended by ConnectionLost, which paho always calls
	s.of, s.gone = state.NewInMemory(), nil
	return s.of.ConAckReceived(w, cp, ca)
}

// ConnectionLost implements session.SessionManager. It is called as soon as it is
// known, and with the server's DISCONNECT if there was one.
func (s *mqttSession) ConnectionLost(d *packets.Disconnect) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
	if d != nil {
		s.gone = d
	}
	if s.of == nil {
		return nil
	}
	_ = s.of.ConnectionLost(d)
	return s.of.Close() // answers everybody who waits
}

// present is the state and life of the present connection.
func (s *mqttSession) present() (*state.State, context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of, s.ctx
}

// lost returns why the server ended the last connection, or nil if it did not say.
func (s *mqttSession) lost() *packets.Disconnect {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// AddToSession implements session.SessionManager.
func (s *mqttSession) AddToSession(ctx context.Context, p session.Packet, resp chan<- packets.ControlPacket) error {
	of, _ := s.present()
	if of == nil {
		return session.ErrNoConnection
	}
	return of.AddToSession(ctx, p, resp)
}

// PacketReceived implements session.SessionManager.
func (s *mqttSession) PacketReceived(p *packets.ControlPacket, to chan<- *packets.Publish) error {
	of, _ := s.present()
	return of.PacketReceived(p, to)
}

// Ack implements session.SessionManager: paho calls it when its handlers have
// returned, and that is too early.
func (s *mqttSession) Ack(*packets.Publish) error { return nil }

// acknowledge writes PUBACK for a publication of the connection with the given life,
// unless that has ended.
func (s *mqttSession) acknowledge(life context.Context, packetID uint16) {
	s.mu.Lock()
	defer s.mu.Unlock() // held while writing, so that no other connection comes between
	if s.ctx == life && life.Err() == nil {
		_ = s.of.Ack(&packets.Publish{QoS: 1, PacketID: packetID}) // a lost connection shows elsewhere
	}
}

// Close implements session.SessionManager.
func (s *mqttSession) Close() error { return s.ConnectionLost(nil) }

// SetErrorLogger implements session.SessionManager.
func (s *mqttSession) SetErrorLogger(log.Logger) {}

// SetDebugLogger implements session.SessionManager.
func (s *mqttSession) SetDebugLogger(log.Logger) {}
