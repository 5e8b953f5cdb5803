package delivery

import "github.com/parleymq/parley/chat"

// Sink is where a session's publications go: its connection. None of its methods blocks on
// the network. They are called with the session and its queue locked, so they must not
// call back into either.
type Sink interface {
	// Publish writes one PUBLISH. After NoRoom the sink's owner calls Session.Writable when
	// the buffer has drained. A closed connection accepts everything.
	Publish(f *Frame, p Packet) Outcome
	// Deliver is Publish for a publication to a device topic.
	Deliver(d *chat.Publication, p Packet) Outcome
	// Pubrel writes one PUBREL.
	Pubrel(packetID uint16)
	// Disconnect tells the client why, where the protocol allows, and closes.
	Disconnect(err error)
}

// Outcome says what a sink did with a publication.
type Outcome uint8

// The outcomes.
const (
	Written  Outcome = iota // it is in the buffer, in order
	NoRoom                  // nothing was written: the buffer is full
	TooLarge                // nothing was written: it is over the client's Maximum Packet Size, and counts as sent (MQTT 5.0, 3.1.2.11.4)
)

// Packet is what distinguishes one session's copy of a frame.
type Packet struct {
	ID            uint16 // 0 at QoS 0
	QoS           byte
	Dup           bool
	Retain        bool     // the RETAIN flag; of device topics only
	Subscriptions []uint32 // MQTT 5 subscription identifiers
}

// ErrTakenOver is the reason for ending a connection whose device has connected again.
var ErrTakenOver = &chat.Error{Code: chat.Conflict, Op: "delivery.TakeOver", Msg: "the same device has connected again"}

// ErrWrongAck is the reason for ending the connection of a client that answers what is in
// flight with a packet that is not due: PUBREC at QoS 1, PUBACK at QoS 2, or PUBCOMP before
// PUBREC. It is a protocol error (MQTT 5.0, 4.3 and 4.13).
var ErrWrongAck = &chat.Error{Code: chat.Invalid, Op: "delivery.Session", Msg: "an acknowledgement that is not due for its packet identifier"}

// ErrNodeEvicted is the reason for ending the connections of a node that the others have
// evicted: its sessions may have moved.
var ErrNodeEvicted = &chat.Error{Code: chat.Unavailable, Op: "delivery.DisconnectAll", Msg: "this node was cut off from the others; connect again"}

// ErrRevoked is the reason for ending a connection whose login is no longer good.
var ErrRevoked = &chat.Error{Code: chat.Forbidden, Op: "delivery.Revoke", Msg: "the login was revoked"}
