// Package chat is Parley's language and its rules: users, conversations,
// events, commands, what a participant may do, and the ports the rules need
// (Store, Log, Publisher, Clock). It knows no SQL, MQTT, HTTP or Redis; the
// doors (hooks, rest) call it and the adapters (store, delivery) serve it.
//
// One word per thing: a user's device has a session; a conversation has a log;
// an entry of the log is an event, numbered by seq without gaps.
package chat
