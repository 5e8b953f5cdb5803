package presence

import (
	"slices"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	shardCount = 64
	// maxAway is how long a device that is gone may be shown, by a will of "away" or by the
	// delay of a will.
	maxAway = time.Hour
	// maxDevices of one user are remembered, which is more than may be connected: beyond that
	// those that are not are dropped.
	maxDevices = 2 * chat.MaxUserSessions
	// presenceBurst changes of a user are notified at once, and then one every presencePace; in
	// the end how the user is.
	presenceBurst = 10
	presencePace  = 2 * time.Second
	// movedHold is for how long a device that has moved to another node counts here: until that
	// one has stored it, or its user would be offline for a moment.
	movedHold = 3 * time.Second
	// carriedKeeps is for how long the status of a device that is to come from another node is
	// kept, and maxCarried how many; it is online if it is not kept.
	carriedKeeps = 10 * time.Second
	maxCarried   = 10_000
)

// Connection is one connection of a device; the zero value is none.
type Connection uint64

// End says how a device's connection has ended.
type End struct {
	Gone   bool          // by DISCONNECT 0x00, or its login was revoked: nothing else counts
	Will   chat.Status   // the will on the user's own presence; empty: none, which is Offline
	Delay  time.Duration // the will delay interval
	Expiry time.Duration // how long the session is kept from now
}

type shard struct {
	mu    sync.Mutex
	users map[chat.ID]*user // mu guards, with all that they point to
}

// user is somebody who is connected, or was until a moment ago.
type user struct {
	id       chat.ID
	devices  []*device   // a few, as a rule; at most maxDevices
	seen     time.Time   // when they were here and visible last; zero: not since they came
	says     *bool       // whether they are invisible, as a device has said and the database does not know yet
	self     chat.Status // what their own devices were notified of last; empty: nothing
	contacts uint64      // rises when they have got or lost contacts
	queued   bool        // in Engine.changed
	paced    bool        // a timer will queue them
	pace     time.Time   // how far the notified changes reach, at one every presencePace

	// Changed by Run alone:
	here  chat.Status // as stored for this node
	again bool        // it is to be stored whether or not it has changed (also set by Connected)
	state State       // as last read from the database; without UserID: never
}

// device is connected, or is to be treated as if it were.
type device struct {
	client string // its client id
	conn   Connection
	status chat.Status // Online, Away or Offline
	said   bool        // on this connection
	timer  *time.Timer // nil while it is connected: what becomes of one that does not come back
	will   chat.Status
	until  time.Time // until when a will of Away holds
	willed bool      // that will has acted
	moved  bool      // to another node
}

type carried struct {
	status chat.Status
	at     time.Time
}

func (e *Engine) shard(user chat.ID) *shard { return &e.shards[user.Shard(shardCount)] }

// locked calls f with a user, nil if they are not here, under the lock of the user's shard.
func (e *Engine) locked(id chat.ID, f func(*user)) {
	sh := e.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	f(sh.users[id])
}

// find returns a user's device, if conn is its newest connection. sh.mu is held.
func (sh *shard) find(d chat.Device, conn Connection) (*user, *device) {
	if u := sh.users[d.UserID]; u != nil {
		if dev := u.device(d.ClientID); dev != nil && dev.conn == conn {
			return u, dev
		}
	}
	return nil, nil
}

// Connected notes that a device has connected: it is online, or as it was before if it was
// away for less than the grace, or takes over from itself. It does not block.
func (e *Engine) Connected(d chat.Device) Connection {
	conn := Connection(e.connections.Add(1))
	sh := e.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.users[d.UserID]
	if u == nil {
		u = &user{id: d.UserID, here: chat.Offline, again: true}
		sh.users[d.UserID] = u
	}
	if !e.alone() && !u.connected() {
		u.self, u.again = "", true // notices of other nodes did not come here meanwhile
	}
	dev := u.device(d.ClientID)
	if dev == nil {
		u.makeRoom()
		dev = &device{client: d.ClientID, status: chat.Online}
		u.devices = append(u.devices, dev)
	}
	if dev.timer != nil {
		dev.timer.Stop()
	}
	if dev.willed || dev.moved { // it was not only cut off
		dev.status = chat.Online
	}
	e.mu.Lock()
	if c, ok := e.carried[d]; ok {
		dev.status = c.status
		delete(e.carried, d)
	}
	e.mu.Unlock()
	*dev = device{client: dev.client, conn: conn, status: dev.status}
	e.queue(u)
	return conn
}

// connected reports whether any device is. The shard is locked.
func (u *user) connected() bool {
	for _, dev := range u.devices {
		if dev.timer == nil {
			return true
		}
	}
	return false
}

// device returns the user's device with the client id, nil if there is none. The shard is
// locked.
func (u *user) device(client string) *device {
	for _, dev := range u.devices {
		if dev.client == client {
			return dev
		}
	}
	return nil
}

// drop forgets a device. The shard is locked.
func (u *user) drop(dev *device) {
	u.devices = slices.DeleteFunc(u.devices, func(other *device) bool { return other == dev })
}

// makeRoom drops a device that is not connected, if there are too many. The shard is locked.
func (u *user) makeRoom() {
	if len(u.devices) < maxDevices {
		return
	}
	for _, dev := range u.devices {
		if dev.timer != nil {
			dev.timer.Stop()
			u.drop(dev)
			return
		}
	}
}

// SetStatus notes what a device says of its user. Invisible holds for the user, and until a
// device says that it is online or away. It does not block.
func (e *Engine) SetStatus(d chat.Device, conn Connection, status chat.Status) {
	sh := e.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u, dev := sh.find(d, conn)
	if dev == nil {
		return // taken over meanwhile
	}
	u.touch()
	dev.said = true
	switch status {
	case chat.Invisible:
		dev.status = chat.Online
		u.say(true)
	case chat.Offline:
		dev.status = chat.Offline // and nobody becomes visible by it
	default:
		dev.status = status
		u.say(false)
	}
	e.queue(u)
}

// Disconnected notes that a connection has ended, and reports whether it was the newest of
// its device: nothing follows otherwise. It does not block.
func (e *Engine) Disconnected(d chat.Device, conn Connection, end End) bool {
	sh := e.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u, dev := sh.find(d, conn)
	if dev == nil || dev.timer != nil {
		return false
	}
	u.touch()
	if end.Gone {
		u.drop(dev)
		e.queue(u)
		return true
	}
	dev.will, dev.until = end.Will, time.Now().Add(min(end.Expiry, maxAway))
	dev.timer = time.AfterFunc(max(e.o.Grace, min(end.Delay, end.Expiry, maxAway)), func() { e.expire(sh, d, conn) })
	return true // nobody is notified yet
}

// expire is what the timer of a device that is gone calls: its will acts, or the one that is
// implied.
func (e *Engine) expire(sh *shard, d chat.Device, conn Connection) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u, dev := sh.find(d, conn)
	if dev == nil || dev.timer == nil {
		return
	}
	if left := time.Until(dev.until); dev.will == chat.Away && !dev.willed && left > 0 {
		dev.status, dev.willed = chat.Away, true
		dev.timer.Reset(left)
	} else {
		if dev.will == chat.Invisible {
			u.say(true)
		}
		u.drop(dev)
	}
	e.queue(u)
}

// move notes that a device has connected to another node, later than to this one: an end of
// its connection that is still to come is not that of its newest. How it was is sent to that
// node.
func (e *Engine) move(d chat.Device) {
	sh := e.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.users[d.UserID]
	if u == nil {
		return
	}
	dev := u.device(d.ClientID)
	if dev == nil || dev.moved {
		return
	}
	if dev.timer == nil {
		u.touch()
	} else {
		dev.timer.Stop()
	}
	if dev.status != chat.Online && !dev.willed { // else it is online there, too
		e.o.Notify(chat.Notice{Device: &chat.DeviceNotice{UserID: d.UserID, ClientID: d.ClientID, Status: dev.status}}, []chat.ID{d.UserID})
	}
	conn := Connection(e.connections.Add(1)) // of nobody
	*dev = device{client: dev.client, conn: conn, status: dev.status, moved: true}
	dev.timer = time.AfterFunc(min(e.o.Grace, movedHold), func() { e.expire(sh, d, conn) })
}

// carry has a device that comes from another node be as it was there, unless it has said how
// it is.
func (e *Engine) carry(n *chat.DeviceNotice) {
	if n.Status != chat.Away && n.Status != chat.Offline {
		return
	}
	d := chat.Device{UserID: n.UserID, ClientID: n.ClientID}
	sh := e.shard(d.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var dev *device
	u := sh.users[d.UserID]
	if u != nil {
		dev = u.device(d.ClientID)
	}
	if dev == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		if len(e.carried) < maxCarried {
			e.carried[d] = carried{n.Status, time.Now()}
		}
		return
	}
	if dev.timer == nil && !dev.said && dev.status != n.Status {
		dev.status = n.Status
		e.queue(u)
	}
}

// say notes whether the user is invisible. The shard is locked.
func (u *user) say(invisible bool) { u.says = &invisible }

// touch notes that the user is here, if that can be seen, before it changes. The shard is
// locked.
func (u *user) touch() {
	if u.says != nil && *u.says || u.says == nil && u.state.Invisible {
		return
	}
	for _, dev := range u.devices {
		if dev.timer == nil && dev.status != chat.Offline {
			u.seen = time.Now()
			return
		}
	}
}

// status is what the devices say together. The shard is locked.
func (u *user) status() chat.Status {
	status := chat.Offline
	for _, dev := range u.devices {
		switch dev.status {
		case chat.Online:
			return chat.Online
		case chat.Away:
			status = chat.Away
		}
	}
	return status
}

// lastOnline is when others last saw the user. The shard is locked.
func (u *user) lastOnline() time.Time {
	if u.seen.After(u.state.LastOnlineAt) {
		return chat.Timestamp(u.seen)
	}
	return u.state.LastOnlineAt
}

// queue has Run look at the user, as soon as the pace allows. The shard is locked.
func (e *Engine) queue(u *user) {
	if u.queued || u.paced || e.closed.Load() {
		return
	}
	if wait := time.Until(u.pace.Add(-presenceBurst * presencePace)); wait > 0 {
		u.paced = true
		sh := e.shard(u.id)
		time.AfterFunc(wait, func() {
			sh.mu.Lock()
			defer sh.mu.Unlock()
			u.paced = false
			e.queue(u)
		})
		return
	}
	u.queued = true
	e.mu.Lock()
	e.changed = append(e.changed, u)
	e.mu.Unlock()
	wake(e.here)
}
