package cluster

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// Node is one running process.
type Node struct {
	// ID names this run of the process, and is never used again: 1 to 64 of a–z, A–Z, 0–9,
	// "-" and "_".
	ID string
	// Name is the node's name, given by the operator: 1 to 128 bytes of UTF-8 without control
	// characters. It stays the same when the node starts again.
	Name string
}

// MaxFrame is the largest frame that Link.Send takes, in bytes: that of the largest
// publication, and its kind.
const MaxFrame = chat.MaxPublicationBytes + 1

// Link carries frames between nodes and knows at which nodes users are connected. Only Run
// and Locate block. All methods are safe for concurrent use. Before and after Run nothing is
// sent, and Locate fails.
type Link interface {
	// Run keeps the link until ctx ends, and then returns nil; it goes on while the service
	// behind it is unavailable. It is called once.
	//
	// It calls receive for each frame from another node. from is that node's id, which need
	// not be among Peers. All calls come from one goroutine, and those for one sender in
	// the order of its Sends. The frame may be kept but not changed. receive must not block
	// for long: nothing else is read meanwhile.
	Run(ctx context.Context, receive func(from string, frame []byte)) error
	// SetPeers says which other nodes are alive, by the database. It keeps the slice.
	SetPeers(nodes []Node)
	// Peers returns those of SetPeers, in order of their ids, or nil while the service
	// behind the link is unavailable. It is cheap; the slice is shared and must not be changed.
	Peers() []Node
	// Changed holds a value when Peers or Healthy may differ from before, or when the
	// registry was found to have lost entries, so that answers of Locate may have missed
	// somebody. Several changes may share one value; one reader gets it.
	Changed() <-chan struct{}
	// Send queues a frame for the peer of that id and keeps it: the frame must not be
	// changed any more, and may be sent to several peers. false: it was dropped, because
	// no such peer is known, its queue is full, the frame is over MaxFrame, or the
	// service is unavailable. true: it was queued, and may still be lost. It never arrives
	// twice, and frames to one peer arrive in the order of their Sends.
	Send(to string, frame []byte) bool
	// Locate returns, for each user, the ids of the nodes where they are registered: alive
	// or not, including this one, in no order, at most 100. It is one round trip. On an
	// error, which is Unavailable, the ids are nil for users of whom nothing is known; they
	// are empty, and not nil, for those who are registered nowhere.
	Locate(ctx context.Context, users []chat.ID) ([][]string, error)
	// Register says that the user has a connection at this node. The entry is written in
	// batches, until that succeeds; again when the registry was lost, and every ten minutes.
	// One that is not written again expires after half an hour. Register may be repeated: it
	// does not count connections.
	Register(user chat.ID)
	// Unregister says that the user has no connection at this node any more. The entry is
	// removed as Register writes it, or expires if that fails for long.
	Unregister(user chat.ID)
	// Healthy reports whether the last heartbeat succeeded and this node receives what is
	// sent to it, as a message to itself has shown.
	Healthy() bool
}
