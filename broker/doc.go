// Package broker runs the embedded MQTT server: listeners, connections, limits and
// lifecycle, and the packets that Parley writes itself. mochi-mqtt is the codec and the
// reading loop inside it; what mochi would do with packets (acknowledgements, in-flight
// messages, session take-over, wills, topics) is done here and in hooks instead, because
// an acknowledgement must wait for a commit, and delivery is served from the log.
//
// What it promises: a packet that breaks MQTT ends its connection before it is decoded
// (strict), and no other; a client that sends a lot takes a small part of the server
// (pace); acknowledgements leave in the order of the publishes (Intake); and no caller that
// writes to a connection waits for its peer.
//
// A Server has one goroutine for each listener (Serve, or net/http's) and one for each
// connection, which reads and at last closes it (serve). A Conn has one more while its
// buffer holds something to be written. Locks: Intake.mu before Conn.mu; Server.mu is
// held with neither of them.
package broker
