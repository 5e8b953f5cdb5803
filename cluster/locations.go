package cluster

import (
	"math/bits"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	locationShards = 64
	maxLocations   = 1 << 20     // users who are cached
	locationTTL    = time.Minute // then they are looked up again: a notice may have been lost
)

// nodeSet is a set of nodes, by their numbers in a view.
type nodeSet [2]uint64

// maxPeers is how many other nodes a view can hold; store.MaxNodes allows no more.
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

// locations caches at which nodes users are connected. It is filled by look-ups and kept
// up to date by notices of nodes. It is safe for concurrent use.
type locations struct {
	shards [locationShards]locationShard
	start  time.Time
}

type locationShard struct {
	mu    sync.RWMutex
	users map[chat.ID]location // mu guards
}

type location struct {
	at      nodeSet
	expires time.Duration // after locations.start; 0: the user is being looked up
}

func newLocations() *locations {
	l := &locations{start: time.Now()}
	for i := range l.shards {
		l.shards[i].users = map[chat.ID]location{}
	}
	return l
}

func (l *locations) shard(user chat.ID) *locationShard {
	return &l.shards[user.Shard(locationShards)]
}

// find returns those of the given nodes where one of the users is connected, and the users
// who have to be looked up. It stops when all the nodes are found.
func (l *locations) find(users []chat.ID, among nodeSet) (at nodeSet, unknown []chat.ID) {
	now := time.Since(l.start)
	for _, user := range users {
		sh := l.shard(user)
		sh.mu.RLock()
		known := sh.users[user]
		sh.mu.RUnlock()
		if now >= known.expires {
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

// begin begins a look-up of users. Those who are cached meanwhile stay so.
func (l *locations) begin(users []chat.ID) {
	now := time.Since(l.start)
	for _, user := range users {
		sh := l.shard(user)
		sh.mu.Lock()
		if now >= sh.users[user].expires {
			for id := range sh.users { // map order is as good as random
				if len(sh.users) < maxLocations/locationShards {
					break
				}
				delete(sh.users, id)
			}
			sh.users[user] = location{}
		}
		sh.mu.Unlock()
	}
}

// finish ends the look-up of users and caches what was found, unless something has changed
// since begin; found is nil if the look-up failed.
func (l *locations) finish(users []chat.ID, found map[chat.ID]nodeSet) {
	expires := time.Since(l.start) + locationTTL
	for _, user := range users {
		sh := l.shard(user)
		sh.mu.Lock()
		if known, ok := sh.users[user]; ok && known.expires == 0 {
			if delete(sh.users, user); found != nil {
				sh.users[user] = location{found[user], expires}
			}
		}
		sh.mu.Unlock()
	}
}

// update applies the notice of a node that a user is connected there, or not any more.
// It drops a look-up that is under way, whose answer may be older.
func (l *locations) update(user chat.ID, node int, connected bool) {
	sh := l.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	known, ok := sh.users[user]
	switch {
	case !ok:
		return
	case known.expires == 0:
		delete(sh.users, user)
		return
	case connected:
		known.at.add(node)
	default:
		known.at.remove(node)
	}
	sh.users[user] = known
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
