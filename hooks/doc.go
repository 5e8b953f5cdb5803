// Package hooks is the MQTT interface: it turns the packets of clients into calls on
// chat, delivery and topics, and answers them. Each packet has its file: connect,
// publish, subscribe (and UNSUBSCRIBE), acknowledge, disconnect; will is what a client
// leaves behind in CONNECT, feed what it is sent because it has subscribed or come back.
//
// What breaks MQTT never gets here: broker has refused it before (broker/strict.go).
//
// A connection is owned by its reader's goroutine, which is broker's. Beside it there are
// at most two more, one for each of its feeds, while there is something to send.
package hooks
