package presence

import (
	"context"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

const (
	nodesEvery   = 10 * time.Second
	releaseBatch = 1000             // NodePresences of a dead node that are released at once
	silentNode   = 30 * time.Second // after which any node releases those of a dead one
)

// releaseDead releases the dead nodes that no other node has released, and removes old
// changes of contacts, every nodesEvery until ctx ends.
func (e *Engine) releaseDead(ctx context.Context) {
	for backoff.Sleep(ctx, nodesEvery) {
		e.try(ctx, "look for dead nodes", func(ctx context.Context) error {
			dead, err := e.o.Store.ListDeadNodes(ctx, e.self(), silentNode)
			if err != nil {
				return err
			}
			return e.release(ctx, dead)
		})
		e.try(ctx, "remove old changes of contacts", e.o.Store.DeleteContactChanges)
	}
}

// self is this node in its present life.
func (e *Engine) self() NodeID {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.node
}

// Rejoined gives this node, which was evicted, a new id (NodeID.ID): all its users are stored
// again. It does not block.
func (e *Engine) Rejoined(id string) {
	e.mu.Lock()
	e.node.ID = id
	e.mu.Unlock()
	e.each(func(u *user) {
		u.again = true
		e.queue(u)
	})
}

// ReleaseNode releases the users of a dead node once the grace has passed since its last
// heartbeat: contacts, at all nodes, are notified of those who have not come back elsewhere.
// It is called on one of the other nodes, and on a node that starts for its former lives.
// Without an ID all present lives are released, except this node's own; without SeenAt the
// database is asked. It blocks until that is done, the database fails or ctx ends. It may be
// repeated; if the node that does it ends meanwhile, another one does it.
func (e *Engine) ReleaseNode(ctx context.Context, dead DeadNode) error {
	seen, now, err := e.o.Store.NodeSeen(ctx, dead.Name)
	if err != nil {
		return err
	}
	all, err := e.o.Store.ListDeadNodes(ctx, e.self(), -time.Hour)
	if err != nil {
		return err
	}
	switch {
	case !dead.SeenAt.IsZero():
		seen = dead.SeenAt
	case seen.IsZero():
		seen = now.Add(-e.o.Grace)
	}
	lives := []DeadNode{{NodeID{Name: dead.Name}, seen}} // what an older Parley has stored, without a life
	for _, d := range all {
		if d.Name == dead.Name && (d.ID == dead.ID || dead.ID == "") {
			lives = append(lives, DeadNode{d.NodeID, seen})
		}
	}
	if !backoff.Sleep(ctx, min(e.o.Grace, e.o.Grace-now.Sub(seen))) {
		return context.Cause(ctx)
	}
	return e.release(ctx, lives)
}

// release releases dead nodes, and has Run announce those who are shown otherwise by that.
func (e *Engine) release(ctx context.Context, dead []DeadNode) error {
	for _, d := range dead {
		for done := false; !done; {
			limited, cancel := chat.WithDeadline(ctx, storeWait, "presence.release")
			var states []State
			var err error
			states, done, err = e.o.Store.ReleaseNode(limited, d, releaseBatch)
			cancel()
			if err != nil {
				return err
			}
			for _, st := range states {
				e.queueNews(news{State: st, mine: true})
			}
		}
	}
	return nil
}
