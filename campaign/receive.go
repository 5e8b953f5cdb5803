package campaign

import (
	"encoding/json"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// What a device may receive, checked as it comes.
//
// Within one connection a conversation's events come in ascending order of seq, by
// one, and none twice. Across the connections of a kept session:
//
//   - What follows on the last event received is new. A larger step is a gap.
//   - A repeat is an event received before. It is due to an acknowledgement that the
//     server has not had: so it carries DUP and its old packet identifier, and the
//     device has no proof (a PINGRESP to a ping sent after it) that the server had
//     read the acknowledgement.
//   - Unless the server was killed since it was received, or stopped without its database: it
//     may then have lost what it had not saved yet, which is some seconds. Such
//     repeats are new packets. None of them may be of an event that it had proof of
//     (for it and all before it) settled time before the kill, with the database at
//     hand all the while.
//   - Unless the device has been at another node since: what its connection there knew, and
//     had not saved, is lost like that. Such repeats are held to the same rule.
//   - Unless the database was out of reach while the device was away, since then: the statement
//     that takes a session may have been done with its answer lost, which is to the
//     session like a crash. These are counted by themselves.
//
// At QoS 2 a device drops what has an identifier that waits for PUBREL, so it has
// no repeats of the first kind.
//
// Where members are removed from a group and come back, there may be holes
// (members.go).
//
// A session without clean start off begins anew with each connection.

// settledTime is how old a proven acknowledgement must be to survive kill -9. The
// server saves each second; a busy machine is given some more.
const settledTime = 6 * time.Second

// place is where a session is in a conversation's log.
type place struct {
	first, last int64
	receipts    []*receipt // of first … last
	stretches   []stretch  // of a group that members leave and come back to: what was received
}

func (p *place) at(seq int64) *receipt { return p.receipts[seq-p.first] }

// receipt is an event received.
type receipt struct {
	conn      *clientConn
	packetID  uint16
	qos       byte
	acked     bool          // PUBACK or PUBREC is written
	confirmed bool          // and known to have been read; at QoS 2: PUBCOMP
	safeSince time.Duration // this and all before it on its connection are confirmed; 0: not yet
}

// event is an event as it is received.
type event struct {
	Type           string
	ConversationID string
	Seq            int64
	ID             string
	SenderID       string
	ClientMsgID    string
	Content        string
	Title          string
	Op             string
	MessageID      string
	Emoji          string
	UserIDs        []string
	DeletedAt      string
}

// receive checks and notes a publication. cl.mu is held.
func (cl *client) receive(cc *clientConn, p *packet) {
	c := cl.c
	if isReads(p.TopicName) {
		cl.receiveRead(p)
		return
	}
	var e event
	if err := json.Unmarshal(p.Payload, &e); err != nil || p.TopicName != topic(e.ConversationID) {
		c.violate("protocol", "%s: on %s: %v: %.200q", cl.clientID, p.TopicName, err, p.Payload)
		return
	}
	if p.FixedHeader.Qos != cl.subQoS {
		c.violate("protocol", "%s: an event at QoS %d, subscribed at %d", cl.clientID, p.FixedHeader.Qos, cl.subQoS)
	}
	c.count("events received", 1)
	cl.judgeContent(cc, &e)
	if p.FixedHeader.Qos == 2 && cl.holding[p.PacketID] {
		c.count("repeats at QoS 2 recognised by their identifier", 1)
		cl.judgeHeld(&e)
		if !p.FixedHeader.Dup {
			cc.next[e.ConversationID] = e.Seq + 1
		}
		cc.unsettled++ // it is on its way again, on this connection
		cl.send(ack(packets.Pubrec, p.PacketID))
		for _, r := range cl.receiptsOf(&e) {
			r.acked = true
			r.packetID = p.PacketID
			cc.order = append(cc.order, r)
		}
		cl.noteSeen(cc, &e)
		return
	}
	cc.unsettled++
	if cl.receiveMaximum > 0 && cc.unsettled > cl.receiveMaximum {
		c.violate("window", "%s: %d publishes on their way, with a Receive Maximum of %d", cl.clientID, cc.unsettled, cl.receiveMaximum)
	}
	if p.FixedHeader.Qos == 2 {
		cl.holding[p.PacketID] = true
	}
	r := &receipt{conn: cc, packetID: p.PacketID, qos: p.FixedHeader.Qos}
	cl.judge(cc, &e, p, r)
	c.deliveredTo(cl, cc, &e)
	cc.due = append(cc.due, r)
	cc.order = append(cc.order, r)
	if cc.mood == eager {
		cl.settle(len(cc.due))
	}
}

// judgeContent asks whether an event may say what it says: nobody receives the texts
// of a deleted message on a connection that was begun after its deletion.
func (cl *client) judgeContent(cc *clientConn, e *event) {
	c := cl.c
	var m *message
	switch e.Type {
	case "message":
		m = cl.learn(e)
	case "edit":
		c.mu.Lock()
		m = c.byID[e.MessageID]
		c.mu.Unlock()
	}
	if m == nil {
		return
	}
	c.mu.Lock()
	gone := m.gone
	c.mu.Unlock()
	if gone > 0 && gone < cc.asked && (e.Content != "" || e.DeletedAt == "") {
		c.violate("deleted", "%s: event %d of %s (%s) with %.40q, on a connection begun %v after %s was deleted",
			cl.clientID, e.Seq, e.ConversationID, e.Type, e.Content, (cc.asked - gone).Round(time.Millisecond), m.name)
	}
}

func (cl *client) receiptsOf(e *event) []*receipt {
	pl := cl.places[e.ConversationID]
	if pl == nil || e.Seq < pl.first || e.Seq > pl.last {
		return nil
	}
	return []*receipt{pl.at(e.Seq)}
}

// judgeHeld checks what a QoS 2 identifier says was received before.
func (cl *client) judgeHeld(e *event) {
	if pl := cl.places[e.ConversationID]; pl == nil || e.Seq > pl.last {
		cl.c.violate("4 delivered", "%s: event %d of %s came under an identifier that waits for PUBREL, so a client takes it for a repeat; it is not",
			cl.clientID, e.Seq, e.ConversationID)
	}
}

func (cl *client) noteSeen(cc *clientConn, e *event) (twice bool) {
	seen := cc.seen[e.ConversationID]
	if seen == nil {
		seen = map[int64]bool{}
		cc.seen[e.ConversationID] = seen
	}
	twice = seen[e.Seq]
	seen[e.Seq] = true
	return twice
}

// judge is the rules above.
func (cl *client) judge(cc *clientConn, e *event, p *packet, r *receipt) {
	c := cl.c
	moving := c.ownerOf(e.ConversationID) != nil
	if moving {
		defer func() { cl.places[e.ConversationID].note(e.Seq) }()
	}
	if cl.noteSeen(cc, e) {
		c.violate("3 order", "%s: event %d of %s twice on one connection", cl.clientID, e.Seq, e.ConversationID)
	}
	if !p.FixedHeader.Dup {
		if next := cc.next[e.ConversationID]; next != 0 && next != e.Seq && !(moving && e.Seq > next) {
			c.violate("3 order", "%s: event %d of %s, where %d was due on this connection", cl.clientID, e.Seq, e.ConversationID, next)
		}
		cc.next[e.ConversationID] = e.Seq + 1
	} else {
		c.count("events with DUP", 1)
	}
	pl := cl.places[e.ConversationID]
	switch {
	case pl == nil:
		cl.places[e.ConversationID] = &place{first: e.Seq, last: e.Seq, receipts: []*receipt{r}}
		return
	case e.Seq == pl.last+1:
		pl.last = e.Seq
		pl.receipts = append(pl.receipts, r)
		return
	case e.Seq > pl.last:
		if !moving { // or its user may have been away, which is asked at the checkpoint
			c.violate("3 order", "%s: a gap: event %d of %s after %d (dup %v)", cl.clientID, e.Seq, e.ConversationID, pl.last, p.FixedHeader.Dup)
		}
		for range e.Seq - pl.last {
			pl.receipts = append(pl.receipts, r)
		}
		pl.last = e.Seq
		return
	case e.Seq < pl.first:
		c.violate("3 order", "%s: event %d of %s, from before the subscription's first, %d", cl.clientID, e.Seq, e.ConversationID, pl.first)
		return
	}
	cl.judgeRepeat(cc, e, p, pl.at(e.Seq))
	pl.receipts[e.Seq-pl.first] = r
}

// judgeRepeat asks whether an event that was received before may come again.
func (cl *client) judgeRepeat(cc *clientConn, e *event, p *packet, before *receipt) {
	c := cl.c
	first, how := cl.lossSince(before.conn)
	switch {
	case how != "":
		if safe := before.safeSince; safe > 0 && first-safe > settledTime && !c.db.faulty(safe-time.Second, first) {
			c.violate("3 repeats", "%s: event %d of %s again, acknowledged with proof %v before %s",
				cl.clientID, e.Seq, e.ConversationID, (first - safe).Round(time.Millisecond), how)
		}
		switch {
		case p.FixedHeader.Dup:
			c.count("repeats with DUP after "+how, 1)
		case before.conn.sentOn && before.acked: // it could have been saved before the DISCONNECT
			c.count("repeats after "+how+", from a node that was stopping", 1)
		default:
			c.count("repeats after "+how, 1)
		}
	case before.conn.since < cl.forgiven:
		c.count("repeats after the database was unavailable", 1)
	case before.acked && before.confirmed:
		c.violate("3 repeats", "%s: event %d of %s again (dup %v), although its acknowledgement was read and nothing was killed since (received on a connection that is %v old; this one is %v)",
			cl.clientID, e.Seq, e.ConversationID, p.FixedHeader.Dup, (c.now() - before.conn.since).Round(time.Millisecond), (c.now() - cc.since).Round(time.Millisecond))
	case !p.FixedHeader.Dup:
		c.violate("3 repeats", "%s: event %d of %s again without DUP, and nothing was killed since", cl.clientID, e.Seq, e.ConversationID)
	case p.PacketID != before.packetID:
		c.violate("3 repeats", "%s: event %d of %s again with packet identifier %d, was %d", cl.clientID, e.Seq, e.ConversationID, p.PacketID, before.packetID)
	case p.FixedHeader.Qos == 2:
		c.violate("3 repeats", "%s: event %d of %s again at QoS 2, and nothing was killed since", cl.clientID, e.Seq, e.ConversationID)
	default:
		c.count("repeats with DUP of what was not acknowledged", 1)
	}
}

// confirm notes that the server has read what was written before the ping that it
// has answered.
func (cl *client) confirm(cc *clientConn) {
	now := cl.c.now()
	for _, r := range cc.acked[:cc.pingMark] {
		r.confirmed = true
	}
	cc.acked = cc.acked[cc.pingMark:]
	cc.pinged, cc.pingMark = 0, 0
	for len(cc.order) > 0 && cc.order[0].confirmed {
		cc.order[0].safeSince = now
		cc.order = cc.order[1:]
	}
}
