package hooks

import (
	"context"
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/topics"
)

// subscribe answers SUBSCRIBE (MQTT 5.0 and 3.1.1, 3.8).
func (h *Hook) subscribe(c *connection, pk *packets.Packet) error {
	if len(pk.Filters) > maxSubscriptions {
		return c.end(packets.ErrQuotaExceeded, "more filters than a session may hold")
	}
	c.intake.Drain(subscribeTimeout) // what was published before is not sent as news
	codes := make([]byte, len(pk.Filters))
	granted := make([]delivery.Subscription, 0, len(pk.Filters))
	grantedAt := make([]int, 0, len(pk.Filters)) // their indexes in pk.Filters
	var state []chat.Filter                      // those whose current state is to be sent
	var devices []deviceSubscription             // those on device topics
	room := maxSubscriptions - c.session.Subscriptions()
	for i := range pk.Filters {
		f := &pk.Filters[i]
		onDevices := !chat.IsFilter(f.Filter)
		var filter chat.Filter
		var device topics.Filter
		var err error
		if onDevices {
			device, err = h.o.Topics.MaySubscribe(c.topicUser(), f.Filter)
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
		sendState := f.RetainHandling == 0 || f.RetainHandling == 1 && !c.session.Holds(f.Filter) // MQTT 5.0, 3.8.3.1
		switch {
		case onDevices:
			sub.NoLocal, sub.RetainAsPublished = f.NoLocal || c.Bridge, f.RetainAsPublished || c.Bridge
			devices = append(devices, deviceSubscription{topicSubscription(device, &sub), f.Filter, sendState})
		case sendState:
			state = append(state, filter)
		}
		granted = append(granted, sub)
		grantedAt = append(grantedAt, i)
	}
	if len(granted) > 0 {
		ctx, cancel := chat.WithDeadline(context.Background(), subscribeTimeout, "hooks.subscribe")
		defer cancel()
		if err := c.session.Subscribe(ctx, granted); err != nil {
			h.logger.Warn("subscribe failed", "client_id", c.clientID, "err", err)
			state, devices = nil, nil
			for _, i := range grantedAt {
				codes[i] = broker.SubackReason(err)
			}
		}
	}
	var retained []topics.Subscription
	for _, d := range devices {
		h.o.Topics.Subscribe(c.session.Queue(), c.topicUser(), d.text, d.sub)
		if d.sendState {
			retained = append(retained, d.sub)
		}
	}
	c.WriteSubAck(packets.Suback, pk.PacketID, codes)
	h.feedRetained(c, retained)
	h.feedTyping(c, state)
	h.feedPresence(c, state)
	return nil
}

// deviceSubscription is a filter on device topics that SUBSCRIBE asks for.
type deviceSubscription struct {
	sub       topics.Subscription
	text      string
	sendState bool // retained messages are to be sent
}

func topicSubscription(f topics.Filter, s *delivery.Subscription) topics.Subscription {
	return topics.Subscription{Filter: f, QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, Identifier: s.Identifier}
}

// resumeDevices subscribes a resumed session to its filters on device topics again, where
// it still may hold them. If this process has kept it, they are in force already.
func (h *Hook) resumeDevices(c *connection) {
	for _, s := range c.session.DeviceSubscriptions() {
		if f, err := h.o.Topics.MaySubscribe(c.topicUser(), s.Text); err != nil {
			h.o.Topics.Unsubscribe(c.session.Queue(), s.Text)
		} else {
			h.o.Topics.Subscribe(c.session.Queue(), c.topicUser(), s.Text, topicSubscription(f, &s))
		}
	}
}

// mayRead decides whether the connection may hold a filter on conv/ or user/. A wildcard
// means *mine* and is always granted; a filter on presence is granted to everybody, and
// sends that of contacts only, so that the answer reveals nothing.
func (h *Hook) mayRead(c *connection, text string) (chat.Filter, error) {
	if !c.principal.HasAccount() {
		return chat.Filter{}, errNoAccount("filter")
	}
	f, err := chat.ParseFilter(text)
	if err != nil || f.ID.IsZero() {
		return f, err
	}
	switch {
	case strings.HasPrefix(text, "conv/"):
		ctx, cancel := chat.WithDeadline(context.Background(), subscribeTimeout, "hooks.mayRead")
		defer cancel()
		_, err = h.o.Chat.Rosters.Require(ctx, f.ID, c.principal.UserID)
	case f.Kinds != chat.TopicPresence && f.ID != c.principal.UserID:
		err = &chat.Error{Code: chat.Forbidden, Field: "filter", Msg: "only your own"}
	}
	return f, err
}

// unsubscribe answers UNSUBSCRIBE (MQTT 5.0 and 3.1.1, 3.10).
func (h *Hook) unsubscribe(c *connection, pk *packets.Packet) {
	c.intake.Drain(subscribeTimeout) // what was published before is still received
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
	for _, text := range filters {
		if !chat.IsFilter(text) {
			h.o.Topics.Unsubscribe(c.session.Queue(), text)
		}
	}
	ctx, cancel := chat.WithDeadline(context.Background(), subscribeTimeout, "hooks.unsubscribe")
	defer cancel()
	if err := c.session.SaveUnsubscribed(ctx); err != nil {
		h.logger.Warn("unsubscribe was not saved", "client_id", c.clientID, "err", err)
		for i := range codes {
			codes[i] = packets.ErrUnspecifiedError.Code // it holds for this connection only
		}
	}
	c.WriteSubAck(packets.Unsuback, pk.PacketID, codes)
}
