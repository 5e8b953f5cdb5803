package topics

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/parleymq/parley/chat"
)

// tree holds the filters of one space, by level. Matching locks it for reading and returns
// what it has found before anything is sent.
type tree struct {
	mu   sync.RWMutex
	root node // mu guards
	n    int  // mu guards: subscriptions in it
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

// put adds a subscription, in place of the holder's one with the same filter.
func (t *tree) put(s *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := &t.root
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
	t.n++
}

// remove removes the holder's subscription, and the levels that are no longer needed, and
// reports whether the tree is empty.
func (t *tree) remove(h *holder, f Filter) (empty bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cut(&t.root, f.Topic, true, h, f.Share)
	return t.n == 0
}

func (t *tree) cut(n *node, rest string, more bool, h *holder, share string) {
	if !more {
		t.cutHere(n, h, share)
		return
	}
	level, rest, more := strings.Cut(rest, "/")
	next := n.children[level]
	if next == nil {
		return
	}
	t.cut(next, rest, more, h, share)
	if len(next.children) == 0 && len(next.subs) == 0 && len(next.groups) == 0 {
		delete(n.children, level)
	}
}

func (t *tree) cutHere(n *node, h *holder, share string) {
	mine := func(s *subscription) bool { return s.holder == h }
	list := &n.subs
	if share != "" {
		g := n.groups[share]
		if g == nil {
			return
		}
		list = &g.members
	}
	before := len(*list)
	*list = slices.DeleteFunc(*list, mine)
	t.n -= before - len(*list)
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

// match adds to f what covers the name. choose returns one member of a group, or nil for
// none.
func (t *tree) match(name string, f *found, choose func(*group) *subscription) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.n > 0 {
		t.root.match(name, true, strings.HasPrefix(name, "$"), f, choose)
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

// holds reports whether a filter begins with the level.
func (t *tree) holds(level string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.root.children[level] != nil
}

// forest holds the trees of all spaces.
type forest struct {
	all    tree // of the shared space
	shards [64]struct {
		mu    sync.RWMutex
		trees map[chat.ID]*tree // mu guards: of users who hold a filter on their own names
	}
}

// put adds a subscription to the tree of a space, which it creates if there is none.
func (o *forest) put(space chat.ID, s *subscription) {
	if space.IsZero() {
		o.all.put(s)
		return
	}
	sh := &o.shards[space[15]%64]
	sh.mu.Lock() // a tree must not be removed while something is added to it
	defer sh.mu.Unlock()
	if sh.trees == nil {
		sh.trees = map[chat.ID]*tree{}
	}
	t := sh.trees[space]
	if t == nil {
		t = &tree{}
		sh.trees[space] = t
	}
	t.put(s)
}

func (o *forest) remove(space chat.ID, h *holder, f Filter) {
	if space.IsZero() {
		o.all.remove(h, f)
		return
	}
	sh := &o.shards[space[15]%64]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if t := sh.trees[space]; t != nil && t.remove(h, f) {
		delete(sh.trees, space)
	}
}

// of returns the tree of a space, or nil if there are no filters in it.
func (o *forest) of(space chat.ID) *tree {
	if space.IsZero() {
		return &o.all
	}
	sh := &o.shards[space[15]%64]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.trees[space]
}
