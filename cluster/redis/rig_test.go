package redis_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
	"github.com/parleymq/parley/cluster/redis"
	"github.com/parleymq/parley/cluster/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a link that runs until the test ends, and what it receives.
type node struct {
	*redis.Link
	id   string
	log  *logBook
	reg  *prometheus.Registry
	stop func() // ends Run and waits for it; may be repeated

	mu  sync.Mutex
	got map[string][]string // frames, by sender
}

// start runs a link. Its heartbeats are fast, and calm changes that.
func start(t testing.TB, url, id string, calm ...func(*redis.Options)) *node {
	t.Helper()
	return startWith(t, url, id, nil, calm...)
}

// startWith is start with a function that receives; nil: the node's own.
func startWith(t testing.TB, url, id string, receive func(string, []byte), calm ...func(*redis.Options)) *node {
	t.Helper()
	n := &node{id: id, log: &logBook{}, reg: prometheus.NewRegistry(), got: map[string][]string{}}
	o := redis.Options{
		URL: url, Installation: "i", Node: cluster.Node{ID: id, Name: "node " + id}, HeartbeatInterval: 500 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: n.reg,
	}
	for _, f := range calm {
		f(&o)
	}
	l, err := redis.New(o)
	if err != nil {
		t.Fatal(err)
	}
	n.Link = l
	if receive == nil {
		receive = n.receive
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, receive) }() // ends with ctx, in stop
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// calm has the heartbeats of production, which a busy machine does not disturb.
func calm(o *redis.Options) { o.HeartbeatInterval = 0 }

func (n *node) receive(from string, frame []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got[from] = append(n.got[from], string(frame))
}

func (n *node) received(from string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.got[from])
}

func (n *node) has(from, frame string) bool { return slices.Contains(n.received(from), frame) }

// together starts nodes, and waits until all can be reached.
func together(t testing.TB, url string, ids []string, calm ...func(*redis.Options)) []*node {
	t.Helper()
	var all []*node
	for _, id := range ids {
		all = append(all, start(t, url, id, calm...))
	}
	whole(t, all...)
	return all
}

// whole says to all nodes that there are the others, as the database does, and waits until
// all are healthy and can be reached.
func whole(t testing.TB, all ...*node) {
	t.Helper()
	for _, n := range all {
		var others []cluster.Node
		for _, other := range all {
			if other != n {
				others = append(others, cluster.Node{ID: other.id, Name: "node " + other.id})
			}
		}
		n.SetPeers(others)
	}
	for _, n := range all {
		redistest.Await(t, fmt.Sprintf("%s to be healthy and have %d peers; log:\n%s", n.id, len(all)-1, n.log.String()), func() bool {
			return n.Healthy() && len(n.Peers()) == len(all)-1
		})
	}
}

// reach sends a frame until it arrives: what is sent while the other side is about to
// come back may be lost.
func reach(t testing.TB, from, to *node, frame string) {
	t.Helper()
	redistest.Await(t, frame+" from "+from.id+" at "+to.id, func() bool {
		from.Send(to.id, []byte(frame))
		return to.has(from.id, frame)
	})
}

// where are the nodes of one user, sorted.
func (n *node) where(t testing.TB, user chat.ID) string {
	t.Helper()
	found, err := n.Locate(t.Context(), []chat.ID{user})
	if err != nil {
		return "unavailable"
	}
	slices.Sort(found[0])
	return strings.Join(found[0], " ")
}

// value is the sum of a metric over its labels that hold all of the given values.
func (n *node) value(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if slices.ContainsFunc(labels, func(l string) bool { return !slices.Contains(values, l) }) {
				continue
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// logBook is a log that can be read meanwhile.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBook) count(text string) int { return strings.Count(l.String(), text) }

const (
	awayLine = "Redis is unavailable"
	backLine = "Redis answers"
)

// kinds are the ways Redis is run.
var kinds = []struct {
	name string
	url  func(t testing.TB) string
}{
	{"single", func(t testing.TB) string { return redistest.Start(t).URL() }},
	{"database", func(t testing.TB) string { return redistest.Start(t).URL() + "/7" }},
	{"tls", func(t testing.TB) string { return redistest.StartTLS(t).URL() }},
	{"acl", func(t testing.TB) string {
		s := redistest.Start(t)
		s.Do(slices.Concat([]any{"ACL", "SETUSER", "parley", "on", ">p/ss:w@rd"}, acl)...)
		s.Do("ACL", "SETUSER", "default", "off", "nopass")
		return strings.Replace(s.URL(), "redis://", "redis://parley:p%2Fss%3Aw%40rd@", 1)
	}},
	{"sentinel", func(t testing.TB) string { return redistest.StartSentinels(t).URL() }},
	{"cluster", func(t testing.TB) string { return redistest.StartCluster(t, 3, false).URL() }},
	{"cluster by one member", func(t testing.TB) string { return redistest.StartCluster(t, 3, false).Masters[1].URL() }},
	{"cluster with acl", func(t testing.TB) string {
		c := redistest.StartCluster(t, 3, false)
		for _, s := range c.Masters {
			s.Do(slices.Concat([]any{"ACL", "SETUSER", "parley", "on", ">secret"}, acl)...)
		}
		return strings.Replace(c.URL(), "redis://", "redis://parley:secret@", 1)
	}},
}

// acl is what docs/redis.md says that a user needs.
var acl = []any{
	"resetkeys", "resetchannels", "~parley:*", "&parley:*", "-@all", "+@connection", "+eval", "+evalsha", "+time", "+zadd", "+zscore", "+zrem",
	"+zremrangebyscore", "+zrangebyscore", "+expire", "+pexpire", "+publish", "+subscribe", "+unsubscribe", "+spublish", "+ssubscribe", "+sunsubscribe",
	"+cluster|slots", "+cluster|shards", "+command",
}

func number(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }
