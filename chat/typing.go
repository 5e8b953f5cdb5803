package chat

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// TypingLasts is how long a user is shown as typing after their last signal.
	TypingLasts = 6 * time.Second
	// typingRepeat is the shortest time between two "typing" signals about a user.
	typingRepeat = 2 * time.Second
)

// Device names a connected device of a user.
type Device struct {
	UserID   ID
	ClientID string
}

// Typing keeps who is typing where, in memory only. Typing ends after TypingLasts, when
// the user sends a message, and when the last device that types disconnects. It is safe
// for concurrent use. Its methods record the new state and do not wait for the fan-out: a
// goroutine of the conversation's shard, which runs only while there is something to
// send, notifies the members. A change that is undone before then is not sent.
//
// Members are notified that a user types at most every typingRepeat, however often the
// user stops and starts; a signal that comes too early is sent later, if it still holds.
// They are notified of the end only if they were last notified that the user types.
//
// Which members a block hides is looked up when a user starts to type, and kept; later
// blocks and changes of members take effect at once, see hide and rosterChanged.
type Typing struct {
	clock   Clock
	roster  func(conversation ID) *Roster // the newest one cached, or nil
	blocks  func() uint64                 // changes with every block, see hidden
	signal  func(conversation ID, payload []byte, users []ID, except func(ID) bool)
	forward func(n TypingNotice, to []ID) // notifies the other nodes; nil: there are none
	shards  [typingShards]typingShard     // by conversation
	devices [typingShards]typingDevices   // by user
}

const typingShards = 64

type typingShard struct {
	n         atomic.Int64          // users who type; read without mu
	mu        sync.Mutex            // before typingDevices.mu
	typists   map[ID]map[ID]*typist // mu guards: by conversation and user
	queue     []*typist             // mu guards: those with something to send; each at most once
	notifying bool                  // mu guards: notify is running
}

// typingDevices holds the conversations in which each device types, or did until a moment
// ago. MaxTyping of them bound what one device costs.
type typingDevices struct {
	mu            sync.Mutex
	conversations map[Device]map[ID]struct{} // mu guards
}

// typist is a user who is typing in a conversation, or was until a moment ago. The
// shard's mu guards it.
type typist struct {
	conversation, user ID

	roster      *Roster         // the newest one known
	known       *Roster         // the one at the last signal: hidden refers to its members
	hidden      []ID            // ascending: members who are not shown them typing
	newlyHidden []ID            // members who were shown them typing, and are to be notified of the end
	devices     map[Device]bool // true: it types; false: it has stopped
	typing      int             // devices that type
	expires     time.Time
	shown       bool        // what members were last notified of
	forwarded   bool        // likewise, other nodes
	notified    time.Time   // when members were last notified that the user types
	queued      bool        // in the shard's queue; the timer is set again afterwards
	timer       *time.Timer // calls timerFired
}

func newTyping(clock Clock, roster func(ID) *Roster, blocks func() uint64, signal func(ID, []byte, []ID, func(ID) bool)) *Typing {
	t := &Typing{clock: clock, roster: roster, blocks: blocks, signal: signal}
	for i := range typingShards {
		t.shards[i].typists = map[ID]map[ID]*typist{}
		t.devices[i].conversations = map[Device]map[ID]struct{}{}
	}
	return t
}

func (t *Typing) shard(conversation ID) *typingShard {
	return &t.shards[conversation.Shard(typingShards)]
}

func (t *Typing) devicesOf(user ID) *typingDevices {
	return &t.devices[user.Shard(typingShards)]
}

// ParseTyping parses the payload of conv/{id}/typing: {"typing":true} or false, at most
// 1024 bytes; otherwise Invalid.
func ParseTyping(payload []byte) (bool, error) {
	var in struct {
		Typing *bool `json:"typing"`
	}
	if len(payload) > MaxSignalPayload || !utf8.Valid(payload) || decodeJSON(payload, &in) != nil || in.Typing == nil {
		return false, invalid("typing", `must be true or false, in a JSON object of at most 1024 bytes: {"typing":true}`)
	}
	return *in.Typing, nil
}

// errBlocksChanged says that the hidden members must be looked up again.
var errBlocksChanged = &Error{Code: Unavailable, Op: "chat.Typing", Msg: "blocks are changing too often; try again"}

// set records that a device types or has stopped. h names the members who are hidden
// from its user; it may be nil for a device that stops. Quota if the device types in
// MaxTyping conversations; errBlocksChanged if h may be out of date.
func (t *Typing) set(d Device, roster *Roster, h *hiddenFrom, typing bool) error {
	sh := t.shard(roster.ConversationID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	newest := roster
	if r := t.roster(roster.ConversationID); r != nil && r.Version > roster.Version { // a later version reaches the typist through rosterChanged
		newest = r
	}
	switch {
	case !newest.Has(d.UserID):
		return NotParticipant(roster.ConversationID)
	case typing && newest.Blocked:
		return nil
	case typing && h.at != t.blocks():
		return errBlocksChanged
	}
	who := sh.typists[roster.ConversationID][d.UserID]
	if !typing {
		if who != nil && who.devices[d] {
			who.devices[d] = false
			t.stopDevices(sh, who, 1)
		}
		return nil
	}
	if who == nil || !who.has(d) {
		if !t.devicesOf(d.UserID).add(d, roster.ConversationID) {
			return &Error{
				Code: Quota, Field: "typing", RetryAfter: typingRepeat,
				Msg: "the device types in " + itoa(MaxTyping) + " conversations already, or did a moment ago",
			}
		}
	}
	if who == nil {
		who = &typist{conversation: roster.ConversationID, user: d.UserID, devices: map[Device]bool{}}
		who.timer = time.AfterFunc(TypingLasts, func() { t.timerFired(sh, who) })
		if sh.typists[who.conversation] == nil {
			sh.typists[who.conversation] = map[ID]*typist{}
		}
		sh.typists[who.conversation][who.user] = who
	}
	if !who.devices[d] {
		who.devices[d] = true
		if who.typing++; who.typing == 1 {
			sh.n.Add(1)
		}
	}
	now := t.clock.Now()
	who.roster, who.known, who.hidden, who.expires = newest, roster, h.users, now.Add(TypingLasts)
	t.schedule(sh, who, now)
	return nil
}

func (w *typist) has(d Device) bool {
	_, ok := w.devices[d]
	return ok
}

// stopDevices records that n devices of a user have stopped. sh.mu is held.
func (t *Typing) stopDevices(sh *typingShard, who *typist, n int) {
	if n == 0 {
		return
	}
	if who.typing -= n; who.typing == 0 {
		sh.n.Add(-1)
		t.schedule(sh, who, t.clock.Now())
	}
}

// stop ends a user's typing on all devices. sh.mu is held.
func (t *Typing) stop(sh *typingShard, who *typist) {
	for d := range who.devices {
		who.devices[d] = false
	}
	t.stopDevices(sh, who, who.typing)
}

// schedule queues the typist if there is something to send now; otherwise it sets the
// timer for when there may be, or forgets the typist. sh.mu is held.
func (t *Typing) schedule(sh *typingShard, who *typist, now time.Time) {
	early := now.Before(who.notified.Add(typingRepeat))
	next := who.notified.Add(typingRepeat)
	switch {
	case who.queued:
		return
	case who.typing > 0 && !early, who.typing == 0 && who.shown, len(who.newlyHidden) > 0:
		who.queued = true
		who.timer.Stop()
		sh.queue = append(sh.queue, who)
		if !sh.notifying {
			sh.notifying = true
			go t.notify(sh) // ends when the queue is empty; nobody needs to wait for it
		}
		return
	case who.typing == 0 && !early:
		t.forget(sh, who)
		return
	case who.shown || who.typing > 0 && who.expires.Before(next):
		next = who.expires
	}
	who.timer.Reset(max(next.Sub(now), time.Millisecond))
}

// timerFired ends a typing that has expired, or schedules what was too early before.
func (t *Typing) timerFired(sh *typingShard, who *typist) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.typists[who.conversation][who.user] != who || who.queued {
		return
	}
	now := t.clock.Now()
	switch {
	case who.typing > 0 && !now.Before(who.expires):
		t.stop(sh, who)
	case who.shown: // the typing device repeats the signal, not the server
		who.timer.Reset(max(who.expires.Sub(now), time.Millisecond))
	default:
		t.schedule(sh, who, now)
	}
}

// forget removes a typist who has stopped and about whom nothing is left to send. sh.mu
// is held.
func (t *Typing) forget(sh *typingShard, who *typist) {
	who.timer.Stop()
	for d := range who.devices {
		t.devicesOf(d.UserID).remove(d, who.conversation)
	}
	delete(sh.typists[who.conversation], who.user)
	if len(sh.typists[who.conversation]) == 0 {
		delete(sh.typists, who.conversation)
	}
}

// notify sends what is due until the queue is empty. Only one call runs for each shard,
// so signals stay in order. No lock is held while sending.
func (t *Typing) notify(sh *typingShard) {
	var batch []*typist
	for {
		sh.mu.Lock()
		batch, sh.queue = sh.queue, nil
		sh.notifying = len(batch) > 0
		sh.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, who := range batch {
			sh.mu.Lock()
			signals := t.due(sh, who)
			sh.mu.Unlock()
			for _, s := range signals {
				if s.notice != nil {
					t.forward(*s.notice, s.users)
				}
				t.signal(who.conversation, s.payload, s.users, s.except)
			}
		}
	}
}

// typingSignal is one payload for some members.
type typingSignal struct {
	payload []byte
	users   []ID
	except  func(ID) bool
	notice  *TypingNotice // for the other nodes; nil: none
}

// due takes a typist out of the queue and returns what is to be sent: nothing if the
// members know the current state. sh.mu is held.
func (t *Typing) due(sh *typingShard, who *typist) (signals []typingSignal) {
	now := t.clock.Now()
	who.queued = false
	var payload []byte
	switch {
	case who.typing > 0 && !now.Before(who.notified.Add(typingRepeat)):
		who.shown, who.notified = true, now
		payload = typingPayload(who.conversation, who.user, true, who.expires)
	case who.typing == 0 && who.shown:
		who.shown = false
		payload = typingPayload(who.conversation, who.user, false, now)
	}
	if len(who.newlyHidden) > 0 {
		signals = append(signals, typingSignal{
			payload: typingPayload(who.conversation, who.user, false, now), users: who.newlyHidden, except: func(user ID) bool { return user == who.user },
		})
		who.newlyHidden = nil
	}
	if payload != nil {
		s := typingSignal{payload: payload, users: who.roster.Members, except: who.unseen()}
		if here := t.forward != nil && who.typesHere(); here || who.forwarded {
			s.notice = &TypingNotice{ConversationID: who.conversation, UserID: who.user, Typing: here}
			who.forwarded = here
		}
		signals = append(signals, s)
	}
	t.schedule(sh, who, now)
	return signals
}

// typesHere reports whether the user types on a device connected to this node. The shard's
// mu is held.
func (w *typist) typesHere() bool {
	for d, typing := range w.devices {
		if typing && !strings.HasPrefix(d.ClientID, peerDevice) {
			return true
		}
	}
	return false
}

// unseen returns which users are not shown them typing; the function may be called
// without the shard's mu.
func (w *typist) unseen() func(ID) bool {
	self, roster, known, hidden := w.user, w.roster, w.known, w.hidden
	return func(user ID) bool {
		return user == self || roster != known && !known.Has(user) || hasID(hidden, user)
	}
}

func hasID(sorted []ID, id ID) bool {
	_, ok := slices.BinarySearchFunc(sorted, id, ID.Compare)
	return ok
}

// rosterChanged applies a newer roster: users who are no longer members, or are blocked,
// stop typing, and from now on only its members are notified of the others.
func (t *Typing) rosterChanged(r *Roster) {
	sh := t.shard(r.ConversationID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, who := range sh.typists[r.ConversationID] {
		if who.roster.Version >= r.Version {
			continue
		}
		who.roster = r
		if !r.Has(who.user) || r.Blocked {
			t.stop(sh, who)
		}
	}
}

// hide hides a and b from each other, after one has blocked the other. In their direct
// conversation rosterChanged has ended the typing.
func (t *Typing) hide(a, b ID) {
	for _, p := range [2][2]ID{{a, b}, {b, a}} {
		user, other := p[0], p[1]
		for conversation := range t.devicesOf(user).ofUser(user) {
			sh := t.shard(conversation)
			sh.mu.Lock()
			if who := sh.typists[conversation][user]; who != nil && who.known.Kind != Direct && !hasID(who.hidden, other) {
				if who.shown && who.roster.Has(other) && !who.unseen()(other) {
					who.newlyHidden = append(who.newlyHidden, other)
				}
				i, _ := slices.BinarySearchFunc(who.hidden, other, ID.Compare)
				who.hidden = slices.Insert(slices.Clone(who.hidden), i, other)
				t.schedule(sh, who, t.clock.Now())
			}
			sh.mu.Unlock()
		}
	}
}

// sent ends the typing of a user who has sent a message.
func (t *Typing) sent(conversation, user ID) {
	sh := t.shard(conversation)
	if sh.n.Load() == 0 {
		return // called for every message
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if who := sh.typists[conversation][user]; who != nil {
		t.stop(sh, who)
	}
}

// disconnected ends what a device was typing.
func (t *Typing) disconnected(d Device) {
	devices := t.devicesOf(d.UserID)
	for _, conversation := range devices.list(d) {
		sh := t.shard(conversation)
		sh.mu.Lock()
		if who := sh.typists[conversation][d.UserID]; who != nil && who.has(d) {
			devices.remove(d, conversation)
			typed := who.devices[d]
			delete(who.devices, d)
			if typed {
				t.stopDevices(sh, who, 1)
			}
		}
		sh.mu.Unlock()
	}
}

// each calls f for every other user who is shown as typing in one of the conversations,
// or with nil in any, of which the user is a member. f is called under the shard's lock,
// so that it is called before the signal that the typing has ended.
func (t *Typing) each(user ID, conversations []ID, f func(conversation ID, payload []byte)) {
	visit := func(typists map[ID]*typist) {
		for _, who := range typists {
			if who.shown && who.typing > 0 && who.roster.Has(user) && !who.unseen()(user) {
				f(who.conversation, typingPayload(who.conversation, who.user, true, who.expires))
			}
		}
	}
	for _, conversation := range conversations {
		if sh := t.shard(conversation); sh.n.Load() > 0 {
			sh.mu.Lock()
			visit(sh.typists[conversation])
			sh.mu.Unlock()
		}
	}
	if conversations != nil {
		return
	}
	for i := range t.shards {
		if sh := &t.shards[i]; sh.n.Load() > 0 {
			sh.mu.Lock()
			for _, typists := range sh.typists {
				visit(typists)
			}
			sh.mu.Unlock()
		}
	}
}

// add adds a conversation, unless the device has MaxTyping already, and reports whether
// it did. The mu of the conversation's shard is held for this and for typist.devices.
func (t *typingDevices) add(d Device, conversation ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.conversations[d]) >= MaxTyping {
		return false
	}
	if t.conversations[d] == nil {
		t.conversations[d] = map[ID]struct{}{}
	}
	t.conversations[d][conversation] = struct{}{}
	return true
}

func (t *typingDevices) remove(d Device, conversation ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conversations[d], conversation)
	if len(t.conversations[d]) == 0 {
		delete(t.conversations, d)
	}
}

// ofUser returns the conversations in which any device of the user types.
func (t *typingDevices) ofUser(user ID) map[ID]struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[ID]struct{}{}
	for d, conversations := range t.conversations {
		if d.UserID == user {
			maps.Copy(all, conversations)
		}
	}
	return all
}

func (t *typingDevices) list(d Device) []ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.conversations[d]))
}

func typingPayload(conversation, user ID, typing bool, expires time.Time) []byte {
	b := append([]byte(`{"conversationId":"`), conversation.String()...)
	b = append(append(b, `","userId":"`...), user.String()...)
	if typing {
		b = append(b, `","typing":true,"expiresAt":"`...)
	} else {
		b = append(b, `","typing":false,"expiresAt":"`...)
	}
	b = expires.UTC().AppendFormat(b, TimeFormat)
	return append(b, `"}`...)
}

// SetTyping records that the user of a device types, or has stopped, and notifies the
// other members, except those who have blocked the user or whom the user has blocked.
// Forbidden if the user is not a member; Quota if the device types in MaxTyping
// conversations already. It may wait for the store if the members are not cached, and for
// up to hiddenPatience if the hidden members of a group are not; if those cannot be looked
// up, nobody is notified.
func (s *Service) SetTyping(ctx context.Context, d Device, conversation ID, typing bool) error {
	for range 3 {
		r, err := s.Rosters.Require(ctx, conversation, d.UserID)
		if err != nil {
			return err
		}
		var h *hiddenFrom
		if typing {
			if h = s.hidden.get(ctx, r, d.UserID); h == nil {
				return nil
			}
		}
		if err := s.typing.set(d, r, h, typing); !errors.Is(err, errBlocksChanged) {
			return err
		}
	}
	return nil
}

// DeviceLeft ends what a device was typing: its connection has ended. It does not block.
func (s *Service) DeviceLeft(d Device) { s.typing.disconnected(d) }

// EachTyping calls f, with the payload to send, for every other user who is typing in one
// of the user's conversations: for a session that has just subscribed. conversations
// limits it to these; nil means all of them, and visits everybody who types. f must not
// block.
func (s *Service) EachTyping(user ID, conversations []ID, f func(conversation ID, payload []byte)) {
	s.typing.each(user, conversations, f)
}
