package broker

import (
	"errors"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
)

// Intake is a connection's acknowledging window: the publishes that wait for
// their commit, in the order they came. Commits end in any order; acknowledgements
// leave in the order of the publishes [MQTT-4.6.0-2].
type Intake struct {
	conn    *Conn
	limit   int
	refused func(p *Publish, told bool)

	mu      sync.Mutex
	waiting []*Publish    // mu guards: oldest first
	head    int           // mu guards: waiting[:head] is answered
	room    chan struct{} // mu guards: holds a value when something has changed; nil: nobody has waited so far
	closed  bool          // mu guards

	releasing map[uint16]bool // QoS 2: PUBREC is out, PUBREL is due; true: of a device topic. Owned by the reader and settle, under mu

	earlier  map[uint16]chat.UnackedPublish // mu guards: of earlier connections of the session, not sent again yet
	answered []answered                     // mu guards: claimed, and acknowledged lately: see Unacked
	fresh    bool                           // mu guards: something that is not in earlier was published
	parted   bool                           // mu guards: Unacked has been called, nothing more is taken
}

// answered is a publish whose acknowledgement is in the connection's buffer, or written.
type answered struct {
	chat.UnackedPublish
	end int64 // of the acknowledgement, see Conn.position
}

// Publish is one publish between its arrival and its acknowledgement. It is the
// chat.Waiter of its own Append.
type Publish struct {
	chat.Append
	Topic    chat.Topic
	Name     string // of the topic, as it was sent, if Topic is zero because it is none of the contract's
	PacketID uint16 // 0 at QoS 0
	QoS      byte
	Device   bool  // to a device topic: sent again in a later connection, it is known by its identifier alone
	Code     byte  // of the acknowledgement, if there is no error
	Err      error // outcome

	intake  *Intake
	done    bool
	claimed chat.UnackedPublish // Intake.mu guards; Key zero: it is not to be recognised in a later connection
	first   chat.UnackedPublish // what an earlier connection has left under its identifier; Key zero: nothing
}

// NewIntake returns the window of a connection. refused is called, from any goroutine and
// without locks, for each publish that is refused. told is false if the client has not
// been told by an acknowledgement or the end of its connection: at QoS 0 and in MQTT 3.1.1
// nothing can express a refusal.
func NewIntake(c *Conn, refused func(p *Publish, told bool)) *Intake {
	in := &Intake{conn: c, limit: c.server.limits.ReceiveMaximum, refused: refused}
	c.intake = in
	return in
}

// Drain waits until every publish has its outcome, the limit passes, or the window
// is closed. It is called by the connection's reader, or when that has returned, so that
// none is added.
func (in *Intake) Drain(limit time.Duration) {
	timeout := time.After(limit)
	for {
		in.mu.Lock()
		if in.closed || in.head == len(in.waiting) {
			in.mu.Unlock()
			return
		}
		room := in.awaitChange()
		in.mu.Unlock()
		select {
		case <-room:
		case <-timeout:
			return
		}
	}
}

// Begin adds a publish to the window. While the window is full it
// blocks, and with it only the connection's reader; false means that the
// connection has ended. So a client that has more on its way than Receive Maximum
// allows is held back by TCP, in MQTT 5 as in 3.1.1: cutting it off (MQTT 5.0, 4.9
// lets a server do that) would make it send everything again. Only publishes at
// QoS 2 for which no PUBREL comes cannot be held back; a client of MQTT 5 that has
// too many of those is cut off, as is one that uses a packet identifier twice at
// once. A retransmission of a publish that waits (MQTT 3.1.1 may send one on the
// same connection) is answered by the first, and one at QoS 2 between PUBREC and
// PUBREL by another PUBREC: nil, true.
func (in *Intake) Begin(topic chat.Topic, packetID uint16, qos byte, dup bool) (*Publish, bool) {
	for {
		in.mu.Lock()
		if in.closed || in.parted {
			in.mu.Unlock()
			return nil, false
		}
		if qos > 0 && in.inFlight(packetID) {
			_, pubrecSent := in.releasing[packetID]
			in.mu.Unlock()
			switch {
			case pubrecSent && qos == 2: // [MQTT-4.3.3-10]
				in.conn.WriteAck(packets.Pubrec, packetID, 0)
				return nil, true
			case dup && in.conn.version < 5:
				return nil, true
			}
			in.conn.DisconnectCode(packets.ErrProtocolViolation.Code, "packet identifier "+itoa(int(packetID))+" is in use")
			return nil, false
		}
		if qos == 2 && in.conn.version == 5 && len(in.releasing) >= in.mostReleasing() {
			in.mu.Unlock()
			in.conn.DisconnectCode(packets.ErrReceiveMaximum.Code, "more than "+itoa(in.mostReleasing())+" publishes at QoS 2 wait for PUBREL")
			return nil, false
		}
		if len(in.waiting)-in.head < in.limit {
			p := &Publish{Topic: topic, PacketID: packetID, QoS: qos, intake: in}
			if qos > 0 && in.earlier != nil {
				p.first = in.earlier[packetID]
				in.fresh = in.fresh || p.first.Key.IsZero()
				delete(in.earlier, packetID)
			}
			p.Done = p
			in.waiting = append(in.waiting, p)
			in.mu.Unlock()
			return p, true
		}
		room := in.awaitChange()
		in.mu.Unlock()
		<-room
	}
}

// awaitChange returns room, for the reader that is going to wait. mu is held.
func (in *Intake) awaitChange() <-chan struct{} {
	if in.room == nil {
		in.room = make(chan struct{}, 1)
	}
	return in.room
}

// inFlight reports whether the identifier is in use. mu is held. A QoS 2 exchange
// holds its identifier until PUBREL.
func (in *Intake) inFlight(packetID uint16) bool {
	for _, p := range in.waiting[in.head:] {
		if p.PacketID == packetID {
			return true
		}
	}
	_, ok := in.releasing[packetID]
	return ok
}

// Restore begins with what earlier connections of the session have left, before anything
// is read: identifiers that wait for PUBREL (see Releasing), and what the client may send
// again (see Unacked).
func (in *Intake) Restore(releasing []uint16, unacked []chat.UnackedPublish) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, id := range releasing {
		in.await(id, true)
	}
	if len(unacked) > 0 {
		in.earlier = make(map[uint16]chat.UnackedPublish, len(unacked))
		for _, u := range unacked {
			in.earlier[u.PacketID] = u
		}
	}
}

// Claim has a publish of Begin recognised if it is sent again in a later connection of the
// session. digest tells what it says, and key is the one to store it under; Claim returns
// the one to use, which is that of the first sending if this is the second; false if the
// session is the next connection's already, which would not recognise it.
func (in *Intake) Claim(p *Publish, key chat.ID, digest uint32) (chat.ID, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !p.first.Key.IsZero() && p.first.Digest == digest {
		key = p.first.Key
	}
	p.claimed = chat.UnackedPublish{PacketID: p.PacketID, Key: key, Digest: digest}
	return key, !in.parted
}

// noteAnswered keeps a publish whose acknowledgement may be lost with the connection: the
// last ones, as many as a client may have on their way. mu is held.
func (in *Intake) noteAnswered(p *Publish, end int64) {
	if len(in.answered) >= 2*in.limit {
		in.answered = append(in.answered[:0], in.answered[in.limit:]...)
	}
	in.answered = append(in.answered, answered{p.claimed, end})
}

// Unacked ends the window, and returns those claimed publishes of which the client may not know that they are
// stored: they are not acknowledged, or the acknowledgement has not reached the peer's
// host, as far as can be seen here (a proxy in between may have it). What earlier
// connections have left, and was not sent again, is among it until the client publishes
// something new: it sends again first [MQTT-4.4.0-1]. At most chat.MaxUnackedPublishes.
func (in *Intake) Unacked() []chat.UnackedPublish {
	received := in.conn.received()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.parted = true
	in.wake()
	var list []chat.UnackedPublish
	for _, a := range in.answered {
		if a.end > received {
			list = append(list, a.UnackedPublish)
		}
	}
	for _, p := range in.waiting[in.head:] {
		if !p.claimed.Key.IsZero() {
			list = append(list, p.claimed)
		}
	}
	if !in.fresh {
		for _, e := range in.earlier {
			list = append(list, e)
		}
	}
	return list[:min(len(list), chat.MaxUnackedPublishes)]
}

// Releasing returns the identifiers that wait for PUBREL, of publishes to device
// topics: those are not stored, so only the identifier shows that one is sent again. At
// most 1,024, or the Receive Maximum.
func (in *Intake) Releasing() []uint16 {
	in.mu.Lock()
	defer in.mu.Unlock()
	var ids []uint16
	for id, device := range in.releasing {
		if device {
			ids = append(ids, id)
		}
	}
	return ids
}

// await notes that an identifier waits for PUBREL. mu is held.
func (in *Intake) await(packetID uint16, device bool) {
	if len(in.releasing) >= in.mostReleasing() {
		return
	}
	if in.releasing == nil {
		in.releasing = map[uint16]bool{}
	}
	in.releasing[packetID] = device
}

// Release answers PUBREL: it reports whether the identifier was waiting for it. The error
// is ErrEarlyPubrel.
func (in *Intake) Release(packetID uint16) (waited bool, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	_, waited = in.releasing[packetID]
	if !waited && in.inFlight(packetID) {
		return false, ErrEarlyPubrel
	}
	delete(in.releasing, packetID)
	delete(in.earlier, packetID)
	return waited, nil
}

// ErrEarlyPubrel is the reason for ending the connection of a client that sends PUBREL for
// a publish of which it has neither PUBREC nor PUBACK yet: a protocol error (MQTT 5.0, 4.3.3
// and 4.13).
var ErrEarlyPubrel = &chat.Error{Code: chat.Invalid, Op: "broker.Intake", Msg: "PUBREL for a publish that is not acknowledged by PUBREC"}

// Close ends the window: a reader that waits in Begin returns, and outcomes that
// come later are not written.
func (in *Intake) Close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.wake()
}

// wake wakes the reader that waits. mu is held.
func (in *Intake) wake() {
	select {
	case in.room <- struct{}{}:
	default:
	}
}

// Committed implements chat.Waiter.
func (p *Publish) Committed(_ *chat.Append, err error) { p.Settle(err) }

// Settle gives the publish its outcome and writes every acknowledgement that is
// due now. It never blocks.
func (p *Publish) Settle(err error) {
	in := p.intake
	type refusal struct {
		p    *Publish
		told bool
	}
	var refused []refusal
	var fatal error
	in.mu.Lock()
	p.Err, p.done = err, true
	for !in.closed && fatal == nil && in.head < len(in.waiting) && in.waiting[in.head].done {
		first := in.waiting[in.head]
		in.waiting[in.head] = nil
		in.head++
		told := in.answer(first)
		if first.Err == nil {
			continue
		}
		if !told && chat.CodeOf(first.Err) == chat.Unavailable {
			fatal, in.closed, told = first.Err, true, true
			in.head-- // it is not acknowledged
			in.waiting[in.head] = first
		}
		refused = append(refused, refusal{first, told})
	}
	if in.head == len(in.waiting) {
		in.waiting, in.head = in.waiting[:0], 0
	} else if in.head >= in.limit {
		n := copy(in.waiting, in.waiting[in.head:])
		clear(in.waiting[n:])
		in.waiting, in.head = in.waiting[:n], 0
	}
	in.wake()
	in.mu.Unlock()
	for _, r := range refused {
		in.refused(r.p, r.told)
	}
	if fatal != nil {
		in.conn.Disconnect(fatal)
	}
}

// maxReleasing bounds the identifiers that wait for PUBREL. In MQTT 3.1.1, where a client
// knows no Receive Maximum, one beyond it is not remembered: its repeat is looked up in
// the log like that of any other packet.
const maxReleasing = 1024

// mostReleasing is maxReleasing, or the Receive Maximum if that is higher: a client may use
// all of it.
func (in *Intake) mostReleasing() int { return max(maxReleasing, in.limit) }

// answer writes the acknowledgement of p. It returns false if that does not tell
// the client the whole outcome. mu is held, so that acknowledgements keep their order.
func (in *Intake) answer(p *Publish) bool {
	kind := packets.Puback
	if p.QoS == 2 {
		kind = packets.Pubrec
	}
	code, mayAnswer := p.Code, true
	if p.Err != nil {
		code, mayAnswer = PubackReason(p.Err)
	}
	if !mayAnswer {
		return false
	}
	if p.QoS == 2 && (code < packets.ErrUnspecifiedError.Code || in.conn.version < 5) {
		in.await(p.PacketID, p.Device)
	}
	if p.QoS > 0 {
		end := in.conn.writeOutcome(kind, p, code)
		if !p.claimed.Key.IsZero() && p.Err == nil {
			in.noteAnswered(p, end)
		}
	}
	return p.Err == nil || p.QoS > 0 && in.conn.version == 5
}

// writeOutcome writes PUBACK or PUBREC: with id, seq and createdAt of what was
// stored, or with the reason of the refusal. It returns where in the connection's output
// that ends.
func (c *Conn) writeOutcome(kind byte, p *Publish, code byte) (end int64) {
	var buf [256]byte
	props := buf[:0]
	if c.version == 5 && !c.noInfo { // [MQTT-3.1.2-29]
		if p.Err != nil {
			props = appendStringProp(props, propReasonString, chat.PublicMessage(p.Err))
			if more := appendCode(props, p.Err); c.maxPacket == 0 || len(more)+8 <= c.maxPacket {
				props = more
			}
		} else if p.Event.Seq > 0 {
			props = appendStored(props, &p.Event)
		}
		if c.maxPacket > 0 && len(props)+8 > c.maxPacket { // [MQTT-3.4.2-2], [MQTT-3.4.2-3]
			props = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shut() {
		c.out = appendAck(c.buffer(), kind, p.PacketID, code, c.version, props)
		_ = c.kick()
		return c.position()
	}
	return math.MaxInt64 // it is not written
}

// appendCode appends the user properties code and field of a refusal: several codes
// of ours share one of MQTT's.
func appendCode(b []byte, err error) []byte {
	b = appendUserProp(b, "code", []byte(chat.CodeOf(err)))
	var e *chat.Error
	if errors.As(err, &e) && e.Field != "" && e.Code != chat.Internal {
		b = appendUserProp(b, "field", []byte(e.Field))
	}
	return b
}

// appendStored appends the user properties id, seq and createdAt.
func appendStored(b []byte, e *chat.Event) []byte {
	var buf [40]byte
	id, _ := e.ID.AppendText(buf[:0]) // it never fails
	b = appendUserProp(b, "id", id)
	b = appendUserProp(b, "seq", strconv.AppendInt(buf[:0], e.Seq, 10))
	return appendUserProp(b, "createdAt", e.CreatedAt.AppendFormat(buf[:0], chat.TimeFormat))
}
