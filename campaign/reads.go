package campaign

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/parleymq/parley/chat"
)

// What a user has read of a conversation. Devices say so by MQTT and REST, up to what
// they have received. At a checkpoint each user must have read at least as far as any
// acknowledgement said, and as at the checkpoint before, and not further than anybody
// has said; what REST calls unread is counted again from the log.

// readsOf is what was said of one user and conversation.
type readsOf struct {
	sent  int64      // the furthest that was said
	acks  []*message // acknowledged since the last checkpoint
	floor int64      // at the last checkpoint
	since time.Duration
}

// read makes a command that says how far the user has read; nil: nowhere. cl.mu is held.
func (cl *client) read() *message {
	c := cl.c
	convs := c.conversationsOf(cl.user)
	if cl.steady || len(convs) == 0 {
		return nil
	}
	conv := convs[cl.rng.IntN(len(convs))]
	p := cl.places[conv]
	if p == nil {
		return nil
	}
	m := &message{kind: kindRead, name: fmt.Sprintf("%s reads %s", cl.clientID, conv), conv: conv, sender: cl.user, by: cl, upTo: max(p.first, p.last-int64(cl.rng.IntN(3)))}
	m.name += fmt.Sprintf(" to %d", m.upTo)
	c.send(m)
	return m
}

// receiveRead checks that nobody has read what they have not said to have.
func (cl *client) receiveRead(p *packet) {
	c := cl.c
	var r struct {
		ConversationID, UserID string
		UpTo                   int64
	}
	if err := json.Unmarshal(p.Payload, &r); err != nil || p.FixedHeader.Qos != 0 || p.TopicName != "conv/"+r.ConversationID+"/reads" {
		c.violate("protocol", "%s: on %s: %v: %.200q", cl.clientID, p.TopicName, err, p.Payload)
		return
	}
	c.count("reads received", 1)
	var said int64
	c.mu.Lock()
	for key, reads := range c.reads {
		if key.conv == r.ConversationID && key.user.id.String() == r.UserID {
			said = reads.sent
		}
	}
	c.mu.Unlock()
	if r.UpTo <= said {
		return
	}
	c.violate("10 reads", "%s: user %s has read %s to %d, which they have not said", cl.clientID, r.UserID, r.ConversationID, r.UpTo)
}

func isReads(topic string) bool { return strings.HasSuffix(topic, "/reads") }

// readPlaces reads how far everybody has read, as somebody would who begins now.
func (ch *checker) readPlaces(ctx context.Context) error {
	ch.reads = map[string]map[string]int64{}
	for _, u := range ch.c.users {
		q := chat.SyncQuery{UserID: u.id, Limit: 500}
		for more := true; more; {
			page, err := ch.c.store.Sync(ctx, q)
			if err != nil {
				return err
			}
			for _, i := range page.Items {
				if i.Type != chat.SyncRead {
					continue
				}
				conv := i.ConversationID.String()
				if ch.reads[conv] == nil {
					ch.reads[conv] = map[string]int64{}
				}
				if i.UserID == u.id && !i.At.IsZero() || i.UserID != u.id {
					ch.reads[conv][i.UserID.String()] = i.UpTo
				}
			}
			q.Cursor, more = page.Next, page.More
		}
	}
	return nil
}

// judgeReads asks whether everybody has read what they have said, and no more.
func (ch *checker) judgeReads() {
	for _, what := range ch.misread() {
		ch.c.violate("10 reads", "%s", what)
	}
}

func (ch *checker) misread() (found []string) {
	c := ch.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, r := range c.reads {
		at := ch.reads[key.conv][key.user.id.String()]
		away := c.absences[key]
		gone := func(since time.Duration) bool { return away != nil && away.faulty(since, c.now()) }
		for _, m := range r.acks {
			if at < m.upTo && !gone(m.first) {
				found = append(found, fmt.Sprintf("%s: acknowledged, and it is %d", m.name, at))
			}
		}
		switch {
		case at < r.floor && !gone(r.since):
			found = append(found, fmt.Sprintf("%s has read %s to %d, and had to %d", key.user.name, key.conv, at, r.floor))
		case at > r.sent:
			found = append(found, fmt.Sprintf("%s has read %s to %d, and has said to %d", key.user.name, key.conv, at, r.sent))
		}
		r.acks, r.floor, r.since = nil, at, c.now()
	}
	return found
}

// judgeUnread counts again what REST says is unread.
func (ch *checker) judgeUnread(ctx context.Context) error {
	c := ch.c
	for _, u := range c.users {
		seen := 0
		for cursor := ""; ; {
			var page struct {
				Data []struct {
					ID          string
					UnreadCount int64
				}
				NextCursor *string
			}
			status, err := c.askRest(ctx, u, "/api/conversations?limit=50&cursor="+url.QueryEscape(cursor), &page)
			if err != nil || status != http.StatusOK {
				return fmt.Errorf("list the conversations of %s: status %d: %w", u.name, status, err)
			}
			for _, conv := range page.Data {
				seen++
				if want := ch.unread(u, conv.ID); conv.UnreadCount != want {
					c.violate("10 unread", "%s has %d unread in %s, and by its log it is %d", u.name, conv.UnreadCount, conv.ID, want)
				}
			}
			if page.NextCursor == nil {
				break
			}
			cursor = *page.NextCursor
		}
		if seen != len(ch.members[u]) {
			c.violate("10 unread", "%s is shown %d conversations, and is in %d", u.name, seen, len(ch.members[u]))
		}
	}
	return nil
}

func (ch *checker) unread(u *user, conv string) (n int64) {
	log := ch.logs[conv]
	stays := staysOf(log, u)
	from := max(ch.reads[conv][u.id.String()], stays[len(stays)-1].from-1)
	for _, e := range log[from:] {
		if e.event == chat.EventMessage && !e.deleted && e.sender != u.id.String() {
			n++
		}
	}
	return n
}
