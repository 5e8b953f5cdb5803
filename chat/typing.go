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
// is safe for concurrent use. Members hear of changes through the Publisher, which
// is called under a lock, so that they hear them in order.
type Typing struct {
	clock  Clock
	signal func(conversation ID, payload []byte, roster *Roster, from ID)

	n       atomic.Int64 // typists, for those who only ask whether there are any
	mu      sync.Mutex
	typists map[ID]map[ID]*typist // mu guards: by conversation and user
	devices map[Device][]ID       // mu guards: conversations that a device types in
}

// typist is a user who is typing in a conversation.
type typist struct {
	roster  *Roster // of when they last said so
	devices map[Device]struct{}
	expires time.Time
	told    time.Time   // when members last heard of it
	timer   *time.Timer // ends it
}

func newTyping(clock Clock, signal func(ID, []byte, *Roster, ID)) *Typing {
	return &Typing{clock: clock, signal: signal, typists: map[ID]map[ID]*typist{}, devices: map[Device][]ID{}}
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

// set notes that a device types, or has stopped.
func (t *Typing) set(d Device, roster *Roster, typing bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	conversation := roster.ConversationID
	who := t.typists[conversation][d.UserID]
	if !typing {
		if who != nil {
			t.leave(d, conversation, who)
		}
		return
	}
	now := t.clock.Now()
	if who == nil {
		who = &typist{devices: map[Device]struct{}{}}
		if t.typists[conversation] == nil {
			t.typists[conversation] = map[ID]*typist{}
		}
		t.typists[conversation][d.UserID] = who
		t.n.Add(1)
		who.timer = time.AfterFunc(TypingLasts, func() { t.expire(conversation, d.UserID, who) })
	} else {
		who.timer.Reset(TypingLasts)
	}
	who.roster, who.expires = roster, now.Add(TypingLasts)
	if _, ok := who.devices[d]; !ok {
		who.devices[d] = struct{}{}
		t.devices[d] = append(t.devices[d], conversation)
	}
	if now.Sub(who.told) >= typingRepeat {
		who.told = now
		t.signal(conversation, typingPayload(conversation, d.UserID, true, who.expires), roster, d.UserID)
	}
}

// leave takes one device away; the user has stopped when none is left. mu is held.
func (t *Typing) leave(d Device, conversation ID, who *typist) {
	delete(who.devices, d)
	t.forget(d, conversation)
	if len(who.devices) == 0 {
		t.stop(conversation, d.UserID, who)
	}
}

// stop ends a user's typing and says so. mu is held.
func (t *Typing) stop(conversation, user ID, who *typist) {
	who.timer.Stop()
	for d := range who.devices {
		t.forget(d, conversation)
	}
	delete(t.typists[conversation], user)
	t.n.Add(-1)
	if len(t.typists[conversation]) == 0 {
		delete(t.typists, conversation)
	}
	t.signal(conversation, typingPayload(conversation, user, false, t.clock.Now()), who.roster, user)
}

func (t *Typing) forget(d Device, conversation ID) {
	list := t.devices[d]
	for i, id := range list {
		if id == conversation {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(t.devices, d)
	} else {
		t.devices[d] = list
	}
}

func (t *Typing) expire(conversation, user ID, who *typist) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.typists[conversation][user] == who && !t.clock.Now().Before(who.expires) {
		t.stop(conversation, user, who)
	}
}

// sent ends the typing of a user who has sent a message.
func (t *Typing) sent(conversation, user ID) {
	if t.n.Load() == 0 {
		return // every message passes here
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if who := t.typists[conversation][user]; who != nil {
		t.stop(conversation, user, who)
	}
}

// left ends what a device was typing: its connection has ended.
func (t *Typing) left(d Device) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, conversation := range append([]ID(nil), t.devices[d]...) {
		if who := t.typists[conversation][d.UserID]; who != nil {
			t.leave(d, conversation, who)
		}
	}
}

// each calls f for everybody who types in one of the conversations, or if none are
// named in any, that the user is a member of, except the user.
func (t *Typing) each(user ID, conversations []ID, f func(conversation ID, payload []byte)) {
	if t.n.Load() == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if conversations == nil {
		conversations = slices.Collect(maps.Keys(t.typists))
	}
	for _, conversation := range conversations {
		for id, who := range t.typists[conversation] {
			if id != user && who.roster.Has(user) {
				f(conversation, typingPayload(conversation, id, true, who.expires))
			}
		}
	}
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
// stopped. Forbidden if they are not a member. It may wait for the store, if the
// members are not cached.
func (s *Service) SetTyping(ctx context.Context, d Device, conversation ID, typing bool) error {
	r, err := s.Rosters.Require(ctx, conversation, d.UserID)
	if err != nil {
		return err
	}
	s.typing.set(d, r, typing)
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
