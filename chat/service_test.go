package chat_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
)

func (s *fakeStore) GetMessage(_ context.Context, user, message chat.ID) (*chat.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.messages[message]
	switch {
	case s.fail != nil:
		return nil, s.fail
	case !ok || !slices.Contains(s.rosters[e.ConversationID].Members, user):
		return nil, &chat.Error{Code: chat.NotFound}
	}
	return &e, nil
}

func (s *fakeStore) CreateConversation(_ context.Context, n chat.NewConversation, now time.Time) (*chat.Conversation, *chat.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return nil, nil, s.fail
	}
	if s.committed != nil {
		s.committed()
	}
	s.created = append(s.created, n)
	s.rosters[room] = chat.Roster{ConversationID: room, Version: 1, Members: append([]chat.ID{n.Creator}, n.Users...)}
	return &chat.Conversation{ID: room, CreatedAt: now}, &chat.Event{ConversationID: room, Seq: 1, Type: chat.EventConversation, CreatedAt: now}, nil
}

// fakeLog takes what is appended, and settles it when it is told to.
type fakeLog struct {
	appends []*chat.Append
	fail    error
	settle  func(*chat.Append) // nil: not at all
}

func (l *fakeLog) Append(_ context.Context, a *chat.Append) error {
	if l.fail != nil {
		return l.fail
	}
	l.appends = append(l.appends, a)
	if l.settle != nil {
		l.settle(a)
	}
	return nil
}

type fakePublisher struct {
	events  []*chat.Event
	rosters []*chat.Roster
}

func (p *fakePublisher) Publish(e *chat.Event, r *chat.Roster) {
	p.events, p.rosters = append(p.events, e), append(p.rosters, r)
}

type fixedClock struct{ time.Time }

func (c fixedClock) Now() time.Time { return c.Time }

var noon = time.Date(2026, 3, 4, 12, 0, 0, 123_456_789, time.UTC)

func newService() (*chat.Service, *fakeStore, *fakeLog, *fakePublisher) {
	st, log, pub := newFakeStore(), &fakeLog{}, &fakePublisher{}
	st.put(room, ann, ben)
	s := chat.NewService(st, fixedClock{noon}, nil)
	s.Use(log, pub)
	return s, st, log, pub
}

type ignore struct{}

func (ignore) Committed(*chat.Append, error) {}

func TestSubmit(t *testing.T) {
	t.Parallel()
	s, st, log, _ := newService()
	question, elsewhere, unknown := chat.ID{0x11}, chat.ID{0x12}, chat.ID{0x13}
	other := chat.ID{0xc1}
	st.put(other, ann)
	st.messages[question] = chat.Event{ID: question, ConversationID: room}
	st.messages[elsewhere] = chat.Event{ID: elsewhere, ConversationID: other}
	key := chat.NewID()
	submit := func(c chat.Command, src chat.Source) (*chat.Append, error) {
		a := &chat.Append{Done: ignore{}}
		err := s.Submit(t.Context(), ann, room, &c, src, a)
		return a, err
	}

	a, err := submit(chat.Command{Type: chat.EventMessage, Content: "hi", ClientMsgID: key, ReplyTo: question}, chat.Source{Key: chat.ResendPrefix(5, 6), Resent: true})
	if e := a.Event; err != nil || e.ClientMsgID != key || e.SenderID != ann || e.ConversationID != room || e.Content != "hi" || e.ReplyTo != question || e.ID.IsZero() || e.Type != chat.EventMessage || a.MembersVersion != 1 || a.Resent {
		t.Errorf("with a key: %+v, %v", a, err)
	}
	a, err = submit(chat.Command{Type: chat.EventMessage, Content: "hi"}, chat.Source{})
	if err != nil || a.Event.ClientMsgID != a.Event.ID || a.Resent {
		t.Errorf("without key or packet: %+v, %v", a, err)
	}
	a, err = submit(chat.Command{Type: chat.EventMessage, Content: "hi"}, chat.Source{Key: s.NewResendKey(5, 6), Resent: true, Since: time.Unix(1, 0)})
	b, err2 := submit(chat.Command{Type: chat.EventMessage, Content: "hi"}, chat.Source{Key: s.NewResendKey(5, 6)})
	prefix := chat.ResendPrefix(5, 6)
	for _, k := range []chat.ID{a.Event.ClientMsgID, b.Event.ClientMsgID} {
		if k.Compare(prefix) < 0 || k.Compare(chat.ResendLast(prefix)) > 0 {
			t.Errorf("the key of a packet is %s", k)
		}
	}
	if err != nil || err2 != nil || !a.Resent || b.Resent || b.Event.ClientMsgID.Compare(a.Event.ClientMsgID) <= 0 {
		t.Errorf("without key, in a packet: %+v, %v, and %+v, %v", a, err, b, err2)
	}
	full := chat.Command{Content: "x", ReplyTo: question, MessageID: question, Emoji: "👍", Op: chat.OpAdd}
	for kind, want := range map[chat.EventType]chat.Event{
		chat.EventEdit:     {Content: "x", EventDetail: chat.EventDetail{MessageID: question}},
		chat.EventDelete:   {EventDetail: chat.EventDetail{MessageID: question}},
		chat.EventReaction: {EventDetail: chat.EventDetail{MessageID: question, Emoji: "👍", Op: chat.OpAdd}},
	} {
		full.Type = kind
		a, err := submit(full, chat.Source{})
		if e := a.Event; err != nil || e.Type != kind || e.Content != want.Content || !e.EventDetail.Equal(&want.EventDetail) || e.ClientMsgID != e.ID {
			t.Errorf("%s: %+v, %v: want what concerns it, and no more", kind, e, err)
		}
	}
	if len(log.appends) != 7 {
		t.Errorf("%d events were appended", len(log.appends))
	}

	for name, test := range map[string]struct {
		c     chat.Command
		code  chat.Code
		field string
	}{
		"an attachment":                   {chat.Command{Type: chat.EventMessage, Attachments: []chat.ID{unknown}}, chat.Invalid, "attachments"},
		"a reply to nothing":              {chat.Command{Type: chat.EventMessage, Content: "x", ReplyTo: unknown}, chat.Invalid, "replyTo"},
		"a reply to another conversation": {chat.Command{Type: chat.EventMessage, Content: "x", ReplyTo: elsewhere}, chat.Invalid, "replyTo"},
	} {
		_, err := submit(test.c, chat.Source{})
		var e *chat.Error
		if !errors.As(err, &e) || e.Code != test.code || e.Field != test.field {
			t.Errorf("%s: %v, want %s about %s", name, err, test.code, test.field)
		}
	}
	err = s.Submit(t.Context(), chat.ID{0xee}, room, &chat.Command{Type: chat.EventEdit}, chat.Source{}, &chat.Append{})
	if chat.CodeOf(err) != chat.Forbidden {
		t.Errorf("a stranger's: %v, want forbidden, whatever it is", err)
	}
	st.set(func() { st.fail = &chat.Error{Code: chat.Unavailable} })
	if _, err := submit(chat.Command{Type: chat.EventMessage, Content: "x", ReplyTo: question}, chat.Source{}); chat.CodeOf(err) != chat.Unavailable {
		t.Errorf("a reply without a database: %v", err)
	}
	log.fail = &chat.Error{Code: chat.Unavailable, Msg: "full"}
	if _, err := submit(chat.Command{Type: chat.EventMessage, Content: "x"}, chat.Source{}); chat.PublicMessage(err) != "full" {
		t.Errorf("a full queue: %v", err)
	}
	if len(log.appends) != 7 {
		t.Error("something that was refused was appended")
	}
}

func TestSend(t *testing.T) {
	t.Parallel()
	s, _, log, _ := newService()
	hello := &chat.Command{Type: chat.EventMessage, Content: "hello"}
	log.settle = func(a *chat.Append) { a.Event.Seq, a.Repeat = 7, true; a.Done.Committed(a, nil) }
	e, repeat, err := s.Send(t.Context(), ann, room, hello)
	if err != nil || e.Seq != 7 || !repeat {
		t.Errorf("Send = %+v, %v, %v", e, repeat, err)
	}
	log.settle = func(a *chat.Append) { a.Done.Committed(a, &chat.Error{Code: chat.Conflict}) }
	if _, _, err := s.Send(t.Context(), ann, room, hello); chat.CodeOf(err) != chat.Conflict {
		t.Errorf("refused by the log: %v", err)
	}
	if _, _, err := s.Send(t.Context(), ann, room, &chat.Command{Type: chat.EventMessage}); chat.CodeOf(err) != chat.Invalid {
		t.Errorf("an empty message: %v", err)
	}
	if _, _, err := s.Send(t.Context(), chat.ID{0xee}, room, hello); chat.CodeOf(err) != chat.Forbidden {
		t.Errorf("a stranger's: %v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		var late *chat.Append
		log.settle = func(a *chat.Append) { late = a }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := s.Send(ctx, ann, room, hello); chat.CodeOf(err) != chat.Unavailable {
			t.Errorf("not in time: %v", err)
		}
		late.Done.Committed(late, nil) // must not block the writer
	})
}

func TestRecheck(t *testing.T) {
	t.Parallel()
	s, st, _, _ := newService()
	at := func(version int64) *chat.Append {
		return &chat.Append{Event: chat.Event{ConversationID: room, SenderID: ben, Type: chat.EventMessage}, MembersVersion: version}
	}
	recheck := func(what string, a *chat.Append, code chat.Code, version int64, asked int) {
		t.Helper()
		before := st.times(room)
		if err := s.Recheck(t.Context(), a); chat.CodeOf(err) != code || a.MembersVersion != version {
			t.Errorf("%s: %v, version %d, want %q and %d", what, err, a.MembersVersion, code, version)
		}
		if n := st.times(room) - before; n != asked {
			t.Errorf("%s: the store was asked %d times, want %d", what, n, asked)
		}
	}
	st.put(room, ann, ben)
	recheck("who stays", at(1), "", 2, 1)
	recheck("who stays, as the cache knows", at(1), "", 2, 0)
	twice := at(2)
	recheck("as new as the cache", twice, "", 2, 0) // it may have been in a batch with older ones
	recheck("as new as the cache, again", twice, "", 2, 1)
	st.put(room, ann)
	recheck("who was removed", twice, chat.Forbidden, 2, 1)
	recheck("who was removed, as the cache knows", at(1), chat.Forbidden, 1, 0)
	st.set(func() {
		r := st.rosters[room]
		r.Members, r.Blocked, r.Version = []chat.ID{ann, ben}, true, 4
		st.rosters[room] = r
	})
	recheck("who was blocked", at(5), chat.Forbidden, 5, 1)
	deletes := at(3)
	deletes.Event.Type = chat.EventDelete
	recheck("who was blocked, and deletes", deletes, "", 4, 0)
	st.set(func() { delete(st.rosters, room) })
	recheck("where the conversation is gone", at(5), chat.Forbidden, 5, 1)
	st.set(func() { st.fail = &chat.Error{Code: chat.Unavailable} })
	recheck("without a database", at(5), chat.Unavailable, 5, 1)
}

func TestCommitted(t *testing.T) {
	t.Parallel()
	s, st, _, pub := newService()
	e := &chat.Event{ConversationID: room, Seq: 2}
	s.Committed(t.Context(), e, 1)
	st.put(room, ann)
	s.Committed(t.Context(), e, 1) // what the cache has is as new
	s.Committed(t.Context(), e, 2) // it is older: it asks
	s.Committed(t.Context(), e, 2)
	if n := st.times(room); n != 2 {
		t.Errorf("the store was asked %d times, want twice", n)
	}
	var versions []int64
	for _, r := range pub.rosters {
		versions = append(versions, r.Version)
	}
	if !slices.Equal(versions, []int64{1, 1, 2, 2}) {
		t.Errorf("published to the members of versions %v", versions)
	}
}

// An event that was stored at an older version goes to those who were members then
// and are now; if it is not known who was, the log tells.
func TestCommittedAtAnOlderVersion(t *testing.T) {
	t.Parallel()
	carl := chat.ID{0xca}
	store := newFakeStore()
	store.put(room, ann, ben)
	pub := &hints{}
	s := chat.NewService(store, fixedClock{noon}, nil)
	s.Use(&fakeLog{}, pub)
	e := &chat.Event{ConversationID: room, Seq: 2}
	s.Committed(t.Context(), e, 1)
	store.put(room, ann, carl)
	s.Committed(t.Context(), e, 2)
	s.Committed(t.Context(), e, 1)
	store.put(room, ann, ben, carl)
	s.Committed(t.Context(), e, 3)
	s.Committed(t.Context(), e, 2)
	for i, want := range [][]chat.ID{{ann, ben}, {ann, carl}, {ann}, {ann, ben, carl}, {ann, carl}} {
		if len(pub.rosters) <= i || !slices.Equal(pub.rosters[i].Members, want) {
			t.Fatalf("event %d was published to %v, want %v", i, pub.rosters[i].Members, want)
		}
	}
	s.Committed(t.Context(), e, 1) // two versions ago: ben has been away in between
	if len(pub.rosters) != 5 || !slices.Equal(pub.of, []chat.ID{room}) {
		t.Errorf("published %d times, and %v were hinted at", len(pub.rosters), pub.of)
	}
}

// An event whose members are not known waits for the store, but not for ever, and
// not where the conversation is gone.
func TestCommittedWaitsForTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, st, _, pub := newService()
		e := &chat.Event{ConversationID: room, Seq: 2}
		away := &chat.Error{Code: chat.Unavailable}
		st.set(func() { st.fail = away })
		time.AfterFunc(5*time.Second, func() { st.set(func() { st.fail = nil }) })
		s.Committed(t.Context(), e, 1)
		if len(pub.events) != 1 {
			t.Error("not published when the store was back")
		}
		st.set(func() { st.fail = away })
		start := time.Now()
		s.Committed(t.Context(), e, 2)
		if d := time.Since(start); len(pub.events) != 1 || d > time.Minute {
			t.Errorf("published %d times, after %v, without a store", len(pub.events), d)
		}
		st.set(func() { st.fail = nil; delete(st.rosters, room) })
		start = time.Now()
		s.Committed(t.Context(), e, 2)
		if d := time.Since(start); len(pub.events) != 1 || d > 0 {
			t.Errorf("published %d times, after %v, where the conversation is gone", len(pub.events), d)
		}
	})
}

func TestCreateConversation(t *testing.T) {
	t.Parallel()
	s, st, _, pub := newService()
	c, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Group, Title: "t", Creator: ann, Users: []chat.ID{{0xcc}, ben, ann, {0xcc}}})
	if err != nil || !c.CreatedAt.Equal(chat.Timestamp(noon)) {
		t.Fatalf("CreateConversation = %+v, %v", c, err)
	}
	if got := st.created[0].Users; !slices.Equal(got, []chat.ID{ben, {0xcc}}) {
		t.Errorf("its users are %v, want each once, without the creator", got)
	}
	if len(pub.events) != 1 || pub.events[0].Seq != 1 {
		t.Errorf("published: %v", pub.events)
	}
	taken := &chat.Error{Code: chat.Conflict, Existing: room}
	st.fail = taken
	if _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: ann, Users: []chat.ID{ben}}); !errors.Is(err, taken) {
		t.Errorf("CreateConversation: %v", err)
	}
}

// A new conversation's event was published with the context of the request, and
// only after the members had been asked for: when the creator went away while the
// transaction committed, nobody else heard of the conversation until it had a
// message. Its members are known without asking.
func TestCreateConversationTellsTheMembersInAnyCase(t *testing.T) {
	t.Parallel()
	s, st, log, pub := newService()
	ctx, cancel := context.WithCancel(t.Context())
	st.gate = make(chan bool) // nobody is answered who asks for members
	st.committed = cancel
	dee := chat.ID{0x0d}
	if _, err := s.CreateConversation(ctx, chat.NewConversation{Kind: chat.Group, Creator: ben, Users: []chat.ID{dee, ann}}); err != nil {
		t.Fatal(err)
	}
	if len(pub.events) != 1 || pub.events[0].Seq != 1 {
		t.Fatalf("published: %v", pub.events)
	}
	r := pub.rosters[0]
	if r.ConversationID != room || r.Version != 1 || r.Kind != chat.Group || !slices.Equal(r.Members, []chat.ID{ann, ben, dee}) {
		t.Errorf("published to %+v", r)
	}
	err := s.Submit(t.Context(), dee, room, &chat.Command{Type: chat.EventMessage, Content: "hi"}, chat.Source{}, &chat.Append{})
	if err != nil || log.appends[0].MembersVersion != 1 || st.times(room) != 0 {
		t.Errorf("a member's message: %v, after asking %d times for the members", err, st.times(room))
	}
}

func TestValidateNew(t *testing.T) {
	t.Parallel()
	many := make([]chat.ID, chat.MaxGroupMembers)
	for i := range many {
		many[i] = chat.ID{1, byte(i >> 8), byte(i)}
	}
	users := []chat.ID{ben, ann, ben}
	for name, test := range map[string]struct {
		n     chat.NewConversation
		field string
	}{
		"direct":              {chat.NewConversation{Kind: chat.Direct, Creator: ann, Users: []chat.ID{ben}}, ""},
		"group":               {chat.NewConversation{Kind: chat.Group, Title: "t", Creator: ann, Users: users}, ""},
		"group of one":        {chat.NewConversation{Kind: chat.Group, Creator: ann}, ""},
		"largest group":       {chat.NewConversation{Kind: chat.Group, Creator: ann, Users: many[1:]}, ""},
		"no kind":             {chat.NewConversation{Creator: ann, Users: []chat.ID{ben}}, "kind"},
		"direct with nobody":  {chat.NewConversation{Kind: chat.Direct, Creator: ann}, "otherUserId"},
		"direct with two":     {chat.NewConversation{Kind: chat.Direct, Creator: ann, Users: []chat.ID{ben, {0xcc}}}, "otherUserId"},
		"direct with oneself": {chat.NewConversation{Kind: chat.Direct, Creator: ann, Users: []chat.ID{ann}}, "otherUserId"},
		"direct with a title": {chat.NewConversation{Kind: chat.Direct, Creator: ann, Users: []chat.ID{ben}, Title: "t"}, "title"},
		"too many":            {chat.NewConversation{Kind: chat.Group, Creator: ann, Users: many}, "userIds"},
		"a title with NUL":    {chat.NewConversation{Kind: chat.Group, Creator: ann, Title: "\x00"}, "title"},
	} {
		err := chat.ValidateNew(&test.n)
		var e *chat.Error
		if test.field == "" && err != nil || test.field != "" && (!errors.As(err, &e) || e.Field != test.field || e.Code != chat.Invalid) {
			t.Errorf("%s: %v, want it refused for %q", name, err, test.field)
		}
	}
	if !slices.Equal(users, []chat.ID{ben, ann, ben}) {
		t.Error("the caller's slice was changed")
	}
}

// Signal implements chat.Publisher.
func (p *fakePublisher) Signal(chat.Topic, []byte, []chat.ID, func(chat.ID) bool) {}

// Hint implements chat.Publisher.
func (p *fakePublisher) Hint(chat.ID, int64, *chat.Roster) {}
