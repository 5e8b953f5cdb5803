// Package broker runs the embedded MQTT server: listeners, connections, limits
// and lifecycle, and the packets that Parley writes itself. mochi-mqtt is the
// codec and the connection loop inside it; what mochi would do with packets
// (acknowledgements, in-flight messages, session take-over, wills, topics)
// is done here and in hooks instead, because an acknowledgement must wait for a
// commit, and delivery is served from the log.
//
// A Conn belongs to one network connection. Its reader is mochi's; its writer is
// Conn's own, so that nobody who writes to a connection ever waits for its peer.
package broker
