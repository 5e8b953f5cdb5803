package broker

import (
	"cmp"
	"time"
)

// Limits bounds what a connection may cost. Zero fields get the default in brackets.
type Limits struct {
	MaxConnections   int           // open connections together [1,000,000]
	MaxConnectPacket int           // bytes of CONNECT [64 KiB]
	MaxPacket        int           // bytes of any other packet, at most chat.MaxPacketBytes; advertised as Maximum Packet Size [256 KiB]
	ReceiveMaximum   int           // publishes of one connection that may wait for their commit; advertised as Receive Maximum [256]
	PacketRate       int           // packets that are read from a connection in a second, see pace.go; of a user twice, of an address 25 times as many. Negative: any number [2,000]
	ConnectTimeout   time.Duration // from accept to the end of CONNECT [10 s]
	PacketTimeout    time.Duration // for each 256 KiB of a packet to arrive [30 s]
	WriteTimeout     time.Duration // in which the peer must read something (over WebSocket, 16 KiB); otherwise it is cut off [30 s]
	Linger           time.Duration // for the peer to read a closing connection's last packets [1 s]
	Drain            time.Duration // for the publishes under way to be stored when the server stops [3 s]
	HighWater        int           // bytes waiting to be written at which publications stay in the log until there is room [128 KiB]
	MaxBuffer        int           // bytes waiting to be written at which a connection is cut off [768 KiB and a packet]
}

// WithDefaults returns l with zero fields filled in.
func (l Limits) WithDefaults() Limits {
	l.MaxConnections = cmp.Or(l.MaxConnections, 1_000_000)
	l.MaxConnectPacket = cmp.Or(l.MaxConnectPacket, 64<<10)
	l.MaxPacket = cmp.Or(l.MaxPacket, 256<<10)
	l.ReceiveMaximum = cmp.Or(l.ReceiveMaximum, 256)
	l.PacketRate = cmp.Or(l.PacketRate, 2000)
	l.ConnectTimeout = cmp.Or(l.ConnectTimeout, 10*time.Second)
	l.PacketTimeout = cmp.Or(l.PacketTimeout, 30*time.Second)
	l.WriteTimeout = cmp.Or(l.WriteTimeout, 30*time.Second)
	l.Linger = cmp.Or(l.Linger, time.Second)
	l.Drain = cmp.Or(l.Drain, 3*time.Second)
	l.HighWater = cmp.Or(l.HighWater, 128<<10)
	l.MaxBuffer = cmp.Or(l.MaxBuffer, 768<<10+l.MaxPacket)
	return l
}
