package hooks

import (
	"context"
	"strconv"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
)

// badWill is a will that could never be published. CONNACK has a code for that in MQTT
// 5 (0x99); in 3.1.1 the connection is closed.
type badWill struct{ err error }

func (e *badWill) Error() string { return e.err.Error() }
func (e *badWill) Unwrap() error { return e.err }

func errWill(msg string, err error) error {
	return &badWill{&chat.Error{Code: chat.Invalid, Field: "will", Msg: msg, Err: err}}
}

// readWill reads the will of a CONNECT. One on a topic that no will acts on, or where the
// client may not publish, is ignored; whether the user may write to a conversation is
// decided when the will is due.
func (h *Hook) readWill(c *connection, pk *packets.Packet) error {
	if !pk.Connect.WillFlag {
		return nil
	}
	topic, err := chat.ParseTopic(pk.Connect.WillTopic)
	onDevices := chat.CodeOf(err) == chat.NotFound
	if onDevices {
		err = h.o.Topics.MayPublish(c.topicUser, pk.Connect.WillTopic)
	}
	if err != nil || !onDevices && !c.principal.HasAccount() {
		return nil
	}
	payload := pk.Connect.WillPayload
	if pk.Origin == emptyWill {
		payload = nil
	}
	if len(payload) > chat.MaxWillBytes {
		return errWill("has "+strconv.Itoa(len(payload))+" bytes, limit "+strconv.Itoa(chat.MaxWillBytes), nil)
	}
	props := &pk.Connect.WillProperties
	delay := time.Duration(props.WillDelayInterval) * time.Second
	switch {
	case onDevices:
		c.will = h.deviceWill(c, pk, payload, delay)
	case topic.Kind == chat.TopicPresence && topic.ID != c.principal.UserID:
		return &chat.Error{Code: chat.Forbidden, Field: "will", Msg: "only your own presence"}
	case topic.Kind == chat.TopicPresence:
		status, err := chat.ParseStatus(payload)
		if err == nil && status == chat.Online {
			err = &chat.Error{Code: chat.Invalid, Field: "status", Msg: `must be "away", "invisible" or "offline" in a will: whoever is cut off is not online`}
		}
		if err != nil {
			return errWill(chat.PublicMessage(err), err)
		}
		c.presenceWill = presence.End{Will: status, Delay: delay}
	case topic.Kind == chat.TopicMessages:
		cmd, err := chat.ParseCommand(payload, props.ContentType)
		if err != nil {
			return errWill(chat.PublicMessage(err), err)
		}
		c.will = &chat.Will{Delay: delay, Size: len(cmd.Content), Publish: func(ctx context.Context, done func(error)) {
			h.o.Chat.PublishWill(ctx, c.principal.UserID, topic.ID, &cmd, done)
		}}
	}
	return nil
}

// deviceWill is the will of a CONNECT on a device topic. Its message expiry interval
// begins when it is published.
func (h *Hook) deviceWill(c *connection, pk *packets.Packet, payload []byte, delay time.Duration) *chat.Will {
	user, props := c.topicUser, &pk.Connect.WillProperties
	pub := h.publication(c, pk.Connect.WillTopic, pk.Connect.WillQos, pk.Connect.WillRetain, props, payload)
	expiry := time.Duration(props.MessageExpiryInterval) * time.Second
	return &chat.Will{Delay: delay, OnDevices: true, Size: pub.Cost(), Publish: func(ctx context.Context, done func(error)) {
		h.o.Topics.PublishWill(ctx, user, pub, expiry, done)
	}}
}

// emptyWill marks a CONNECT whose will has no payload, which mochi takes for a fault: it
// is shown one that has (MQTT 5.0, 3.1.3.4 and MQTT 3.1.1, 3.1.3.3 allow none).
const emptyWill = "parley: empty will"

func withWill(pk packets.Packet) packets.Packet {
	if pk.Connect.WillFlag && len(pk.Connect.WillPayload) == 0 {
		pk.Connect.WillPayload, pk.Origin = []byte{0}, emptyWill
	}
	return pk
}
