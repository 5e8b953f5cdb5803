package delivery

import (
	"slices"

	"github.com/parleymq/parley/chat"
)

// Subscription is one topic filter that a session holds.
type Subscription struct {
	Text       string // as the client wrote it
	Filter     chat.Filter
	QoS        byte
	Identifier uint32 // MQTT 5 subscription identifier; 0: none

	// Device is set for a filter on device topics. Its Filter is zero: the broker for device
	// topics matches it, and delivers to the session's Queue.
	Device                     bool
	NoLocal, RetainAsPublished bool // options of a filter on device topics (MQTT 5.0, 3.8.3.1)

	held bool // Subscribe has returned for it, or for an earlier one with the same text
}

// subscriptions is the set of a session's filters, arranged for matching. A Subscription in
// it is not changed but by hold.
type subscriptions struct {
	byText map[string]*Subscription
	mine   []*Subscription             // filters with a wildcard for the id
	exact  map[chat.ID][]*Subscription // the others

	delivered int // filters that cover delivery receipts
}

// put adds a subscription, in place of one with the same text.
func (ss *subscriptions) put(s Subscription) {
	ss.remove(s.Text)
	if ss.byText == nil {
		ss.byText = map[string]*Subscription{}
	}
	p := &s
	ss.byText[s.Text] = p
	if s.Device {
		return
	}
	if s.Filter.Kinds&chat.TopicDelivered != 0 {
		ss.delivered++
	}
	if s.Filter.ID.IsZero() {
		ss.mine = append(ss.mine, p)
		return
	}
	if ss.exact == nil {
		ss.exact = map[chat.ID][]*Subscription{}
	}
	ss.exact[s.Filter.ID] = append(ss.exact[s.Filter.ID], p)
}

// remove removes the filter with the given text and reports whether there was one.
func (ss *subscriptions) remove(text string) bool {
	s, ok := ss.byText[text]
	if !ok {
		return false
	}
	delete(ss.byText, text)
	if s.Device {
		return true
	}
	if s.Filter.Kinds&chat.TopicDelivered != 0 {
		ss.delivered--
	}
	same := func(o *Subscription) bool { return o.Text == text }
	if s.Filter.ID.IsZero() {
		ss.mine = slices.DeleteFunc(ss.mine, same)
	} else if rest := slices.DeleteFunc(ss.exact[s.Filter.ID], same); len(rest) > 0 {
		ss.exact[s.Filter.ID] = rest
	} else {
		delete(ss.exact, s.Filter.ID)
	}
	return true
}

// hold marks the filter with the given text, if it is still there, as held.
func (ss *subscriptions) hold(text string) {
	if s, ok := ss.byText[text]; ok {
		s.held = true
	}
}

// match reports whether any filter covers the topic, the highest QoS among those
// that do, and their identifiers: overlapping filters get one copy (MQTT 5.0, 3.3.4).
func (ss *subscriptions) match(t chat.Topic) (qos byte, ids []uint32, ok bool) {
	for _, list := range [2][]*Subscription{ss.mine, ss.exact[t.ID]} {
		for _, s := range list {
			if !s.Filter.Covers(t) {
				continue
			}
			ok = true
			qos = max(qos, s.QoS)
			if s.Identifier != 0 {
				ids = append(ids, s.Identifier)
			}
		}
	}
	return qos, ids, ok
}

// covers reports whether any filter covers the topic, and whether one of those is held.
func (ss *subscriptions) covers(t chat.Topic) (covered, held bool) {
	for _, list := range [2][]*Subscription{ss.mine, ss.exact[t.ID]} {
		for _, s := range list {
			if s.Filter.Covers(t) {
				covered, held = true, held || s.held
			}
		}
	}
	return covered, held
}

// holdsAll reports whether a held filter covers the messages of every conversation.
func (ss *subscriptions) holdsAll() bool {
	for _, s := range ss.mine {
		if s.held && s.Filter.Kinds&chat.TopicMessages != 0 {
			return true
		}
	}
	return false
}
