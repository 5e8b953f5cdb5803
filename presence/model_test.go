package presence_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/seedtest"
)

var modelSteps = flag.Int("presence.steps", 60, "actions of each user in TestPresenceModel")

// seeded returns what makes the random decisions of each of those who act at once, and
// logs the seed. How they interleave is not in its hands.
func seeded(t *testing.T) func(actor int) *rand.Rand {
	seed := seedtest.Seed(t)
	return func(actor int) *rand.Rand { return seedtest.New(seed, actor) }
}

// modelUser is what a naive model knows of a user. Their own goroutine alone acts, and
// writes it.
type modelUser struct {
	id        chat.ID
	random    *rand.Rand
	devices   []*modelDevice // connected
	invisible bool
}

type modelDevice struct {
	*session
	status chat.Status
}

func (u *modelUser) status() chat.Status {
	status := chat.Offline
	for _, d := range u.devices {
		if !u.invisible && d.status != chat.Offline && status != chat.Online {
			status = d.status
		}
	}
	return status
}

// Users come, go, move between nodes, say how they are, become contacts and block each
// other; nodes are killed, start again, and are declared dead while they live; notices
// are lost, late, doubled and out of order. In the end everybody knows how the others
// are.
func TestPresenceModel(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nodesGrace, "0", "1", "2")
	c.loss.Store(30)
	c.double.Store(20)
	c.delay.Store(int64(30 * time.Millisecond))
	random := c.seed
	users := make([]*modelUser, 8)
	for i, id := range c.users(len(users)) {
		users[i] = &modelUser{id: id, random: random(i)}
	}
	m := &model{cluster: c, users: users}
	var acting sync.WaitGroup
	for _, u := range users {
		acting.Go(func() {
			for i := range *modelSteps {
				m.act(u, i)
			}
		})
	}
	stop := make(chan struct{})
	var fate sync.WaitGroup
	fate.Go(func() {
		random := random(len(users))
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(200+random.IntN(300)) * time.Millisecond): // nodes live for a while
				m.fate(random, &fate)
			}
		}
	})
	acting.Wait()
	close(stop)
	fate.Wait()               // all who died were declared dead
	for _, u := range users { // so that there is somebody to hear
		m.come(u)
	}
	m.check()
}

type model struct {
	*cluster
	users []*modelUser

	alive sync.RWMutex // held by whoever acts on nodes; fate takes them away
}

// anyNode returns one that runs. m.alive is held.
func (m *model) anyNode(random *rand.Rand) *node {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.nodes))
	return m.nodes[names[random.IntN(len(names))]]
}

func (m *model) come(u *modelUser) {
	m.alive.RLock()
	defer m.alive.RUnlock()
	d := &modelDevice{session: m.anyNode(u.random).connect(u.id, chat.NewID().String()), status: chat.Online}
	u.devices = append(u.devices, d)
}

// act does one thing that a user does.
func (m *model) act(u *modelUser, i int) {
	m.alive.RLock()
	u.devices = slices.DeleteFunc(u.devices, func(d *modelDevice) bool { return d.n.dead.Load() })
	m.alive.RUnlock()
	what := u.random.IntN(10)
	if len(u.devices) == 0 || what < 2 && len(u.devices) < 3 {
		m.come(u)
		return
	}
	m.alive.RLock()
	defer m.alive.RUnlock()
	k := u.random.IntN(len(u.devices))
	d := u.devices[k]
	if d.n.dead.Load() {
		return
	}
	switch {
	case what < 4: // goes
		d.end(presence.End{Gone: u.random.IntN(2) == 0})
		u.devices = slices.Delete(u.devices, k, k+1)
	case what < 6: // moves
		from := d.n
		d.end(presence.End{})
		d.session = m.anyNode(u.random).attach(u.id, d.ClientID)
		if u.random.IntN(2) == 0 && from != d.n {
			from.move(d.Device)
		}
		d.come()
		m.say(u, d, chat.Away)
	case what < 8:
		m.say(u, d, []chat.Status{chat.Online, chat.Away, chat.Offline, chat.Invisible}[u.random.IntN(4)])
	case what == 8:
		m.meet(u)
	default:
		time.Sleep(time.Duration(u.random.IntN(100)) * time.Millisecond) // a user who looks at something
	}
}

// say has a device say how it is. What the user's devices at other nodes say next comes
// after it.
func (m *model) say(u *modelUser, d *modelDevice, status chat.Status) {
	stored := func() int {
		d.n.mu.Lock()
		defer d.n.mu.Unlock()
		return d.n.said[u.id]
	}
	before := stored()
	d.say(status)
	d.status = status
	switch status {
	case chat.Invisible:
		d.status, u.invisible = chat.Online, true
	case chat.Online, chat.Away:
		u.invisible = false
	default:
		return
	}
	m.await("it is stored what "+d.ClientID+" says", func() bool { return stored() > before })
}

// meet has the user become somebody's contact, or cease to be. A node that is killed
// before it has stored a change of contacts takes it along, so it is waited for.
func (m *model) meet(u *modelUser) {
	n := m.anyNode(u.random)
	other := m.users[u.random.IntN(len(m.users))].id
	if other == u.id {
		return
	}
	var err error
	switch u.random.IntN(3) {
	case 0:
		_, err = n.rules.CreateConversation(m.Context(), chat.NewConversation{Kind: chat.Group, Title: "friends", Creator: u.id, Users: []chat.ID{other}})
	case 1:
		err = n.rules.BlockUser(m.Context(), u.id, other)
	default:
		err = n.rules.UnblockUser(m.Context(), u.id, other)
	}
	if err != nil && chat.CodeOf(err) != chat.Forbidden {
		m.Error(err)
	}
	told := n.told.Load()
	m.await("the change is stored", func() bool { return n.changes.Load() >= told })
}

// fate strikes one of the nodes.
func (m *model) fate(random *rand.Rand, wg *sync.WaitGroup) {
	m.alive.Lock()
	defer m.alive.Unlock()
	n := m.anyNode(random)
	switch random.IntN(3) {
	case 0: // killed; another one takes care, or itself when it is back
		n.kill()
		dead := n.id
		heir := m.start(n.id.Name)
		if random.IntN(2) == 0 {
			heir = m.anyNode(random)
		}
		wg.Go(func() { m.release(heir, dead) })
	case 1: // paused for so long that it was declared dead
		m.lives++
		old := n.id
		n.id.ID = fmt.Sprintf("%016x", m.lives)
		judge := m.anyNode(random)
		wg.Go(func() { m.release(judge, old) })
		n.Rejoined(n.id.ID)
	default: // cut off from the others
		m.loss.Store([]uint32{0, 30, 100}[random.IntN(3)])
	}
}

// release has a node take care of a dead one, and another one if it dies meanwhile.
func (m *model) release(n *node, dead presence.NodeID) {
	for n.ReleaseNode(n.life, presence.DeadNode{NodeID: dead}) != nil {
		if !n.dead.Load() {
			m.Error("a dead node was not taken care of")
			return
		}
		m.alive.RLock()
		n = m.anyNode(rand.New(rand.NewPCG(rand.Uint64(), 0))) // of those that live by then
		m.alive.RUnlock()
	}
}

// check waits until everybody has heard the truth.
func (m *model) check() {
	until := time.Now().Add(20 * time.Second)
	ids := make([]chat.ID, len(m.users))
	for i, u := range m.users {
		u.devices = slices.DeleteFunc(u.devices, func(d *modelDevice) bool { return d.n.dead.Load() })
		ids[i] = u.id
	}
	contacts, err := m.db.ListContacts(m.Context(), ids, nil)
	if err != nil {
		m.Fatal(err)
	}
	for _, u := range m.users {
		for _, d := range u.devices {
			for _, other := range m.users {
				want := other.status()
				switch {
				case other == u && u.invisible:
					want = chat.Invisible
				case other != u && !slices.Contains(contacts[u.id], other.id):
					want = chat.Offline
				}
				var last chat.Status
				for {
					last = d.last(other.id)
					if last == want || last == "" && want == chat.Offline || time.Now().After(until) {
						break
					}
					time.Sleep(5 * time.Millisecond) // until the condition holds
				}
				if last != want && (last != "" || want != chat.Offline) {
					st, _ := m.db.GetPresences(m.Context(), []chat.ID{other.id})
					m.Errorf("%s at %s of %v heard that %v is %q, want %q; stored is %+v; contact: %v", d.ClientID, d.n.id, u.id, other.id, d.says(other.id), want, st[other.id], slices.Contains(contacts[u.id], other.id))
				}
			}
		}
	}
}
