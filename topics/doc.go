// Package topics is the broker for device topics: everything outside conv/ and user/. It
// matches publications to filters and hands each session one copy, keeps retained messages
// in the store and reads them from there, and publishes the server's state on $SYS.
//
// Topics live in spaces. Names below dev/ are each user's own: two users may both have
// dev/lamp/state, and neither receives the other's. Everything else is one shared space,
// which is closed unless a chat.TopicAccess opens it.
//
// A publisher never waits for a receiver: a Receiver accepts a copy, or drops it.
// Publications in one Lane are delivered in order; one with Retain set is delivered and
// acknowledged after its commit. Nothing but retained messages outlives the process.
//
// An Engine owns the filters (one tree for all spaces) and the retained messages that wait
// for their commit. The sessions' queues belong to the Receivers, the rows to the store.
//
// Goroutines: Run stores retained messages, removes expired ones, publishes $SYS, and
// returns when all of that has stopped. Publications are delivered on their publisher's
// goroutine or, if they had to wait for a commit, on one of Run's.
//
// Lock order: Engine.mu, then the tree's. Matching takes the tree's for reading, calls
// Present under it, and holds nothing while it sends. holder.mu is taken before the
// Receiver's own locks (FeedRetained); no other lock of this package is held when Receive
// is called. A Lane's lock is held alone.
package topics
