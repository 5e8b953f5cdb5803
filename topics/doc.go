// Package topics is the broker for device topics: everything outside conv/ and user/.
// It knows who holds which filter (tree, filters), hands each publication to those
// whose filters cover it (Engine), keeps retained messages in the store and reads them
// from there, and tells admins of the server on $SYS.
//
// Topics live in spaces: names below dev/ are each user's own, so that two users may
// both have dev/lamp/state and neither hears the other's; everything else is one space
// for all, which is closed unless a chat.TopicAccess opens it. Conversations never
// touch what is here.
//
// Nobody who publishes waits for a receiver: a Receiver takes a copy, or drops it.
package topics
