package client

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
)

// maxSignals is how many signals about different things may wait for their functions.
// Beyond it the oldest is dropped.
const maxSignals = 10_000

// signalKey is what a signal is about; a later one about the same replaces it.
type signalKey struct {
	kind         string
	conversation ID
	user         ID
}

// signals queues calls of the Options' functions: only the latest about each thing, in the
// order in which the things first changed.
type signals struct {
	mu     sync.Mutex
	queue  []signalKey          // mu guards
	latest map[signalKey]func() // mu guards
	some   chan struct{}        // capacity 1
}

func newSignals() *signals {
	return &signals{latest: map[signalKey]func(){}, some: make(chan struct{}, 1)}
}

func (s *signals) put(key signalKey, call func()) {
	s.mu.Lock()
	if _, waits := s.latest[key]; !waits {
		if len(s.queue) >= maxSignals {
			delete(s.latest, s.queue[0])
			s.queue = s.queue[1:]
		}
		s.queue = append(s.queue, key)
	}
	s.latest[key] = call
	s.mu.Unlock()
	notify(s.some)
}

// run makes the calls one after the other, until ctx ends.
func (s *signals) run(ctx context.Context) {
	for ctx.Err() == nil {
		var call func()
		s.mu.Lock()
		if len(s.queue) > 0 {
			call = s.latest[s.queue[0]]
			delete(s.latest, s.queue[0])
			s.queue = s.queue[1:]
		}
		s.mu.Unlock()
		if call != nil {
			call()
			continue
		}
		select {
		case <-s.some:
		case <-ctx.Done():
		}
	}
}

// read decodes a signal and queues the call of its function.
func (s *signals) read(o *Options, topic string, payload []byte) error {
	switch kind := topic[strings.LastIndexByte(topic, '/')+1:]; kind {
	case "typing":
		return queue(s, o.OnTyping, payload, func(v Typing) signalKey { return signalKey{kind, v.ConversationID, v.UserID} })
	case "reads":
		return queue(s, o.OnRead, payload, func(v Read) signalKey { return signalKey{kind, v.ConversationID, v.UserID} })
	case "delivered":
		return queue(s, o.OnDelivered, payload, func(v Delivered) signalKey { return signalKey{kind, v.ConversationID, v.UserID} })
	case "presence":
		return queue(s, o.OnPresence, payload, func(v Presence) signalKey { return signalKey{kind: kind, user: v.UserID} })
	case "errors":
		var p struct {
			problem
			Topic string `json:"topic"`
		}
		if err := json.Unmarshal(payload, &p); err != nil {
			return err
		}
		if f := o.OnRefused; f != nil {
			e := &Error{Op: "publish", Code: p.Code, Detail: p.Detail}
			s.put(signalKey{kind: kind + " " + p.Topic}, func() { f(e) })
		}
	}
	return nil
}

func queue[T any](s *signals, f func(T), payload []byte, key func(T) signalKey) error {
	if f == nil {
		return nil
	}
	var v T
	if err := json.Unmarshal(payload, &v); err != nil {
		return err
	}
	s.put(key(v), func() { f(v) })
	return nil
}
