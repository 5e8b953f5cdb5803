package cluster

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	locationShards = 64
	maxLocations   = 1 << 20     // users whose nodes are cached
	locationFresh  = time.Minute // then they are looked up again: a notice may have been lost
)

// nodeSet is a set of nodes, by their numbers at this node.
type nodeSet [2]uint64

// maxPeers is how many other nodes have numbers; store.MaxNodes allows no more.
const maxPeers = 128

func (s *nodeSet) add(n int)         { s[n/64] |= 1 << (n % 64) }
func (s *nodeSet) remove(n int)      { s[n/64] &^= 1 << (n % 64) }
func (s *nodeSet) or(o nodeSet)      { s[0], s[1] = s[0]|o[0], s[1]|o[1] }
func (s *nodeSet) and(o nodeSet)     { s[0], s[1] = s[0]&o[0], s[1]&o[1] }
func (s *nodeSet) without(o nodeSet) { s[0], s[1] = s[0]&^o[0], s[1]&^o[1] }
func (s nodeSet) empty() bool        { return s == nodeSet{} }
func (s nodeSet) each(f func(n int)) {
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			f(64*i + bits.TrailingZeros64(word))
		}
	}
}

// locations caches at which nodes users are connected. It is filled by look-ups, and kept
// right by what nodes say. It is safe for concurrent use.
type locations struct {
	shards [locationShards]locationShard
	clears atomic.Uint64
	start  time.Time
}

type locationShard struct {
	mu      sync.RWMutex
	users   map[chat.ID]location // mu guards
	pending map[chat.ID]*pending // mu guards: users who are being looked up
}

type location struct {
	at    nodeSet
	since uint32 // seconds after locations.start
}

// pending is what nodes said about a user during a look-up: it is newer than the answer.
type pending struct{ here, gone nodeSet }

func newLocations() *locations {
	l := &locations{start: time.Now()}
	for i := range l.shards {
		l.shards[i].users, l.shards[i].pending = map[chat.ID]location{}, map[chat.ID]*pending{}
	}
	return l
}

func (l *locations) shard(user chat.ID) *locationShard {
	return &l.shards[user.Shard(locationShards)]
}

func (l *locations) now() uint32 { return uint32(time.Since(l.start) / time.Second) }

// find returns those of the given nodes where one of the users is, and the users who have
// to be looked up. It stops when all the nodes are found.
func (l *locations) find(users []chat.ID, among nodeSet) (at nodeSet, unknown []chat.ID) {
	now := l.now()
	for _, user := range users {
		sh := l.shard(user)
		sh.mu.RLock()
		known, ok := sh.users[user]
		sh.mu.RUnlock()
		if !ok || now-known.since > uint32(locationFresh/time.Second) {
			unknown = append(unknown, user)
			continue
		}
		at.or(known.at)
		at.and(among)
		if at == among {
			return at, nil
		}
	}
	return at, unknown
}

// begin begins a look-up of users: what nodes say from now on is noted beside it.
func (l *locations) begin(users []chat.ID) (clears uint64) {
	clears = l.clears.Load()
	for _, user := range users {
		sh := l.shard(user)
		sh.mu.Lock()
		if sh.pending[user] == nil {
			sh.pending[user] = &pending{}
		}
		sh.mu.Unlock()
	}
	return clears
}

// finish ends the look-up; found is nil if it failed.
func (l *locations) finish(users []chat.ID, found []nodeSet, clears uint64) {
	now := l.now()
	for i, user := range users {
		sh := l.shard(user)
		sh.mu.Lock()
		p := sh.pending[user]
		delete(sh.pending, user)
		if found != nil && p != nil && l.clears.Load() == clears {
			at := found[i]
			at.or(p.here)
			at.without(p.gone)
			for id := range sh.users { // map order is as good as random
				if len(sh.users) < maxLocations/locationShards {
					break
				}
				delete(sh.users, id)
			}
			sh.users[user] = location{at, now}
		}
		sh.mu.Unlock()
	}
}

// note notes what a node has said about a user.
func (l *locations) note(user chat.ID, node int, here bool) {
	sh := l.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if p := sh.pending[user]; p != nil {
		if here {
			p.here.add(node)
			p.gone.remove(node)
		} else {
			p.gone.add(node)
			p.here.remove(node)
		}
	}
	known, ok := sh.users[user]
	if !ok {
		return
	}
	if here {
		known.at.add(node)
	} else {
		known.at.remove(node)
	}
	sh.users[user] = known
}

// clear empties the cache: nodes have come or gone, or notices were lost.
func (l *locations) clear() {
	l.clears.Add(1)
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.Lock()
		clear(sh.users)
		sh.mu.Unlock()
	}
}

// size returns how many users are cached.
func (l *locations) size() (n int) {
	for i := range l.shards {
		sh := &l.shards[i]
		sh.mu.RLock()
		n += len(sh.users)
		sh.mu.RUnlock()
	}
	return n
}
