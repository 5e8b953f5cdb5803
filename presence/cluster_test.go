package presence_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// cluster is several nodes over one database, and a network between them that
// loses, delays, doubles and reorders.
type cluster struct {
	*testing.T
	db    *store.Store
	grace time.Duration

	loss, double atomic.Uint32 // per cent of the notices
	delay        atomic.Int64  // up to so long

	seed func(actor int) *rand.Rand

	mu     sync.Mutex
	nodes  map[string]*node // mu guards: those that run
	random *rand.Rand       // mu guards: of the network
	wg     sync.WaitGroup   // notices on their way
	lives  int
}

func newCluster(t *testing.T, grace time.Duration, names ...string) *cluster {
	c := &cluster{T: t, db: storetest.New(t), grace: grace, nodes: map[string]*node{}, seed: seeded(t)}
	c.random = c.seed(-1)
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
		c.wg.Wait()
		if !t.Failed() {
			storetest.Check(t, c.db)
		}
	})
	for _, name := range names {
		c.start(name)
	}
	return c
}

func (c *cluster) users(n int) []chat.ID {
	c.Helper()
	ids := make([]chat.ID, n)
	for i := range ids {
		ids[i] = chat.NewID()
		name := fmt.Sprint("user", i)
		if err := c.db.CreateUser(c.Context(), identity.Account{User: chat.User{ID: ids[i], Username: name, CreatedAt: time.Now()}, PasswordHash: "x"}); err != nil {
			c.Fatal(err)
		}
	}
	return ids
}

// node is one of them, with the sessions that are connected to it.
type node struct {
	*presence.Engine
	rules         *chat.Service
	c             *cluster
	id            presence.NodeID
	dead          atomic.Bool  // killed: neither the database nor the others hear of it
	told, changes atomic.Int64 // changes of contacts that there were here, and that were stored
	life          context.Context
	cancel        context.CancelFunc
	done          chan error

	mu       sync.Mutex
	sessions map[chat.ID]map[*session]bool // mu guards
	said     map[chat.ID]int               // mu guards: how often it was stored whether a user is invisible
}

// session hears presence.
type session struct {
	chat.Device
	n    *node
	stay presence.Connection

	heard map[chat.ID][]chat.Status // n.mu guards: of whom, without repeats
}

func (c *cluster) start(name string) *node {
	c.lives++
	n := &node{c: c, id: presence.NodeID{Name: name, ID: fmt.Sprintf("%016x", c.lives)}, sessions: map[chat.ID]map[*session]bool{}, said: map[chat.ID]int{}, done: make(chan error, 1)}
	n.Engine = presence.New(presence.Options{
		Store: &mortalStore{c.db, n}, Signal: n.signal, Node: n.id, Notify: n.notify, Grace: c.grace, Gather: 5 * time.Millisecond, Heal: 100 * time.Millisecond,
	})
	n.rules = chat.NewService(c.db, chat.SystemClock{}, n)
	n.rules.Use(nil, n)
	storetest.Heartbeat(c, c.db, name)
	ctx, cancel := context.WithCancel(context.Background()) // the node's life
	n.life, n.cancel = ctx, cancel
	go func() { // ends with stop
		var beat sync.WaitGroup
		beat.Go(func() {
			for backoff.Sleep(ctx, 5*time.Second) {
				storetest.Heartbeat(c, c.db, name)
			}
		})
		err := n.Run(ctx)
		beat.Wait()
		n.done <- err
	}()
	c.mu.Lock()
	c.nodes[name] = n
	c.mu.Unlock()
	return n
}

func (n *node) stop() {
	n.cancel()
	if err := <-n.done; err != nil {
		n.c.Error(err)
	}
}

// kill ends the node at once, and its sessions with it.
func (n *node) kill() {
	n.dead.Store(true)
	n.cancel()
	n.c.mu.Lock()
	delete(n.c.nodes, n.id.Name)
	n.c.mu.Unlock()
	n.c.wg.Go(func() { <-n.done })
}

// mortalStore is the database to a node that may have been killed.
type mortalStore struct {
	*store.Store
	n *node
}

var errKilled = errors.New("this node is dead")

func (s *mortalStore) PutNodePresences(ctx context.Context, n presence.NodeID, list []presence.NodePresence) ([]presence.Outcome, error) {
	if s.n.dead.Load() {
		return nil, errKilled
	}
	outcomes, err := s.Store.PutNodePresences(ctx, n, list)
	if err == nil {
		s.n.mu.Lock()
		defer s.n.mu.Unlock()
		for _, p := range list {
			if p.Invisible != nil {
				s.n.said[p.UserID]++
			}
		}
	}
	return outcomes, err
}

func (s *mortalStore) ListContacts(ctx context.Context, users, among []chat.ID) (map[chat.ID][]chat.ID, error) {
	if s.n.dead.Load() {
		return nil, errKilled
	}
	return s.Store.ListContacts(ctx, users, among)
}

func (s *mortalStore) ReleaseNode(ctx context.Context, dead presence.DeadNode, limit int) ([]presence.State, bool, error) {
	if s.n.dead.Load() {
		return nil, false, errKilled
	}
	return s.Store.ReleaseNode(ctx, dead, limit)
}

func (s *mortalStore) PutContactChange(ctx context.Context, change presence.ContactChange) error {
	if s.n.dead.Load() {
		return errKilled
	}
	err := s.Store.PutContactChange(ctx, change)
	if err == nil {
		s.n.changes.Add(1)
	}
	return err
}

// ContactsChanged counts, beside what the Engine does.
func (n *node) ContactsChanged(a, b []chat.ID) {
	n.told.Add(1)
	n.Engine.ContactsChanged(a, b)
}

func (n *node) notify(notice chat.Notice, users []chat.ID) {
	c := n.c
	text, err := json.Marshal(notice)
	if err != nil {
		panic(err)
	}
	if n.dead.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, to := range c.nodes {
		if to == n || !to.has(users) {
			continue
		}
		times := 1
		if c.random.Uint32N(100) < c.double.Load() {
			times = 2
		}
		for range times {
			if c.random.Uint32N(100) < c.loss.Load() {
				continue
			}
			delay := time.Duration(0)
			if d := c.delay.Load(); d > 0 {
				delay = time.Duration(c.random.Int64N(d))
			}
			c.wg.Go(func() {
				time.Sleep(delay) // a slow network
				var arrived chat.Notice
				if err := json.Unmarshal(text, &arrived); err != nil {
					panic(err)
				}
				to.Receive(arrived)
			})
		}
	}
}

func (n *node) has(users []chat.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, u := range users {
		if len(n.sessions[u]) > 0 {
			return true
		}
	}
	return users == nil
}

// Publish, Hint and Signal implement chat.Publisher.
func (n *node) Publish(*chat.Event, *chat.Roster)                        {}
func (n *node) Hint(chat.ID, int64, *chat.Roster)                        {}
func (n *node) Signal(chat.Topic, []byte, []chat.ID, func(chat.ID) bool) {}

func (n *node) signal(p chat.Presence, users []chat.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, u := range users {
		for s := range n.sessions[u] {
			s.hear(p.UserID, p.Status)
		}
	}
}

// hear notes how somebody is. n.mu is held.
func (s *session) hear(of chat.ID, status chat.Status) {
	if list := s.heard[of]; len(list) == 0 || list[len(list)-1] != status {
		s.heard[of] = append(list, status)
	}
}

// connect has a device come to the node, and subscribe to user/+/presence.
func (n *node) connect(user chat.ID, client string) *session {
	s := n.attach(user, client)
	s.come()
	return s
}

// attach is the first half of connect, after which the node is known as one where the
// user is.
func (n *node) attach(user chat.ID, client string) *session {
	s := &session{Device: chat.Device{UserID: user, ClientID: client}, n: n, heard: map[chat.ID][]chat.Status{}}
	n.mu.Lock()
	if n.sessions[user] == nil {
		n.sessions[user] = map[*session]bool{}
	}
	n.sessions[user][s] = true
	n.mu.Unlock()
	return s
}

func (s *session) come() {
	n := s.n
	s.stay = n.Connected(s.Device)
	err := n.Feed(n.c.Context(), s.UserID, nil, func(p chat.Presence) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		s.hear(p.UserID, p.Status)
		return true
	}, nil)
	if err != nil {
		n.c.Error(err)
	}
}

// end has the connection end.
func (s *session) end(e presence.End) {
	s.n.mu.Lock()
	delete(s.n.sessions[s.UserID], s)
	s.n.mu.Unlock()
	s.n.Disconnected(s.Device, s.stay, e)
}

func (s *session) say(status chat.Status) { s.n.SetStatus(s.Device, s.stay, status) }

// says is what the session has heard of somebody.
func (s *session) says(of chat.ID) string {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	var b strings.Builder
	for i, status := range s.heard[of] {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(string(status))
	}
	return b.String()
}

// last is what the session has heard last.
func (s *session) last(of chat.ID) chat.Status {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	if list := s.heard[of]; len(list) > 0 {
		return list[len(list)-1]
	}
	return ""
}

// await waits for something to become true.
func (c *cluster) await(what string, f func() bool) {
	c.Helper()
	for until := time.Now().Add(20 * time.Second); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(until) {
			c.Fatalf("it does not come to pass that %s", what)
		}
	}
}

// expect waits until the session has heard so much of somebody, and no more.
func (s *session) expect(of chat.ID, want string) {
	s.n.c.Helper()
	for until := time.Now().Add(20 * time.Second); len(s.says(of)) < len(want) && time.Now().Before(until); time.Sleep(2 * time.Millisecond) {
	}
	if got := s.says(of); got != want {
		s.n.c.Fatalf("at %s %s heard %q, want %q", s.n.id.Name, s.ClientID, got, want)
	}
}

// placesAt waits until a node has places, or none.
func (c *cluster) placesAt(name string, want bool) {
	c.Helper()
	c.await(fmt.Sprintf("having places at %s is %v", name, want), func() bool {
		list, err := c.db.ListDeadNodes(c.Context(), presence.NodeID{}, -time.Hour)
		if err != nil {
			c.Fatal(err)
		}
		for _, d := range list {
			if d.Name == name {
				return want
			}
		}
		return !want
	})
}

func (n *node) befriend(users ...chat.ID) *chat.Conversation {
	n.c.Helper()
	c, err := n.rules.CreateConversation(n.c.Context(), chat.NewConversation{Kind: chat.Group, Title: "friends", Creator: users[0], Users: users[1:]})
	if err != nil {
		n.c.Fatal(err)
	}
	return c
}

// move has the node find out that a device has connected to another one.
func (n *node) move(d chat.Device) {
	n.Receive(chat.Notice{Superseded: &chat.SupersededNotice{UserID: d.UserID, ClientID: d.ClientID}})
}
