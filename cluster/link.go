package cluster

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// Node is one running process.
type Node struct {
	// ID names the process from its start to its end, and nothing ever after: 1 to 64
	// of a–z, A–Z, 0–9, "-" and "_".
	ID string
	// Name is what the operator calls the node: 1 to 128 bytes of UTF-8 without control
	// characters. It stays the same when the node starts again.
	Name string
}

// MaxFrame is the largest frame that Link.Send takes, in bytes.
const MaxFrame = 1 << 20

// Link carries frames between nodes and knows where users are. Only Run and Locate
// block. All methods are safe for concurrent use; before Run, and after it, nothing is
// sent and nobody is found.
type Link interface {
	// Run keeps the link until ctx ends, and then returns nil. It does not return
	// because the service behind it is away. It is called once.
	//
	// It calls receive for each frame from another node. from is that node's id, which need
	// not be among Peers yet. All calls come from one goroutine, and those for one sender in
	// the order of its Sends. The frame may be kept but not changed. receive must not block
	// for long: nothing else is read meanwhile.
	Run(ctx context.Context, receive func(from string, frame []byte)) error
	// SetPeers says which other nodes there are, by the database. It keeps the slice.
	SetPeers(nodes []Node)
	// Peers returns those of SetPeers, in order of their ids, or nil while the service
	// behind the link is away. It is cheap; the slice is shared and must not be changed.
	Peers() []Node
	// Changed holds a value when Peers or Healthy may differ from before, or when the
	// registry was found to have lost entries, so that answers of Locate may have missed
	// somebody. Several changes may share one value; one reader gets it.
	Changed() <-chan struct{}
	// Send queues a frame for the peer of that id and keeps it: the frame must not be
	// changed any more, and may be sent to several peers. false: it was dropped, because
	// no such peer is known, its queue is full, the frame is over MaxFrame, or the
	// service is away. true promises nothing: a frame may be lost on its way. It never
	// arrives twice, and frames to one peer arrive in the order of their Sends.
	Send(to string, frame []byte) bool
	// Locate returns, for each user, the ids of the nodes where they are registered: live
	// or not, this one too, in no order, at most 100. It is one round trip. With an error,
	// which is Unavailable, the answer is nil for those of whom nothing is known; it is
	// empty, and not nil, for those who are nowhere.
	Locate(ctx context.Context, users []chat.ID) ([][]string, error)
	// Register says that the user has a connection at this node. It is noted, and sent in
	// batches until it is true; again when the registry was lost, and every ten minutes.
	// An entry that is not repeated ends after half an hour. Repeating it changes nothing:
	// it does not count connections.
	Register(user chat.ID)
	// Unregister says that the user has no connection at this node any more. It is sent as
	// Register is; where that is impossible for long, the entry ends by itself.
	Unregister(user chat.ID)
	// Healthy reports whether the last heartbeat came through and this node receives what
	// is sent to it, shown by a message of its own.
	Healthy() bool
}
