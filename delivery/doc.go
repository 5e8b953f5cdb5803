// Package delivery carries committed events to the sessions of a conversation's
// members.
//
// A session keeps, for each conversation, a tail: how far it was sent, and how
// far the log is known to reach. One rule makes everything else safe: an event is
// sent only if it is the one after the last sent. An event that comes early, or
// finds no room in the session's window or its connection's buffer, only raises
// what is known; the session is behind then, and a catch-up reads the log from
// where it was left. Live delivery and catch-up need no hand-over between them:
// whichever has the next event sends it, and the other's copy is not the next one
// any more. DESIGN.md has the argument in full.
//
// Locks: Router's shards and Session.mu are never held together. Session.mu may
// be held while Router.mu or Router.dirtyMu is taken, and while the Sink is called,
// which takes the Sink's own lock; none of these takes another.
package delivery
