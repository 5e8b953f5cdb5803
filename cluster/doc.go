// Package cluster connects several nodes on one database.
//
// The database is the truth: which nodes there are (each one's lease), which connection owns
// a session (its epoch), and what was stored (the logs, and the outbox, which says which logs
// have advanced). Frames through a Link only make it fast. They may be lost, late, doubled or
// out of order; the outbox makes up for them.
//
//   - Keeper owns this node's lease. It sends heartbeats, evicts nodes whose lease has
//     expired, gives the Bus the list of nodes, and handles the outbox.
//   - Bus routes frames: to the nodes where a user concerned is connected, and from other
//     nodes to a Receiver.
//   - Link carries the frames, and knows at which nodes users are connected; cluster/redis
//     implements it.
//
// Goroutines: Keeper.Run is one, with one more for changes of members, and one for each
// recheck or release while it lasts. Bus.Run is one that sends hellos, with eight that handle
// frames, one for look-ups, and those of Link.Run. The locks of locations guard memory
// only, and none is taken under another.
package cluster
