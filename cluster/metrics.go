package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	sent, received [256]prometheus.Counter // by kind of frame
	dropped        prometheus.Counter
	malformed      prometheus.Counter
	strange        prometheus.Counter
	lookups        prometheus.Counter
}

var kindNames = map[frameKind]string{
	frameEvent: "event", frameNotice: "notice", frameHere: "here", frameGone: "gone", frameHello: "hello", framePublication: "publication",
}

func newMetrics(r prometheus.Registerer, b *Bus) *metrics {
	f := promauto.With(r)
	m := &metrics{
		dropped:   f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_frames_dropped_total", Help: "Frames to or from other nodes that were dropped, because a queue was full or a node or Redis unavailable; the outbox makes up for them."}),
		malformed: f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_frames_malformed_total", Help: "Frames from other nodes that were malformed or of an unknown kind."}),
		strange:   f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_frames_strange_total", Help: "Frames dropped because the database does not know the node that sent them, or not yet."}),
		lookups:   f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_lookups_total", Help: "Users looked up in the registry."}),
	}
	frames := f.NewCounterVec(prometheus.CounterOpts{Name: "parley_cluster_frames_total", Help: "Frames to and from other nodes."}, []string{"direction", "kind"})
	for kind, name := range kindNames {
		m.sent[kind], m.received[kind] = frames.WithLabelValues("sent", name), frames.WithLabelValues("received", name)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_cluster_peers", Help: "Other nodes that can be reached through Redis."}, func() float64 {
		return float64(b.Peers())
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_cluster_locations", Help: "Users who are cached with the nodes where they are connected."}, func() float64 {
		return float64(b.view.Load().locations.size())
	})
	return m
}

type keeperMetrics struct {
	entries  prometheus.Counter
	rechecks prometheus.Counter
	evicted  prometheus.Counter
	lost     prometheus.Counter
	failures prometheus.Counter
}

func newKeeperMetrics(r prometheus.Registerer) *keeperMetrics {
	f := promauto.With(r)
	return &keeperMetrics{
		entries:  f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_journal_lines_total", Help: "Outbox rows of other nodes that were read: logs that have advanced, sessions that were taken over."}),
		rechecks: f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_rechecks_total", Help: "Times that all sessions were compared with their logs, because outbox rows were missing or could not be handled."}),
		evicted:  f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_nodes_buried_total", Help: "Nodes that this node has evicted because their lease had expired."}),
		lost:     f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_lost_total", Help: "Times that this node was evicted by another node."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_failures_total", Help: "Heartbeats and reads of the outbox that failed."}),
	}
}
