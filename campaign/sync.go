package campaign

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

// syncer is a client without a session: it holds what GET /api/sync has told it, and
// nothing else. It asks for pages of any size while everything is broken, forgets an
// answer now and then as if it had been killed before it kept it, and must hold what
// is there at each checkpoint. Each event must be the next one of its conversation.
type syncer struct {
	c    *campaign
	user *user
	rng  *rand.Rand

	mu     sync.Mutex
	cursor string                // mu guards
	convs  map[string]*syncedLog // mu guards
}

// syncedLog is a conversation as a syncer holds it.
type syncedLog struct {
	joined, next int64
	messages     map[string]*syncedMessage
	reads        map[string]int64 // by user
}

type syncedMessage struct {
	content   string
	deleted   bool
	reactions map[string]bool // by emoji and user
}

type syncItem struct {
	Type           string
	Conversation   struct{ ID string }
	JoinedSeq      int64
	Event          json.RawMessage
	ConversationID string
	UserID         string
	UpTo           int64
}

type syncPage struct {
	Data       []syncItem
	NextCursor string
	HasMore    bool
}

const syncers = 4

func (c *campaign) makeSyncers() {
	users := append(slices.Clone(c.users[1:min(syncers, len(c.users)-undisturbed)]), c.users[len(c.users)-1])
	for i, u := range users {
		c.syncers = append(c.syncers, &syncer{c: c, user: u, rng: rand.New(rand.NewPCG(c.o.Seed, uint64(5000+i))), convs: map[string]*syncedLog{}})
	}
}

// run asks until ctx ends.
func (s *syncer) run(ctx context.Context) {
	for sleep(ctx, time.Duration(20+s.draw(500))*time.Millisecond) {
		if s.c.quiet.Load() {
			continue
		}
		for more := true; more && ctx.Err() == nil; {
			more = s.ask(ctx, s.draw(8) == 0)
		}
	}
}

// draw returns a random number below n: a checkpoint asks at the same time.
func (s *syncer) draw(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

// ask asks once, and reports whether there is more; false if there was no answer.
func (s *syncer) ask(ctx context.Context, forget bool) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	query := url.Values{"limit": {strconv.Itoa([]int{1, 2, 5, 20, 100, 500}[s.rng.IntN(6)])}}
	if s.cursor != "" {
		query.Set("cursor", s.cursor)
	}
	var page syncPage
	status, err := s.c.rest(ctx, s.user, http.MethodGet, "/api/sync?"+query.Encode(), nil, &page)
	switch {
	case err != nil || status == http.StatusServiceUnavailable:
		s.c.count("syncs without answer", 1)
		return false
	case status != http.StatusOK:
		s.c.violate("sync", "%s: a sync was answered %d", s.user.name, status)
		return false
	case forget:
		s.c.count("syncs whose answer was forgotten", 1)
		return true
	}
	for i := range page.Data {
		s.apply(&page.Data[i])
	}
	s.cursor = page.NextCursor
	s.c.count("items synced", int64(len(page.Data)))
	return page.HasMore
}

// apply does with an item what its description says. mu is held.
func (s *syncer) apply(i *syncItem) {
	switch i.Type {
	case "conversation":
		switch {
		case i.JoinedSeq > 0:
			s.convs[i.Conversation.ID] = &syncedLog{joined: i.JoinedSeq, next: i.JoinedSeq, messages: map[string]*syncedMessage{}, reads: map[string]int64{}}
		case s.convs[i.Conversation.ID] == nil:
			s.c.violate("sync", "%s: conversation %s has changed, and it had not been given it before", s.user.name, i.Conversation.ID)
		}
	case "left":
		delete(s.convs, i.ConversationID)
	case "event":
		var e event
		if err := json.Unmarshal(i.Event, &e); err != nil {
			s.c.violate("sync", "%s: %v: %.200s", s.user.name, err, i.Event)
			return
		}
		s.event(&e)
	case "read":
		switch l := s.convs[i.ConversationID]; {
		case l == nil:
			s.c.violate("sync", "%s: a read of conversation %s, that it had not been given", s.user.name, i.ConversationID)
		case i.UpTo < l.reads[i.UserID]:
			s.c.violate("10 reads", "%s: user %s has read %s to %d, and had to %d", s.user.name, i.UserID, i.ConversationID, i.UpTo, l.reads[i.UserID])
		default:
			l.reads[i.UserID] = i.UpTo
		}
	}
}

// event applies an event. mu is held.
func (s *syncer) event(e *event) {
	l := s.convs[e.ConversationID]
	if l == nil || e.Seq != l.next {
		s.c.violate("sync", "%s: event %d of %s, where %+v was held", s.user.name, e.Seq, e.ConversationID, l)
		return
	}
	l.next++
	m := l.messages[e.MessageID]
	switch {
	case e.Type == "message":
		l.messages[e.ID] = &syncedMessage{content: e.Content, deleted: e.DeletedAt != "", reactions: map[string]bool{}}
	case e.Type == "conversation" && e.Op == "left":
		for _, id := range e.UserIDs {
			delete(l.reads, id)
		}
	case m == nil: // from before one came
	case e.Type == "edit" && !m.deleted:
		m.content = e.Content
	case e.Type == "delete":
		m.content, m.deleted = "", true
		clear(m.reactions)
	case e.Type == "reaction" && !m.deleted:
		m.react(e.Emoji, e.SenderID, e.Op)
	}
}

func (m *syncedMessage) react(emoji, user, op string) {
	if op == "add" {
		m.reactions[emoji+" "+user] = true
	} else {
		delete(m.reactions, emoji+" "+user)
	}
}

// level asks for all there is, and compares. Nobody writes.
func (s *syncer) level(ctx context.Context, ch *checker) {
	s.c.await(ctx, levelPatience, func() string {
		for s.ask(ctx, false) {
		}
		return s.missing(ch)
	}, "sync")
}

// missing says what the syncer holds that is not so, or lacks.
func (s *syncer) missing(ch *checker) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conv := range s.convs {
		if !slices.Contains(ch.members[s.user], conv) {
			return s.user.name + "'s sync holds " + conv + ", of which it is no member"
		}
	}
	for _, conv := range ch.members[s.user] {
		l, log := s.convs[conv], ch.logs[conv]
		if l == nil {
			return s.user.name + "'s sync has nothing of " + conv
		}
		stays := staysOf(log, s.user)
		if joined := stays[len(stays)-1].from; l.joined != joined || l.next != int64(len(log))+1 {
			return fmt.Sprintf("%s's sync has %d to %d of %s, of which it is due %d to %d", s.user.name, l.joined, l.next-1, conv, joined, len(log))
		}
		if what := l.differs(log[l.joined-1:]); what != "" {
			return s.user.name + "'s sync of " + conv + " has " + what
		}
		for user, upTo := range ch.reads[conv] {
			if got := l.reads[user]; got != upTo {
				return fmt.Sprintf("%s's sync of %s has it that %s has read to %d; it is %d", s.user.name, conv, user, got, upTo)
			}
		}
	}
	return ""
}

// differs compares with the log from the joining on.
func (l *syncedLog) differs(log []entry) string {
	reactions := map[string]*syncedMessage{}
	for i := range log {
		e := &log[i]
		m := reactions[e.about.String()]
		switch {
		case e.event == chat.EventMessage:
			reactions[e.id] = &syncedMessage{reactions: map[string]bool{}}
		case m == nil:
		case e.event == chat.EventDelete:
			m.deleted = true
			clear(m.reactions)
		case e.event == chat.EventReaction && !m.deleted:
			m.react(e.emoji, e.sender, e.op)
		}
	}
	for i := range log {
		e := &log[i]
		if e.event != chat.EventMessage {
			continue
		}
		m := l.messages[e.id]
		switch {
		case m == nil:
			return "no message " + e.id
		case m.content != e.content || m.deleted != e.deleted:
			return fmt.Sprintf("message %s as %.40q (deleted: %v), which is %.40q (%v)", e.id, m.content, m.deleted, e.content, e.deleted)
		case !maps.Equal(m.reactions, reactions[e.id].reactions):
			return fmt.Sprintf("the reactions %v of message %s, which are %v", m.reactions, e.id, reactions[e.id].reactions)
		}
	}
	return ""
}
