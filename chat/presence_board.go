package chat

import (
	"sync"
	"time"
)

// board knows how users are shown to others: memoryBoard where there is one node,
// sharedBoard where there are several.
type board interface {
	// look calls f with how the user is shown, or false if nothing is known of them,
	// who is as the store says then. f must not block: what changes is told after it.
	look(user ID, f func(Presence, bool))
	// sweep forgets whoever has been offline for so long that the store knows.
	sweep(now time.Time)
}

// boardKeeps is for how long a user who has gone offline is remembered: longer than
// anybody holds what they have read from the store before that.
const boardKeeps = 30 * time.Second

// memoryBoard is the board of one node alone: whoever is not on it is offline.
type memoryBoard struct {
	shards [presenceShards]boardShard
	clock  Clock

	mu   sync.Mutex
	gone []goneUser // mu guards: oldest first
}

type boardShard struct {
	mu    sync.Mutex
	users map[ID]Presence // mu guards
}

type goneUser struct {
	id ID
	at time.Time
}

func newMemoryBoard(clock Clock) *memoryBoard {
	b := &memoryBoard{clock: clock}
	for i := range b.shards {
		b.shards[i].users = map[ID]Presence{}
	}
	return b
}

func (b *memoryBoard) shard(user ID) *boardShard { return &b.shards[user.Shard(presenceShards)] }

// put says how users are, and returns those who are shown in another way than before,
// as they are shown now.
func (b *memoryBoard) put(list []Presence) []Presence {
	var changed []Presence
	for _, p := range list {
		sh := b.shard(p.UserID)
		sh.mu.Lock()
		old, ok := sh.users[p.UserID]
		was := Offline
		if ok {
			was = old.Status
		}
		if p.Status != was {
			sh.users[p.UserID] = p
			changed = append(changed, p)
		}
		sh.mu.Unlock()
		if p.Status != was && p.Status == Offline {
			b.mu.Lock()
			b.gone = append(b.gone, goneUser{p.UserID, b.clock.Now()})
			b.mu.Unlock()
		}
	}
	return changed
}

func (b *memoryBoard) look(user ID, f func(Presence, bool)) {
	sh := b.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p, ok := sh.users[user]
	f(p, ok)
}

func (b *memoryBoard) sweep(now time.Time) {
	b.mu.Lock()
	n := 0
	for n < len(b.gone) && now.Sub(b.gone[n].at) >= boardKeeps {
		n++
	}
	gone := b.gone[:n:n]
	if b.gone = b.gone[n:]; len(b.gone) == 0 {
		b.gone = nil
	}
	b.mu.Unlock()
	for _, g := range gone {
		sh := b.shard(g.id)
		sh.mu.Lock()
		if sh.users[g.id].Status == Offline { // if they came back and went again, a little early
			delete(sh.users, g.id)
		}
		sh.mu.Unlock()
	}
}
