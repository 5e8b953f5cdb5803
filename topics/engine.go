package topics

import (
	"cmp"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/batch"
	"github.com/parleymq/parley/chat"
)

// Receiver receives copies of publications: a session, also while its device is away. Its
// methods are called from many goroutines and must not block.
type Receiver interface {
	// Receive accepts a copy, or drops it if there is no room.
	Receive(c chat.PublicationCopy)
	// Present reports whether the device is connected: a shared subscription prefers
	// those members.
	Present() bool
}

// Subscription is a filter with the options of MQTT 5.0, 3.8.3.1.
type Subscription struct {
	Filter            Filter
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	Identifier        uint32 // 0: none
}

// Options configures an Engine.
type Options struct {
	Access      chat.TopicAccess // authorization; nil: Own
	OneSpace    bool             // dev/ is part of the shared space, not each user's own
	Store       chat.RetainedStore
	MaxRetained int64 // retained messages over all topics, approximately; 0: 1,000,000
	// MaxPublication is the size of the largest publication in bytes, by which retained
	// messages are read a few at a time; 0: 256 KiB.
	MaxPublication int
	// Forward is called with each publication that is accepted here, for other nodes. It
	// must not block. Nil: there are none.
	Forward func(*chat.Publication)
	// Sys returns what $SYS says beside what the engine knows. It is called every 10 s
	// while a filter covers $SYS, and at SUBSCRIBE; it must not block for long. May be nil.
	Sys        func() []SysValue
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Engine is the broker for device topics. It is safe for concurrent use; Run must run.
type Engine struct {
	o       Options
	logger  *slog.Logger
	metrics *metrics
	filters tree
	wills   Lane // wills, one after the other
	start   time.Time

	retained atomic.Int64              // how many messages are stored, as of a while ago
	queue    *batch.Queue[*publishing] // retained messages that wait for their commit

	mu      sync.Mutex
	holders map[Receiver]*holder // mu guards
	nextID  uint64               // mu guards
}

// holder is a receiver and its filters.
type holder struct {
	id       uint64
	user     chat.TopicUser
	origin   uint64 // see chat.Publication
	receiver Receiver

	subs map[string]Filter // Engine.mu guards: by text

	mu   sync.Mutex
	page map[retainedKey]bool // mu guards: the topics that are being fed at the moment; true: a newer message has been sent live
}

type retainedKey struct {
	space chat.ID
	topic string
}

// New returns an engine without subscriptions.
func New(o Options) *Engine {
	if o.Access == nil {
		o.Access = Own{}
	}
	o.MaxRetained = cmp.Or(o.MaxRetained, 1_000_000)
	o.MaxPublication = cmp.Or(o.MaxPublication, 256<<10)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	e := &Engine{o: o, logger: o.Logger.With("component", "topics"), start: time.Now(), holders: map[Receiver]*holder{}}
	e.queue = batch.NewQueue(batch.Limits{
		Items: retainQueue, Bytes: retainQueueBytes, Patience: retainPatience, BatchItems: retainBatch, BatchBytes: retainBatchBytes,
	}, func(w *publishing) int { return w.pub.Cost() })
	e.metrics = newMetrics(o.Registerer, e)
	return e
}

// MayPublish returns nil if a device may publish to a topic; otherwise Forbidden, or
// Invalid for what is no topic name.
func (e *Engine) MayPublish(u chat.TopicUser, topic string) error {
	if isSys(topic) || !e.access(u).MayPublish(u, topic) {
		return &chat.Error{Code: chat.Forbidden, Field: "topic", Msg: "you may not publish here"}
	}
	return CheckName(topic)
}

func isSys(topic string) bool { return topic == "$SYS" || strings.HasPrefix(topic, "$SYS/") }

// access returns the authorization that applies to a device.
func (e *Engine) access(u chat.TopicUser) chat.TopicAccess {
	if u.Access != nil {
		return u.Access
	}
	return e.o.Access
}

// mayKnowSys reports whether a device may hold a filter on $SYS: an admin's, or a guest's
// if its listener has rules of its own, which then decide what it receives.
func mayKnowSys(u chat.TopicUser, filter string) bool {
	return u.Principal.Admin || !u.Principal.HasAccount() && u.Access != nil && u.Access.MaySubscribe(u, filter)
}

// MaySubscribe parses a filter and checks whether a device may hold it: Invalid,
// Forbidden, or Unsupported for a shared subscription to conv/ or user/.
func (e *Engine) MaySubscribe(u chat.TopicUser, text string) (Filter, error) {
	f, err := ParseFilter(text)
	switch {
	case err != nil:
		return f, err
	case chat.IsFilter(f.Topic):
		return f, &chat.Error{Code: chat.Unsupported, Field: "filter", Msg: "shared subscriptions are not offered on conv/ and user/"}
	case isSys(f.Topic) && !mayKnowSys(u, f.Topic):
		return f, &chat.Error{Code: chat.Forbidden, Field: "filter", Msg: "$SYS is for admins"}
	case !isSys(f.Topic) && !e.access(u).MaySubscribe(u, f.Topic):
		return f, &chat.Error{Code: chat.Forbidden, Field: "filter", Msg: "you may not subscribe to this"}
	}
	return f, nil
}

// Space returns the space of a topic name that the user uses.
func (e *Engine) Space(user chat.ID, topic string) chat.ID {
	if !e.o.OneSpace && strings.HasPrefix(topic, devPrefix) {
		return user
	}
	return chat.ID{}
}

// spaces returns in which spaces a device's filter may cover something: its user's own, and
// the shared one. With one space for everything it is always the shared one.
func (e *Engine) spaces(u chat.TopicUser, f Filter) []chat.ID {
	own, shared := u.Principal.UserID, chat.ID{}
	first, _, more := strings.Cut(f.Topic, "/")
	switch {
	case e.o.OneSpace:
	case first == "#" || first == "+" && more:
		return []chat.ID{own, shared}
	case first == "dev" && more: // "dev" itself is nobody's
		return []chat.ID{own}
	}
	return []chat.ID{shared}
}

// Subscribe adds a filter to a receiver, whose device is u, in place of its filter with the
// same text. The receiver gets what is published from the return on and covered. The
// caller has checked it with MaySubscribe.
func (e *Engine) Subscribe(r Receiver, u chat.TopicUser, text string, sub Subscription) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.holders[r]
	if h == nil {
		e.nextID++
		h = &holder{
			id: e.nextID, user: u, origin: chat.SessionHash(u.Principal.UserID, u.ClientID), receiver: r, subs: map[string]Filter{},
		}
		e.holders[r] = h
	}
	h.subs[text] = sub.Filter
	s := &subscription{Subscription: sub, holder: h}
	for _, space := range e.spaces(u, sub.Filter) {
		e.filters.put(space, s)
	}
}

// Unsubscribe removes a receiver's filter, if there is one with that text.
func (e *Engine) Unsubscribe(r Receiver, text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := e.holders[r]; h != nil {
		e.drop(h, text)
		if len(h.subs) == 0 {
			delete(e.holders, r)
		}
	}
}

// End removes all of a receiver's filters.
func (e *Engine) End(r Receiver) {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.holders[r]
	if h == nil {
		return
	}
	for text := range h.subs {
		e.drop(h, text)
	}
	delete(e.holders, r)
}

// drop removes a filter from the trees. mu is held.
func (e *Engine) drop(h *holder, text string) {
	f, ok := h.subs[text]
	if !ok {
		return
	}
	delete(h.subs, text)
	for _, space := range e.spaces(h.user, f) {
		e.filters.remove(space, h, f)
	}
}

// Arrive delivers a publication that another node has accepted to the sessions here. It
// does not wait for them, and may be called from many goroutines; publications of one
// publisher keep their order if the calls do.
func (e *Engine) Arrive(p *chat.Publication) { e.deliver(p) }

// deliver hands a publication to every holder whose filters cover it, and reports whether
// there is any.
func (e *Engine) deliver(p *chat.Publication) bool {
	var buf [16]*subscription
	f := found{subs: buf[:0]}
	e.filters.match(p.Space, p.Topic, &f, func(g *group) *subscription { return e.choose(g, p) })
	if len(f.subs) > 1 {
		slices.SortStableFunc(f.subs, func(a, b *subscription) int { return cmp.Compare(a.holder.id, b.holder.id) })
	}
	reached := false
	for len(f.subs) > 0 {
		n := 1
		for n < len(f.subs) && f.subs[n].holder == f.subs[0].holder {
			n++
		}
		reached = e.send(f.subs[:n], p) || reached
		f.subs = f.subs[n:]
	}
	for i := range f.shared {
		reached = e.send(f.shared[i:i+1], p) || reached
	}
	return reached
}

// send hands a holder one copy for all of its filters that cover the publication (MQTT
// 5.0, 3.3.4): at the highest QoS among them, with all their identifiers.
func (e *Engine) send(subs []*subscription, p *chat.Publication) bool {
	h := subs[0].holder
	c := chat.PublicationCopy{Publication: p}
	reached := false
	for _, s := range subs {
		if s.NoLocal && p.Origin != 0 && p.Origin == h.origin {
			continue
		}
		reached = true
		c.QoS = max(c.QoS, min(s.QoS, p.QoS))
		c.RetainFlag = c.RetainFlag || s.RetainAsPublished && p.Retain
		if s.Identifier != 0 && !slices.Contains(c.Subscriptions, s.Identifier) {
			c.Subscriptions = append(c.Subscriptions, s.Identifier)
		}
	}
	if !reached || !e.mayReceive(h, p.Topic) {
		return false
	}
	if p.Retain {
		h.mu.Lock()
		if _, ok := h.page[retainedKey{p.Space, p.Topic}]; ok {
			h.page[retainedKey{p.Space, p.Topic}] = true
		}
		h.mu.Unlock()
	}
	e.metrics.copies.Inc()
	h.receiver.Receive(c)
	return true
}

func (e *Engine) mayReceive(h *holder, topic string) bool {
	if isSys(topic) {
		return h.user.Principal.Admin || mayKnowSys(h.user, topic) && h.user.Access.MayReceive(h.user, topic)
	}
	return e.access(h.user).MayReceive(h.user, topic)
}

// choose returns the member of a shared subscription that gets the publication, in
// rotation: the next one that is connected or, if none is, the next one (MQTT 5.0, 4.8.2).
func (e *Engine) choose(g *group, p *chat.Publication) *subscription {
	n := len(g.members)
	first := int(g.next.Add(1)-1) % n
	var away *subscription
	for i := range n {
		s := g.members[(first+i)%n]
		switch {
		case !e.mayReceive(s.holder, p.Topic):
		case s.holder.receiver.Present():
			g.next.Add(uint32(i))
			return s
		case away == nil:
			away = s
		}
	}
	return away
}

// Counts returns how many filters are held, by how many sessions, including those whose
// devices are away.
func (e *Engine) Counts() (subscriptions, sessions int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, h := range e.holders {
		subscriptions += len(h.subs)
	}
	return subscriptions, len(e.holders)
}
