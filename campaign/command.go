package campaign

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// What is sent is a message or a command about one. A device sends commands about
// messages that it has received: it edits and deletes those of its own user, and
// reacts to any. What can be known beforehand makes each command countable:
//
//   - each edit says something of its own;
//   - only messages with an even seq are deleted, and only commands about these may
//     be refused, or find nothing to do;
//   - a device that sends no keys edits only messages that are not deleted, because
//     the text is all that an edit without key is known by;
//   - each device reacts with an emoji of its own, adds what it has not added, and
//     removes what it has: each of its reactions must become an event, once.

type kind string

const (
	kindMessage  kind = "message"
	kindEdit     kind = "edit"
	kindDelete   kind = "delete"
	kindReaction kind = "reaction"
	kindRead     kind = "read" // not in the log: how far one has read
)

// deletable says whether a message may be deleted in this campaign. The message's
// place is known.
func (m *message) deletable() bool { return m.at.seq%2 == 0 }

// reactionState is what a device knows of its reaction to a message.
type reactionState int

const (
	reactionNone reactionState = iota
	reactionPending
	reactionAdded
	reactionDone // by REST, or refused: left alone from now on
)

// learn notes that a device has received a message, which commands may be about
// from now on. It returns nil if it is none that can be told by what it says. cl.mu
// is held.
func (cl *client) learn(e *event) *message {
	c := cl.c
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.byID[e.ID]
	if m == nil {
		if m = c.messages[e.Content]; m == nil || m.kind != kindMessage || m.sender.id.String() != e.SenderID {
			return nil
		}
		m.at = stored{e.ID, e.Seq}
		c.byID[e.ID] = m
	}
	if e.DeletedAt == "" && !slices.Contains(c.seldom, m.conv) && !cl.steady {
		if len(cl.received) == maxReceived {
			cl.received = slices.Delete(cl.received, 0, maxReceived/2)
		}
		cl.received = append(cl.received, m)
	}
	return m
}

const maxReceived = 100

// command draws a command about a message that the device has received; nil: none.
// cl.mu is held.
func (cl *client) command() *message {
	if cl.steady || len(cl.received) == 0 {
		return nil
	}
	n := cl.rng.IntN(100)
	if n >= 85 {
		return cl.read()
	}
	about := cl.received[cl.rng.IntN(len(cl.received))]
	own := about.sender == cl.user
	if n < 12 { // one's own are rarer
		for range 8 {
			if own {
				break
			}
			about = cl.received[cl.rng.IntN(len(cl.received))]
			own = about.sender == cl.user
		}
	}
	switch {
	case n < 8 && own && (cl.keyed || !about.deletable()):
		return cl.about(about, kindEdit)
	case n < 12 && own && about.deletable():
		return cl.about(about, kindDelete)
	case n < 30 && cl.reacted[about] != reactionPending && cl.reacted[about] != reactionDone:
		return cl.about(about, kindReaction)
	}
	return nil
}

// about makes a command. cl.mu is held.
func (cl *client) about(about *message, k kind) *message {
	c := cl.c
	cl.written++
	m := &message{kind: k, name: fmt.Sprintf("%s-%d (%s of %s)", cl.clientID, cl.written, k, about.name), conv: about.conv, sender: cl.user, about: about, by: cl}
	if cl.keyed {
		m.key = uuid.NewString()
	}
	switch k {
	case kindEdit:
		m.content = fmt.Sprintf("%s-%d, edited %s", cl.clientID, cl.written, strings.Repeat("y", cl.rng.IntN(200)))
	case kindReaction:
		m.emoji, m.op = cl.emoji, "add"
		if cl.reacted[about] == reactionAdded {
			m.op = "remove"
		}
		cl.reacted[about] = reactionPending
	case kindDelete, kindMessage, kindRead:
	}
	c.send(m)
	return m
}

// send notes that something is about to be sent for the first time.
func (c *campaign) send(m *message) {
	m.first = c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.kind {
	case kindMessage:
		c.messages[m.content] = m
	case kindEdit, kindDelete, kindReaction:
		c.commands[m.about] = append(c.commands[m.about], m)
	case kindRead:
		key := absence{m.sender, m.conv}
		if c.reads[key] == nil {
			c.reads[key] = &readsOf{}
		}
		c.reads[key].sent = max(c.reads[key].sent, m.upTo)
	}
	c.counts["sent: "+string(m.kind)]++
}

// settled notes what a device knows of a command that was answered. cl.mu is held.
func (cl *client) settled(m *message, refused bool) {
	if m.kind != kindReaction {
		return
	}
	switch {
	case refused:
		cl.reacted[m.about] = reactionDone
	case cl.reacted[m.about] != reactionPending: // it was sent twice, and the other one settled it
	case m.op == "add":
		cl.reacted[m.about] = reactionAdded
	default:
		cl.reacted[m.about] = reactionNone
	}
}

// payload is what is published.
func (m *message) payload() []byte {
	fields := map[string]any{"content": m.content}
	switch m.kind {
	case kindMessage:
		if m.key == "" {
			return []byte(m.content)
		}
	case kindEdit:
		fields["type"], fields["messageId"] = m.kind, m.about.at.id
	case kindDelete:
		fields = map[string]any{"type": m.kind, "messageId": m.about.at.id}
	case kindReaction:
		fields = map[string]any{"type": m.kind, "messageId": m.about.at.id, "emoji": m.emoji, "op": m.op}
	case kindRead:
		return fmt.Appendf(nil, `{"upTo":%d}`, m.upTo)
	}
	if m.key != "" {
		fields["clientMsgId"] = m.key
	}
	b, err := json.Marshal(fields)
	if err != nil {
		panic(err) // of strings: it cannot fail
	}
	return b
}

func (m *message) topic() string {
	if m.kind == kindRead {
		return "conv/" + m.conv + "/reads"
	}
	return topic(m.conv)
}

// request is the same by REST.
func (m *message) request() (method, path string, body any) {
	var about string
	if m.about != nil {
		about = "/api/messages/" + m.about.at.id
	}
	switch m.kind {
	case kindEdit:
		fields := map[string]any{"content": m.content}
		if m.key != "" {
			fields["clientMsgId"] = m.key
		}
		return http.MethodPatch, about, fields
	case kindDelete:
		return http.MethodDelete, about, nil
	case kindReaction:
		method = http.MethodPut
		if m.op == "remove" {
			method = http.MethodDelete
		}
		return method, about + "/reactions/" + url.PathEscape(m.emoji), nil
	case kindRead:
		return http.MethodPost, "/api/conversations/" + m.conv + "/read", map[string]any{"upTo": m.upTo}
	case kindMessage:
	}
	return http.MethodPost, "/api/messages", map[string]any{"conversationId": m.conv, "content": m.content, "clientMsgId": m.key}
}

// post sends by REST, until it is answered or has been tried a few times.
func (c *campaign) post(m *message) (answered <-chan struct{}) {
	done := make(chan struct{})
	method, path, body := m.request()
	what := method + " of a " + string(m.kind)
	c.posts.Go(func() {
		defer close(done)
		for range 5 {
			var answer struct {
				ID  string
				Seq int64
			}
			status, err := c.rest(context.Background(), m.sender, method, path, body, &answer)
			switch {
			case err == nil && status/100 == 2:
				c.count(fmt.Sprintf("%s: %d", what, status), 1)
				c.acked(m, stored{answer.ID, answer.Seq}, m.kind == kindMessage)
				return
			case err == nil && status != http.StatusServiceUnavailable:
				c.count(fmt.Sprintf("%s: %d", what, status), 1)
				c.refused(m, fmt.Sprintf("HTTP %d", status), map[int]refusal{
					http.StatusForbidden: refusedMember, http.StatusNotFound: refusedMember, http.StatusConflict: refusedDeleted,
				}[status])
				return
			}
			c.count(what+" without answer", 1)
			time.Sleep(100 * time.Millisecond) // until it is tried again, as a client does
		}
	})
	return done
}

// refusal is why something may be refused.
type refusal int

const (
	refusedNever   refusal = iota
	refusedMember          // its sender was no member, for a while
	refusedDeleted         // what it is about was deleted
)

// refused asks whether a command may have been refused.
func (c *campaign) refused(m *message, how string, why refusal) {
	c.count("refused: "+string(m.kind), 1)
	if why == refusedMember && c.outOf(m) || why == refusedDeleted && m.about != nil && m.about.deletable() && m.kind != kindDelete {
		return
	}
	c.violate("refusal", "%s was refused: %s", m.name, how)
}

// outOf reports whether the sender was, or may have been, out of the conversation at
// any time since it was sent first; or since what it is about was sent, which they do
// not see any more if they have come back since.
func (c *campaign) outOf(m *message) bool {
	from := m.first
	if m.about != nil {
		from = m.about.first
	}
	c.mu.Lock()
	o := c.absences[absence{m.sender, m.conv}]
	c.mu.Unlock()
	return o != nil && o.faulty(from, c.now())
}

// absence names when a user was out of a group.
type absence struct {
	user *user
	conv string
}

// emojis are what devices react with, one for each.
var emojis = func() (list []string) {
	for r := '🐀'; len(list) < 60; r++ { // U+1F400 …: animals, all of them emoji by themselves
		list = append(list, string(r))
	}
	return list
}()
