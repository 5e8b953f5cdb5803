package hooks

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// publish takes a PUBLISH from a client (MQTT 5.0 and 3.1.1, 3.3). It gives it a
// place in the acknowledging window and hands it on; the reader goes on with the
// next packet, and the acknowledgement follows the commit. Only a full window, a
// full queue, or something that must be asked of the store holds this reader up.
func (h *Hook) publish(c *connection, pk *packets.Packet) error {
	if err := h.o.Fence.Wait(c.ctx); err != nil {
		return c.end(packets.ErrServerShuttingDown, "the server is stopping")
	}
	qos := pk.FixedHeader.Qos
	switch {
	case qos > 2:
		return c.end(packets.ErrMalformedPacket, "QoS 3 does not exist")
	case qos == 0 && pk.FixedHeader.Dup:
		return c.end(packets.ErrMalformedPacket, "DUP at QoS 0") // [MQTT-3.3.1-2]
	case qos > 0 && pk.PacketID == 0:
		return c.protocolError("PUBLISH needs a packet identifier at QoS 1 and 2") // [MQTT-2.2.1-3]
	case len(pk.Properties.SubscriptionIdentifier) > 0:
		return c.protocolError("a client must not send a subscription identifier") // [MQTT-3.3.4-6]
	}
	if pk.Properties.TopicAliasFlag {
		if err := c.resolve(pk); err != nil {
			return err
		}
	}
	if pk.TopicName == "" || strings.ContainsAny(pk.TopicName, "+#\x00") || !utf8.ValidString(pk.TopicName) {
		return c.end(packets.ErrTopicNameInvalid, "a topic name has 1 to 65,535 bytes of UTF-8 without +, # and NUL") // [MQTT-3.3.2-2]
	}
	topic, err := chat.ParseTopic(pk.TopicName)
	p, ok := c.intake.Begin(topic, pk.PacketID, qos, pk.FixedHeader.Dup)
	if !ok {
		return packets.ErrRejectPacket
	}
	if p == nil {
		return nil // sent again, and answered by the first
	}
	switch {
	case err == nil:
		err = h.dispatch(c, p, pk)
	case chat.CodeOf(err) == chat.NotFound:
		p.Name = pk.TopicName
		err = h.device(c, p, pk)
	default:
		p.Name, err = pk.TopicName, refusedTopic(err)
	}
	if err != nil {
		h.metrics.refused.WithLabelValues(string(chat.CodeOf(err))).Inc()
		p.Settle(err)
	}
	return nil
}

// refusedTopic is what a publish to a topic in conv/ or user/ that does not exist is
// answered: the client may not write there (0x87).
func refusedTopic(err error) error {
	return &chat.Error{Code: chat.Forbidden, Field: "topic", Msg: strings.TrimPrefix(chat.PublicMessage(err), "topic: "), Err: err}
}

// dispatch does what a publish to one of Parley's topics asks for. After an error
// nothing has been done, and p is to be settled with it.
func (h *Hook) dispatch(c *connection, p *broker.Publish, pk *packets.Packet) error {
	if !c.principal.HasAccount() {
		return errAnonymous("topic")
	}
	switch p.Topic.Kind {
	case chat.TopicMessages:
		return h.command(c, p, pk)
	case chat.TopicTyping:
		return h.typing(c, p, pk)
	case chat.TopicReads:
		return h.reads(c, p, pk)
	case chat.TopicPresence:
		return h.presence(c, p, pk)
	default:
		return &chat.Error{Code: chat.Forbidden, Field: "topic", Msg: "nothing may be published here"}
	}
}

// command hands a command on a conversation's messages to chat.
func (h *Hook) command(c *connection, p *broker.Publish, pk *packets.Packet) error {
	cmd, err := chat.ParseCommand(pk.Payload, pk.Properties.ContentType)
	p.Event.ClientMsgID = cmd.ClientMsgID // for the error object, if it is refused
	if err != nil {
		if _, member := h.o.Chat.Rosters.Require(c.ctx, p.Topic.ID, c.principal.UserID); member != nil {
			return member // a stranger hears only that
		}
		return err
	}
	src := chat.Source{Session: c.hash, PacketID: p.PacketID, Resent: pk.FixedHeader.Dup, Since: c.session.ResendSince(), Device: c.clientID, Epoch: c.session.Epoch()}
	return h.o.Chat.Submit(c.ctx, c.principal.UserID, p.Topic.ID, &cmd, src, &p.Append)
}

// typing tells the members that the client's user types, or has stopped.
func (h *Hook) typing(c *connection, p *broker.Publish, pk *packets.Packet) error {
	if _, err := h.o.Chat.Rosters.Require(c.ctx, p.Topic.ID, c.principal.UserID); err != nil {
		return err // a stranger hears only that
	}
	typing, err := chat.ParseTyping(pk.Payload)
	if err != nil {
		return err
	}
	if err := h.o.Chat.SetTyping(c.ctx, c.device(), p.Topic.ID, typing); err != nil {
		return err
	}
	p.Settle(nil)
	return nil
}

// refused tells the client, on user/{me}/errors, why a publish was refused that
// could not be answered otherwise (QoS 0 and MQTT 3.1.1).
func (c *connection) refused(p *broker.Publish) {
	topic := clip(p.Name, 200)
	if p.Topic.Kind != 0 {
		topic = p.Topic.String()
	}
	body := map[string]any{
		"type": "about:blank", "title": "publish refused", "code": chat.CodeOf(p.Err), "detail": chat.PublicMessage(p.Err), "topic": topic,
	}
	if key := p.Event.ClientMsgID; !key.IsZero() {
		body["clientMsgId"] = key
	}
	payload, err := json.Marshal(body)
	if err != nil {
		return // of strings only: it cannot fail
	}
	c.session.Signal(delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicErrors, ID: c.principal.UserID}, payload))
}

// clip returns s, or the beginning of it if that has more than n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
