package presence

import (
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	// staleNotice is how old a notice of another node may be, and boardKeeps for how long the
	// board remembers. Between the two lies what it takes to look in the database: no notice
	// that is taken can be older than one that is forgotten.
	staleNotice = 30 * time.Second
	boardKeeps  = 2 * staleNotice
)

// board remembers how users were last shown to their contacts at this node, so that nothing
// older, nor the same again, is sent after it. Of a user who is not on it the database has
// the truth.
type board [shardCount]struct {
	mu    sync.Mutex
	users map[chat.ID]entry // mu guards
}

type entry struct {
	State
	at time.Time
}

func newBoard() *board {
	b := &board{}
	for i := range b {
		b[i].users = map[chat.ID]entry{}
	}
	return b
}

// note takes down how a user is shown, and reports whether contacts are to be notified.
func (b *board) note(st State) bool {
	sh := &b[st.UserID.Shard(shardCount)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if old, ok := sh.users[st.UserID]; ok && old.Version >= st.Version {
		return false
	}
	sh.users[st.UserID] = entry{st, time.Now()}
	return true
}

// knows reports whether note would return false.
func (b *board) knows(st State) bool {
	sh := &b[st.UserID.Shard(shardCount)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old, ok := sh.users[st.UserID]
	return ok && old.Version >= st.Version
}

// look calls f with how a user is shown, of whom the database said st. Contacts are notified
// of later changes after f has returned.
func (b *board) look(st State, f func(chat.Presence)) {
	sh := &b[st.UserID.Shard(shardCount)]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e, ok := sh.users[st.UserID]; ok && e.Version >= st.Version {
		e.LastOnlineAt = latest(e.LastOnlineAt, st.LastOnlineAt)
		st = e.State
	}
	f(st.shown())
}

func (b *board) sweep(now time.Time) {
	for i := range b {
		sh := &b[i]
		sh.mu.Lock()
		for id, e := range sh.users {
			if now.Sub(e.at) >= boardKeeps {
				delete(sh.users, id)
			}
		}
		sh.mu.Unlock()
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
