package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// Receipt describes a message that the server has stored.
type Receipt struct {
	ID          ID // the message's
	ClientMsgID ID // its key
	Seq         int64
	CreatedAt   time.Time
}

// command is what is published to conv/{id}/messages.
type command struct {
	Type        EventType `json:"type"`
	Content     string    `json:"content,omitempty"`
	ClientMsgID ID        `json:"clientMsgId"`
	ReplyTo     ID        `json:"replyTo,omitempty"`
	Attachments []ID      `json:"attachments,omitempty"`
	MessageID   ID        `json:"messageId,omitempty"`
	Emoji       string    `json:"emoji,omitempty"`
	Op          string    `json:"op,omitempty"`
}

// Send sends a message and returns when it is committed. If it has no ClientMsgID, Send
// generates one. After a lost connection or a temporary refusal (Quota) it tries again
// with the same ClientMsgID, until ctx ends: then the error is Unavailable, and the
// message may or may not have been stored. Other errors are the server's answer: Invalid
// and TooLarge name the field, Forbidden means that the user is not a member, Conflict
// that the same ClientMsgID was used for another message.
func (c *Client) Send(ctx context.Context, conversation ID, m Message) (Receipt, error) {
	cmd := command{Type: EventMessage, Content: m.Content, ClientMsgID: m.ClientMsgID, ReplyTo: m.ReplyTo, Attachments: m.Attachments}
	if cmd.ClientMsgID == "" {
		cmd.ClientMsgID = newID()
	}
	r := Receipt{ClientMsgID: cmd.ClientMsgID}
	ack, err := c.command(ctx, "send", conversation, cmd, true)
	if err != nil {
		return r, err
	}
	if p := ack.Properties; p != nil {
		r.ID = ID(p.User.Get("id"))
		r.Seq, _ = strconv.ParseInt(p.User.Get("seq"), 10, 64)
		r.CreatedAt, _ = time.Parse(time.RFC3339, p.User.Get("createdAt"))
	}
	if r.ID == "" || r.Seq == 0 {
		return r, &Error{Op: "send", Code: Internal, Detail: "the server acknowledged the message without saying where it is"}
	}
	return r, nil
}

// Edit changes the content of one of the user's messages; it retries like Send. An edit to
// the same content changes nothing. NotFound if there is no such message in the
// conversation, Conflict if it was deleted.
func (c *Client) Edit(ctx context.Context, conversation, message ID, content string) error {
	_, err := c.command(ctx, "edit", conversation, command{Type: EventEdit, ClientMsgID: newID(), MessageID: message, Content: content}, true)
	return err
}

// Delete deletes a message: the user's own, or, as owner or admin of the group, anybody's.
// It retries like Send. It may be repeated.
func (c *Client) Delete(ctx context.Context, conversation, message ID) error {
	_, err := c.command(ctx, "delete", conversation, command{Type: EventDelete, ClientMsgID: newID(), MessageID: message}, true)
	return err
}

// React reacts to a message with an emoji; it retries like Send. It may be repeated.
// Quota if the message has 50 different emojis.
func (c *Client) React(ctx context.Context, conversation, message ID, emoji string) error {
	_, err := c.command(ctx, "react", conversation, command{Type: EventReaction, ClientMsgID: newID(), MessageID: message, Emoji: emoji, Op: "add"}, false)
	return err
}

// Unreact removes a reaction. It may be repeated.
func (c *Client) Unreact(ctx context.Context, conversation, message ID, emoji string) error {
	_, err := c.command(ctx, "unreact", conversation, command{Type: EventReaction, ClientMsgID: newID(), MessageID: message, Emoji: emoji, Op: "remove"}, false)
	return err
}

func (c *Client) command(ctx context.Context, op string, conversation ID, cmd command, waitQuota bool) (*paho.PublishResponse, error) {
	payload, err := json.Marshal(cmd)
	if err != nil {
		return nil, &Error{Op: op, Code: Invalid, Err: err}
	}
	return c.publish(ctx, op, conversationTopic(conversation, "messages"), payload, waitQuota)
}

func conversationTopic(id ID, what string) string { return "conv/" + string(id) + "/" + what }

// ackTimeout is how long an acknowledgement is waited for before the same is published
// again. The server gives its database 10 s, and says so then.
const ackTimeout = 30 * time.Second

// publish publishes at QoS 1 until it is acknowledged, ctx ends, or the server refuses
// it: for good, or (unless waitQuota) for now. What is published must be the kind of
// thing that may be done twice.
func (c *Client) publish(ctx context.Context, op, topic string, payload []byte, waitQuota bool) (*paho.PublishResponse, error) {
	var last error // why the last attempt failed
	for n := 0; ; n++ {
		l, err := c.online(ctx, op)
		if err != nil {
			return nil, err
		}
		if err := fits(l, op, topic, payload); err != nil {
			return nil, err
		}
		// The response does not come when the connection ends; so the wait ends with it.
		attempt, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(l.ctx, cancel)
		ack, err := l.cm.Publish(attempt, &paho.Publish{QoS: 1, Topic: topic, Payload: payload})
		stop()
		cancel()
		switch {
		case ack != nil:
			if err = publishError(op, ack); err == nil {
				return ack, nil
			}
			if code := CodeOf(err); (code != Quota || !waitQuota) && code != Unavailable {
				return nil, err
			}
		case ctx.Err() != nil:
			return nil, &Error{Op: op, Code: Unavailable, Detail: "not confirmed in time; it may have been done", Err: joinCause(ctx, last)}
		case l.ctx.Err() != nil: // the next connection is waited for without a pause
			last = err
			continue
		}
		last = err
		if sleep(ctx, c.backoff(n)) != nil {
			return nil, &Error{Op: op, Code: codeOr(last, Unavailable), Detail: "not accepted in time", Err: joinCause(ctx, last)}
		}
	}
}

func joinCause(ctx context.Context, last error) error {
	if last == nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w, after %w", context.Cause(ctx), last)
}

// fits tells whether the server takes a packet of that size, which would end the
// connection otherwise.
func fits(l *link, op, topic string, payload []byte) error {
	if size := len(topic) + len(payload) + 16; l.maxPacket > 0 && size > l.maxPacket {
		return &Error{Op: op, Code: TooLarge, Field: "content", Detail: fmt.Sprintf("the packet would have %d bytes, limit %d", size, l.maxPacket)}
	}
	return nil
}
