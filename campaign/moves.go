package campaign

import (
	"context"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Where there are several nodes a device asks another one with each connection, and
// one of its connections may still be there at the node before.
//
// A node saves what its sessions have acknowledged each second, and at the end of a
// connection; the next node goes on from what is saved. So what a session knows and has
// not saved is lost with a move, as it is with a kill, and the rules for repeats are the
// same (receive.go). What a superseded connection receives is nobody's loss,
// but the node must stop in time: see judgeOld.

// choose draws the node for the next connection, and notes a move.
func (cl *client) choose() *server {
	c := cl.c
	node := c.nodes[0]
	if len(c.nodes) > 1 {
		if cl.steady { // the pair that measures is apart, as far as it can be
			cl.tries++
			node = c.nodes[(cl.index+cl.tries)%len(c.nodes)]
		} else {
			node = c.draw(cl.rng)
		}
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.conn != nil && cl.conn.node == node && node.pauses.now() {
		node = c.nodes[(slices.Index(c.nodes, node)+1)%len(c.nodes)] // which answers
	}
	if cl.at != nil && cl.at != node {
		cl.moves = append(cl.moves, c.now())
		c.count("attempts at another node", 1)
	}
	cl.at = node
	return node
}

// impatient reports whether a device has had enough of a node that stands still: it
// connects to another one, and leaves the old connection as it is.
func (cl *client) impatient(cc *clientConn) bool {
	return len(cl.c.nodes) > 1 && !cl.steady && cc.node.pauses.now() && cl.rng.IntN(15) == 0
}

// unanswered is an attempt at a connection that came to nothing: the node may have
// taken the session for it, and may still do so later.
type unanswered struct {
	node        *server
	asked, over time.Duration
}

// lateLimit is how long after a device has given a connection up the node may still act
// on its CONNECT: it waits for the database, or stands still.
const lateLimit = 15 * time.Second

// gaveUp notes an attempt that came to nothing.
func (cl *client) gaveUp(node *server, asked time.Duration) {
	if len(cl.c.nodes) == 1 {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.attempts = append(cl.attempts, unanswered{node, asked, cl.c.now()})
}

// lossSince returns the first time, since a connection was made, at which its session
// may have lost what was not saved, and how; "": there was none. mu is held.
func (cl *client) lossSince(cc *clientConn) (at time.Duration, how string) {
	note := func(t time.Duration, what string) {
		if how == "" || t < at {
			at, how = t, what
		}
	}
	if crashed := cc.node.crashes(cc.dialed, cc.node.current()); len(crashed) > 0 {
		note(crashed[0].at, "a kill")
	}
	for _, moved := range cl.moves {
		if moved > cc.asked {
			note(moved, "a move to another node")
			break
		}
	}
	for _, a := range cl.attempts {
		if a.node != cc.node && a.over+lateLimit > cc.asked {
			note(max(a.asked, cc.asked), "an attempt at another node")
		}
	}
	return at, how
}

// oldLimit is how long a node may go on serving a connection whose device has
// connected at another one: until it has read the outbox, on a busy machine.
const oldLimit = 5 * time.Second

// pauseLimit is how long a node may have been stopped and not have to look what has
// become of its sessions; its own limit is 2 s.
const pauseLimit = 3 * time.Second

// readOld reads a connection that another one of its device has superseded, until it ends.
func (cl *client) readOld(ctx context.Context, cc *clientConn) {
	for ctx.Err() == nil {
		pk, err := cl.next(cl.c, cc.r)
		if err != nil {
			break
		}
		cl.judgeOld(cc, pk)
	}
	cl.ended(cc)
}

// ended notes that a superseded connection has ended.
func (cl *client) ended(cc *clientConn) {
	_ = cc.conn.Close()
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for i, old := range cl.old {
		if old == cc {
			cl.old = append(cl.old[:i:i], cl.old[i+1:]...)
			return
		}
	}
}

// judgeOld asks whether a connection may receive a packet after it was superseded. What was
// on its way may come whenever the line lets it; so only a message counts that was
// sent after the node must have known: some seconds later, or, while the node was
// stopped for longer than it may be without looking, at once.
func (cl *client) judgeOld(cc *clientConn, pk packet) {
	c := cl.c
	cl.mu.Lock()
	superseded := cc.superseded
	cl.mu.Unlock()
	if pk.FixedHeader.Type != packets.Publish || superseded == 0 {
		return
	}
	c.count("events on a superseded connection", 1)
	m := c.messageIn(&pk)
	if m == nil || m.first <= superseded {
		return
	}
	if began, ended, ok := cc.node.pauses.around(m.first); ok && ended > 0 && superseded >= began && ended-began >= pauseLimit {
		c.violate("one node", "%s: %s on a connection to %s, which was stopped from %v to %v; the message was sent at %v, when the device was at another node since %v",
			cl.clientID, m.name, cc.node.what(), began, ended, m.first, superseded)
		return
	}
	known, over := c.down.lastEnd(superseded, m.first)
	if over && m.first > max(superseded, known)+oldLimit {
		c.violate("one node", "%s: %s, sent %v after another connection of the device was accepted (%v since the last fault), on the old one to %s",
			cl.clientID, m.name, (m.first - superseded).Round(time.Millisecond), (m.first - max(superseded, known)).Round(time.Millisecond), cc.node.what())
	}
}

// twoFaced names a device that has connections which the servers should have ended.
func (c *campaign) twoFaced() string {
	for _, cl := range c.clients {
		cl.mu.Lock()
		n, what := len(cl.old), ""
		if n > 0 {
			what = cl.clientID + " is still connected to " + cl.old[0].node.what() + ", where it was superseded " + (c.now() - cl.old[0].superseded).Round(time.Millisecond).String() + " ago"
		}
		cl.mu.Unlock()
		if n > 0 {
			return what
		}
	}
	return ""
}
