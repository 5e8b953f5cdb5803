package hooks

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// presence notes what the client says of its user.
func (h *Hook) presence(c *connection, p *broker.Publish, pk *packets.Packet) error {
	if p.Topic.ID != c.principal.UserID {
		return &chat.Error{Code: chat.Forbidden, Field: "topic", Msg: "only your own presence"}
	}
	status, err := chat.ParseStatus(pk.Payload)
	if err != nil {
		return err
	}
	h.o.Chat.SetStatus(c.device(), c.stay, status)
	p.Settle(nil)
	return nil
}

// will is what the client wants to be published when its connection ends without a
// goodbye: a status of its user, or a command.
type will struct {
	status       chat.Status
	conversation chat.ID // zero: it is a status
	command      chat.Command
	delay        time.Duration
}

// badWill is a will that could never be published. CONNACK has a word for that in MQTT
// 5; in 3.1.1 the connection is closed.
type badWill struct{ err error }

func (e *badWill) Error() string { return e.err.Error() }
func (e *badWill) Unwrap() error { return e.err }

// readWill reads the will of a CONNECT. Nil for one on a topic that no will acts on, and
// for a guest, which has no part in those that one does. May
// the user write there at all is looked at when it is due.
func readWill(p chat.Principal, pk *packets.Packet) (*will, error) {
	topic, err := chat.ParseTopic(pk.Connect.WillTopic)
	if !pk.Connect.WillFlag || err != nil || !p.HasAccount() {
		return nil, nil //nolint:nilnil // none is no fault
	}
	payload, err := willPayload(pk)
	if err != nil {
		return nil, err
	}
	w := &will{delay: time.Duration(pk.Connect.WillProperties.WillDelayInterval) * time.Second}
	switch topic.Kind {
	case chat.TopicPresence:
		if topic.ID != p.UserID {
			return nil, &chat.Error{Code: chat.Forbidden, Field: "will", Msg: "only your own presence"}
		}
		if w.status, err = chat.ParseStatus(payload); err == nil && w.status == chat.Online {
			err = &chat.Error{Code: chat.Invalid, Field: "status", Msg: `must be "away", "invisible" or "offline" in a will: whoever is cut off is not online`}
		}
	case chat.TopicMessages:
		w.conversation = topic.ID
		w.command, err = chat.ParseCommand(payload, pk.Connect.WillProperties.ContentType)
	default:
		return nil, nil //nolint:nilnil // as above
	}
	if err != nil {
		return nil, &badWill{&chat.Error{Code: chat.Invalid, Field: "will", Msg: chat.PublicMessage(err), Err: err}}
	}
	return w, nil
}

// willPayload returns the payload of a will, if it is not too large.
func willPayload(pk *packets.Packet) ([]byte, error) {
	if pk.Origin == emptyWill {
		return nil, nil
	}
	if n := len(pk.Connect.WillPayload); n > chat.MaxWillBytes {
		return nil, &badWill{&chat.Error{Code: chat.Invalid, Field: "will", Msg: "has " + strconv.Itoa(n) + " bytes, limit " + strconv.Itoa(chat.MaxWillBytes)}}
	}
	return pk.Connect.WillPayload, nil
}

// emptyWill marks a CONNECT whose will has no payload, which mochi takes for a fault: it
// is shown one that has (MQTT 5.0, 3.1.3.4 and MQTT 3.1.1, 3.1.3.3 allow none).
const emptyWill = "parley: empty will"

func withWill(pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Connect && pk.Connect.WillFlag && len(pk.Connect.WillPayload) == 0 {
		pk.Connect.WillPayload, pk.Origin = []byte{0}, emptyWill
	}
	return pk
}

// went notes that the connection has ended, and leaves what is to be done about it.
func (h *Hook) went(c *connection) {
	if c.stay == 0 {
		return // it had not begun
	}
	gone := c.goodbye || h.authenticator(c.Conn).Revoked(c.principal)
	end := chat.End{Gone: gone, Kept: c.expiry}
	if c.will != nil {
		end.Will, end.Wait = c.will.status, c.will.delay
	}
	newest := h.o.Chat.DeviceWent(c.device(), c.stay, end)
	if newest { // else it types on
		h.o.Chat.DeviceLeft(c.device())
	}
	if w := c.will; w != nil && !w.conversation.IsZero() && !gone && !c.SentAway() && !h.server.Closing() {
		delay := min(w.delay, c.expiry)
		if newest || delay == 0 { // else it is back already (MQTT 5.0, 3.1.3.2.2)
			h.o.Chat.Wills.Left(c.device(), chat.Will{ConversationID: w.conversation, Command: w.command, Delay: delay})
		}
	}
}

// presenceFeed tells a client how its user's contacts are, after SUBSCRIBE, after it has
// come back, and after it had no room for what was signaled. It has a goroutine
// while there is something to tell, which reads contacts by pages, and waits while
// the connection's buffer is full.
type presenceFeed struct {
	wake chan struct{} // holds a value when the buffer has room again

	mu      sync.Mutex
	all     bool                 // mu guards: all contacts are to be told of
	some    map[chat.ID]struct{} // mu guards: these are; at most as many as the session may hold filters
	running bool                 // mu guards
	ended   bool                 // mu guards: the connection has ended
	wg      sync.WaitGroup       // the goroutine
}

// take returns whom to tell of, nil for all; false if there is nobody, and the
// goroutine ends.
func (f *presenceFeed) take() ([]chat.ID, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || !f.all && len(f.some) == 0 {
		f.running = false
		return nil, false
	}
	var ids []chat.ID
	if !f.all {
		for id := range f.some {
			ids = append(ids, id)
		}
	}
	f.all, f.some = false, nil
	return ids, true
}

// wait returns when nothing more is told.
func (f *presenceFeed) wait() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.wg.Wait()
}

// tellPresence has the client hear of those whose presence the filters cover.
func (h *Hook) tellPresence(c *connection, filters []chat.Filter) {
	f := &c.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, filter := range filters {
		switch {
		case filter.Kinds&chat.TopicPresence == 0:
		case filter.ID.IsZero():
			f.all = true
		default:
			if f.some == nil {
				f.some = map[chat.ID]struct{}{}
			}
			f.some[filter.ID] = struct{}{}
		}
	}
	if f.running || f.ended || !f.all && len(f.some) == 0 {
		return
	}
	f.running = true
	f.wg.Go(func() { h.feed(c) }) // ends when all is told, or with the connection; Ended waits for it
}

// feed tells what there is to tell. While the store is away it tries again: the client
// would take its silence for good news.
func (h *Hook) feed(c *connection) {
	for wait := backoff.New(200*time.Millisecond, 10*time.Second); ; {
		ids, ok := c.feed.take()
		if !ok {
			return
		}
		err := h.o.Chat.TellPresences(c.ctx, c.principal.UserID, ids, func(p chat.Presence) bool {
			return c.session.TrySignal(delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicPresence, ID: p.UserID}, p.AppendJSON(make([]byte, 0, 128))))
		}, func(ctx context.Context) error {
			select {
			case <-c.feed.wake:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		if err == nil || c.ctx.Err() != nil {
			continue
		}
		h.logger.Warn("contacts' presence could not be told; trying again", "client_id", c.clientID, "err", err)
		c.feed.put(ids)
		wait.Sleep(c.ctx)
	}
}

// put gives back what was taken.
func (f *presenceFeed) put(ids []chat.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = f.all || ids == nil
	for _, id := range ids {
		if f.some == nil {
			f.some = map[chat.ID]struct{}{}
		}
		f.some[id] = struct{}{}
	}
}

// writable is called when the connection's buffer, which was full, has room again.
func (h *Hook) writable(c *connection) {
	c.session.Writable()
	select {
	case c.feed.wake <- struct{}{}:
	default:
	}
	if c.session.MissedPresence() {
		h.tellPresence(c, c.session.Filters(chat.TopicPresence))
	}
}
