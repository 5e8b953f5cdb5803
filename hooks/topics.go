package hooks

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/topics"
)

// maxAliases is the Topic Alias Maximum of every client (MQTT 5.0, 3.2.2.3.8).
const maxAliases = 10

// aliases are the topic names that a client has given numbers, from 1 (MQTT 5.0,
// 3.3.2.3.4). They end with the connection.
type aliases [maxAliases]string

// resolve gives a PUBLISH with a topic alias its topic name, and notes a new alias.
func (c *connection) resolve(pk *packets.Packet) error {
	alias := pk.Properties.TopicAlias
	if alias == 0 || alias > maxAliases { // [MQTT-3.3.2-8], [MQTT-3.3.2-9]
		return c.end(packets.ErrTopicAliasInvalid, "a topic alias is 1 to 10")
	}
	if pk.TopicName != "" {
		c.aliases[alias-1] = pk.TopicName
		return nil
	}
	if pk.TopicName = c.aliases[alias-1]; pk.TopicName == "" {
		return c.protocolError("the topic alias has no topic") // MQTT 5.0, 3.3.2.3.4
	}
	return nil
}

// errAnonymous is the answer to whoever has no account and wants what is an account's.
func errAnonymous(field string) error {
	return &chat.Error{Code: chat.Forbidden, Field: field, Msg: "conversations are for those who say who they are; you are connected without an account"}
}

// device hands a publish to a device topic to everybody whose filters cover it. After
// an error nothing has been done, and p is to be settled with it.
func (h *Hook) device(c *connection, p *broker.Publish, pk *packets.Packet) error {
	p.Device = true
	if err := h.o.Topics.MayPublish(c.user, pk.TopicName); err != nil {
		return err
	}
	props := &pk.Properties
	if strings.ContainsAny(props.ResponseTopic, "+#") {
		_ = c.protocolError("a response topic has no wildcards") // [MQTT-3.3.2-14]
		return nil
	}
	pub := &chat.Publication{
		Space: h.o.Topics.Space(c.principal.UserID, pk.TopicName), Topic: pk.TopicName, QoS: p.QoS, Retain: pk.FixedHeader.Retain,
		Origin: c.hash, Properties: broker.PassedOn(props), Payload: pk.Payload,
	}
	if props.MessageExpiryInterval > 0 {
		pub.Expires = time.Now().Add(time.Duration(props.MessageExpiryInterval) * time.Second)
	}
	h.o.Topics.Publish(c.ctx, &c.lane, c.principal.UserID, pub, func(matched bool, err error) {
		if err != nil {
			h.metrics.refused.WithLabelValues(string(chat.CodeOf(err))).Inc()
		} else if !matched {
			p.Code = packets.CodeNoMatchingSubscribers.Code
		}
		p.Settle(err)
	})
	return nil
}

// deviceFilter is a filter on device topics that SUBSCRIBE asks for.
type deviceFilter struct {
	sub  topics.Subscription
	text string
	tell bool // the client wants to hear of retained messages
}

func subscriptionOf(f topics.Filter, s *delivery.Subscription) topics.Subscription {
	return topics.Subscription{Filter: f, QoS: s.QoS, NoLocal: s.NoLocal, RetainAsPublished: s.RetainAsPublished, Identifier: s.Identifier}
}

// holdDevices has the session receive what the filters cover.
func (h *Hook) holdDevices(c *connection, filters []deviceFilter) {
	for _, f := range filters {
		h.o.Topics.Subscribe(c.session.Queue(), c.user, f.text, f.sub)
	}
}

// dropDevices ends that, for filters that the session holds no more.
func (h *Hook) dropDevices(c *connection, filters []string) {
	for _, text := range filters {
		if !chat.IsFilter(text) {
			h.o.Topics.Unsubscribe(c.session.Queue(), text)
		}
	}
}

// resumeDevices has a session that has come back receive what its filters cover: they
// are still there if its device was away for less than this process has lived.
func (h *Hook) resumeDevices(c *connection) {
	c.intake.Restore(c.session.Releasing())
	for _, s := range c.session.DeviceSubscriptions() {
		f, err := h.o.Topics.MaySubscribe(c.user, s.Text)
		if err != nil {
			h.o.Topics.Unsubscribe(c.session.Queue(), s.Text) // no more
			continue
		}
		h.o.Topics.Subscribe(c.session.Queue(), c.user, s.Text, subscriptionOf(f, &s))
	}
}

// retainedFeed gives a client the retained messages that its new filters cover. It has
// a goroutine while there are any, which waits while the session has no room.
type retainedFeed struct {
	mu      sync.Mutex
	subs    []topics.Subscription // mu guards: to be fed, oldest first
	running bool                  // mu guards
	ended   bool                  // mu guards: the connection has ended
	wg      sync.WaitGroup        // the goroutine
}

// tellRetained has the client get what is retained on the filters' topics.
func (h *Hook) tellRetained(c *connection, filters []deviceFilter) {
	f := &c.retained
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range filters {
		if d.tell && d.sub.Filter.Share == "" && len(f.subs) < h.o.MaxSubscriptions { // MQTT 5.0, 4.8.2
			f.subs = append(f.subs, d.sub)
		}
	}
	if f.running || f.ended || len(f.subs) == 0 {
		return
	}
	f.running = true
	f.wg.Go(func() { h.feedRetained(c) }) // ends when all is told, or with the connection; Ended waits for it
}

func (f *retainedFeed) next() (topics.Subscription, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || len(f.subs) == 0 {
		f.running, f.subs = false, nil
		return topics.Subscription{}, false
	}
	first := f.subs[0]
	f.subs = f.subs[1:]
	return first, true
}

// wait returns when nothing more is told.
func (f *retainedFeed) wait() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.wg.Wait()
}

// feedRetained feeds one filter after the other. While the store is away it tries
// again, and some may come twice.
func (h *Hook) feedRetained(c *connection) {
	box := c.session.Queue()
	feed := topics.Feed{Offer: box.Offer, Wait: func(ctx context.Context) error {
		select {
		case <-box.Room():
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
	for {
		sub, ok := c.retained.next()
		if !ok {
			return
		}
		for wait := backoff.New(200*time.Millisecond, 10*time.Second); c.ctx.Err() == nil; wait.Sleep(c.ctx) {
			err := h.o.Topics.FeedRetained(c.ctx, box, sub, feed)
			if err == nil || c.ctx.Err() != nil {
				break
			}
			h.logger.Warn("retained messages could not be read; trying again", "client_id", c.clientID, "err", err)
		}
	}
}

// readDeviceWill reads the will of a CONNECT on a device topic. Nil for one where the
// client may not publish: it is ignored, as on every topic where a will means nothing.
func (h *Hook) readDeviceWill(u chat.TopicUser, origin uint64, pk *packets.Packet) (*topics.Will, error) {
	topic := pk.Connect.WillTopic
	if _, err := chat.ParseTopic(topic); !pk.Connect.WillFlag || chat.CodeOf(err) != chat.NotFound || h.o.Topics.MayPublish(u, topic) != nil {
		return nil, nil //nolint:nilnil // none is no fault
	}
	payload, err := willPayload(pk)
	if err != nil {
		return nil, err
	}
	props := &pk.Connect.WillProperties
	return &topics.Will{
		Publication: &chat.Publication{
			Space: h.o.Topics.Space(u.Principal.UserID, topic), Topic: topic, QoS: pk.Connect.WillQos, Retain: pk.Connect.WillRetain,
			Origin: origin, Properties: broker.PassedOn(props), Payload: payload,
		},
		Expiry: time.Duration(props.MessageExpiryInterval) * time.Second,
		Delay:  time.Duration(props.WillDelayInterval) * time.Second,
	}, nil
}

// deviceWent leaves the will of a connection that has ended, if it is due. A device that
// has connected again already has not gone, unless its will was to be sent at once
// (MQTT 5.0, 3.1.3.2.2).
func (h *Hook) deviceWent(c *connection) {
	if c.left == nil || !c.welcomed || c.goodbye || h.authenticator(c.Conn).Revoked(c.principal) || h.server.Closing() {
		return
	}
	w := *c.left
	w.Delay = min(w.Delay, c.expiry)
	for _, s := range h.o.Router.Sessions(c.principal.UserID) {
		if s != c.session && s.ClientID == c.clientID && w.Delay > 0 {
			return
		}
	}
	h.o.Topics.WillLeft(c.user, w)
}
