package campaign

import (
	"context"
	"fmt"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
)

// checker compares what devices know with what the database holds. It works while
// nobody writes, and is owned by the goroutine that runs the rounds.
type checker struct {
	c       *campaign
	logs    map[string][]entry // by conversation; seq 1 is at 0
	readers map[string]*user   // a member of each
	members map[*user][]string // the conversations of each user
}

// entry is one event of a log, as stored.
type entry struct {
	id, sender, content string
	asked               time.Duration // when it was sent first; -1: before the run
}

// begun is where a session that is gone began in a conversation.
type begun struct {
	clientID, conv string
	first          int64
	subscribed     time.Duration
}

// noteBegins keeps where a session began, before it is forgotten. cl.mu is held.
func (c *campaign) noteBegins(cl *client) {
	if !cl.subscribed {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for conv, p := range cl.places {
		c.begins = append(c.begins, begun{cl.clientID, conv, p.first, cl.subscribedAt})
	}
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

// read reads what has been added to the logs.
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
			ch.readers[conv], ends[conv] = u, p.LastSeq
			ch.members[u] = append(ch.members[u], conv)
		}
	}
	for conv, u := range ch.readers {
		log, err := ch.readLog(ctx, u, conv, ch.logs[conv])
		if err != nil {
			return err
		}
		if int64(len(log)) != ends[conv] {
			ch.c.violate("3 log", "conversation %s says it reaches to %d and has %d events", conv, ends[conv], len(log))
		}
		ch.logs[conv] = log
	}
	return nil
}

func (ch *checker) readLog(ctx context.Context, u *user, conv string, log []entry) ([]entry, error) {
	id, err := chat.ParseID(conv)
	if err != nil {
		return nil, err
	}
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
	en := entry{id: e.ID.String(), sender: e.SenderID.String(), content: e.Content, asked: -1}
	c.mu.Lock()
	m, made := c.messages[e.Content], c.titles[e.Title]
	c.mu.Unlock()
	switch {
	case e.Type == chat.EventConversation:
		if made > 0 {
			en.asked = made
		}
		return en
	case m == nil || m.conv != conv || m.sender.id != e.SenderID:
		c.violate("1 acked", "event %d of %s is a message that its sender has not sent: %.80q", e.Seq, conv, e.Content)
		return en
	case m.key != "" && m.key != e.ClientMsgID.String():
		c.violate("2 once", "%s is stored under the key %s, sent under %s", m.name, e.ClientMsgID, m.key)
	case m.found != 0 && m.found != e.Seq:
		c.violate("2 once", "%s is stored as %d and as %d of %s (key %q)", m.name, m.found, e.Seq, conv, m.key)
	}
	m.found = e.Seq
	en.asked = m.first
	c.mu.Lock()
	acks := m.acks
	c.mu.Unlock()
	if len(acks) > 0 && (acks[0] != stored{en.id, e.Seq}) {
		c.violate("1 acked", "%s was acknowledged as %v, and is stored as %d, %s", m.name, acks[0], e.Seq, en.id)
	}
	return en
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
	begins := c.begins
	c.begins = nil
	c.mu.Unlock()
	for _, m := range lost {
		c.violate("1 acked", "%s was acknowledged %v, and is not in the log of %s", m.name, m.acks, m.conv)
	}
	for _, cl := range c.clients {
		cl.mu.Lock()
		if cl.subscribed {
			for conv, p := range cl.places {
				begins = append(begins, begun{cl.clientID, conv, p.first, cl.subscribedAt})
			}
		}
		cl.mu.Unlock()
	}
	for _, b := range begins {
		for seq := min(b.first-1, int64(len(ch.logs[b.conv]))); seq > 0 && seq > b.first-500; seq-- {
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
		for seq, e := range log {
			if e.asked > cl.subscribedAt {
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
	c.say("the end: everybody comes back, all logs are read again, and the oracle runs")
	if err := c.killServer(ctx, nil); err != nil {
		return err
	}
	if err := c.checkpoint(ctx, 0); err != nil {
		return err
	}
	before := c.check.logs
	c.check.logs = map[string][]entry{}
	if err := c.check.read(ctx); err != nil {
		return err
	}
	for conv, log := range before {
		now := c.check.logs[conv]
		for i, e := range log {
			if i >= len(now) || now[i] != e {
				c.violate("1 acked", "event %d of %s is not any more what it was", i+1, conv)
				break
			}
		}
	}
	found, err := c.store.Verify(ctx)
	for _, v := range found {
		c.violate("oracle", "%s", v)
	}
	return err
}
