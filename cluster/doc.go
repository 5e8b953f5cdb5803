// Package cluster is what several nodes on one database tell each other.
//
// The database is the truth: which nodes there are (each one's lease), whose a session is
// (its epoch), and what was stored (the logs, and the outbox, which says which logs have
// advanced). Frames through a Link only make it fast. They may be lost, late, doubled or
// out of order; the outbox makes up for them.
//
//   - Keeper owns this node's lease. It sends heartbeats, evicts nodes whose lease has
//     expired, says which nodes there are, and acts on the outbox.
//   - Bus owns the frames: to the nodes where somebody concerned is connected, and from
//     other nodes to a Receiver.
//   - Link carries the frames, and knows at which nodes users are; cluster/redis has one.
//
// Goroutines: Keeper.Run is one, with one for changes of members, and one each for a
// recheck and a release while they last. Bus.Run is one that says hello, eight that act on
// frames, one for look-ups, and those of Link.Run. Locks (Bus.mu, those of locations) are
// held for a look into memory, and none is taken under another.
package cluster
