package chat

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	presenceShards = 64
	// maxAway is how long a device that is gone may be shown, by a will of "away" or
	// by the delay of a will.
	maxAway = time.Hour
	// maxPresentDevices of one user are remembered, which is more than may be
	// connected: beyond that, those that are away are so at once.
	maxPresentDevices = 2 * MaxUserSessions
	// A user's contacts hear of presenceBurst changes at once, and then of one every
	// presencePace; in the end of how it is.
	presenceBurst = 10
	presencePace  = 2 * time.Second
	// maxTurnIDs bounds the users named in changes of contacts that wait to be told.
	maxTurnIDs = 1_000_000
)

// PresenceOptions sets how presence works. The zero value stands for the defaults in
// brackets.
type PresenceOptions struct {
	Node   string        // under which it is stored who is here
	Grace  time.Duration // for a device to come back before anybody hears that it was gone [10 s]
	Gather time.Duration // during which changes gather before they are told together [50 ms]
	Logger *slog.Logger  // nil: nobody hears anything

	// Where there are several nodes:
	Peers  Peers         // the other ones; nil: there are none
	NodeID string        // of this life of the node, see NodeID
	Heal   time.Duration // how often it is looked for what was not heard of [5 s]
}

// Presences knows who is here: the devices that are connected to this node, what they
// say of their users, and those that may be back in a moment. It is in memory but for
// what PresenceStore keeps, and safe for concurrent use. Whoever connects, publishes
// or goes only notes how things are and never waits; Run tells the contacts and the
// store what has changed, and is late alone while the store is away. What has changed
// back meanwhile is not told.
type Presences struct {
	o      PresenceOptions
	store  PresenceStore
	clock  Clock
	signal func(p Presence, to []ID)
	memory *memoryBoard
	shared *sharing // where there are several nodes; nil: alone
	board  board    // of the two
	shards [presenceShards]presenceShard
	stays  atomic.Uint64
	closed atomic.Bool   // Run is ending: nothing more is noted for it
	asking chan struct{} // a place for each session's query

	mu      sync.Mutex    // after presenceShard.mu
	changes []*present    // mu guards: who is to be told of; each at most once
	turns   []contactTurn // mu guards
	turnIDs int           // mu guards: users named in turns
	wake    chan struct{} // holds a value when there is something to do

	resting []*present // owned by Run: who is gone, and forgotten when their pace allows

	counts presenceCounts
}

type presenceShard struct {
	mu    sync.Mutex
	users map[ID]*present // mu guards, with what they point to, but for what Run owns
}

// Stay is one connection of a device; the zero value is none.
type Stay uint64

// present is a user who is here, or was until a moment ago.
type present struct {
	id        ID
	devices   map[string]*presentDevice // by client id
	known     bool                      // invisible is known, from a device or from the store
	invisible bool
	seen      time.Time // when they were here and visible last; zero: not since they came
	last      time.Time // likewise, as it was stored when they came
	own       Status    // what their own devices were told last
	contacts  uint64    // rises when they have got or lost contacts
	says      *bool     // whether they are invisible, as a device has said and the other nodes do not know yet
	anew      bool      // what other nodes say of them is to be read again
	queued    bool      // in Presences.changes
	paced     bool      // a timer will queue them
	pace      time.Time // how far the changes that were told reach, at one every presencePace

	loaded bool          // owned by Run: what is stored was read
	saved  PresenceState // owned by Run: as it is stored
	place  Status        // owned by Run: likewise, how they are at this node; where there are several
}

// presentDevice is a device that is connected, or is to be treated as if it were.
type presentDevice struct {
	stay   Stay
	status Status      // Online, Away or Offline
	timer  *time.Timer // nil while it is connected: what becomes of one that does not come back
	will   Status      // what it left for that
	until  time.Time   // until when a will of Away holds
	willed bool        // that will has acted
	taken  bool        // it has come to another node
	said   bool        // it has said how it is, on this connection
}

func newPresences(store PresenceStore, clock Clock, signal func(Presence, []ID)) *Presences {
	p := &Presences{store: store, clock: clock, signal: signal, memory: newMemoryBoard(clock), asking: make(chan struct{}, 8), wake: make(chan struct{}, 1)}
	for i := range p.shards {
		p.shards[i].users = map[ID]*present{}
	}
	p.Use(PresenceOptions{})
	return p
}

// Use sets the options. It must be called before anything else is.
func (p *Presences) Use(o PresenceOptions) {
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.Gather == 0 {
		o.Gather = 50 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Heal == 0 {
		o.Heal = 5 * time.Second
	}
	o.Logger = o.Logger.With("component", "presence")
	p.o, p.shared, p.board = o, nil, p.memory
	if o.Peers != nil {
		p.shared = newSharing(p.clock, o)
		p.board = p.shared.board
	}
}

func (p *Presences) shard(user ID) *presenceShard { return &p.shards[user.Shard(presenceShards)] }

// find returns a user's device, if stay is its newest connection. sh.mu is held.
func (sh *presenceShard) find(d Device, stay Stay) (*present, *presentDevice) {
	u := sh.users[d.UserID]
	if u == nil {
		return nil, nil
	}
	if dev := u.devices[d.ClientID]; dev != nil && dev.stay == stay {
		return u, dev
	}
	return u, nil
}

func (p *Presences) came(d Device) Stay {
	stay := Stay(p.stays.Add(1))
	sh := p.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.users[d.UserID]
	if u == nil {
		u = &present{id: d.UserID, devices: map[string]*presentDevice{}}
		sh.users[d.UserID] = u
	}
	if p.shared != nil && !u.connected() {
		u.own, u.anew = "", true // other nodes have not told this one how they are
	}
	dev := u.devices[d.ClientID]
	if dev == nil {
		u.makeRoom()
		dev = &presentDevice{status: Online}
		u.devices[d.ClientID] = dev
	}
	if dev.timer != nil {
		dev.timer.Stop()
		dev.timer = nil
	}
	if dev.willed || dev.taken { // it has been away, not only cut off; or at another node
		dev.status, dev.willed, dev.taken = Online, false, false
	}
	dev.stay, dev.said = stay, false
	if p.shared != nil {
		p.shared.carried(d, dev)
	}
	p.changed(u)
	return stay
}

// connected reports whether any device is. sh.mu is held.
func (u *present) connected() bool {
	for _, dev := range u.devices {
		if dev.timer == nil {
			return true
		}
	}
	return false
}

// makeRoom lets go of a device that is away, if there are too many.
func (u *present) makeRoom() {
	if len(u.devices) < maxPresentDevices {
		return
	}
	for id, dev := range u.devices {
		if dev.timer != nil {
			dev.timer.Stop()
			delete(u.devices, id)
			return
		}
	}
}

func (p *Presences) set(d Device, stay Stay, status Status) {
	sh := p.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u, dev := sh.find(d, stay)
	if dev == nil {
		return // taken over meanwhile
	}
	u.touch(p.clock.Now())
	dev.said = true
	switch status {
	case Invisible:
		dev.status = Online
		u.say(true)
	case Offline:
		dev.status = Offline // and nobody becomes visible by it
	default:
		dev.status = status
		u.say(false)
	}
	p.changed(u)
}

func (p *Presences) went(d Device, stay Stay, e End) bool {
	sh := p.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u, dev := sh.find(d, stay)
	if dev == nil || dev.timer != nil {
		return false
	}
	now := p.clock.Now()
	u.touch(now)
	if e.Gone {
		delete(u.devices, d.ClientID)
		p.changed(u)
		return true
	}
	dev.will = e.Will
	dev.until = now.Add(min(e.Kept, maxAway))
	linger := max(p.o.Grace, min(e.Wait, e.Kept, maxAway))
	dev.timer = time.AfterFunc(linger, func() { p.due(sh, d, stay) })
	return true // nobody hears of it yet
}

// due is what the timer of a device that went calls: its will acts, or the one that
// is implied.
func (p *Presences) due(sh *presenceShard, d Device, stay Stay) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u, dev := sh.find(d, stay)
	if dev == nil || dev.timer == nil {
		return
	}
	left := dev.until.Sub(p.clock.Now())
	switch {
	case dev.will == Away && !dev.willed && left > 0:
		dev.status, dev.willed = Away, true
		dev.timer.Reset(left)
	default:
		if dev.will == Invisible {
			u.say(true)
		}
		delete(u.devices, d.ClientID)
	}
	p.changed(u)
}

// say notes whether the user is invisible. sh.mu is held.
func (u *present) say(invisible bool) {
	u.invisible, u.known, u.says = invisible, true, &invisible
}

// touch notes that the user is here, if that can be seen, before it changes. sh.mu
// is held.
func (u *present) touch(now time.Time) {
	if u.known && u.invisible {
		return
	}
	for _, dev := range u.devices {
		if dev.timer == nil && dev.status != Offline {
			u.seen = now
			return
		}
	}
}

// status is what the devices say together. sh.mu is held.
func (u *present) status() Status {
	status := Offline
	for _, dev := range u.devices {
		switch dev.status {
		case Online:
			return Online
		case Away:
			status = Away
		}
	}
	return status
}

// shown is how the user is shown to others. sh.mu is held.
func (u *present) shown() Presence {
	p := Presence{UserID: u.id, Status: Offline}
	if u.known && !u.invisible {
		p.Status = u.status()
	}
	if p.Status == Offline {
		p.LastOnlineAt = u.lastOnline()
	}
	return p
}

func (u *present) lastOnline() time.Time {
	if u.seen.After(u.last) {
		return Timestamp(u.seen)
	}
	return u.last
}

// ownView is how the user is shown to themselves. sh.mu is held.
func (u *present) ownView() Presence {
	p := u.shown()
	if u.invisible {
		p.Status, p.LastOnlineAt = Invisible, time.Time{}
	}
	return p
}

// changed has Run look at the user, as soon as the pace allows. sh.mu is held.
func (p *Presences) changed(u *present) {
	if u.queued || u.paced || p.closed.Load() {
		return
	}
	if now, from := p.clock.Now(), u.pace.Add(-presenceBurst*presencePace); from.After(now) {
		u.paced = true
		sh := p.shard(u.id)
		time.AfterFunc(from.Sub(now), func() {
			sh.mu.Lock()
			defer sh.mu.Unlock()
			u.paced = false
			p.changed(u)
		})
		return
	}
	u.queued = true
	p.mu.Lock()
	p.changes = append(p.changes, u)
	p.mu.Unlock()
	p.rouse()
}

func (p *Presences) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// here reports whether any of the users has a device here.
func (p *Presences) here(users []ID) bool {
	for _, id := range users {
		sh := p.shard(id)
		sh.mu.Lock()
		_, ok := sh.users[id]
		sh.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

// contactTurn is a change of contacts that those concerned are to hear of.
type contactTurn struct {
	a, b []ID
	id   ID   // where there are several nodes
	mine bool // the others are to hear of it from here
}

// contactsChanged has users told that those of a and those of b have become contacts, or
// ceased to be: both hear how the others are, or that they are offline. It does not
// block, and keeps neither slice.
func (p *Presences) contactsChanged(a, b []ID) {
	if p.shared == nil && !p.here(a) && !p.here(b) {
		return // nobody would hear of it
	}
	if len(a) > len(b) {
		a, b = b, a
	}
	t := contactTurn{a: slices.Clone(a), b: slices.Clone(b)}
	if p.shared != nil {
		t.id, t.mine = NewID(), true
	}
	p.addTurn(t)
}

func (p *Presences) addTurn(t contactTurn) {
	if p.closed.Load() {
		return
	}
	n := len(t.a) + len(t.b)
	p.mu.Lock()
	if fits := p.turnIDs+n <= maxTurnIDs; fits {
		p.turnIDs += n
		p.turns = append(p.turns, t)
	} else {
		p.counts.dropped.Add(1)
	}
	p.mu.Unlock()
	p.rouse()
}

// contactsVersion tells whether contactsChanged has been acted upon for the user.
func (p *Presences) contactsVersion(user ID) uint64 {
	sh := p.shard(user)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if u := sh.users[user]; u != nil {
		return u.contacts
	}
	return 0
}
