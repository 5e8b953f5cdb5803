package topics

import (
	"context"
	"strconv"
	"time"

	"github.com/parleymq/parley/chat"
)

const sysEvery = 10 * time.Second

// SysValue is the value of one topic of $SYS.
type SysValue struct {
	Topic string // without $SYS/broker/
	Value string
}

// runSys publishes on $SYS, while a filter covers it, until ctx ends.
func (e *Engine) runSys(ctx context.Context) {
	t := time.NewTicker(sysEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if e.filters.holds("$SYS") {
				for _, p := range e.sysPublications() {
					e.deliver(p)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// sysPublications returns everything that $SYS says now, under Mosquitto's names.
func (e *Engine) sysPublications() []*chat.Publication {
	subscriptions, sessions := e.Counts()
	list := []SysValue{
		{"uptime", strconv.FormatInt(int64(time.Since(e.start)/time.Second), 10) + " seconds"},
		{"subscriptions/count", strconv.Itoa(subscriptions)},
		{"subscriptions/sessions", strconv.Itoa(sessions)},
		{"retained messages/count", strconv.FormatInt(e.retained.Load(), 10)},
	}
	if e.o.Sys != nil {
		list = append(list, e.o.Sys()...)
	}
	out := make([]*chat.Publication, len(list))
	for i, v := range list {
		out[i] = &chat.Publication{Topic: "$SYS/broker/" + v.Topic, Payload: []byte(v.Value), QoS: 2, Retain: true}
	}
	return out
}
