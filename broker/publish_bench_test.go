package broker_test

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// sink is a socket that takes everything.
type sink struct{ net.Conn }

func (sink) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (sink) Read([]byte) (int, error)         { return 0, io.EOF }
func (sink) Write(b []byte) (int, error)      { return len(b), nil }
func (sink) SetDeadline(time.Time) error      { return nil }
func (sink) SetReadDeadline(time.Time) error  { return nil }
func (sink) SetWriteDeadline(time.Time) error { return nil }

// BenchmarkPublish measures what a copy of a publication costs: an event, one with a
// subscription identifier, and a publication to a device topic.
func BenchmarkPublish(b *testing.B) {
	c := broker.NewConn(sink{}, broker.Limits{HighWater: 1 << 30, MaxBuffer: 1 << 30})
	accept(c, 5, nil, nil)
	f := frame("a message of some length, as people write them")
	d := &chat.Publication{Topic: "dev/lamp/state", Payload: []byte("on"), Expires: time.Now().Add(time.Hour), Properties: []byte{1, 1}}
	ids := []uint32{7}
	for name, publish := range map[string]func(id uint16){
		"event":      func(id uint16) { c.Publish(f, delivery.Packet{ID: id, QoS: 1}) },
		"identifier": func(id uint16) { c.Publish(f, delivery.Packet{ID: id, QoS: 1, Subscriptions: ids}) },
		"device":     func(id uint16) { c.Deliver(d, delivery.Packet{ID: id, QoS: 1, Subscriptions: ids}) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				publish(uint16(i | 1))
			}
		})
	}
}
