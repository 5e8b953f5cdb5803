package chat_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
)

var modelSteps = flag.Int("presence.steps", 60, "actions of each user in TestPresenceModel")

// modelUser is what a naive model knows of a user. Their own goroutine alone acts, and
// writes it.
type modelUser struct {
	id        chat.ID
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
	users := make([]*modelUser, 8)
	for i, id := range c.users(len(users)) {
		users[i] = &modelUser{id: id}
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
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(200+rand.N(300)) * time.Millisecond): // nodes live for a while
				m.fate(&fate)
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
func (m *model) anyNode() *node {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes { // map order is as good as random
		return n
	}
	panic("no node runs")
}

func (m *model) come(u *modelUser) {
	m.alive.RLock()
	defer m.alive.RUnlock()
	d := &modelDevice{session: m.anyNode().connect(u.id, chat.NewID().String()), status: chat.Online}
	u.devices = append(u.devices, d)
}

// act does one thing that a user does.
func (m *model) act(u *modelUser, i int) {
	m.alive.RLock()
	u.devices = slices.DeleteFunc(u.devices, func(d *modelDevice) bool { return d.n.dead.Load() })
	m.alive.RUnlock()
	what := rand.N(10)
	if len(u.devices) == 0 || what < 2 && len(u.devices) < 3 {
		m.come(u)
		return
	}
	m.alive.RLock()
	defer m.alive.RUnlock()
	k := rand.N(len(u.devices))
	d := u.devices[k]
	if d.n.dead.Load() {
		return
	}
	switch {
	case what < 4: // goes
		d.end(chat.End{Gone: rand.N(2) == 0})
		u.devices = slices.Delete(u.devices, k, k+1)
	case what < 6: // moves
		from := d.n
		d.end(chat.End{})
		d.session = m.anyNode().attach(u.id, d.ClientID)
		if rand.N(2) == 0 && from != d.n {
			from.DeviceTaken(d.Device)
		}
		d.come()
		m.say(u, d, chat.Away)
	case what < 8:
		m.say(u, d, []chat.Status{chat.Online, chat.Away, chat.Offline, chat.Invisible}[rand.N(4)])
	case what == 8:
		m.meet(u)
	default:
		time.Sleep(time.Duration(rand.N(100)) * time.Millisecond) // a user who looks at something
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
	n := m.anyNode()
	other := m.users[rand.N(len(m.users))].id
	if other == u.id {
		return
	}
	var err error
	switch rand.N(3) {
	case 0:
		_, err = n.CreateConversation(m.Context(), chat.NewConversation{Kind: chat.Group, Title: "friends", Creator: u.id, Users: []chat.ID{other}})
	case 1:
		err = n.BlockUser(m.Context(), u.id, other)
	default:
		err = n.UnblockUser(m.Context(), u.id, other)
	}
	if err != nil && chat.CodeOf(err) != chat.Forbidden {
		m.Error(err)
	}
	told := n.told.Load()
	m.await("the change is stored", func() bool { return n.changes.Load() >= told })
}

// fate strikes one of the nodes.
func (m *model) fate(wg *sync.WaitGroup) {
	m.alive.Lock()
	defer m.alive.Unlock()
	n := m.anyNode()
	switch rand.N(3) {
	case 0: // killed; another one takes care, or itself when it is back
		n.kill()
		dead := chat.DeadNode{Name: n.id.Name, ID: n.id.ID, SeenAt: time.Now()}
		heir := m.start(n.id.Name)
		if rand.N(2) == 0 {
			heir = m.anyNode()
		}
		wg.Go(func() { m.release(heir, dead) })
	case 1: // paused for so long that it was declared dead
		m.lives++
		old := n.id
		n.id.ID = fmt.Sprintf("%016x", m.lives)
		judge := m.anyNode()
		wg.Go(func() { m.release(judge, chat.DeadNode{Name: old.Name, ID: old.ID}) })
		n.NodeRenewed(n.id.ID)
	default: // cut off from the others
		m.loss.Store([]uint32{0, 30, 100}[rand.N(3)])
	}
}

// release has a node take care of a dead one, and another one if it dies meanwhile.
func (m *model) release(n *node, dead chat.DeadNode) {
	for n.NodeDied(n.life, dead) != nil {
		if n.life.Err() == nil {
			m.Error("a dead node was not taken care of")
			return
		}
		m.alive.RLock()
		n = m.anyNode()
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
