package chat

import "time"

// NodeState is a node on the database, as the database knows it. Times are the database's.
type NodeState struct {
	Name   string
	ID     string    // of the process; another one after each start; "": none, or evicted
	Alive  bool      // its lease has not expired
	SeenAt time.Time // its last heartbeat
}

// Heartbeat is what a node has found with its heartbeat.
type Heartbeat struct {
	Evicted    bool        // this node was evicted by another one: its sessions may be anywhere
	Others     []NodeState // nodes that run, or whose lease has expired
	Unreleased []NodeState // nodes that were evicted or have left, and whose sessions nobody has released
}

// OutboxEntry is what another node has stored: either how far a log reaches, or that a
// device has connected there.
type OutboxEntry struct {
	ConversationID ID
	Seq            int64
	MembersVersion int64
	Members        bool // who is a member, or may write, has changed

	Superseded *SupersededNotice // nil: it is about a log
}
