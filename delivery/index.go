package delivery

import (
	"slices"
	"sync"

	"github.com/parleymq/parley/chat"
)

// index finds connected sessions by an id: those of a user, or those that follow a
// conversation. A nil index is empty and stays so. It is safe for concurrent use.
type index [64]struct {
	mu sync.RWMutex
	of map[chat.ID][]*Session // mu guards; a slice is replaced, never changed
}

// list returns the sessions with the id. The slice must not be changed.
func (x *index) list(id chat.ID) []*Session {
	if x == nil {
		return nil
	}
	sh := &x[id[15]%64]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.of[id]
}

// add adds a session, unless there are most with the id already, and reports whether it
// did. If it is the first one, first is called under the shard's lock; it may be nil.
func (x *index) add(id chat.ID, s *Session, most int, first func()) bool {
	if x == nil {
		return true
	}
	sh := &x[id[15]%64]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list := sh.of[id]
	if len(list) >= most {
		return false
	}
	if sh.of == nil {
		sh.of = map[chat.ID][]*Session{}
	}
	sh.of[id] = append(list[:len(list):len(list)], s)
	if len(list) == 0 && first != nil {
		first()
	}
	return true
}

// remove removes the first session with the id for which match is true, and returns it;
// nil if there is none. If it was the last one with the id, last is called under the
// shard's lock; it may be nil.
func (x *index) remove(id chat.ID, match func(*Session) bool, last func()) *Session {
	if x == nil {
		return nil
	}
	sh := &x[id[15]%64]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list := sh.of[id]
	i := slices.IndexFunc(list, match)
	if i < 0 {
		return nil
	}
	if len(list) > 1 {
		sh.of[id] = slices.Concat(list[:i], list[i+1:])
		return list[i]
	}
	delete(sh.of, id)
	if last != nil {
		last()
	}
	return list[i]
}

// ids returns all ids that have a session.
func (x *index) ids() []chat.ID {
	var ids []chat.ID
	for i := range x {
		sh := &x[i]
		sh.mu.RLock()
		for id := range sh.of {
			ids = append(ids, id)
		}
		sh.mu.RUnlock()
	}
	return ids
}
