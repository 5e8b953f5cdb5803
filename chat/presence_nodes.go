package chat

import (
	"context"
	"slices"
	"time"

	"github.com/parleymq/parley/backoff"
)

// maxNoticeTo is how many contacts one notice names, so that it has some 10 KB.
const maxNoticeTo = 256

// NodeDied takes dead's places away, when the grace has passed since its last sign of
// life, and has the contacts told, at all nodes, of those of its users who have not
// come back elsewhere. It is to be called on one of the other nodes, and on a node that
// starts for its own former life. It blocks until that is done, or ctx ends, after
// which it may be done all the same; it may be repeated, and is made up for by any
// node if the one that does it ends in the middle. Places of the node's present life
// stay.
func (s *Service) NodeDied(ctx context.Context, dead DeadNode) error {
	return s.Presences.nodeDied(ctx, dead)
}

// NodeRenewed tells that this node was declared dead, and goes on under a new id
// (NodeID.ID): who is here is stored again. It does not block.
func (s *Service) NodeRenewed(id string) { s.Presences.renew(id) }

// DeviceTaken notes that a device has connected to another node, later than to this
// one: whatever was to become of it here does not, and an end of its connection that is
// still to come is not that of its newest. How it was is told to that node, which has
// to be known as one where the user is connected by then. It does not block, and may be
// repeated.
func (s *Service) DeviceTaken(d Device) { s.Presences.taken(d) }

func (p *Presences) nodeDied(ctx context.Context, dead DeadNode) error {
	if p.shared == nil {
		_, err := p.store.ReleasePresences(ctx, dead.Name)
		return err
	}
	seen, now, err := p.store.NodeSeen(ctx, dead.Name)
	if err != nil {
		return err
	}
	if dead.SeenAt.IsZero() {
		dead.SeenAt = seen
	}
	if dead.SeenAt.IsZero() {
		dead.SeenAt = now.Add(-p.o.Grace)
	}
	lives, err := p.lives(ctx, dead)
	if err != nil {
		return err
	}
	backoff.Sleep(ctx, min(p.o.Grace, p.o.Grace-now.Sub(dead.SeenAt)))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for _, d := range lives {
		select {
		case <-p.shared.release(d):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// lives returns the lives of a dead node: those that have places now, if none is named,
// so that one which begins meanwhile is not among them.
func (p *Presences) lives(ctx context.Context, dead DeadNode) ([]DeadNode, error) {
	if dead.ID != "" {
		return []DeadNode{dead}, nil
	}
	all, err := p.store.ListDeadNodes(ctx, p.shared.self(), -time.Hour) // whether or not the next one lives
	if err != nil {
		return nil, err
	}
	lives := []DeadNode{{Name: dead.Name, ID: aloneLife, SeenAt: dead.SeenAt}}
	for _, d := range all {
		if d.Name == dead.Name {
			lives = append(lives, DeadNode{Name: d.Name, ID: d.ID, SeenAt: dead.SeenAt})
		}
	}
	return lives, nil
}

// aloneLife is the life of a node that knew of no others: it has left no places, and is
// found by its name.
const aloneLife = "alone"

func (p *Presences) renew(id string) {
	if p.shared == nil {
		return
	}
	s := p.shared
	s.mu.Lock()
	s.node.ID, s.renewed = id, true
	s.mu.Unlock()
	s.rouse()
}

// takenHold is for how long a device that has come to another node counts here: until
// that one has stored that it is there, or its user would be offline for a moment.
const takenHold = 3 * time.Second

func (p *Presences) taken(d Device) {
	sh := p.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.users[d.UserID]
	if p.shared == nil || u == nil || u.devices[d.ClientID] == nil {
		return
	}
	dev := u.devices[d.ClientID]
	if dev.taken {
		return
	}
	if dev.timer == nil {
		u.touch(p.clock.Now())
	} else {
		dev.timer.Stop()
	}
	if dev.status != Online && !dev.willed { // else it is online there, too
		p.shared.peers.Notify(Notice{Device: &DeviceNotice{d.UserID, d.ClientID, dev.status}}, []ID{d.UserID})
	}
	stay := Stay(p.stays.Add(1)) // of nobody: the connection may end
	dev.stay, dev.will, dev.taken = stay, "", true
	dev.timer = time.AfterFunc(min(p.o.Grace, takenHold), func() { p.due(sh, d, stay) })
}

// heardDevice has a device that has come from another node be as it was there, unless
// it has said how it is.
func (p *Presences) heardDevice(n *DeviceNotice) {
	if p.shared == nil || n.Status != Away && n.Status != Offline {
		return
	}
	d := Device{UserID: n.UserID, ClientID: n.ClientID}
	sh := p.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.users[d.UserID]
	if u == nil || u.devices[d.ClientID] == nil {
		p.shared.devices.put(d, n.Status)
		return
	}
	if dev := u.devices[d.ClientID]; dev.timer == nil && !dev.said && dev.status != n.Status {
		dev.status = n.Status
		p.changed(u)
	}
}

// heard takes a notice of another node for Run.
func (p *Presences) heard(n *PresenceNotice) {
	s := p.shared
	if s == nil || p.closed.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.noticeIDs+len(n.To)+1 > maxTurnIDs {
		p.counts.dropped.Add(1) // it will be found in the database
		return
	}
	s.noticeIDs += len(n.To) + 1
	s.notices = append(s.notices, n)
	s.rouse()
}

func (p *Presences) heardContacts(n *ContactsNotice) {
	if p.shared == nil {
		return
	}
	b := n.B
	if len(b) == 0 {
		b = n.A
	}
	p.addTurn(contactTurn{a: n.A, b: b, id: n.ID})
}

// tellPeers has the nodes of contacts, and of the user's own devices, hear how a user
// is shown.
func (s *sharing) tellPeers(st *PresenceState, contacts []ID) {
	v := st.presence()
	n := PresenceNotice{
		UserID: st.UserID, Status: v.Status, LastOnlineAt: v.LastOnlineAt, Version: v.version, Invisible: st.Invisible, Part: len(contacts) > maxNoticeTo,
	}
	own := []ID{st.UserID}
	if len(contacts) == 0 {
		s.peers.Notify(Notice{Presence: &n}, own)
		return
	}
	for chunk := range slices.Chunk(contacts, maxNoticeTo) {
		part := n
		part.To = chunk
		s.peers.Notify(Notice{Presence: &part}, append(own, chunk...))
		own = nil
	}
}

// tellContacts has the nodes of those concerned hear of a change of contacts.
func (s *sharing) tellContacts(t contactTurn) {
	n := ContactsNotice{ID: t.id, A: t.a, B: t.b}
	if slices.Equal(t.a, t.b) {
		n.B = nil
	}
	s.peers.Notify(Notice{Contacts: &n}, append(slices.Clone(t.a), n.B...))
}

// state is what a notice says of its user.
func (n *PresenceNotice) state() PresenceState {
	return PresenceState{UserID: n.UserID, Online: n.Status != Offline, Invisible: n.Invisible, LastOnlineAt: n.LastOnlineAt, Status: n.Status, Version: n.Version}
}
