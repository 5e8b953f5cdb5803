// Package chat is Parley's vocabulary and its rules: users, conversations, events, commands,
// what a participant may do, and the ports the rules need (Store, Log, Publisher, Peers,
// Clock). It knows no SQL, MQTT, HTTP or Redis; hooks and rest call it, store, delivery and
// cluster serve it.
//
// One word per thing: a user's device has a session; a conversation has a log; an entry of
// the log is an event, numbered by seq without gaps. What is known of a type of command is
// one entry of commandTypes.
//
// A Service owns what is decided in memory: cached rosters, user names and blocks, who is
// typing, and wills that wait. All of it may be lost; what a cache has let pass is checked
// again by the commit, against the version of the roster.
//
// Goroutines: those of the Run methods, which the caller starts and which end with their
// context; and those that deliver typing, one for each shard that has something to send.
//
// Locks are leaves, held alone and never across I/O, with one exception: a shard of Typing
// is locked before the device index of its users.
package chat
