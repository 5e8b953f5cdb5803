package client

import (
	"context"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// received takes a publication from paho, which reads no further until it returns.
func (c *Client) received(r paho.PublishReceived) (bool, error) {
	p := r.Packet
	if p.QoS == 0 {
		if err := c.signals.read(&c.o, p.Topic, p.Payload); err != nil {
			c.logger.Warn("cannot decode a signal", "topic", p.Topic, "err", err)
		}
		return true, nil
	}
	_, life := c.session.present() // of this connection: paho ends one before it begins another
	e, err := parseEvent(p.Payload)
	if err != nil { // from an incompatible server; it must not block the events after it
		c.logger.Error("cannot decode an event", "topic", p.Topic, "err", err)
		c.session.acknowledge(life, p.PacketID)
		return true, nil
	}
	c.inbox.put(e, life, p.PacketID)
	return true, nil
}

// maxPositions limits the conversations whose last handled event is remembered. Beyond
// it, arbitrary ones are forgotten, and their events may be handled twice.
const maxPositions = 100_000

// handle hands events to the program, one after the other, until the client closes.
func (c *Client) handle() {
	last := map[ID]Position{}
	for {
		a := c.inbox.take(c.handling)
		if a == nil {
			return
		}
		e := a.event
		p, known := last[e.ConversationID]
		for n := 0; ; n++ {
			var err error
			if !known && c.o.Positions != nil {
				if p, err = c.o.Positions.Load(c.ctx, e.ConversationID); err == nil {
					known = true
				}
			}
			isNew := p.Epoch != e.Epoch || e.Seq > p.Seq
			if err == nil && isNew {
				err = c.o.OnEvent(c.ctx, e)
				if c.ctx.Err() != nil {
					return // ignore the result: the handler may just have been interrupted
				}
			}
			at := Position{e.Epoch, e.Seq}
			if err == nil && isNew && c.o.Positions != nil {
				err = c.o.Positions.Save(c.ctx, e.ConversationID, at)
			}
			if err == nil {
				if isNew {
					p = at
				}
				break
			}
			if c.handling.Err() != nil {
				return // not acknowledged: it is delivered again
			}
			pause := c.backoff(n)
			c.logger.Warn("handler failed; retrying", "conversation", e.ConversationID, "seq", e.Seq, "pause", pause, "err", err)
			if sleep(c.handling, pause) != nil {
				return
			}
		}
		if len(last) >= maxPositions {
			for id := range last {
				delete(last, id)
				break
			}
		}
		last[e.ConversationID] = p
		c.session.acknowledge(c.inbox.done(a))
	}
}

// sleep waits for d; if ctx ends first, it returns the error of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
