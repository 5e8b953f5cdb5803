package hooks

import (
	"context"
	"sync"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/topics"
)

// feed sends a client what is read from the store because it has subscribed or come
// back, and waits while the client has no room. It has a goroutine while anything is
// pending, which tries again while the store is unavailable: the client would take its
// silence for an answer. The zero value is ready.
type feed[T any] struct {
	mu    sync.Mutex
	run   *feeding[T] // mu guards; nil: nothing is pending
	ended bool        // mu guards: the connection has ended
}

// feeding is a feed that has something pending.
type feeding[T any] struct {
	pending []T // feed.mu guards: what to send, oldest first
	cancel  context.CancelFunc
	room    chan struct{} // holds a value when the connection's buffer has room again
	done    chan struct{} // closed when the goroutine has ended
}

// add has items sent, after those that are pending. merge bounds what is pending; send
// returns what is left to send when it fails, and is given a channel that holds a value when
// the connection's buffer may have room again. Both are always the same for one feed.
func (f *feed[T]) add(items []T, merge func([]T) []T, send func(ctx context.Context, room <-chan struct{}, items []T) ([]T, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.ended || len(items) == 0:
	case f.run != nil:
		f.run.pending = merge(append(f.run.pending, items...))
	default:
		ctx, cancel := context.WithCancel(context.Background()) // ends with the connection, by end
		f.run = &feeding[T]{pending: merge(items), cancel: cancel, room: make(chan struct{}, 1), done: make(chan struct{})}
		go f.send(ctx, f.run, merge, send) // ends when all is sent, or with the connection; end waits for it
	}
}

func (f *feed[T]) send(ctx context.Context, run *feeding[T], merge func([]T) []T, send func(context.Context, <-chan struct{}, []T) ([]T, error)) {
	defer close(run.done)
	defer run.cancel()
	wait := backoff.New(200*time.Millisecond, 10*time.Second)
	for {
		f.mu.Lock()
		items := run.pending
		run.pending = nil
		if len(items) == 0 || ctx.Err() != nil {
			f.run = nil
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		left, err := send(ctx, run.room, items)
		if err == nil {
			wait.Reset()
			continue
		}
		f.mu.Lock()
		run.pending = merge(append(left, run.pending...))
		f.mu.Unlock()
		wait.Sleep(ctx)
	}
}

// hasRoom tells the feed that the connection's buffer has room again.
func (f *feed[T]) hasRoom() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.run != nil {
		select {
		case f.run.room <- struct{}{}:
		default:
		}
	}
}

// end ends the feed, and returns when nothing more is sent.
func (f *feed[T]) end() {
	f.mu.Lock()
	f.ended = true
	run := f.run
	f.mu.Unlock()
	if run != nil {
		run.cancel()
		<-run.done
	}
}

// feedTyping sends a session that has subscribed to typing, or come back, who is typing.
func (h *Hook) feedTyping(c *connection, filters []chat.Filter) {
	for _, f := range filters {
		if f.Kinds&chat.TopicTyping == 0 {
			continue
		}
		conversations := c.session.Conversations()
		if !f.ID.IsZero() {
			conversations = []chat.ID{f.ID}
		}
		h.o.Chat.EachTyping(c.principal.UserID, conversations, func(id chat.ID, payload []byte) {
			c.session.Signal(delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicTyping, ID: id}, payload))
		})
	}
}

// feedPresence sends the client the presence of those whom the filters cover.
func (h *Hook) feedPresence(c *connection, filters []chat.Filter) {
	var users []chat.ID
	for _, f := range filters {
		if f.Kinds&chat.TopicPresence != 0 {
			users = append(users, f.ID)
		}
	}
	c.presenceFeed.add(users, mergeUsers, func(ctx context.Context, room <-chan struct{}, users []chat.ID) ([]chat.ID, error) {
		ids := users
		if users[0].IsZero() {
			ids = nil // all contacts
		}
		err := h.o.Presence.Feed(ctx, c.principal.UserID, ids, func(p chat.Presence) bool {
			return c.session.TrySignal(delivery.NewSignalFrame(chat.Topic{Kind: chat.TopicPresence, ID: p.UserID}, p.AppendJSON(make([]byte, 0, 128))))
		}, func(ctx context.Context) error { return receive(ctx, room) })
		if err != nil && ctx.Err() == nil {
			h.logger.Warn("the presence of contacts could not be sent; trying again", "client_id", c.clientID, "err", err)
		}
		return users, err
	})
}

// mergeUsers removes duplicates; the zero ID stands for all contacts.
func mergeUsers(users []chat.ID) []chat.ID {
	seen := make(map[chat.ID]struct{}, len(users))
	merged := users[:0]
	for _, id := range users {
		if id.IsZero() {
			return []chat.ID{{}}
		}
		if _, ok := seen[id]; !ok {
			seen[id] = struct{}{}
			merged = append(merged, id)
		}
	}
	return merged
}

// feedRetained sends the client the retained messages of the filters' topics.
func (h *Hook) feedRetained(c *connection, subs []topics.Subscription) {
	c.retainedFeed.add(subs, mergeSubscriptions, func(ctx context.Context, _ <-chan struct{}, subs []topics.Subscription) ([]topics.Subscription, error) {
		queue := c.session.Queue()
		to := topics.Feed{Offer: queue.Offer, Wait: func(ctx context.Context) error { return receive(ctx, queue.Room()) }}
		for i, sub := range subs {
			if err := h.o.Topics.FeedRetained(ctx, queue, sub, to); err != nil { // some may come twice
				if ctx.Err() == nil {
					h.logger.Warn("retained messages could not be read; trying again", "client_id", c.clientID, "err", err)
				}
				return subs[i:], err
			}
		}
		return nil, nil
	})
}

// mergeSubscriptions drops what is more than a session can hold.
func mergeSubscriptions(subs []topics.Subscription) []topics.Subscription {
	return subs[:min(len(subs), maxSubscriptions)]
}

// receive waits for a value, or for ctx to end, whose cause it returns then.
func receive(ctx context.Context, ch <-chan struct{}) error {
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// becameWritable is called when the connection's buffer, which was full, has room again.
func (h *Hook) becameWritable(c *connection) {
	c.session.Writable()
	c.presenceFeed.hasRoom()
	if c.session.MissedPresence() {
		h.feedPresence(c, c.session.Filters(chat.TopicPresence))
	}
}
