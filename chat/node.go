package chat

// NodeState is one of the nodes on a database, as the database knows it.
type NodeState struct {
	Name  string
	ID    string // of the process; another one after each start
	Alive bool   // it has been heard of within its lease
}

// Heartbeat is what a node has found when it said that it lives.
type Heartbeat struct {
	Lost   bool        // it was given up by the others: its sessions are anybody's
	Others []NodeState // alive, or to be given up
	Left   []string    // names of nodes that were given up, and whose sessions nobody has released yet
}

// OutboxEntry is what another node has stored: either how far a log reaches, or
// that a device has connected there.
type OutboxEntry struct {
	ConversationID ID
	Seq            int64
	MembersVersion int64
	Members        bool // who is a member, or may write, has changed

	Superseded *SupersededNotice // nil: it is about a log
}
