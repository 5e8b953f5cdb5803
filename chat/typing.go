package chat

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	// TypingLasts is how long a user is shown as typing after they last said so.
	TypingLasts = 6 * time.Second
	// typingRepeat is how often members hear that a user goes on typing, at most.
	typingRepeat = 2 * time.Second
)

// Device names a connected device of a user.
type Device struct {
	UserID   ID
	ClientID string
}

// Typing knows who is typing where, in memory alone: it is never stored, ends by
// itself, when the user sends, and when the last device that types goes away. It
// is safe for concurrent use, and none of its methods waits for a fan-out: they note
// how things are, and a goroutine of the conversation's shard tells the members, as
// long as there is somebody to tell of. What changed back meanwhile is not told.
//
// Members hear that somebody types at most every typingRepeat, however often that
// person stops and begins; what comes too early is told later, if it still holds.
// They hear that somebody has stopped only if they were told the contrary last.
type Typing struct {
	clock   Clock
	signal  func(conversation ID, payload []byte, roster *Roster, from ID)
	shards  [typingShards]typingShard   // by conversation
	devices [typingShards]typingDevices // by user
}

const typingShards = 64

type typingShard struct {
	n       atomic.Int64          // users who type, for those who only ask whether there are any
	mu      sync.Mutex            // before typingDevices.mu
	typists map[ID]map[ID]*typist // mu guards: by conversation and user
	queue   []*typist             // mu guards: whose members are to be told; each at most once
	telling bool                  // mu guards: tell runs
}

// typingDevices knows which conversations a device types in, or did until a moment
// ago: MaxTyping bounds what one device can keep here and have told.
type typingDevices struct {
	mu sync.Mutex
	of map[Device]map[ID]struct{} // mu guards
}

// typist is a user who is typing in a conversation, or was until a moment ago. The
// shard's mu guards it.
type typist struct {
	conversation, user ID

	roster  *Roster         // of when they last said so
	devices map[Device]bool // true: it types; false: it has stopped
	typing  int             // how many do
	expires time.Time
	shown   bool        // what members were told last
	told    time.Time   // when they were last told that the user types
	queued  bool        // in the shard's queue, which sets the timer afterwards
	timer   *time.Timer // ends the typing, has told what came too early, or forgets
}

func newTyping(clock Clock, signal func(ID, []byte, *Roster, ID)) *Typing {
	t := &Typing{clock: clock, signal: signal}
	for i := range typingShards {
		t.shards[i].typists = map[ID]map[ID]*typist{}
		t.devices[i].of = map[Device]map[ID]struct{}{}
	}
	return t
}

func (t *Typing) shard(conversation ID) *typingShard {
	return &t.shards[conversation.Shard(typingShards)]
}

// ParseTyping reads the payload of conv/{id}/typing: {"typing":true} or false.
// Invalid names what is wrong.
func ParseTyping(payload []byte) (bool, error) {
	var in struct {
		Typing *bool `json:"typing"`
	}
	if len(payload) > 1024 || !utf8.Valid(payload) || json.Unmarshal(payload, &in) != nil || in.Typing == nil {
		return false, invalid("typing", `must be true or false, in a JSON object of at most 1024 bytes: {"typing":true}`)
	}
	return *in.Typing, nil
}

// set notes that a device types, or has stopped. Quota if it types in as many
// conversations as it may.
func (t *Typing) set(d Device, roster *Roster, typing bool) error {
	sh := t.shard(roster.ConversationID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	who := sh.typists[roster.ConversationID][d.UserID]
	if !typing {
		if who != nil && who.devices[d] {
			who.devices[d] = false
			t.less(sh, who, 1)
		}
		return nil
	}
	if who == nil || !who.has(d) {
		if !t.devices[d.UserID.Shard(typingShards)].add(d, roster.ConversationID) {
			return &Error{
				Code: Quota, Field: "typing", RetryAfter: typingRepeat,
				Msg: "the device types in " + itoa(MaxTyping) + " conversations already, or did a moment ago",
			}
		}
	}
	if who == nil {
		who = &typist{conversation: roster.ConversationID, user: d.UserID, devices: map[Device]bool{}}
		who.timer = time.AfterFunc(TypingLasts, func() { t.due(sh, who) })
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
	who.roster, who.expires = roster, now.Add(TypingLasts)
	t.changed(sh, who, now)
	return nil
}

func (w *typist) has(d Device) bool {
	_, ok := w.devices[d]
	return ok
}

// less notes that n devices of a user have stopped. sh.mu is held.
func (t *Typing) less(sh *typingShard, who *typist, n int) {
	if n == 0 {
		return
	}
	if who.typing -= n; who.typing == 0 {
		sh.n.Add(-1)
		t.changed(sh, who, t.clock.Now())
	}
}

// stop ends a user's typing on all devices. sh.mu is held.
func (t *Typing) stop(sh *typingShard, who *typist) {
	for d := range who.devices {
		who.devices[d] = false
	}
	t.less(sh, who, who.typing)
}

// changed has the members told, if there is something to tell now, and otherwise
// sees to it that this is looked at again in time. sh.mu is held.
func (t *Typing) changed(sh *typingShard, who *typist, now time.Time) {
	early := now.Before(who.told.Add(typingRepeat))
	next := who.told.Add(typingRepeat)
	switch {
	case who.queued:
		return
	case who.typing > 0 && !early, who.typing == 0 && who.shown:
		who.queued = true
		who.timer.Stop()
		sh.queue = append(sh.queue, who)
		if !sh.telling {
			sh.telling = true
			go t.tell(sh) // ends when the queue is empty; nobody waits for it, as for the timers: it holds nothing
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

// due is what a typist's timer calls.
func (t *Typing) due(sh *typingShard, who *typist) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.typists[who.conversation][who.user] != who || who.queued {
		return
	}
	now := t.clock.Now()
	switch {
	case who.typing > 0 && !now.Before(who.expires):
		t.stop(sh, who)
	case who.shown: // repeated by those who type, not by us
		who.timer.Reset(max(who.expires.Sub(now), time.Millisecond))
	default:
		t.changed(sh, who, now)
	}
}

// forget removes a typist who has stopped, and of whom nothing is to be told any
// more. sh.mu is held.
func (t *Typing) forget(sh *typingShard, who *typist) {
	who.timer.Stop()
	for d := range who.devices {
		t.devices[d.UserID.Shard(typingShards)].remove(d, who.conversation)
	}
	delete(sh.typists[who.conversation], who.user)
	if len(sh.typists[who.conversation]) == 0 {
		delete(sh.typists, who.conversation)
	}
}

// tell has members told until the queue is empty. It is the only one of its shard,
// so that members hear everything in order, and holds no lock while it tells them.
func (t *Typing) tell(sh *typingShard) {
	var batch []*typist
	for {
		sh.mu.Lock()
		batch, sh.queue = sh.queue, nil
		sh.telling = len(batch) > 0
		sh.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, who := range batch {
			sh.mu.Lock()
			payload, roster := t.news(sh, who)
			sh.mu.Unlock()
			if payload != nil {
				t.signal(who.conversation, payload, roster, who.user)
			}
		}
	}
}

// news takes a typist out of the queue and returns what the members are to hear, or
// nil if it is what they know. sh.mu is held.
func (t *Typing) news(sh *typingShard, who *typist) ([]byte, *Roster) {
	now := t.clock.Now()
	who.queued = false
	var payload []byte
	switch {
	case who.typing > 0 && !now.Before(who.told.Add(typingRepeat)):
		who.shown, who.told = true, now
		payload = typingPayload(who.conversation, who.user, true, who.expires)
	case who.typing == 0 && who.shown:
		who.shown = false
		payload = typingPayload(who.conversation, who.user, false, now)
	}
	t.changed(sh, who, now)
	return payload, who.roster
}

// sent ends the typing of a user who has sent a message.
func (t *Typing) sent(conversation, user ID) {
	sh := t.shard(conversation)
	if sh.n.Load() == 0 {
		return // every message passes here
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if who := sh.typists[conversation][user]; who != nil {
		t.stop(sh, who)
	}
}

// left ends what a device was typing: its connection has ended.
func (t *Typing) left(d Device) {
	devices := &t.devices[d.UserID.Shard(typingShards)]
	for _, conversation := range devices.list(d) {
		sh := t.shard(conversation)
		sh.mu.Lock()
		if who := sh.typists[conversation][d.UserID]; who != nil && who.has(d) {
			devices.remove(d, conversation)
			typed := who.devices[d]
			delete(who.devices, d)
			if typed {
				t.less(sh, who, 1)
			}
		}
		sh.mu.Unlock()
	}
}

// each calls f for everybody who is shown as typing in one of the conversations, or
// if none are named in any, that the user is a member of, except the user. f is
// called under the lock: that somebody has stopped is told after it.
func (t *Typing) each(user ID, conversations []ID, f func(conversation ID, payload []byte)) {
	look := func(typists map[ID]*typist) {
		for _, who := range typists {
			if who.user != user && who.shown && who.typing > 0 && who.roster.Has(user) {
				f(who.conversation, typingPayload(who.conversation, who.user, true, who.expires))
			}
		}
	}
	for _, conversation := range conversations {
		if sh := t.shard(conversation); sh.n.Load() > 0 {
			sh.mu.Lock()
			look(sh.typists[conversation])
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
				look(typists)
			}
			sh.mu.Unlock()
		}
	}
}

// add reports whether the device may type in the conversation. Changes for one
// conversation are made under its shard's mu, together with typist.devices.
func (t *typingDevices) add(d Device, conversation ID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.of[d]) >= MaxTyping {
		return false
	}
	if t.of[d] == nil {
		t.of[d] = map[ID]struct{}{}
	}
	t.of[d][conversation] = struct{}{}
	return true
}

func (t *typingDevices) remove(d Device, conversation ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.of[d], conversation)
	if len(t.of[d]) == 0 {
		delete(t.of, d)
	}
}

func (t *typingDevices) list(d Device) []ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.of[d]))
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

// SetTyping tells the other members that the user of a device types, or has
// stopped. Forbidden if they are not a member; Quota if the device types in
// MaxTyping conversations already. It may wait for the store, if the members are
// not cached.
func (s *Service) SetTyping(ctx context.Context, d Device, conversation ID, typing bool) error {
	r, err := s.Rosters.Require(ctx, conversation, d.UserID)
	if err != nil {
		return err
	}
	return s.typing.set(d, r, typing)
}

// DeviceLeft ends what a device was typing. It does not block.
func (s *Service) DeviceLeft(d Device) { s.typing.left(d) }

// EachTyping calls f with everybody, except the user, who is typing in one of the
// user's conversations, for a session that has just subscribed. conversations may
// name those it is about; nil means any, and costs a look at everybody who types. f
// must not block.
func (s *Service) EachTyping(user ID, conversations []ID, f func(conversation ID, payload []byte)) {
	s.typing.each(user, conversations, f)
}
