package campaign

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
)

// checker compares what devices know with what the database holds. It works while
// nobody writes, and is owned by the goroutine that runs the rounds.
type checker struct {
	c       *campaign
	logs    map[string][]entry          // by conversation; seq 1 is at 0
	readers map[string]*user            // a member of each, who sees all of it
	members map[*user][]string          // the conversations of each user
	reads   map[string]map[string]int64 // by conversation and user
	deleted map[string]map[string]bool  // by conversation: the ids of deleted messages
}

// entry is one event of a log, as stored. What a message says may change; the rest
// may not.
type entry struct {
	id, sender string
	event      chat.EventType
	about      chat.ID
	m          *message      // that it came from; nil: none
	asked      time.Duration // when it was sent first; -1: before the run

	op    string    // reactions, changes of a conversation
	emoji string    // reactions
	users []chat.ID // changes: whom they are about

	content string
	deleted bool
}

// same reports whether an event is what it was when it was read before.
func (e *entry) same(o *entry) bool {
	return e.id == o.id && e.sender == o.sender && e.event == o.event && e.about == o.about && e.m == o.m && (e.deleted || !o.deleted)
}

// begun is where a session that is gone began in a conversation.
type begun struct {
	clientID, conv string
	user           *user
	first          int64
	subscribed     time.Duration
	stretches      []stretch
}

// begins lists where the session has begun. cl.mu is held.
func (cl *client) begins() []begun {
	var list []begun
	for conv, p := range cl.places {
		list = append(list, begun{cl.clientID, conv, cl.user, p.first, cl.subscribedAt, slices.Clone(p.stretches)})
	}
	return list
}

// noteBegins keeps where a session began, before it is forgotten. cl.mu is held.
func (c *campaign) noteBegins(cl *client) {
	if !cl.subscribed {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begins = append(c.begins, cl.begins()...)
}

func (ch *checker) events() int {
	n := 0
	for _, log := range ch.logs {
		n += len(log)
	}
	return n
}

const (
	drainPatience = 45 * time.Second // for the last publish to be acknowledged
	levelPatience = 30 * time.Second // and for the last event to reach everybody
)

// checkpoint waits until all that was sent is acknowledged, and asks whether the
// promises held.
func (c *campaign) checkpoint(ctx context.Context, round int) error {
	began := c.now()
	c.quiet.Store(true) // until the next round
	if !c.await(ctx, drainPatience, func() string { return c.undrained() }, "1 acked") {
		return context.Cause(ctx)
	}
	c.posts.Wait()
	if err := c.check.read(ctx); err != nil {
		return err
	}
	c.check.judge()
	if !c.await(ctx, levelPatience, func() string { return c.check.behind() }, "4 delivered") {
		return context.Cause(ctx)
	}
	c.mu.Lock()
	c.levels = append(c.levels, c.now()-began)
	c.mu.Unlock()
	if !c.await(ctx, levelPatience, c.twoFaced, "one node") {
		return context.Cause(ctx)
	}
	if err := c.check.readPlaces(ctx); err != nil {
		return err
	}
	c.check.judgeReads()
	for _, s := range c.syncers {
		s.level(ctx, &c.check)
	}
	if err := c.check.judgeUnread(ctx); err != nil {
		return err
	}
	c.judgePresence(ctx, round%4 == 0)
	if err := c.check.judgeHistory(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	received, acks := c.counts["events received"], c.counts["acknowledgements"]
	c.mu.Unlock()
	c.say("round %d: all level after %v; so far %d stored, %d acknowledged, %d received, %d broken",
		round, (c.now() - began).Round(100*time.Millisecond), c.check.events(), acks, received, len(c.violations))
	return nil
}

// await waits until missing returns "". If that takes too long, it is a violation.
func (c *campaign) await(ctx context.Context, limit time.Duration, missing func() string, rule string) bool {
	for end := c.now() + limit; ; {
		what := missing()
		if what == "" {
			return true
		}
		if c.now() > end {
			c.violate(rule, "after %v without faults: %s", limit, what)
			return true
		}
		if !sleep(ctx, 25*time.Millisecond) {
			return false
		}
	}
}

// undrained names a device that waits for an acknowledgement.
func (c *campaign) undrained() string {
	for _, cl := range c.clients {
		cl.mu.Lock()
		n, online := len(cl.outbound), cl.conn != nil && cl.subscribed
		cl.mu.Unlock()
		if n > 0 || !online {
			return fmt.Sprintf("%s has %d publishes without acknowledgement (connected: %v)", cl.clientID, n, online)
		}
	}
	return ""
}

// read reads all logs again, which must hold what they held.
func (ch *checker) read(ctx context.Context) error {
	ch.readers, ch.members = map[string]*user{}, map[*user][]string{}
	ends := map[string]int64{}
	for _, u := range ch.c.users {
		list, err := ch.c.store.ListPositions(ctx, u.id)
		if err != nil {
			return err
		}
		for _, p := range list {
			conv := p.ConversationID.String()
			ends[conv] = p.LastSeq
			if owner := ch.c.ownerOf(conv); owner == nil || owner == u {
				ch.readers[conv] = u
			}
			ch.members[u] = append(ch.members[u], conv)
		}
	}
	for conv, u := range ch.readers {
		log, err := ch.readLog(ctx, u, conv)
		if err != nil {
			return err
		}
		if int64(len(log)) != ends[conv] {
			ch.c.violate("3 log", "conversation %s says it reaches to %d and has %d events", conv, ends[conv], len(log))
		}
		for i, e := range ch.logs[conv] {
			if i >= len(log) || !log[i].same(&e) {
				ch.c.violate("1 acked", "event %d of %s is not any more what it was", i+1, conv)
				break
			}
		}
		ch.logs[conv] = log
		ch.replay(conv, log)
	}
	return nil
}

func (ch *checker) readLog(ctx context.Context, u *user, conv string) ([]entry, error) {
	id, err := chat.ParseID(conv)
	if err != nil {
		return nil, err
	}
	log := make([]entry, 0, len(ch.logs[conv]))
	for {
		page, err := ch.c.store.ReadLog(ctx, u.id, id, int64(len(log)), store.MaxLogPage)
		if err != nil || len(page) == 0 {
			return log, err
		}
		for i := range page {
			e := &page[i]
			if e.Seq != int64(len(log)+1) {
				ch.c.violate("3 log", "conversation %s: event %d where %d is due", conv, e.Seq, len(log)+1)
			}
			log = append(log, ch.entryOf(conv, e))
		}
	}
}

// entryOf looks up what an event is of: nothing may be stored that nobody has sent,
// and nothing twice.
func (ch *checker) entryOf(conv string, e *chat.Event) entry {
	c := ch.c
	en := entry{
		id: e.ID.String(), sender: e.SenderID.String(), event: e.Type, about: e.MessageID, asked: -1,
		op: e.Op, emoji: e.Emoji, content: e.Content, deleted: !e.DeletedAt.IsZero(),
	}
	c.mu.Lock()
	made := c.titles[e.Title]
	c.mu.Unlock()
	if e.Type == chat.EventConversation {
		if made > 0 {
			en.asked = made
		}
		en.users = e.UserIDs
		return en
	}
	m := c.senderOf(e)
	switch {
	case m == nil || m.conv != conv || m.sender.id != e.SenderID:
		c.violate("1 acked", "event %d of %s (%s) is of something that its sender has not sent, or not as often: %.80q", e.Seq, conv, e.Type, e.Content)
		return en
	case m.key != "" && m.key != e.ClientMsgID.String():
		c.violate("2 once", "%s is stored under the key %s, sent under %s", m.name, e.ClientMsgID, m.key)
	case m.found != 0 && m.found != e.Seq:
		c.violate("2 once", "%s is stored as %d and as %d of %s (key %q)", m.name, m.found, e.Seq, conv, m.key)
	}
	m.found = e.Seq
	en.m, en.asked = m, m.first
	c.mu.Lock()
	acks := m.acks
	c.mu.Unlock()
	if len(acks) > 0 && (acks[0] != stored{en.id, e.Seq}) {
		c.violate("1 acked", "%s was acknowledged as %v, and is stored as %d, %s", m.name, acks[0], e.Seq, en.id)
	}
	return en
}

// senderOf finds what was sent and has become the event; nil: nothing.
func (c *campaign) senderOf(e *chat.Event) *message {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Type == chat.EventMessage {
		if m := c.byID[e.ID.String()]; m != nil {
			return m
		}
		return c.messages[e.Content]
	}
	at := stored{e.ID.String(), e.Seq}
	key := e.ClientMsgID.String()
	var candidate *message
	for _, m := range c.commands[c.byID[e.MessageID.String()]] {
		switch {
		case string(m.kind) != string(e.Type) || m.sender.id != e.SenderID || m.emoji != e.Emoji || m.op != e.Op:
		case m.key != "" && m.key == key, len(m.acks) > 0 && m.acks[0] == at, m.found == e.Seq:
			return m
		case m.key != "" || m.found != 0 || len(m.acks) > 0 || m.kind == kindEdit && m.content != e.Content:
		case candidate == nil:
			candidate = m
		}
	}
	return candidate
}

// replay does what a log says, and compares with what its messages say.
func (ch *checker) replay(conv string, log []entry) {
	c := ch.c
	says := map[string]string{}
	deleted := map[string]bool{}
	for i := range log {
		e := &log[i]
		switch {
		case e.m == nil:
		case e.event == chat.EventMessage:
			says[e.id] = e.m.content
		case e.event == chat.EventEdit:
			if deleted[e.about.String()] {
				c.violate("commands", "event %d of %s edits a message that was deleted before", i+1, conv)
			}
			says[e.about.String()] = e.m.content
		case e.event == chat.EventDelete:
			if deleted[e.about.String()] {
				c.violate("commands", "event %d of %s deletes a message that was deleted before", i+1, conv)
			}
			deleted[e.about.String()] = true
		}
	}
	for i := range log {
		e := &log[i]
		id := e.id
		switch e.event {
		case chat.EventEdit:
			id = e.about.String()
		case chat.EventMessage:
			if want := says[id]; e.m != nil && !deleted[id] && e.content != want {
				c.violate("commands", "message %d of %s says %.60q, and by its log it says %.60q", i+1, conv, e.content, want)
			}
		case chat.EventDelete, chat.EventReaction, chat.EventConversation:
			continue
		}
		if deleted[id] != e.deleted || e.deleted && e.content != "" {
			c.violate("commands", "event %d of %s (%s): deleted by its log: %v; as it is: %v, with %.60q", i+1, conv, e.event, deleted[id], e.deleted, e.content)
		}
	}
	ch.deleted[conv] = deleted
}

// judge asks of every message and every session's beginning what can be asked now.
func (ch *checker) judge() {
	c := ch.c
	c.mu.Lock()
	var lost []*message
	for _, m := range c.messages {
		if m.acked && m.found == 0 {
			lost = append(lost, m)
		}
	}
	for _, list := range c.commands {
		for _, m := range list {
			if m.acked && m.found == 0 && !ch.deleted[m.conv][m.about.at.id] {
				lost = append(lost, m)
			}
			if m.nothing && !ch.deleted[m.conv][m.about.at.id] {
				lost = append(lost, m)
			}
		}
	}
	begins := c.begins
	c.begins = nil
	c.mu.Unlock()
	for _, m := range lost {
		if c.outOf(m) {
			continue // in MQTT 3.1.1 what is refused is acknowledged
		}
		c.violate("1 acked", "%s was acknowledged %v, and is not in the log of %s", m.name, m.acks, m.conv)
	}
	for _, cl := range c.clients {
		cl.mu.Lock()
		if cl.subscribed {
			begins = append(begins, cl.begins()...)
		}
		cl.mu.Unlock()
	}
	for _, b := range begins {
		floor := b.first - 500
		if c.ownerOf(b.conv) != nil {
			ch.judgeStretches(&b)
			in, _ := within(staysOf(ch.logs[b.conv], b.user), b.first)
			floor = max(floor, in.from-1)
		}
		for seq := min(b.first-1, int64(len(ch.logs[b.conv]))); seq > 0 && seq > floor; seq-- {
			if asked := ch.logs[b.conv][seq-1].asked; asked > b.subscribed {
				c.violate("3 order", "%s: received conversation %s from %d on, although %d was sent %v after it had subscribed",
					b.clientID, b.conv, b.first, seq, (asked - b.subscribed).Round(time.Millisecond))
				break
			}
		}
	}
}

// behind names a session that has not received what it must have.
func (ch *checker) behind() string {
	for _, cl := range ch.c.clients {
		cl.mu.Lock()
		what := ch.behindOf(cl)
		cl.mu.Unlock()
		if what != "" {
			return what
		}
	}
	return ""
}

func (ch *checker) behindOf(cl *client) string {
	if cl.conn == nil || !cl.subscribed {
		return cl.clientID + " is not connected and subscribed"
	}
	for _, conv := range ch.members[cl.user] {
		if len(cl.filters) == 1 && cl.filters[0] != "conv/+/messages" && cl.filters[0] != "conv/#" && cl.filters[0] != topic(conv) {
			continue
		}
		log := ch.logs[conv]
		p := cl.places[conv]
		if p != nil && p.last == int64(len(log)) {
			continue
		}
		if p != nil {
			return fmt.Sprintf("%s has event %d of %s, which reaches to %d (connected for %v)", cl.clientID, p.last, conv, len(log), cl.c.now()-cl.conn.since)
		}
		joined := int64(1)
		if cl.c.ownerOf(conv) != nil {
			if stays := staysOf(log, cl.user); len(stays) > 0 {
				joined = stays[len(stays)-1].from
			}
		}
		for seq, e := range log {
			if e.asked > cl.subscribedAt && int64(seq+1) >= joined {
				return fmt.Sprintf("%s has nothing of %s, where event %d of %d was sent %v after it had subscribed (connected for %v)",
					cl.clientID, conv, seq+1, len(log), e.asked-cl.subscribedAt, cl.c.now()-cl.conn.since)
			}
		}
	}
	return ""
}

// last is the end of a campaign: everybody comes back once more, after a kill; then
// the logs are read again from their beginning, and the oracle runs.
func (c *campaign) last(ctx context.Context) error {
	c.say("the end: everybody comes back, and the oracle runs")
	if err := c.killServer(ctx, nil); err != nil {
		return err
	}
	if err := c.checkpoint(ctx, 0); err != nil {
		return err
	}
	found, err := c.store.Verify(ctx)
	for _, v := range found {
		c.violate("oracle", "%s", v)
	}
	return err
}
