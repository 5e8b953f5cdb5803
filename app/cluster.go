package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
	"github.com/parleymq/parley/cluster/redis"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/store"
)

// others is what a process has where there are other nodes on its database.
type others struct {
	id    string // of this process
	bus   *cluster.Bus
	fence *chat.Fence
}

// leaseWait is how long a process waits for the one before it, which may be stopping,
// or may have died without closing its connection to the database.
const leaseWait = 20 * time.Second

// joinNodes acquires this node's lease on the database: as one of several nodes, with
// REDIS_URL, and as the only one without.
func (a *App) joinNodes(ctx context.Context) error {
	o := store.NodeLeaseOptions{
		Node: a.o.Node, ID: newNodeID(), Exclusive: a.o.RedisURL == "", Duration: cluster.LeaseDuration,
		Epoch: a.epoch, Witness: a.witness,
	}
	if !o.Exclusive {
		if err := a.openBus(ctx, o.ID); err != nil {
			return err
		}
	}
	var err error
	a.lease, err = a.store.AcquireNodeLease(ctx, o, 0)
	if chat.CodeOf(err) == chat.Conflict {
		a.logger.Warn("another parley serve holds the node lease; waiting for it to end", "for", leaseWait, "err", err)
		a.lease, err = a.store.AcquireNodeLease(ctx, o, leaseWait)
	}
	if err != nil {
		return err
	}
	a.onStop("give up the node lease", a.lease.Close) // if it does not come to keepLease, whose keeper does it
	if !o.Exclusive {
		a.store.UseOutbox(o.ID)
	}
	return nil
}

// openBus makes what the process needs among other nodes of the database.
func (a *App) openBus(ctx context.Context, id string) error {
	link, err := redis.New(redis.Options{
		URL: a.o.RedisURL, Installation: string(a.epoch), Node: cluster.Node{ID: id, Name: a.o.Node}, MaxQueued: 4 * a.queueBytes(), Logger: a.logger, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	if err := link.Check(ctx); chat.CodeOf(err) == chat.Unavailable {
		a.logger.Warn("Redis is unavailable; starting without: messages of other nodes come late until it answers", "err", err)
	} else if err != nil {
		return err
	}
	bus := cluster.NewBus(cluster.BusOptions{Link: link, Logger: a.logger, Registerer: a.registry})
	a.others = &others{id: id, bus: bus, fence: chat.NewFence(cluster.PauseLimit)}
	return nil
}

// newNodeID names a process of a node.
func newNodeID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it does not fail (crypto/rand)
	return hex.EncodeToString(id[:])
}

func (a *App) presenceOptions() presence.Options {
	o := presence.Options{
		Store: a.store, Node: presence.NodeID{Name: a.o.Node, ID: newNodeID()}, Grace: a.o.PresenceGrace, Logger: a.logger,
		Signal: func(p chat.Presence, to []chat.ID) {
			a.router.Signal(chat.Topic{Kind: chat.TopicPresence, ID: p.UserID}, p.AppendJSON(nil), to, nil)
		},
	}
	if a.others != nil {
		o.Node.ID, o.Notify = a.others.id, a.others.bus.Notify
	}
	return o
}

// deliveryCluster is what the router tells the other nodes; nil for a node alone.
func (a *App) deliveryCluster() *delivery.Cluster {
	o := a.others
	if o == nil {
		return nil
	}
	return &delivery.Cluster{
		Online: o.bus.SetConnected, WantReceipts: o.bus.Hello, ReceiptsWanted: o.bus.ReceiptsWanted,
		Superseded: func(node string, n chat.SupersededNotice) { o.bus.NotifyNode(node, chat.Notice{Superseded: &n}) },
	}
}

// forward hands publications on device topics to the other nodes; nil for a node alone.
func (a *App) forward() func(*chat.Publication) {
	if a.others == nil {
		return nil
	}
	return a.others.bus.Publication
}

// startNode keeps the node's lease, which ends after everything that uses the database,
// and releases what is marked as connected and is not: this node has not begun to serve. A
// node alone releases everything, before its first heartbeat: the former process was online
// until its last one.
func (a *App) startNode(ctx context.Context) error {
	if a.others == nil {
		if _, err := a.store.ReleaseSessions(ctx, "", time.Now()); err != nil {
			return err
		}
		if err := a.store.ReleaseAllPresences(ctx); err != nil {
			return err
		}
		a.keepLease()
		return nil
	}
	o := a.others
	a.chat.UsePeers(o.bus, a.router.DropSuperseded)
	keeper := a.keepLease()
	a.run("fence", func(ctx context.Context) error { return o.fence.Run(ctx, keeper.Sync) })
	a.run("bus", func(ctx context.Context) error {
		return o.bus.Run(ctx, cluster.Receiver{Rules: a.chat, Publication: a.topics.Arrive, ReceiptsWanted: a.router.ReceiptsWanted})
	})
	_, err := a.store.ReleaseSessions(ctx, a.o.Node, time.Now())
	return err
}

// keepLease keeps the node's lease until the process stops.
func (a *App) keepLease() *cluster.Keeper {
	o := cluster.KeeperOptions{
		Lease: a.lease, Sessions: a.router, Rules: a.chat, Release: a.release, Rejoined: func() { a.presence.Rejoined(newNodeID()) },
		Logger: a.logger, Registerer: a.registry,
	}
	if a.others != nil {
		o.Bus = a.others.bus
	}
	keeper := cluster.NewKeeper(o)
	a.run("node lease", keeper.Run)
	return keeper
}

// release releases what another node has had: its sessions at once, and that its users
// are online when the grace for them to come back has passed.
func (a *App) release(ctx context.Context, n chat.NodeState) error {
	if _, err := a.store.ReleaseSessions(ctx, n.Name, time.Now()); err != nil {
		return err
	}
	return a.presence.ReleaseNode(ctx, presence.DeadNode{NodeID: presence.NodeID{Name: n.Name}, SeenAt: n.SeenAt})
}

// releaseFormerPresences has those shown as offline who were online at this node's
// former process, when they have not come back in time.
func (a *App) releaseFormerPresences(ctx context.Context) error {
	former := presence.DeadNode{NodeID: presence.NodeID{Name: a.o.Node}, SeenAt: a.lease.Formerly()}
	if err := a.presence.ReleaseNode(ctx, former); err != nil && ctx.Err() == nil {
		a.logger.Warn("presence of the former process could not be released; another node does it", "err", err)
	}
	<-ctx.Done()
	return nil
}

// clusterCommits is how many commits are under way at once in all nodes together, as
// long as each has one.
const clusterCommits = 4

// commits is how many of them are this node's.
func (a *App) commits() int { return max(1, clusterCommits/(a.Peers()+1)) }

// fence is what everything that is done for a connection waits for; nil for a node alone.
func (a *App) fence() *chat.Fence {
	if a.others == nil {
		return nil
	}
	return a.others.fence
}

// Peers returns how many other nodes can be reached.
func (a *App) Peers() int {
	if a.others == nil {
		return 0
	}
	return a.others.bus.Peers()
}
