package hooks

import (
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
)

// reads moves how far the client's user has read the conversation. The
// acknowledgement follows the commit.
func (h *Hook) reads(c *connection, p *broker.Publish, pk *packets.Packet) error {
	if _, err := h.o.Chat.Rosters.Require(c.ctx, p.Topic.ID, c.principal.UserID); err != nil {
		return err // a stranger hears only that
	}
	r, err := chat.ParseRead(pk.Payload)
	if err != nil {
		return err
	}
	if p.QoS > 0 {
		return h.o.Chat.SubmitRead(c.ctx, c.principal.UserID, p.Topic.ID, &r, false, p)
	}
	if err := h.o.Chat.SubmitRead(c.ctx, c.principal.UserID, p.Topic.ID, &r, true, &quietRead{c, p.Topic}); err != nil {
		return err
	}
	p.Settle(nil) // it may wait for a second, and what comes after it must not
	return nil
}

// quietRead is a move at QoS 0, which is answered only if it is refused.
type quietRead struct {
	c     *connection
	topic chat.Topic
}

// Settle implements chat.Settler.
func (q *quietRead) Settle(err error) {
	if err != nil {
		q.c.refused(&broker.Publish{Topic: q.topic, Err: err})
	}
}
