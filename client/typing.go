package client

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

const (
	typingRepeat = 2 * time.Second // how often members are notified; the server's
	typingLasts  = 6 * time.Second // how long they are shown it; the server's
)

// typing remembers what was last sent, so that a program may call Typing for each key.
type typing struct {
	mu sync.Mutex
	in map[ID]time.Time // mu guards: when typing was last sent
}

// note reports whether to notify the server.
func (t *typing) note(conversation ID, typing bool, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	told, was := t.in[conversation]
	if !typing {
		delete(t.in, conversation)
		return was && now.Sub(told) < typingLasts
	}
	if was && now.Sub(told) < typingRepeat {
		return false
	}
	for id, told := range t.in {
		if now.Sub(told) >= typingLasts {
			delete(t.in, id)
		}
	}
	if t.in == nil {
		t.in = map[ID]time.Time{}
	}
	t.in[conversation] = now
	return true
}

// Typing shows the members of a conversation that the user is typing, or has stopped.
// Call it for each key: the server is notified at most every 2 s. Typing ends by itself
// 6 s after the last call, with the message, and with the connection. It does not wait
// for an answer; without a connection it is Unavailable. Refusals go to OnRefused.
func (c *Client) Typing(ctx context.Context, conversation ID, typing bool) error {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	switch {
	case c.ctx.Err() != nil:
		return c.endError("typing")
	case l == nil:
		return unavailable("typing", "there is no connection", nil)
	case !c.typing.note(conversation, typing, time.Now()):
		return nil
	}
	payload, err := json.Marshal(map[string]bool{"typing": typing})
	if err != nil {
		return &Error{Op: "typing", Code: Invalid, Err: err}
	}
	if _, err := l.cm.Publish(ctx, &paho.Publish{Topic: conversationTopic(conversation, "typing"), Payload: payload}); err != nil {
		return unavailable("typing", "", err)
	}
	return nil
}
