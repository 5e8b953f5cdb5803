// Package hooks turns mochi's callbacks into calls on chat and delivery: session
// is a connection's life from CONNECT to its end, access is what may be
// subscribed, publish is what is sent, deliver is the acknowledgements that come
// back, presence is what becomes of a user whose device comes and goes, wills
// included. There is one hook, because mochi grants what any of several hooks grants.
//
// Packets about conv/ and user/ topics never reach mochi's own handling: they are
// answered from OnPacketRead, and mochi is given a packet that does nothing.
package hooks
