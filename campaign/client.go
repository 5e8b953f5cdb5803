package campaign

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker/brokertest"
)

// profile is who a device is: drawn from the seed, the same for the whole campaign.
type profile struct {
	clientID       string
	version        byte // of MQTT: 4 or 5
	persistent     bool // its session survives its connections
	subQoS         byte
	pubQoS         byte
	filters        []string
	receiveMaximum int // 0: not sent
	window         int // publishes it has on their way
	keyed          bool
	pace           time.Duration // between its turns, on average
	writes         float64       // chance of a publish in each turn
	web            bool          // over WebSocket
	steady         bool          // no faults of its own: the others must not disturb it
}

func (p *profile) String() string {
	kind, key := "clean", "no key"
	if p.persistent {
		kind = "kept"
	}
	if p.keyed {
		key = "clientMsgId"
	}
	if p.web {
		kind += ", by WebSocket"
	}
	return fmt.Sprintf("%s: MQTT %d, %s, reads at QoS %d (receive maximum %d) %s, writes at QoS %d (window %d, %s)",
		p.clientID, p.version, kind, p.subQoS, p.receiveMaximum, strings.Join(p.filters, " "), p.pubQoS, p.window, key)
}

// client is one device. It keeps what a correct MQTT client keeps, and what the
// checks need.
type client struct {
	c    *campaign
	user *user
	profile
	rng   *rand.Rand // owned by run
	index int        // among the clients
	tries int        // owned by run: connections asked for by the steady ones

	mu       sync.Mutex
	conn     *clientConn                // mu guards; nil: not connected
	old      []*clientConn              // mu guards: connections taken over by ourselves, which the server must end
	outbound []*flight                  // mu guards: not acknowledged, in the order of their first sending
	nextID   uint16                     // mu guards
	written  int                        // mu guards: messages and commands made
	received []*message                 // mu guards: the last that were received, which commands may be about
	reacted  map[*message]reactionState // mu guards
	emoji    string                     // that it reacts with

	known        bool              // mu guards: a CONNACK has said whether there is a session
	subscribed   bool              // mu guards: SUBACK has come
	subscribedAt time.Duration     // mu guards
	holding      map[uint16]bool   // mu guards: QoS 2 identifiers between PUBREC and PUBREL
	places       map[string]*place // mu guards: by conversation
	forgiven     time.Duration     // mu guards: the database was unavailable while the device was away, last before this
	last         connEnd           // mu guards: of the connection before
	at           *server           // mu guards: the node that was asked for a connection last
	moves        []time.Duration   // mu guards: when another one than before was asked; see moves.go
	attempts     []unanswered      // mu guards: those that came to nothing
}

// connEnd is what is remembered of a connection when the next one comes.
type connEnd struct {
	at  time.Duration
	any bool
}

// flight is a message on its way in a packet.
type flight struct {
	m        *message
	id       uint16
	released bool // QoS 2: PUBREC has come
	sent     bool // on any connection
}

// clientConn is one connection of a client.
type clientConn struct {
	conn       net.Conn
	r          *bufio.Reader
	node       *server
	dialed     int           // incarnation of the server when it was dialed
	asked      time.Duration // when it was dialed
	since      time.Duration
	sentOn     bool          // the server has sent DISCONNECT because it is stopping
	superseded time.Duration // when the device had its next connection, while this one was still open; 0: it has none

	mood       mood
	moodEnds   time.Duration
	subID      uint16
	lastPacket time.Duration // when it came
	pinged     time.Duration // 0: no ping is on its way
	pingMark   int           // acknowledgements written before the ping
	due        []*receipt    // not acknowledged, in the order of their coming
	acked      []*receipt    // acknowledged to the end, not confirmed
	order      []*receipt    // in the order of their coming, from the first that is not confirmed
	unsettled  int           // the server's publishes that it may count against Receive Maximum
	next       map[string]int64
	seen       map[string]map[int64]bool
}

// mood is how a device treats what comes, for a while.
type mood int

const (
	eager mood = iota // acknowledges at once
	lazy              // acknowledges now and then
	mute              // reads, and acknowledges nothing
	stuck             // reads nothing
)

// run lives the device's life until ctx ends.
func (cl *client) run(ctx context.Context) {
	defer func() {
		cl.mu.Lock()
		cl.drop("the end")
		cl.closeOld()
		cl.mu.Unlock()
	}()
	for ctx.Err() == nil {
		pace := cl.pace/2 + time.Duration(cl.rng.Int64N(int64(cl.pace)))
		cl.mu.Lock()
		online := cl.conn != nil
		cl.mu.Unlock()
		if !online {
			if !cl.connect(ctx) {
				pace += 20 * time.Millisecond
			}
		} else {
			cl.turn(ctx)
		}
		if !sleep(ctx, pace) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

const patience = 8 * time.Second // for an answer, before a device takes the line for dead

// connect makes a connection, which takes over the one there is, if any.
func (cl *client) connect(ctx context.Context) bool {
	node := cl.choose()
	dialed, asked := node.current(), cl.c.now()
	conn, err := cl.dial(ctx, node)
	if err != nil {
		return false
	}
	r := bufio.NewReaderSize(conn, 8<<10)
	pk, err := cl.handshake(ctx, cl.c, cl.user, conn, r)
	code := pk.ReasonCode
	if err != nil || code != 0 {
		_ = conn.Close()
		cl.gaveUp(node, asked)
	}
	switch {
	case err != nil:
		cl.c.count("connections that came to nothing", 1)
		return false
	case code != 0:
		cl.c.count(fmt.Sprintf("CONNACK %#02x", code), 1)
		if cl.version == 5 && code != 0x88 && code != 0x89 && code != 0x9c || cl.version == 4 && code != 3 {
			cl.c.violate("refusal", "%s was refused with CONNACK %#02x", cl.clientID, code)
		}
		return false
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.begin(ctx, &clientConn{conn: conn, r: r, node: node, dialed: dialed, asked: asked}, pk.SessionPresent)
	return true
}

// begin takes an accepted connection into use. mu is held.
func (cl *client) begin(ctx context.Context, cc *clientConn, present bool) {
	c := cl.c
	now := c.now()
	cc.since, cc.lastPacket = now, now
	cc.next, cc.seen = map[string]int64{}, map[string]map[int64]bool{}
	c.count("connections", 1)
	if cl.web {
		c.count("connections by WebSocket", 1)
	}
	if old := cl.conn; old != nil { // the server must end it
		c.count("take-overs", 1)
		if old.node != cc.node {
			c.count("take-overs from another node", 1)
		}
		old.superseded = now
		cl.old = append(cl.old, old)
		cl.forget()
	}
	if cl.last.any && c.db.faulty(cl.last.at-2*time.Second, now) {
		cl.forgiven = now
	}
	if cl.known && cl.persistent && !present {
		c.violate("4 session", "%s: the session of a device that came back is gone", cl.clientID)
	}
	if present && !cl.persistent {
		c.violate("4 session", "%s: session present after a clean start", cl.clientID)
	}
	if !present {
		c.noteBegins(cl)
		cl.subscribed, cl.holding, cl.places = false, map[uint16]bool{}, map[string]*place{}
	}
	cl.known = true
	cl.conn = cc
	cl.changeMood()
	if !cl.subscribed {
		cc.subID = cl.id()
		cl.send(cl.subscribe(cc.subID, cl.filters...))
	}
	cl.resend(present)
	cc.read(ctx, cl)
}

// resend sends again what was not acknowledged: with its identifier and DUP where
// the session lives [MQTT-4.4.0-1], as a new packet where it does not.
func (cl *client) resend(present bool) {
	again := cl.outbound
	if !present {
		cl.outbound = nil
	}
	for _, f := range again {
		switch {
		case present && f.released:
			cl.send(ack(packets.Pubrel, f.id))
			continue
		case present:
			cl.c.count("publishes sent again with DUP", 1)
		case f.released:
			continue // stored: it was said
		default:
			cl.c.count("publishes sent again as new packets", 1)
			f.id, f.sent = cl.id(), false
			cl.outbound = append(cl.outbound, f)
		}
		cl.publication(f, present && f.sent)
	}
}

func topic(conv string) string { return "conv/" + conv + "/messages" }

// id returns a packet identifier that is not in use.
func (cl *client) id() uint16 {
	for {
		cl.nextID++
		if cl.nextID != 0 && !slices.ContainsFunc(cl.outbound, func(f *flight) bool { return f.id == cl.nextID }) {
			return cl.nextID
		}
	}
}

// publication sends what is on its way, again if dup. mu is held.
func (cl *client) publication(f *flight, dup bool) {
	pk := brokertest.Publish(f.m.topic(), cl.pubQoS, f.id, string(f.m.payload()))
	pk.FixedHeader.Dup = dup
	f.sent = true
	cl.send(pk)
}

// send sends a packet; an error ends the connection. mu is held.
func (cl *client) send(pk packet) {
	cc := cl.conn
	if cc == nil {
		return
	}
	_ = cc.conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
	if _, err := cc.conn.Write(cl.encode(pk)); err != nil {
		cl.drop("a write failed")
	}
}

// drop closes the connection without a word. mu is held.
func (cl *client) drop(string) {
	if cl.conn != nil {
		_ = cl.conn.conn.Close()
		cl.forget()
	}
}

// forget notes the end of the connection. mu is held.
func (cl *client) forget() {
	cl.last = connEnd{cl.c.now(), true}
	cl.conn = nil
	if !cl.persistent {
		cl.last.any = false
	}
}

func (cl *client) closeOld() {
	for _, old := range cl.old {
		_ = old.conn.Close()
	}
	cl.old = nil
}

// changeMood draws how the device behaves for the next seconds. mu is held.
func (cl *client) changeMood() {
	cc := cl.conn
	if cc.mood == stuck {
		cc.lastPacket = cl.c.now() // it did not listen
	}
	cc.mood, cc.moodEnds = eager, cl.c.now()+time.Duration(1+cl.rng.IntN(5))*time.Second
	if cl.steady || cl.c.quiet.Load() {
		return
	}
	switch n := cl.rng.IntN(100); {
	case n < 25:
		cc.mood = lazy
	case n < 35:
		cc.mood = mute
	case n < 35+cl.c.stuckChance():
		cc.mood = stuck
	}
}

// turn is what a device does when it has its turn.
func (cl *client) turn(ctx context.Context) {
	c := cl.c
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cc := cl.conn
	if cc == nil {
		return
	}
	now, quiet := c.now(), c.quiet.Load()
	if now > cc.moodEnds || quiet && cc.mood != eager {
		cl.changeMood()
	}
	if cc.mood == eager || cc.mood == lazy && cl.rng.IntN(8) == 0 {
		cl.settle(len(cc.due))
	}
	if cl.conn != cc {
		return
	}
	if cc.mood != stuck && now-cc.lastPacket > patience && cc.pinged != 0 && now-cc.pinged > patience {
		c.count("lines taken for dead", 1)
		cl.drop("silence")
		return
	}
	if cc.pinged == 0 {
		cc.pinged, cc.pingMark = now, len(cc.acked)
		cl.send(ack(packets.Pingreq, 0))
	}
	if len(cl.old) > 0 && !quiet && cl.rng.IntN(100) == 0 {
		cl.closeOld() // or else the server does
	}
	if quiet {
		return
	}
	for cl.conn == cc && cl.rng.Float64() < cl.writes && len(cl.outbound) < cl.window {
		cl.publish()
	}
	if cl.steady || cl.conn != cc {
		return
	}
	switch n := cl.rng.IntN(2000); {
	case cl.impatient(cc):
		c.count("devices that have left a node which stood still", 1)
		cl.mu.Unlock()
		cl.connect(ctx)
		cl.mu.Lock()
	case n < 3:
		c.count("orderly disconnects", 1)
		cl.send(ack(packets.Disconnect, 0))
		cl.drop("on purpose")
	case n < 6:
		c.count("disconnects without a word", 1)
		cl.drop("on purpose")
	case n < 9:
		cl.mu.Unlock()
		cl.connect(ctx)
		cl.mu.Lock()
	}
}

// publish sends a new message or command, now and then twice, or by the other door
// as well.
func (cl *client) publish() {
	c := cl.c
	convs := c.conversationsOf(cl.user)
	if len(convs) == 0 {
		return
	}
	m := cl.command()
	if m == nil {
		conv := convs[cl.rng.IntN(len(convs))]
		if cl.steady {
			conv = cl.user.steadyConv
		}
		cl.written++
		m = c.newMessage(cl.user, conv, fmt.Sprintf("%s-%d", cl.clientID, cl.written), cl.keyed, cl.size())
		m.via = cl.conn.node
	} else if m.kind == kindRead && (cl.pubQoS == 2 || cl.rng.IntN(3) == 0) {
		c.post(m) // these are not published at QoS 2
		return
	} else if m.kind != kindRead && cl.rng.IntN(6) == 0 { // by REST alone
		if m.kind == kindReaction {
			if m.op == "remove" { // only adding may be repeated whenever it arrives
				cl.launch(m)
				return
			}
			cl.reacted[m.about] = reactionDone
		}
		if m.kind != kindEdit || m.key != "" {
			if m.kind != kindEdit {
				c.mu.Lock()
				m.key = "" // REST has none for these
				c.mu.Unlock()
			}
			c.post(m)
			return
		}
	}
	cl.launch(m)
	if !cl.keyed || cl.steady {
		return
	}
	switch n := cl.rng.IntN(100); {
	case n < 5 && len(cl.outbound) < cl.window:
		c.count("sent twice at once", 1)
		cl.launch(m)
	case n < 10 && (m.kind == kindMessage || m.kind == kindEdit):
		c.count("sent by the other interface as well", 1)
		c.post(m)
	}
}

// launch publishes for the first time.
func (cl *client) launch(m *message) {
	f := &flight{m: m, id: cl.id()}
	cl.outbound = append(cl.outbound, f)
	cl.c.count(fmt.Sprintf("publishes at QoS %d", cl.pubQoS), 1)
	cl.publication(f, false)
}

func (cl *client) size() int {
	if cl.steady {
		return 100
	}
	switch n := cl.rng.IntN(100); {
	case n < 50 && cl.c.crowd.Load(): // what a server would hold for stuck readers must show
		return 5_000 + cl.rng.IntN(50_000)
	case n < 2:
		return 10_000 + cl.rng.IntN(20_000)
	case n < 15:
		return 500 + cl.rng.IntN(3000)
	}
	return cl.rng.IntN(200)
}

// settle acknowledges the first n of what is due. mu is held.
func (cl *client) settle(n int) {
	cc := cl.conn
	for range n {
		if cl.conn != cc || len(cc.due) == 0 {
			return
		}
		r := cc.due[0]
		cc.due = cc.due[1:]
		if r.qos == 1 {
			cc.unsettled--
			r.acked = true
			cc.acked = append(cc.acked, r)
			cl.send(ack(packets.Puback, r.packetID))
		} else {
			r.acked = true
			cl.send(ack(packets.Pubrec, r.packetID))
		}
	}
}

// read takes packets until the connection ends.
func (cc *clientConn) read(ctx context.Context, cl *client) {
	cl.c.wg.Go(func() {
		for ctx.Err() == nil {
			cl.mu.Lock()
			held := cl.conn == cc && cc.mood == stuck && !cl.c.quiet.Load()
			gone := cl.conn != cc
			cl.mu.Unlock()
			if gone {
				cl.readOld(ctx, cc)
				return
			}
			if held {
				sleep(ctx, 20*time.Millisecond)
				continue
			}
			pk, err := cl.next(cl.c, cc.r)
			cl.mu.Lock()
			if cl.conn != cc {
				cl.mu.Unlock()
				if err != nil {
					cl.ended(cc)
					return
				}
				cl.judgeOld(cc, pk)
				cl.readOld(ctx, cc)
				return
			}
			if err != nil {
				cl.drop("read")
				cl.mu.Unlock()
				return
			}
			cc.lastPacket = cl.c.now()
			cl.take(cc, pk)
			cl.mu.Unlock()
		}
	})
}

// take is what a device does with a packet. mu is held.
func (cl *client) take(cc *clientConn, pk packet) {
	c := cl.c
	switch id := pk.PacketID; pk.FixedHeader.Type {
	case packets.Publish:
		cl.receive(cc, &pk)
	case packets.Puback, packets.Pubrec:
		cl.acknowledged(pk)
	case packets.Pubcomp:
		cl.outbound = slices.DeleteFunc(cl.outbound, func(f *flight) bool { return f.id == id && f.released })
	case packets.Pubrel:
		if cl.holding[id] {
			cc.unsettled--
		}
		delete(cl.holding, id)
		for _, r := range cc.order {
			if r.packetID == id && r.qos == 2 && r.acked {
				cc.acked = append(cc.acked, r)
			}
		}
		cl.send(ack(packets.Pubcomp, id))
	case packets.Suback:
		if slices.Max(pk.ReasonCodes) >= 0x80 {
			c.count("SUBACK refusals", 1)
			cl.drop("not subscribed") // the database was unavailable: once more
			return
		}
		if !cl.subscribed {
			cl.subscribed, cl.subscribedAt = true, c.now()
		}
	case packets.Pingresp:
		cl.confirm(cc)
	case packets.Disconnect:
		code := pk.ReasonCode
		c.count(fmt.Sprintf("DISCONNECT %#02x from the server", code), 1)
		cc.sentOn = code == 0x8b || code == 0x9c
		switch code {
		case 0x88, 0x89, 0x8b, 0x8d, 0x8e, 0x9c:
		default:
			c.violate("refusal", "%s was disconnected with %#02x: %q", cl.clientID, code, pk.Properties.ReasonString)
		}
		cl.drop("the server ended it")
	default:
		c.violate("protocol", "%s: %s from the server", cl.clientID, brokertest.Describe(pk))
	}
}

// acknowledged notes a PUBACK or PUBREC. mu is held.
func (cl *client) acknowledged(pk packet) {
	c, kind := cl.c, pk.FixedHeader.Type
	o := brokertest.AckOf(pk)
	i := slices.IndexFunc(cl.outbound, func(f *flight) bool { return f.id == pk.PacketID })
	switch {
	case i < 0:
		c.violate("protocol", "%s: an acknowledgement (type %d) of %d, which is not on its way", cl.clientID, kind, pk.PacketID)
		return
	case kind == packets.Puback && cl.pubQoS != 1 || kind == packets.Pubrec && cl.pubQoS != 2:
		c.violate("protocol", "%s: packet type %d in answer to a publish at QoS %d", cl.clientID, kind, cl.pubQoS)
		return
	case o.Code >= 0x80:
		f := cl.outbound[i]
		cl.settled(f.m, true)
		c.refused(f.m, fmt.Sprintf("%s: %#02x", cl.clientID, o.Code), map[byte]refusal{0x87: refusedMember, 0x83: refusedDeleted}[o.Code])
		cl.outbound = slices.Delete(cl.outbound, i, i+1)
		return
	}
	f := cl.outbound[i]
	if !f.released {
		c.acked(f.m, stored{o.ID, o.Seq}, cl.version == 5)
		cl.settled(f.m, false)
	}
	if kind == packets.Puback {
		cl.outbound = slices.Delete(cl.outbound, i, i+1)
		return
	}
	f.released = true
	cl.send(ack(packets.Pubrel, f.id))
}
