package topics

import (
	"context"
	"slices"
	"time"

	"github.com/parleymq/parley/chat"
)

const (
	topicsPage  = 1000 // topic names read in one query
	messagePage = 50   // retained messages in memory for one receiver, if none is over 256 KiB
)

// Feed passes retained messages to a receiver that has room for a few at a time.
type Feed struct {
	// Offer hands over a copy, or returns false if there is no room.
	Offer func(chat.PublicationCopy) bool
	// Wait returns nil when there may be room again, or the error that ends the feed.
	Wait func(context.Context) error
}

// FeedRetained passes the receiver the retained messages that its filter covers, as after
// SUBSCRIBE (MQTT 5.0, 3.3.1.3), and the present values of $SYS. It blocks while the
// receiver has no room. A retained message that is published meanwhile is sent live, and no
// older message of its topic follows it. Shared subscriptions get none.
func (e *Engine) FeedRetained(ctx context.Context, r Receiver, sub Subscription, feed Feed) error {
	e.mu.Lock()
	h := e.holders[r]
	e.mu.Unlock()
	if h == nil || sub.Filter.Share != "" {
		return nil // unsubscribed meanwhile
	}
	f := &feeding{e: e, h: h, sub: sub, feed: feed}
	if isSys(sub.Filter.Topic) {
		return f.offerAll(ctx, e.sysPublications())
	}
	for _, space := range e.spaces(h.user, sub.Filter) {
		if err := f.space(ctx, space); err != nil {
			return err
		}
	}
	return nil
}

// feeding is one call of FeedRetained.
type feeding struct {
	e    *Engine
	h    *holder
	sub  Subscription
	feed Feed
}

// space feeds the messages of one space.
func (f *feeding) space(ctx context.Context, space chat.ID) error {
	below, wild := f.sub.Filter.below()
	if !wild {
		return f.topics(ctx, space, []string{below})
	}
	if below != "" && f.sub.Filter.Covers(below) { // a/# covers a
		if err := f.topics(ctx, space, []string{below}); err != nil {
			return err
		}
	}
	for after := ""; ; {
		query, cancel := chat.WithDeadline(ctx, retainTimeout, "topics.list")
		page, err := f.e.o.Store.ListRetainedTopics(query, space, below, after, topicsPage)
		cancel()
		if err != nil {
			return err
		}
		var covered []string
		for _, topic := range page {
			if f.sub.Filter.Covers(topic) && f.e.mayReceive(f.h, topic) {
				covered = append(covered, topic)
			}
		}
		for some := range slices.Chunk(covered, max(1, min(messagePage, messagePage*(256<<10)/f.e.o.MaxPublication))) {
			if err := f.topics(ctx, space, some); err != nil {
				return err
			}
		}
		if len(page) < topicsPage {
			return nil
		}
		after = page[len(page)-1]
	}
}

// topics feeds the messages of the named topics, at most messagePage.
func (f *feeding) topics(ctx context.Context, space chat.ID, topics []string) error {
	f.note(space, topics) // before they are read: what is sent live from now on is newer
	defer f.forget(space, topics)
	query, cancel := chat.WithDeadline(ctx, retainTimeout, "topics.read")
	found, err := f.e.o.Store.GetRetained(query, space, topics, time.Now())
	cancel()
	if err != nil {
		return err
	}
	return f.offerAll(ctx, found)
}

func (f *feeding) note(space chat.ID, topics []string) {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.h.page == nil {
		f.h.page = map[retainedKey]bool{}
	}
	for _, topic := range topics {
		f.h.page[retainedKey{space, topic}] = false
	}
}

func (f *feeding) forget(space chat.ID, topics []string) {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	for _, topic := range topics {
		delete(f.h.page, retainedKey{space, topic})
	}
	if len(f.h.page) == 0 {
		f.h.page = nil
	}
}

func (f *feeding) offerAll(ctx context.Context, list []*chat.Publication) error {
	for _, p := range list {
		if f.sub.NoLocal && p.Origin == f.h.origin || !f.sub.Filter.Covers(p.Topic) || !f.e.mayReceive(f.h, p.Topic) {
			continue
		}
		c := chat.PublicationCopy{Publication: p, QoS: min(f.sub.QoS, p.QoS), RetainFlag: true}
		if f.sub.Identifier != 0 {
			c.Subscriptions = []uint32{f.sub.Identifier}
		}
		for !f.offer(c) {
			if err := f.feed.Wait(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// offer hands over a copy, unless a newer message of its topic has been sent live.
func (f *feeding) offer(c chat.PublicationCopy) bool {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	if f.h.page[retainedKey{c.Space, c.Topic}] {
		return true
	}
	return f.feed.Offer(c)
}
