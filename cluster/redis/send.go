package redis

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/cluster"
)

// maxQueued is how many bytes may wait for one peer; what comes then is dropped and counted.
const maxQueued = 4 << 20

// perFrame is added to the size of a frame in a queue, so that empty ones are bounded too.
const perFrame = 64

// peers are the other nodes, with their queues.
type peers struct {
	nodes []cluster.Node
	byID  map[string]*peer
}

func (p *peers) queued() bool {
	for _, q := range p.byID {
		q.mu.Lock()
		n := len(q.frames)
		q.mu.Unlock()
		if n > 0 || q.busy.Load() {
			return true
		}
	}
	return false
}

// SetPeers implements cluster.Link. Peers that stay keep their queues; what waited for
// those that left is dropped.
func (l *Link) SetPeers(nodes []cluster.Node) {
	slices.SortFunc(nodes, func(a, b cluster.Node) int { return strings.Compare(a.ID, b.ID) })
	before := l.peers.Load()
	if slices.Equal(before.nodes, nodes) {
		return
	}
	p := &peers{nodes: nodes, byID: make(map[string]*peer, len(nodes))}
	for _, n := range nodes {
		if p.byID[n.ID] = before.byID[n.ID]; p.byID[n.ID] == nil {
			p.byID[n.ID] = &peer{channel: l.channel(n.ID)}
		}
	}
	l.peers.Store(p)
	l.metrics.peers.Set(float64(len(nodes)))
	for id, q := range before.byID {
		if p.byID[id] == nil {
			l.drop(l.empty(q, true), reasonGone)
		}
	}
	signal(l.changed)
}

// Send implements cluster.Link.
func (l *Link) Send(to string, frame []byte) bool {
	switch q := l.peers.Load().byID[to]; {
	case !l.up.Load():
		l.drop(1, reasonAway)
	case q == nil:
		l.drop(1, reasonUnknown)
	case len(frame) > cluster.MaxFrame:
		l.drop(1, reasonTooLarge)
	default:
		return l.queue(q, frame)
	}
	return false
}

func (l *Link) queue(q *peer, frame []byte) bool {
	size := len(frame) + perFrame
	q.mu.Lock()
	reason := reasonFull
	ok := !q.gone && q.bytes+size <= maxQueued
	if ok {
		q.frames = append(q.frames, frame)
		q.bytes += size
	} else if q.gone {
		reason = reasonGone
	}
	q.mu.Unlock()
	if !ok {
		l.drop(1, reason)
		return false
	}
	l.metrics.queued.Add(float64(size))
	signal(l.gather)
	return true
}

// drop counts frames that were not sent.
func (l *Link) drop(n int, why reason) {
	if n > 0 {
		l.metrics.dropped.WithLabelValues(string(why)).Add(float64(n))
	}
}

// send sends what has gathered until ctx ends.
func (l *Link) send(ctx context.Context) {
	for {
		select {
		case <-l.gather:
		case <-ctx.Done():
			return
		}
		for l.round(ctx) {
		}
	}
}

// round sends one message to each peer for whom something waits, in one round trip, and
// reports whether there was any. While it is under way the next frames gather.
func (l *Link) round(ctx context.Context) bool {
	c := l.client.Load()
	if c == nil || ctx.Err() != nil {
		for _, q := range l.peers.Load().byID {
			l.drop(l.empty(q, false), reasonAway)
		}
		return false
	}
	type posted struct {
		*parcel
		receivers *redis.IntCmd
	}
	var all []posted
	pipe := c.Pipeline()
	for _, q := range l.peers.Load().byID {
		if p := l.pack(q); p != nil {
			all = append(all, posted{p, c.publish(ctx, pipe, q.channel, p.bytes)})
		}
	}
	if len(all) == 0 {
		return false
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, max(l.o.Beat/2, 10*time.Millisecond))
	ran, err := exec(limited, pipe)
	cancel()
	l.metrics.publish.Observe(time.Since(began).Seconds())
	for _, p := range all {
		n, err := p.receivers.Result()
		switch {
		case err != nil || !ran:
			l.drop(p.frames, reasonFailed)
		case n == 0 && !c.sharded: // the peer is about to subscribe again, or dead
			l.drop(p.frames, reasonUnheard)
		default:
			l.metrics.sent.Add(float64(p.frames))
		}
		l.metrics.messages.Inc()
		l.metrics.sentBytes.Add(float64(len(p.bytes)))
		p.peer.busy.Store(false)
	}
	if err != nil {
		signal(l.beatNow) // it finds out what is wrong, and says so
	}
	return true
}
