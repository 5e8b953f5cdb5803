package redis

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/cluster"
)

const (
	maxQueued = 4 << 20 // Options.MaxQueued
	perFrame  = 64      // added to the length of each frame, so that empty ones are bounded too
)

// peers are the other nodes, each with a queue of frames.
type peers struct {
	mu    sync.Mutex
	nodes []cluster.Node   // mu guards; replaced as a whole
	byID  map[string]*peer // mu guards
}

// peer is the queue of frames for one other node.
type peer struct {
	channel string

	frames [][]byte // peers.mu guards; bounded by Options.MaxQueued: drop and count
	bytes  int      // of frames, as frameSize counts them; peers.mu guards

	seq    uint64 // of the last message; owned by send
	buffer []byte // of the last message, for the next one; owned by send
}

// outgoing is the next message to one peer.
type outgoing struct {
	*peer
	frames    [][]byte
	message   []byte
	receivers *redis.IntCmd
}

// frameSize is how a frame counts in a queue and in a message.
func frameSize(frame []byte) int { return len(frame) + perFrame }

// count returns how many there are.
func (p *peers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.nodes)
}

// has reports whether there is a peer of that id.
func (p *peers) has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byID[id] != nil
}

// queued returns how many bytes wait for all peers.
func (p *peers) queued() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.byID {
		n += q.bytes
	}
	return n
}

// take takes the frames of the next message to each peer for which some wait: up to
// maxPacked bytes, but at least one frame.
func (p *peers) take() (all []outgoing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.byID {
		n, size := 0, 0
		for n < len(q.frames) && (n == 0 || size+frameSize(q.frames[n]) <= maxPacked) {
			size += frameSize(q.frames[n])
			n++
		}
		if n == 0 {
			continue
		}
		all = append(all, outgoing{peer: q, frames: q.frames[:n:n]})
		q.bytes -= size
		if q.frames = q.frames[n:]; len(q.frames) == 0 {
			q.frames = nil // lets go of the frames that were taken
		}
	}
	return all
}

// clear empties all queues, and returns how many frames there were.
func (p *peers) clear() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.byID {
		n += len(q.frames)
		q.frames, q.bytes = nil, 0
	}
	return n
}

// SetPeers implements cluster.Link. Peers that stay keep their queues; the frames for those
// that left are dropped.
func (l *Link) SetPeers(nodes []cluster.Node) {
	slices.SortFunc(nodes, func(a, b cluster.Node) int { return strings.Compare(a.ID, b.ID) })
	p := &l.peers
	p.mu.Lock()
	if slices.Equal(p.nodes, nodes) {
		p.mu.Unlock()
		return
	}
	before, dropped := p.byID, 0
	p.nodes, p.byID = nodes, make(map[string]*peer, len(nodes))
	for _, n := range nodes {
		if p.byID[n.ID] = before[n.ID]; p.byID[n.ID] == nil {
			p.byID[n.ID] = &peer{channel: l.channel(n.ID)}
		}
		delete(before, n.ID)
	}
	for _, q := range before {
		dropped += len(q.frames)
	}
	p.mu.Unlock()
	l.drop(dropped, reasonGone)
	signal(l.changed)
}

// Send implements cluster.Link.
func (l *Link) Send(to string, frame []byte) bool {
	if why := l.enqueue(to, frame); why != "" {
		l.drop(1, why)
		return false
	}
	signal(l.gather)
	return true
}

// enqueue queues a frame, or returns why not.
func (l *Link) enqueue(to string, frame []byte) reason {
	if l.client.Load() == nil {
		return reasonAway
	}
	l.peers.mu.Lock()
	defer l.peers.mu.Unlock()
	q := l.peers.byID[to]
	switch {
	case q == nil:
		return reasonUnknown
	case len(frame) > cluster.MaxFrame:
		return reasonTooLarge
	case len(q.frames) > 0 && q.bytes+frameSize(frame) > l.o.MaxQueued:
		return reasonFull
	}
	q.frames = append(q.frames, frame)
	q.bytes += frameSize(frame)
	return ""
}

// drop counts frames that were not sent.
func (l *Link) drop(n int, why reason) {
	if n > 0 {
		l.metrics.dropped.WithLabelValues(string(why)).Add(float64(n))
		if why == reasonFull { // the others are of a node, or a Redis, that is away, which is logged
			l.full.Do(func() {
				l.logger.Warn("frames dropped: too many wait for a node; device publications are lost, messages come late", "limit_bytes", l.o.MaxQueued)
			})
		}
	}
}

// send sends queued frames until ctx ends; a round trip under way is finished.
func (l *Link) send(ctx context.Context) {
	for {
		select {
		case <-l.gather:
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil && l.publish(context.WithoutCancel(ctx)) {
		}
	}
}

// publish sends one message to each peer for which frames wait, in one round trip of half a
// heartbeat interval at most, and a second more for each MiB, and reports whether there were any. The next frames gather
// meanwhile. While Redis is unavailable, or once ctx has ended, frames are dropped.
func (l *Link) publish(ctx context.Context) bool {
	c := l.client.Load()
	if c == nil || ctx.Err() != nil {
		l.drop(l.peers.clear(), reasonAway)
		return false
	}
	all := l.peers.take()
	if len(all) == 0 {
		return false
	}
	pipe := c.Pipeline()
	size := 0
	for i := range all {
		p := &all[i]
		p.seq++
		p.message = appendHead(p.buffer[:0], l.o.Node.ID, p.seq)
		for _, f := range p.frames {
			p.message = appendFrame(p.message, f)
		}
		if p.buffer = p.message; cap(p.buffer) > 2*maxPacked {
			p.buffer = nil // one large frame is no reason to hold on to its memory
		}
		p.receivers = c.publish(ctx, pipe, p.channel, p.message)
		size += len(p.message)
	}
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, max(l.o.HeartbeatInterval/2, 10*time.Millisecond)+time.Duration(size>>20)*time.Second)
	ran, err := exec(limited, pipe)
	cancel()
	l.metrics.publish.Observe(time.Since(began).Seconds())
	for _, p := range all {
		n, err := p.receivers.Result()
		switch {
		case err != nil || !ran:
			l.drop(len(p.frames), reasonFailed)
		case n == 0 && !c.sharded: // the peer is about to subscribe again, or dead
			l.drop(len(p.frames), reasonUnheard)
		default:
			l.metrics.sent.Add(float64(len(p.frames)))
		}
		l.metrics.messages.Inc()
		l.metrics.sentBytes.Add(float64(len(p.message)))
	}
	if err != nil {
		signal(l.beatNow) // it finds out what is wrong, and logs it
	}
	return true
}
