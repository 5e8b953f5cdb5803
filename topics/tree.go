package topics

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/parleymq/parley/chat"
)

// tree holds all filters: by space, and there by level. Matching locks it for reading and
// returns what it has found before anything is sent. The zero value is ready.
type tree struct {
	mu     sync.RWMutex
	spaces map[chat.ID]*node // mu guards: those with a filter
}

type node struct {
	children map[string]*node // by level, wildcards included
	subs     []*subscription  // whose filter ends here
	groups   map[string]*group
}

// group is the shared subscriptions of one name to one filter (MQTT 5.0, 4.8.2).
type group struct {
	members []*subscription
	next    atomic.Uint32 // the rotation's position
}

// subscription is one filter that a holder holds.
type subscription struct {
	Subscription
	holder *holder
}

// put adds a subscription to a space, in place of the holder's one with the same filter.
func (t *tree) put(space chat.ID, s *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.spaces[space]
	if n == nil {
		if t.spaces == nil {
			t.spaces = map[chat.ID]*node{}
		}
		n = &node{}
		t.spaces[space] = n
	}
	for rest, more := s.Filter.Topic, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		next := n.children[level]
		if next == nil {
			if n.children == nil {
				n.children = map[string]*node{}
			}
			next = &node{}
			n.children[strings.Clone(level)] = next
		}
		n = next
	}
	list := &n.subs
	if s.Filter.Share != "" {
		g := n.groups[s.Filter.Share]
		if g == nil {
			if n.groups == nil {
				n.groups = map[string]*group{}
			}
			g = &group{}
			n.groups[s.Filter.Share] = g
		}
		list = &g.members
	}
	for i, old := range *list {
		if old.holder == s.holder {
			(*list)[i] = s
			return
		}
	}
	*list = append(*list, s)
}

// remove removes the holder's subscription from a space, and the levels that are no longer
// needed.
func (t *tree) remove(space chat.ID, h *holder, f Filter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.spaces[space]; n != nil {
		if n.cut(f.Topic, true, h, f.Share); n.empty() {
			delete(t.spaces, space)
		}
	}
}

func (n *node) empty() bool { return len(n.children) == 0 && len(n.subs) == 0 && len(n.groups) == 0 }

func (n *node) cut(rest string, more bool, h *holder, share string) {
	if !more {
		n.cutHere(h, share)
		return
	}
	level, rest, more := strings.Cut(rest, "/")
	next := n.children[level]
	if next == nil {
		return
	}
	if next.cut(rest, more, h, share); next.empty() {
		delete(n.children, level)
	}
}

func (n *node) cutHere(h *holder, share string) {
	list := &n.subs
	if share != "" {
		g := n.groups[share]
		if g == nil {
			return
		}
		list = &g.members
	}
	*list = slices.DeleteFunc(*list, func(s *subscription) bool { return s.holder == h })
	if share != "" && len(*list) == 0 {
		delete(n.groups, share)
	}
}

// found is what covers a topic name: filters that are not shared, and of each group of
// shared subscriptions the chosen one.
type found struct {
	subs   []*subscription
	shared []*subscription
}

// match adds to f what covers a name of a space. choose returns one member of a group, or
// nil for none.
func (t *tree) match(space chat.ID, name string, f *found, choose func(*group) *subscription) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n := t.spaces[space]; n != nil {
		n.match(name, true, strings.HasPrefix(name, "$"), f, choose)
	}
}

// match visits no more nodes than there are levels of filters in the tree.
func (n *node) match(rest string, more, dollar bool, f *found, choose func(*group) *subscription) {
	if !dollar {
		if below := n.children["#"]; below != nil { // covers this level, too
			below.collect(f, choose)
		}
	}
	if !more {
		n.collect(f, choose)
		return
	}
	level, rest, more := strings.Cut(rest, "/")
	if next := n.children[level]; next != nil {
		next.match(rest, more, false, f, choose)
	}
	if dollar {
		return
	}
	if next := n.children["+"]; next != nil {
		next.match(rest, more, false, f, choose)
	}
}

func (n *node) collect(f *found, choose func(*group) *subscription) {
	f.subs = append(f.subs, n.subs...)
	for _, g := range n.groups {
		if s := choose(g); s != nil {
			f.shared = append(f.shared, s)
		}
	}
}

// holds reports whether a filter of the shared space begins with the level.
func (t *tree) holds(level string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := t.spaces[chat.ID{}]
	return n != nil && n.children[level] != nil
}
