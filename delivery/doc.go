// Package delivery carries committed events to the sessions of a conversation's members.
//
// It promises each session each conversation's events in the order of seq, without a gap,
// from the return of Subscribe on, and on one connection none twice. A session keeps a
// tail for each conversation: the last event sent, and how far the log is known to reach.
// An event is sent only if it is the one after the last sent. An event that comes early, or
// finds no room in the session's window or its connection's buffer, only raises what is
// known of the log; the session is then behind, and a catch-up reads the log from the last
// event sent. Live delivery and catch-up need no hand-over: whichever has the next event
// sends it, and the other's copy is no longer the next one. DESIGN.md has the argument.
//
// A Router owns the connected sessions of a process, the queues of publications to device
// topics (Queue), and what is to be saved of sessions. It does not own the wire (Sink), the
// log or the stored sessions.
//
// Goroutines: Router.Run, which saves cursors and receipts and ends what has expired; and
// one catch-up for each session that is behind and has room, which Router.Close waits for.
// Everything else runs on the caller's goroutine.
//
// Lock order: the keyed lock of a device (the only one held across I/O), Session.mu,
// Queue.mu, and then one of the leaves, of which none takes another: Router.mu,
// Router.dirtyMu, a shard of Router.followers, the Sink's own lock, and the lock behind
// SessionOptions.Releasing. Router.queuesMu is taken before Queue.mu, never under
// Session.mu. A shard of Router.users is never held together with Session.mu.
package delivery
