package hooks

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/topics"
)

// badWill is a will that would be refused if it were published now, with the reason code
// of that.
type badWill struct {
	err  *chat.Error
	code byte
}

func (e *badWill) Error() string { return e.err.Error() }
func (e *badWill) Unwrap() error { return e.err }

// refuseWill returns why a CONNECT is refused for its will, and logs it, since MQTT 3.1.1
// can say little: err is what a PUBLISH would be refused with.
func (h *Hook) refuseWill(c *connection, pk *packets.Packet, err error) error {
	code, refused := broker.PubackReason(err)
	if !refused { // it could not be found out
		return err
	}
	if h.refusals.Allow() {
		h.logger.Warn("connect refused for its will", "user", c.principal.UserID, "client_id", c.clientID, "topic", clip(pk.Connect.WillTopic, 200), "code", chat.CodeOf(err), "err", err)
	}
	return &badWill{&chat.Error{Code: chat.CodeOf(err), Field: "will", Msg: chat.PublicMessage(err), Err: err}, code}
}

// readWill reads the will of a CONNECT. One that would be refused if it were published now
// refuses the CONNECT: nobody would hear of it when it is due. Two things are decided only
// then, because they change: whether a block lets the user write, and what the rules of a
// listener allow. A will on typing or reads has no effect.
func (h *Hook) readWill(c *connection, pk *packets.Packet) error {
	if !pk.Connect.WillFlag {
		return nil
	}
	payload := pk.Connect.WillPayload
	topic, err := chat.ParseTopic(pk.Connect.WillTopic)
	onDevices := chat.CodeOf(err) == chat.NotFound
	switch {
	case strings.ContainsAny(pk.Connect.WillTopic, "+#"):
		err = topics.CheckName(pk.Connect.WillTopic)
	case onDevices:
		err = h.o.Topics.MayPublish(c.topicUser(), pk.Connect.WillTopic)
		if chat.CodeOf(err) == chat.Forbidden && c.Listener().Topics != nil {
			err = topics.CheckName(pk.Connect.WillTopic)
		}
	case err != nil:
		err = errNoSuchTopic(err)
	default:
		err = h.mayLeave(c, topic)
	}
	if err == nil && len(payload) > chat.MaxWillBytes {
		err = &chat.Error{Code: chat.Invalid, Msg: "has " + strconv.Itoa(len(payload)) + " bytes, limit " + strconv.Itoa(chat.MaxWillBytes)}
	}
	if err != nil {
		return h.refuseWill(c, pk, err)
	}
	props := &pk.Connect.WillProperties
	delay := time.Duration(props.WillDelayInterval) * time.Second
	switch {
	case onDevices:
		c.will = h.deviceWill(c, pk, payload, delay)
	case topic.Kind == chat.TopicPresence:
		var status chat.Status
		status, err = chat.ParseStatus(payload)
		if err == nil && status == chat.Online {
			err = &chat.Error{Code: chat.Invalid, Field: "status", Msg: `must be "away", "invisible" or "offline" in a will: whoever is cut off is not online`}
		}
		c.presenceWill = presence.End{Will: status, Delay: delay}
	case topic.Kind == chat.TopicTyping:
		_, err = chat.ParseTyping(payload)
	case topic.Kind == chat.TopicReads:
		_, err = chat.ParseRead(payload)
	case topic.Kind == chat.TopicMessages:
		var cmd chat.Command
		cmd, err = chat.ParseCommand(payload, props.ContentType)
		c.will = &chat.Will{Delay: delay, Size: len(cmd.Content), Publish: func(ctx context.Context, done func(error)) {
			h.o.Chat.PublishWill(ctx, c.device(), c.session.Epoch(), topic.ID, &cmd, done)
		}}
	}
	if err != nil {
		return h.refuseWill(c, pk, err)
	}
	return nil
}

// mayLeave decides whether the client may have a will on one of Parley's own topics.
func (h *Hook) mayLeave(c *connection, topic chat.Topic) error {
	switch {
	case !c.principal.HasAccount():
		return errNoAccount("topic")
	case topic.Kind == chat.TopicPresence && topic.ID == c.principal.UserID:
		return nil
	case topic.Kind == chat.TopicPresence:
		return errOthersPresence
	case topic.Kind&(chat.TopicMessages|chat.TopicTyping|chat.TopicReads) == 0:
		return errNoPublishing
	}
	ctx, cancel := chat.WithDeadline(context.Background(), authTimeout, "hooks.mayLeave")
	defer cancel()
	_, err := h.o.Chat.Rosters.Require(ctx, topic.ID, c.principal.UserID)
	return err
}

// deviceWill is the will of a CONNECT on a device topic. Its message expiry interval
// begins when it is published.
func (h *Hook) deviceWill(c *connection, pk *packets.Packet, payload []byte, delay time.Duration) *chat.Will {
	user, props := c.topicUser(), &pk.Connect.WillProperties
	pub := h.publication(c, pk.Connect.WillTopic, pk.Connect.WillQos, pk.Connect.WillRetain, props, payload)
	expiry := time.Duration(props.MessageExpiryInterval) * time.Second
	return &chat.Will{Delay: delay, OnDevices: true, Size: pub.Cost(), Publish: func(ctx context.Context, done func(error)) {
		h.o.Topics.PublishWill(ctx, user, c.session.Epoch(), pub, expiry, done)
	}}
}
