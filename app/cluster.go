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
	"github.com/parleymq/parley/store"
)

// others is what a process has where there are other nodes on its database.
type others struct {
	id    string // of this process
	place *store.Place
	link  *redis.Link
	bus   *cluster.Bus
	fence *chat.Fence
}

// takePlace takes this node's place on the database: beside the others, with
// REDIS_URL, and alone without.
func (a *App) takePlace(ctx context.Context) error {
	switch {
	case a.o.RedisURL != "":
		return a.takePlaceAmong(ctx)
	case a.o.ShareDatabase:
		return nil
	}
	alone, err := waitForPlace(a, func(wait time.Duration) (*store.Alone, error) { return a.store.TakeAlone(ctx, wait) })
	if err != nil {
		return err
	}
	a.run("the only node", alone.Run)
	return nil
}

// placeWait is how long a process waits for the one before it, which may be stopping,
// or may have died with its line to the database.
const placeWait = 20 * time.Second

// waitForPlace takes a place on the database, at once or when whoever has it lets go.
func waitForPlace[P any](a *App, take func(wait time.Duration) (P, error)) (P, error) {
	p, err := take(0)
	if chat.CodeOf(err) == chat.Conflict {
		a.logger.Warn("another parley serve has the place on the database; waiting for it to end", "for", placeWait, "err", err)
		p, err = take(placeWait)
	}
	return p, err
}

func (a *App) takePlaceAmong(ctx context.Context) error {
	o := &others{id: newNodeID(), fence: chat.NewFence(cluster.PauseLimit)}
	o.bus = cluster.NewBus(cluster.BusOptions{
		Asking: func() bool { return a.router.Asking() }, Superseded: func(n chat.SupersededNotice) bool { return a.router.DropSuperseded(n) },
		Publication: func(p *chat.Publication) { a.topics.Arrive(p) },
		Logger:      a.logger, Registerer: a.registry,
	})
	var err error
	o.link, err = redis.New(redis.Options{
		URL: a.o.RedisURL, Node: cluster.Node{ID: o.id, Name: a.o.Node}, Receive: o.bus.Receive, Lease: cluster.Lease,
		Logger: a.logger, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	if err := o.link.Check(ctx); chat.CodeOf(err) == chat.Unavailable {
		a.logger.Warn("Redis is away; starting without: messages of other nodes come late until it is there", "err", err)
	} else if err != nil {
		return err
	}
	o.place, err = waitForPlace(a, func(wait time.Duration) (*store.Place, error) {
		return a.store.TakePlace(ctx, a.o.Node, o.id, cluster.Lease, wait)
	})
	if err != nil {
		return err
	}
	a.onStop("leave the other nodes", o.place.End) // if it does not come to joinOthers, whose keeper does it
	a.store.KeepJournal(o.id)
	a.others = o
	return nil
}

// newNodeID names a life of a node.
func newNodeID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it does not fail (crypto/rand)
	return hex.EncodeToString(id[:])
}

// presence is how presence works here.
func (a *App) presence() chat.PresenceOptions {
	o := chat.PresenceOptions{Node: a.o.Node, Grace: a.o.PresenceGrace, Logger: a.logger}
	if a.others != nil {
		o.NodeID, o.Peers = a.others.id, a.others.bus
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
		Here: o.bus.Here, Asks: o.bus.Hello, Asking: o.bus.Asking,
		Superseded: func(node string, n chat.SupersededNotice) { o.bus.NotifyNode(node, chat.Notice{Superseded: &n}) },
	}
}

// joinOthers has this node hear of the others, and they of it, before it takes
// connections. All of it ends after everything that uses it.
func (a *App) joinOthers() {
	o := a.others
	if o == nil {
		return
	}
	o.bus.Use(o.link, a.chat)
	a.chat.UsePeers(o.bus)
	keeper := cluster.NewKeeper(cluster.KeeperOptions{
		Place: o.place, Link: o.link, Sessions: a.router, Rules: a.chat, Release: a.release, Renewed: func() { a.chat.NodeRenewed(newNodeID()) },
		Logger: a.logger, Registerer: a.registry,
	})
	a.run("place among the nodes", keeper.Run)
	a.run("fence", func(ctx context.Context) error { return o.fence.Run(ctx, keeper.Look) })
	a.run("link to the nodes", o.link.Run)
	a.run("bus", o.bus.Run)
}

// release gives up what another node has had: its sessions at once, and that its users
// are here when the grace for them to come back has passed.
func (a *App) release(ctx context.Context, node string) error {
	if _, err := a.store.ReleaseSessions(ctx, node, time.Now()); err != nil {
		return err
	}
	return a.chat.NodeDied(ctx, chat.DeadNode{Name: node})
}

// releaseFormer releases what is marked as connected and is not: this node has not
// begun to serve. A node alone releases everything.
func (a *App) releaseFormer(ctx context.Context) error {
	if a.others == nil {
		if _, err := a.store.ReleaseSessions(ctx, "", time.Now()); err != nil {
			return err
		}
		_, err := a.store.ReleasePresences(ctx, "")
		return err
	}
	_, err := a.store.ReleaseSessions(ctx, a.o.Node, time.Now())
	return err
}

// releaseFormerPresences has those told of as offline who were here in this node's
// former life, when they have not come back in time.
func (a *App) releaseFormerPresences(ctx context.Context) error {
	if err := a.chat.NodeDied(ctx, chat.DeadNode{Name: a.o.Node}); err != nil && ctx.Err() == nil {
		a.logger.Warn("who was here before could not be released; another node does it", "err", err)
	}
	<-ctx.Done()
	return nil
}

// clusterCommits is how many commits are under way at once in all nodes together, as
// long as each has one.
const clusterCommits = 4

// commits is how many of them are this node's.
func (a *App) commits() int { return max(1, clusterCommits/(a.Peers()+1)) }

// fence is passed by everything that is done for a connection; nil for a node alone.
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
