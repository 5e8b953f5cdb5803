// Package broker is the MQTT server as far as connections go: listeners, reading and
// writing, limits and lifecycle. What packets mean is said by its Hook. Of mochi-mqtt it uses
// the decoder; everything else of it (its reading loop, acknowledgements, in-flight messages,
// take-over, wills, topics) is done here and in hooks, because an acknowledgement must wait
// for a commit, delivery is served from the log, and a connection costs little while it is
// idle.
//
// What it promises: a packet that breaks MQTT ends its connection before it is decoded
// (strict), and no other; a client that sends a lot takes a small part of the server
// (pace); acknowledgements leave in the order of the publishes (Intake); and no caller that
// writes to a connection waits for its peer.
//
// A Server has one goroutine for each listener (Serve, or net/http's) and one for each
// connection, which reads and at last closes it (Server.serve). A Conn has one more while its
// buffer holds something to be written. While it is idle a connection has no buffer, no timer
// but its read deadline, and a stack of 2 KiB: see reader. Locks: Intake.mu before Conn.mu; Server.mu is
// held with neither of them.
package broker
