// Package presence knows which users are online and shows them to their contacts.
//
// # What it promises
//
// A user is online if any of their devices is, else away if any is, else offline. Invisible
// belongs to the user: others are shown offline until a device says online or away. A device
// whose connection ends with DISCONNECT 0x00, or whose login is revoked, is gone at once; any
// other end leaves it as it was for the grace, or for its will delay interval if that is
// longer, and nobody notices if it comes back in time. Then its will applies, or an offline
// one is implied. A will never makes a user visible.
//
// Everybody is notified of the latest status of each contact, never of an older one after a
// newer one, and not of what has changed back by then. While the database is unavailable
// presence is late, and nothing else is. Changes of one user are notified presenceBurst at
// once and then one every presencePace.
//
// # What it owns
//
// The devices connected to this node are in memory, by user. PostgreSQL is the truth about
// all nodes: for each user how they are at each node (NodePresence), and computed from that,
// in the same transaction, how they are shown (State), under a version that rises with each
// change. The board remembers for a minute what was sent here at which version. Contacts are
// read from the database whenever somebody is notified; they are not cached.
//
// A lone node is a cluster of one: the path is the same, but for what other nodes would need
// (notices, rows about changed contacts) or could have changed (looking for it).
//
// Other nodes receive a notice of each change, which may be lost. What was missed is found by
// looking in the database every few seconds for what was changed by transactions that the
// last look did not see. A notice older than what the board remembers is not taken: a look
// has found it by then. Every NodePresence names the life of its node, so that what a former
// life left can be released while the present one goes on.
//
// # Goroutines and locks
//
// Connected, Disconnected, SetStatus, ContactsChanged and Receive only note how things are,
// and never wait. Run does the rest in one goroutine, so that what it sends is in order; at
// one of several nodes a second one beside it releases dead nodes. Feed runs in its caller's
// goroutine; it looks at the board under the lock that Run takes to change it. Timers end the grace of devices and the pace of users.
//
// Lock order: shard.mu, then Engine.mu or the lock of a board shard. Signal and the functions
// given to Feed are called under them: they must not block, or call the Engine.
package presence
