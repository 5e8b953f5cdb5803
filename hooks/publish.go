package hooks

import (
	"context"
	"encoding/json"
	"hash/crc32"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
)

// publish takes a PUBLISH from a client (MQTT 5.0 and 3.1.1, 3.3). It gives it a
// slot in the acknowledgement window and hands it on; the reader goes on with the
// next packet, and the acknowledgement follows the commit. Only a full window, a
// full queue, or something that must be asked of the store blocks this reader.
func (h *Hook) publish(c *connection, pk *packets.Packet) error {
	if err := h.o.Fence.Wait(context.Background()); err != nil {
		return c.end(packets.ErrServerShuttingDown, "the server is stopping")
	}
	if pk.Properties.TopicAliasFlag {
		if err := c.resolveAlias(pk); err != nil {
			return err
		}
	}
	if pk.TopicName == "" || strings.ContainsAny(pk.TopicName, "+#") {
		return c.end(packets.ErrTopicNameInvalid, "a topic name has 1 to 65,535 bytes of UTF-8 without +, # and NUL") // [MQTT-3.3.2-2]
	}
	topic, err := chat.ParseTopic(pk.TopicName)
	p, ok := c.intake.Begin(topic, pk.PacketID, pk.FixedHeader.Qos, pk.FixedHeader.Dup)
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
		err = h.publishDevice(c, p, pk)
	default:
		p.Name = pk.TopicName
		err = errNoSuchTopic(err)
	}
	if err != nil {
		p.Settle(err)
	}
	return nil
}

// maxAliases is the Topic Alias Maximum of every client (MQTT 5.0, 3.2.2.3.8).
const maxAliases = 10

// resolveAlias gives a PUBLISH with a topic alias its topic name, and notes a new alias.
func (c *connection) resolveAlias(pk *packets.Packet) error {
	alias := pk.Properties.TopicAlias
	if alias == 0 || alias > maxAliases { // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
		return c.end(packets.ErrTopicAliasInvalid, "a topic alias is 1 to 10")
	}
	switch {
	case pk.TopicName != "":
		if c.aliases == nil {
			c.aliases = new([maxAliases]string)
		}
		c.aliases[alias-1] = strings.Clone(pk.TopicName)
		return nil
	case c.aliases != nil:
		pk.TopicName = c.aliases[alias-1]
	}
	if pk.TopicName == "" {
		return c.protocolError("the topic alias has no topic") // MQTT 5.0, 3.3.2.3.4
	}
	return nil
}

// errNoSuchTopic refuses a topic in conv/ or user/ that does not exist: nobody may write
// there (0x87).
func errNoSuchTopic(err error) error {
	return &chat.Error{Code: chat.Forbidden, Field: "topic", Msg: strings.TrimPrefix(chat.PublicMessage(err), "topic: "), Err: err}
}

var (
	errOthersPresence = &chat.Error{Code: chat.Forbidden, Field: "topic", Msg: "only your own presence"}
	errNoPublishing   = &chat.Error{Code: chat.Forbidden, Field: "topic", Msg: "nothing may be published here"}
)

// errNoAccount refuses a client without an account what belongs to accounts.
func errNoAccount(field string) error {
	return &chat.Error{Code: chat.Forbidden, Field: field, Msg: "conversations are for those who say who they are; you are connected without an account"}
}

// dispatch does what a publish to one of Parley's topics asks for. After an error
// nothing has been done, and p is to be settled with it.
func (h *Hook) dispatch(c *connection, p *broker.Publish, pk *packets.Packet) error {
	if !c.principal.HasAccount() {
		return errNoAccount("topic")
	}
	switch p.Topic.Kind {
	case chat.TopicMessages:
		return h.publishCommand(c, p, pk)
	case chat.TopicTyping, chat.TopicReads:
		if _, err := h.o.Chat.Rosters.Require(context.Background(), p.Topic.ID, c.principal.UserID); err != nil {
			return err // before the payload is looked at: a stranger is told only that
		}
		if p.Topic.Kind == chat.TopicReads {
			return h.publishRead(c, p, pk)
		}
		typing, err := chat.ParseTyping(pk.Payload)
		if err == nil {
			err = h.o.Chat.SetTyping(context.Background(), c.device(), p.Topic.ID, typing)
		}
		if err != nil {
			return err
		}
	case chat.TopicPresence:
		if p.Topic.ID != c.principal.UserID {
			return errOthersPresence
		}
		status, err := chat.ParseStatus(pk.Payload)
		if err != nil {
			return err
		}
		h.o.Presence.SetStatus(c.device(), c.stay, status)
	default:
		return errNoPublishing
	}
	p.Settle(nil)
	return nil
}

// publishCommand hands a command on a conversation's messages to chat.
func (h *Hook) publishCommand(c *connection, p *broker.Publish, pk *packets.Packet) error {
	cmd, err := chat.ParseCommand(pk.Payload, pk.Properties.ContentType)
	p.Event.ClientMsgID = cmd.ClientMsgID // for the error object, if it is refused
	if err != nil {
		if _, member := h.o.Chat.Rosters.Require(context.Background(), p.Topic.ID, c.principal.UserID); member != nil {
			return member // a stranger is told only that
		}
		return err
	}
	src := chat.Source{Resent: pk.FixedHeader.Dup, Since: c.session.ResendSince(), Device: c.clientID, Epoch: c.session.Epoch()}
	if p.QoS > 0 && cmd.ClientMsgID.IsZero() {
		fresh := h.o.Chat.NewResendKey(c.sessionHash, p.PacketID)
		src.Key = fresh
		if c.session.Kept() { // with DUP it is looked up all the same: its first sending may have been a repeat of one before a crash
			var ok bool
			if src.Key, ok = c.intake.Claim(p, fresh, digest(pk)); !ok {
				return &chat.Error{Code: chat.Unavailable, Op: "hooks.publish", Msg: "the device has connected again; this connection is over"}
			}
		}
	}
	return h.o.Chat.Submit(context.Background(), c.principal.UserID, p.Topic.ID, &cmd, src, &p.Append)
}

var digests = crc32.MakeTable(crc32.Castagnoli) // computed by the processor's own instruction

// digest tells what a publish says from what others under its packet identifier say. It
// is stored with sessions.
func digest(pk *packets.Packet) uint32 {
	sum := crc32.Update(uint32(pk.FixedHeader.Qos), digests, pk.Payload)
	sum = crc32.Update(sum, digests, []byte(pk.TopicName))
	return crc32.Update(sum, digests, []byte(pk.Properties.ContentType))
}

// publishRead moves how far the client's user has read the conversation. At QoS 1 the
// acknowledgement follows the commit.
func (h *Hook) publishRead(c *connection, p *broker.Publish, pk *packets.Packet) error {
	r, err := chat.ParseRead(pk.Payload)
	if err != nil {
		return err
	}
	if p.QoS > 0 {
		return h.o.Chat.SubmitRead(context.Background(), c.principal.UserID, p.Topic.ID, &r, false, p)
	}
	if err := h.o.Chat.SubmitRead(context.Background(), c.principal.UserID, p.Topic.ID, &r, true, &unacknowledgedRead{h, c, p.Topic}); err != nil {
		return err
	}
	p.Settle(nil) // the move may wait for a second, and what is published after it must not
	return nil
}

// unacknowledgedRead is a move at QoS 0, which is answered only if it is refused.
type unacknowledgedRead struct {
	h     *Hook
	c     *connection
	topic chat.Topic
}

// Settle implements chat.Settler.
func (q *unacknowledgedRead) Settle(err error) {
	if err != nil {
		q.h.refused(q.c, &broker.Publish{Topic: q.topic, Err: err}, false)
	}
}

// publishDevice hands a publish to a device topic to everybody whose filters cover it.
// After an error nothing has been done, and p is to be settled with it.
func (h *Hook) publishDevice(c *connection, p *broker.Publish, pk *packets.Packet) error {
	p.Device = true
	if err := h.o.Topics.MayPublish(c.topicUser(), pk.TopicName); err != nil {
		return err
	}
	pub := h.publication(c, pk.TopicName, p.QoS, pk.FixedHeader.Retain, &pk.Properties, pk.Payload)
	if expiry := pk.Properties.MessageExpiryInterval; expiry > 0 {
		pub.Expires = time.Now().Add(time.Duration(expiry) * time.Second)
	}
	h.o.Topics.Publish(context.Background(), &c.lane, c.principal.UserID, pub, func(matched bool, err error) {
		if err == nil && !matched {
			p.Code = packets.CodeNoMatchingSubscribers.Code
		}
		p.Settle(err)
	})
	return nil
}

// publication is what the client publishes to a device topic, now or as its will.
func (h *Hook) publication(c *connection, topic string, qos byte, retain bool, props *packets.Properties, payload []byte) *chat.Publication {
	return &chat.Publication{
		Space: h.o.Topics.Space(c.principal.UserID, topic), Topic: topic, QoS: qos, Retain: retain,
		Origin: c.sessionHash, Properties: broker.PassedOn(props), Payload: payload,
	}
}

// refused counts and logs a publish that was refused. If no acknowledgement tells the
// client, at QoS 0 and in MQTT 3.1.1, all devices of its user are told on
// user/{id}/errors: the one that published seldom looks, and another may be a person's.
func (h *Hook) refused(c *connection, p *broker.Publish, told bool) {
	code := chat.CodeOf(p.Err)
	h.metrics.refused.WithLabelValues(string(code)).Inc()
	topic := clip(p.Name, 200)
	if p.Topic.Kind != 0 {
		topic = p.Topic.String()
	}
	c.refusals.Do(func() {
		if h.refusals.Allow() {
			h.logger.Warn("publish refused", "user", c.principal.UserID, "client_id", c.clientID, "topic", topic, "code", code, "err", p.Err)
		}
	})
	if told {
		return
	}
	problem := map[string]any{
		"type": "about:blank", "title": "publish refused", "code": code, "detail": chat.PublicMessage(p.Err), "topic": topic, "clientId": c.clientID,
	}
	if key := p.Event.ClientMsgID; !key.IsZero() {
		problem["clientMsgId"] = key
	}
	payload, err := json.Marshal(problem)
	if err != nil {
		return // of strings only: it cannot fail
	}
	h.o.Chat.PublishRefused(c.principal.UserID, payload)
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
