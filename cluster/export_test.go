package cluster

// Receive is the Bus' function for frames of other nodes.
func Receive(b *Bus, from string, frame []byte) { b.receive(from, frame) }
