package chat

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sharedKeeps is for how long it is remembered what was heard of a user, and
	// staleNotice how old a notice may be. Between the two lies what it takes to look
	// into the database: no notice that is taken can be older than one that is forgotten.
	sharedKeeps = 2 * staleNotice
	staleNotice = boardKeeps

	maxCarried = 10_000 // devices that were taken over, and are yet to come
)

// sharedBoard is the board of one of several nodes. Who is here at all is in the
// database; the board knows of whom it was heard in the last sharedKeeps, and at which
// version, so that nothing older is told after it.
type sharedBoard struct {
	clock  Clock
	shards [presenceShards]sharedShard
}

type sharedShard struct {
	mu    sync.Mutex
	users map[ID]sharedEntry // mu guards
}

type sharedEntry struct {
	Presence
	whole bool // all contacts here were told
	at    time.Time
}

func newSharedBoard(clock Clock) *sharedBoard {
	b := &sharedBoard{clock: clock}
	for i := range b.shards {
		b.shards[i].users = map[ID]sharedEntry{}
	}
	return b
}

// note takes down how a user is shown, and reports whether contacts are to be told of
// it: not of what is older than what they know, nor of the same again. whole says
// that it is told to all of them.
func (b *sharedBoard) note(v Presence, whole bool) bool {
	sh := &b.shards[v.UserID.Shard(presenceShards)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old, ok := sh.users[v.UserID]
	if ok && old.supersedes(v.version) {
		return false
	}
	sh.users[v.UserID] = sharedEntry{Presence: v, whole: whole, at: b.clock.Now()}
	return true
}

func (e *sharedEntry) supersedes(version int64) bool {
	return e.version > version || e.version == version && e.whole
}

// knows reports whether note would say no.
func (b *sharedBoard) knows(user ID, version int64) bool {
	sh := &b.shards[user.Shard(presenceShards)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, ok := sh.users[user]
	return ok && e.supersedes(version)
}

func (b *sharedBoard) look(user ID, f func(Presence, bool)) {
	sh := &b.shards[user.Shard(presenceShards)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, ok := sh.users[user]
	f(e.Presence, ok)
}

func (b *sharedBoard) sweep(now time.Time) {
	for i := range b.shards {
		sh := &b.shards[i]
		sh.mu.Lock()
		for id, e := range sh.users {
			if now.Sub(e.at) >= sharedKeeps {
				delete(sh.users, id)
			}
		}
		sh.mu.Unlock()
	}
}

// sharing is what Presences needs where there are several nodes.
type sharing struct {
	board *sharedBoard
	peers Peers
	clock Clock

	arrived chan struct{} // holds a value when there are notices or releases
	devices carriedDevices

	mu        sync.Mutex        // after Presences.mu
	node      NodeID            // mu guards
	renewed   bool              // mu guards: node.ID is a new one, under which nothing is stored yet
	notices   []*PresenceNotice // mu guards
	noticeIDs int               // mu guards: users named in notices
	releases  []*release        // mu guards

	cursor PresenceCursor   // owned by Run: how far changes in the database were looked at
	looks  []look           // owned by Run: oldest first
	stale  int64            // owned by Run: notices up to this version come too late
	shaken map[ID]time.Time // owned by Run: whose contacts have changed, and when
	turned map[ID]time.Time // owned by Run: which changes of contacts were told, and when
}

// look is a look into the database: no version was higher then.
type look struct {
	at      time.Time
	version int64
}

// release is a dead node whose users are to be released.
type release struct {
	dead DeadNode
	done chan struct{} // closed when it is done
}

func newSharing(clock Clock, o PresenceOptions) *sharing {
	return &sharing{
		board: newSharedBoard(clock), peers: o.Peers, clock: clock, arrived: make(chan struct{}, 1), node: NodeID{o.Node, o.NodeID},
		devices: carriedDevices{clock: clock, statuses: map[Device]carriedStatus{}},
		shaken:  map[ID]time.Time{}, turned: map[ID]time.Time{},
	}
}

func (s *sharing) rouse() {
	select {
	case s.arrived <- struct{}{}:
	default:
	}
}

// self is this node, in this life.
func (s *sharing) self() NodeID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node
}

// take returns notices and a release that wait, if there are any, and whether the node
// has a new life.
func (s *sharing) take() (notices []*PresenceNotice, r *release, renewed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	notices, s.notices, s.noticeIDs = s.notices, nil, 0
	if len(s.releases) > 0 {
		r = s.releases[0]
	}
	renewed, s.renewed = s.renewed, false
	return notices, r, renewed
}

// release has a dead node's users released, and returns what is closed after it.
func (s *sharing) release(d DeadNode) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.releases {
		if r.dead.Name == d.Name && r.dead.ID == d.ID {
			return r.done
		}
	}
	r := &release{dead: d, done: make(chan struct{})}
	s.releases = append(s.releases, r)
	s.rouse()
	return r.done
}

func (s *sharing) released(r *release) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releases = slices.DeleteFunc(s.releases, func(other *release) bool { return other == r })
	close(r.done)
}

// sweep forgets what has become old.
func (s *sharing) sweep(now time.Time) {
	s.board.sweep(now)
	s.devices.sweep(now)
	for _, m := range []map[ID]time.Time{s.shaken, s.turned} {
		for id, at := range m {
			if now.Sub(at) >= sharedKeeps {
				delete(m, id)
			}
		}
	}
}

// looked notes that everything in the database was looked at that has a version up to
// so much, or will be at the next look, so that notices of it need not be taken when
// it is staleNotice ago.
func (s *sharing) looked(version int64) {
	now := s.clock.Now()
	s.looks = append(s.looks, look{now, version})
	n := 0
	for n < len(s.looks) && now.Sub(s.looks[n].at) >= staleNotice {
		s.stale = s.looks[n].version
		n++
	}
	s.looks = s.looks[n:]
}

// carriedDevices keeps how devices were at the nodes they come from, until they come.
type carriedDevices struct {
	clock Clock
	n     atomic.Int64 // how many there are

	mu       sync.Mutex               // after presenceShard.mu
	statuses map[Device]carriedStatus // mu guards
}

type carriedStatus struct {
	status Status
	at     time.Time
}

func (c *carriedDevices) put(d Device, status Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.statuses) < maxCarried { // else it is online when it comes
		c.statuses[d] = carriedStatus{status, c.clock.Now()}
		c.n.Store(int64(len(c.statuses)))
	}
}

func (c *carriedDevices) take(d Device) (Status, bool) {
	if c.n.Load() == 0 {
		return "", false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.statuses[d]
	delete(c.statuses, d)
	c.n.Store(int64(len(c.statuses)))
	return s.status, ok
}

func (c *carriedDevices) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d, s := range c.statuses {
		if now.Sub(s.at) >= 10*time.Second {
			delete(c.statuses, d)
		}
	}
	c.n.Store(int64(len(c.statuses)))
}

// carried has a device that comes be as it was at another node. Its shard is locked.
func (s *sharing) carried(d Device, dev *presentDevice) {
	if status, ok := s.devices.take(d); ok {
		dev.status = status
	}
}
