package chat

import (
	"context"
	"encoding/json"
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
//
// Who is hidden from whom by a block is asked for when somebody begins, and kept
// with them: a block or a change of members takes effect at once, in sync and hide.
type Typing struct {
	clock   Clock
	roster  func(conversation ID) *Roster // the newest that is cached, or nil
	blocks  func() uint64                 // changes with every block, see hidden
	signal  func(conversation ID, payload []byte, users []ID, except func(ID) bool)
	forward func(n TypingNotice, to []ID) // tells other nodes of who types here; nil: there are none
	shards  [typingShards]typingShard     // by conversation
	devices [typingShards]typingDevices   // by user
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

	roster  *Roster         // the newest that was heard of
	known   *Roster         // of when they last said so: hidden is about its members
	hidden  []ID            // ascending: members who do not see them type
	ended   []ID            // who saw them type, and do not any more; not told yet
	devices map[Device]bool // true: it types; false: it has stopped
	typing  int             // how many do
	expires time.Time
	shown   bool        // what members were told last
	spread  bool        // likewise, other nodes
	told    time.Time   // when they were last told that the user types
	queued  bool        // in the shard's queue, which sets the timer afterwards
	timer   *time.Timer // ends the typing, has told what came too early, or forgets
}

func newTyping(clock Clock, roster func(ID) *Roster, blocks func() uint64, signal func(ID, []byte, []ID, func(ID) bool)) *Typing {
	t := &Typing{clock: clock, roster: roster, blocks: blocks, signal: signal}
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

// errBlocksChanged says that who is hidden has to be asked for again.
var errBlocksChanged = &Error{Code: Unavailable, Op: "chat.Typing", Msg: "blocks change all the time; try again"}

// set notes that a device types, or has stopped; h says which members are hidden
// from its user, and may be nil for one who stops. Quota if it types in as many
// conversations as it may; errBlocksChanged if h is not true any more.
func (t *Typing) set(d Device, roster *Roster, h *hiddenFrom, typing bool) error {
	sh := t.shard(roster.ConversationID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	newest := roster
	if r := t.roster(roster.ConversationID); r != nil && r.Version > roster.Version { // from here on sync finds who is noted
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
	who.roster, who.known, who.hidden, who.expires = newest, roster, h.users, now.Add(TypingLasts)
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
	case who.typing > 0 && !early, who.typing == 0 && who.shown, len(who.ended) > 0:
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
			news := t.news(sh, who)
			sh.mu.Unlock()
			for _, n := range news {
				if n.forward {
					t.forward(TypingNotice{ConversationID: who.conversation, UserID: who.user, Typing: n.typing}, n.users)
				}
				t.signal(who.conversation, n.payload, n.users, n.except)
			}
		}
	}
}

// typingNews is what some members are to hear.
type typingNews struct {
	payload []byte
	users   []ID
	except  func(ID) bool

	forward, typing bool // other nodes are to hear it, too: whether the user types here
}

// news takes a typist out of the queue and returns what members are to hear, unless
// it is what they know. sh.mu is held.
func (t *Typing) news(sh *typingShard, who *typist) (news []typingNews) {
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
	if len(who.ended) > 0 {
		news = append(news, typingNews{
			payload: typingPayload(who.conversation, who.user, false, now), users: who.ended, except: func(user ID) bool { return user == who.user },
		})
		who.ended = nil
	}
	if payload != nil {
		n := typingNews{payload: payload, users: who.roster.Members, except: who.unseen(), typing: t.forward != nil && who.typesHere()}
		n.forward = n.typing || who.spread
		who.spread = n.typing
		news = append(news, n)
	}
	t.changed(sh, who, now)
	return news
}

// typesHere reports whether they type on a device of this node. The shard's mu is held.
func (w *typist) typesHere() bool {
	for d, typing := range w.devices {
		if typing && !strings.HasPrefix(d.ClientID, peerDevice) {
			return true
		}
	}
	return false
}

// unseen tells which users do not see them type; it may be asked without sh.mu.
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

// sync is told of a roster that is newer than what was known: who is no member any
// more, or was blocked, types no more, and only its members hear of the others.
func (t *Typing) sync(r *Roster) {
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

// hide is told that a and b do not see each other any more. In their direct
// conversation sync has seen to it.
func (t *Typing) hide(a, b ID) {
	for _, p := range [2][2]ID{{a, b}, {b, a}} {
		user, other := p[0], p[1]
		for conversation := range t.devices[user.Shard(typingShards)].ofUser(user) {
			sh := t.shard(conversation)
			sh.mu.Lock()
			if who := sh.typists[conversation][user]; who != nil && who.known.Kind != Direct && !hasID(who.hidden, other) {
				if who.shown && who.roster.Has(other) && !who.unseen()(other) {
					who.ended = append(who.ended, other)
				}
				place, _ := slices.BinarySearchFunc(who.hidden, other, ID.Compare)
				who.hidden = slices.Insert(slices.Clone(who.hidden), place, other)
				t.changed(sh, who, t.clock.Now())
			}
			sh.mu.Unlock()
		}
	}
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
			if who.shown && who.typing > 0 && who.roster.Has(user) && !who.unseen()(user) {
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

// ofUser returns where the user's devices type.
func (t *typingDevices) ofUser(user ID) map[ID]struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[ID]struct{}{}
	for d, conversations := range t.of {
		if d.UserID == user {
			maps.Copy(all, conversations)
		}
	}
	return all
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
// stopped, except those who have blocked them, or whom they have. Forbidden if they
// are not a member; Quota if the device types in MaxTyping conversations already. It
// may wait for the store, if the members are not cached, or for at most
// hiddenPatience, if it is not known who in the group is hidden: nothing is shown if
// that cannot be known.
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

// DeviceLeft ends what a device was typing. It does not block.
func (s *Service) DeviceLeft(d Device) { s.typing.left(d) }

// EachTyping calls f with everybody, except the user, who is typing in one of the
// user's conversations, for a session that has just subscribed. conversations may
// name those it is about; nil means any, and costs a look at everybody who types. f
// must not block.
func (s *Service) EachTyping(user ID, conversations []ID, f func(conversation ID, payload []byte)) {
	s.typing.each(user, conversations, f)
}
