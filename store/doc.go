// Package store keeps everything in PostgreSQL (14 or newer) through pgx: it implements
// chat.Store, identity.Store, presence.Store and others (Store), and chat.Log (Writer). No
// other package knows SQL, and no error of pgx leaves this one: see translate.
//
// # What it promises
//
// Each exported method is one use case and at most one transaction, and blocks until the
// database has answered. Statements are constants beside their methods. For all of them:
//
//   - The zero chat.ID and the zero time.Time are NULL in the database, both ways.
//   - Times are passed in by the caller and come back in UTC. Only what nodes compare with
//     each other (leases, the outbox, the grace of a refresh token) goes by the clock of the
//     database; Clock lets others go by it, too.
//   - An unreachable, full, read-only or stopping database is chat.Unavailable, and the call
//     may be repeated. A write may have been committed all the same; the method's comment says
//     what a repeat returns.
//   - A log is numbered from 1 without gaps, in the order of its commits, and an event that
//     Writer has reported as committed is durable. Verify checks this and everything else that
//     one row promises about another.
//
// # Files
//
//	connections  open, migrate, migrate_compatibility, query (helpers), types (pgx codecs), error
//	log          writer*, messages, reactions, events, log, outbox
//	membership   conversations, groups, blocks, contacts, rosters, reads (read and delivery positions)
//	sessions     sessions, retained
//	sync         sync, sync_cursor, sync_origin (also the epoch of the log), witness, sync_flushed; SYNC.md has the argument
//	search       indexer, search, and packages words and segment
//	presence     presence, presence_changes, presence_nodes
//	nodes        node_lease, clock
//	accounts     users, logins, signing_keys
//	checks       verify, and package storetest
//
// # Goroutines and locks
//
// Methods of Store start no goroutines. Writer.Run has two for each shard: one commits, the
// other announces what was committed. Indexer.Run is one. A NodeLease belongs to the goroutine
// that uses it, and has a connection of its own. Mutexes are held neither across a round trip
// nor together.
//
// Transactions lock in this order: the advisory lock of a pair of users (lockPairSQL); users;
// conversations, by id; participants, by conversation and user; session_cursors, by session
// and conversation; presences, by user. The few that can still meet in a deadlock are
// repeated (isCollision, Writer).
package store
