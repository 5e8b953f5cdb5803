package hooks

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// subscribe answers SUBSCRIBE (MQTT 5.0 and 3.1.1, 3.8).
func (h *Hook) subscribe(c *connection, pk *packets.Packet) error {
	switch {
	case pk.PacketID == 0 || len(pk.Filters) == 0:
		return c.protocolError("SUBSCRIBE needs a packet identifier and at least one filter")
	case len(pk.Properties.SubscriptionIdentifier) > 1 || slices.Contains(pk.Properties.SubscriptionIdentifier, 0):
		return c.protocolError("SUBSCRIBE has at most one subscription identifier, of 1 or more") // MQTT 5.0, 3.8.2.1.2
	case len(pk.Filters) > h.o.MaxSubscriptions:
		return c.end(packets.ErrQuotaExceeded, "more filters than a session may hold")
	}
	codes := make([]byte, len(pk.Filters))
	granted := make([]delivery.Subscription, 0, len(pk.Filters))
	places := make([]int, 0, len(pk.Filters))
	var fresh []chat.Filter // whose state the client wants to hear
	room := h.o.MaxSubscriptions - c.session.Subscriptions()
	for i := range pk.Filters {
		f := &pk.Filters[i]
		if f.RetainHandling > 2 {
			return c.protocolError("retain handling 3 does not exist") // MQTT 5.0, 3.8.3.1
		}
		if f.Qos > 2 || f.Filter == "" || strings.IndexByte(f.Filter, 0) >= 0 || !utf8.ValidString(f.Filter) {
			return c.end(packets.ErrMalformedPacket, "SUBSCRIBE holds a malformed filter or option")
		}
		filter, err := h.mayRead(c, f.Filter)
		if err == nil && room <= len(granted) && !c.session.Holds(f.Filter) {
			err = &chat.Error{Code: chat.Quota, Field: "filter", Msg: "the session holds as many filters as it may"}
		}
		if err != nil {
			codes[i] = broker.SubackReason(err)
			continue
		}
		codes[i] = f.Qos
		granted = append(granted, delivery.Subscription{Text: f.Filter, Filter: filter, QoS: f.Qos, Identifier: uint32(max(0, f.Identifier))})
		places = append(places, i)
		if f.RetainHandling == 0 || f.RetainHandling == 1 && !c.session.Holds(f.Filter) { // MQTT 5.0, 3.8.3.1
			fresh = append(fresh, filter)
		}
	}
	if len(granted) > 0 {
		ctx, cancel := chat.WithDeadline(c.ctx, h.o.SubscribeTimeout, "hooks.subscribe")
		defer cancel()
		if err := c.session.Subscribe(ctx, granted); err != nil {
			h.logger.Warn("subscribe failed", "client_id", c.clientID, "err", err)
			fresh = nil
			for _, i := range places {
				codes[i] = broker.SubackReason(err)
			}
		}
	}
	c.WriteSubAck(packets.Suback, pk.PacketID, codes)
	h.tellTyping(c, fresh)
	h.tellPresence(c, fresh)
	return nil
}

// tellTyping lets a session that has subscribed to typing, or come back, hear who types already.
func (h *Hook) tellTyping(c *connection, filters []chat.Filter) {
	for _, f := range filters {
		if f.Kinds&chat.TopicTyping == 0 {
			continue
		}
		conversations := c.session.Conversations()
		if !f.ID.IsZero() {
			conversations = []chat.ID{f.ID}
		}
		h.o.Chat.EachTyping(c.principal.UserID, conversations, func(id chat.ID, payload []byte) {
			c.session.Signal(delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicTyping, ID: id}, payload))
		})
	}
}

// mayRead decides whether the connection may hold a filter. A wildcard means mine
// and may always be held; presence is shown to contacts only, whoever subscribes
// to it, so that the answer tells nothing.
func (h *Hook) mayRead(c *connection, text string) (chat.Filter, error) {
	if strings.HasPrefix(text, "$SYS") {
		return chat.Filter{}, &chat.Error{Code: chat.Forbidden, Field: "filter", Msg: "$SYS is for admins"}
	}
	f, err := chat.ParseFilter(text)
	if err != nil || f.ID.IsZero() {
		return f, err
	}
	switch {
	case strings.HasPrefix(text, "conv/"):
		ctx, cancel := chat.WithDeadline(c.ctx, h.o.SubscribeTimeout, "hooks.mayRead")
		defer cancel()
		_, err = h.o.Chat.Rosters.Require(ctx, f.ID, c.principal.UserID)
	case f.Kinds != chat.TopicPresence && f.ID != c.principal.UserID:
		err = &chat.Error{Code: chat.Forbidden, Field: "filter", Msg: "only your own"}
	}
	return f, err
}

// unsubscribe answers UNSUBSCRIBE (MQTT 5.0 and 3.1.1, 3.10).
func (h *Hook) unsubscribe(c *connection, pk *packets.Packet) error {
	if pk.PacketID == 0 || len(pk.Filters) == 0 {
		return c.protocolError("UNSUBSCRIBE needs a packet identifier and at least one filter")
	}
	filters := make([]string, len(pk.Filters))
	for i := range pk.Filters {
		filters[i] = pk.Filters[i].Filter
	}
	codes := make([]byte, len(filters))
	for i, existed := range c.session.Unsubscribe(filters) {
		if !existed {
			codes[i] = packets.CodeNoSubscriptionExisted.Code
		}
	}
	ctx, cancel := chat.WithDeadline(c.ctx, h.o.SubscribeTimeout, "hooks.unsubscribe")
	defer cancel()
	if err := c.session.SaveUnsubscribed(ctx); err != nil {
		h.logger.Warn("unsubscribe was not saved", "client_id", c.clientID, "err", err)
		for i := range codes {
			codes[i] = packets.ErrUnspecifiedError.Code // it holds for this connection only
		}
	}
	c.WriteSubAck(packets.Unsuback, pk.PacketID, codes)
	return nil
}
