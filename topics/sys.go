package topics

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

const sysEvery = 10 * time.Second

// SysValue is what one topic of $SYS says.
type SysValue struct {
	Topic string // without $SYS/broker/
	Value string
}

// sys tells admins how the server is.
type sys struct {
	start  time.Time
	values atomic.Pointer[func() []SysValue]
}

// TellSys has f asked, every 10 s while somebody listens, and at SUBSCRIBE, for what
// $SYS says beside what the engine knows. It must not block for long.
func (e *Engine) TellSys(f func() []SysValue) { e.sys.values.Store(&f) }

// run publishes on $SYS while somebody listens, until ctx ends.
func (s *sys) run(ctx context.Context, e *Engine) {
	t := time.NewTicker(sysEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if e.forest.all.holds("$SYS") {
				for _, p := range s.publications(e) {
					e.deliver(p)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// publications is all that there is to say now, by the names that Mosquitto has.
func (s *sys) publications(e *Engine) []*chat.Publication {
	subscriptions, sessions := e.Counts()
	n := strconv.Itoa
	list := []SysValue{
		{"uptime", strconv.FormatInt(int64(time.Since(s.start)/time.Second), 10) + " seconds"},
		{"subscriptions/count", n(subscriptions)},
		{"subscriptions/sessions", n(sessions)},
		{"retained messages/count", strconv.FormatInt(e.retain.count.Load(), 10)},
	}
	if f := s.values.Load(); f != nil {
		list = append(list, (*f)()...)
	}
	out := make([]*chat.Publication, len(list))
	for i, v := range list {
		out[i] = &chat.Publication{Topic: "$SYS/broker/" + v.Topic, Payload: []byte(v.Value), QoS: 2, Retain: true}
	}
	return out
}
