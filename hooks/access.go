package hooks

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/topics"
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
	var fresh []chat.Filter    // whose state the client wants to hear
	var devices []deviceFilter // those on device topics
	room := h.o.MaxSubscriptions - c.session.Subscriptions()
	for i := range pk.Filters {
		f := &pk.Filters[i]
		if f.RetainHandling > 2 {
			return c.protocolError("retain handling 3 does not exist") // MQTT 5.0, 3.8.3.1
		}
		if f.Qos > 2 || f.Filter == "" || strings.IndexByte(f.Filter, 0) >= 0 || !utf8.ValidString(f.Filter) {
			return c.end(packets.ErrMalformedPacket, "SUBSCRIBE holds a malformed filter or option")
		}
		onDevices := !chat.IsFilter(f.Filter)
		var filter chat.Filter
		var device topics.Filter
		var err error
		if onDevices {
			device, err = h.o.Topics.MaySubscribe(c.user, f.Filter)
			if f.NoLocal && device.Share != "" {
				return c.protocolError("no local on a shared subscription") // [MQTT-3.8.3-4]
			}
		} else {
			filter, err = h.mayRead(c, f.Filter)
		}
		if err == nil && room <= len(granted) && !c.session.Holds(f.Filter) {
			err = &chat.Error{Code: chat.Quota, Field: "filter", Msg: "the session holds as many filters as it may"}
		}
		if err != nil {
			codes[i] = broker.SubackReason(err)
			continue
		}
		codes[i] = f.Qos
		sub := delivery.Subscription{Text: f.Filter, Filter: filter, QoS: f.Qos, Identifier: uint32(max(0, f.Identifier)), Device: onDevices}
		tell := f.RetainHandling == 0 || f.RetainHandling == 1 && !c.session.Holds(f.Filter) // MQTT 5.0, 3.8.3.1
		switch {
		case onDevices:
			sub.NoLocal, sub.RetainAsPublished = f.NoLocal || c.Bridge, f.RetainAsPublished || c.Bridge
			devices = append(devices, deviceFilter{sub: subscriptionOf(device, &sub), text: f.Filter, tell: tell})
		case tell:
			fresh = append(fresh, filter)
		}
		granted = append(granted, sub)
		places = append(places, i)
	}
	if len(granted) > 0 {
		ctx, cancel := chat.WithDeadline(c.ctx, h.o.SubscribeTimeout, "hooks.subscribe")
		defer cancel()
		if err := c.session.Subscribe(ctx, granted); err != nil {
			h.logger.Warn("subscribe failed", "client_id", c.clientID, "err", err)
			fresh, devices = nil, nil
			for _, i := range places {
				codes[i] = broker.SubackReason(err)
			}
		}
	}
	h.holdDevices(c, devices)
	c.WriteSubAck(packets.Suback, pk.PacketID, codes)
	h.tellRetained(c, devices)
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
	if !c.principal.HasAccount() {
		return chat.Filter{}, errAnonymous("filter")
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
	h.dropDevices(c, filters)
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
