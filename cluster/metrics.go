package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	sent, received [256]prometheus.Counter // by kind of frame
	dropped        prometheus.Counter
	malformed      prometheus.Counter
	lookups        prometheus.Counter
}

var kindNames = map[frameKind]string{
	frameEvent: "event", frameNotice: "notice", frameHere: "here", frameGone: "gone", frameHello: "hello", framePublication: "publication",
}

func newMetrics(r prometheus.Registerer, b *Bus) *metrics {
	f := promauto.With(r)
	m := &metrics{
		dropped:   f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_frames_dropped_total", Help: "Frames to or from other nodes that were dropped for want of room; the journal makes up for them."}),
		malformed: f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_frames_malformed_total", Help: "Frames of other nodes that could not be read, or were of a kind that is not known."}),
		lookups:   f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_lookups_total", Help: "Users who were looked up in the registry."}),
	}
	frames := f.NewCounterVec(prometheus.CounterOpts{Name: "parley_cluster_frames_total", Help: "Frames to and from other nodes."}, []string{"direction", "kind"})
	for kind, name := range kindNames {
		m.sent[kind], m.received[kind] = frames.WithLabelValues("sent", name), frames.WithLabelValues("received", name)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_cluster_peers", Help: "Other nodes that can be reached through Redis."}, func() float64 {
		return float64(b.Peers())
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_cluster_locations", Help: "Users of whom it is remembered at which nodes they are."}, func() float64 {
		return float64(b.locations.size())
	})
	return m
}

type keeperMetrics struct {
	journal  prometheus.Counter
	rechecks prometheus.Counter
	buried   prometheus.Counter
	lost     prometheus.Counter
	failures prometheus.Counter
}

func newKeeperMetrics(r prometheus.Registerer) *keeperMetrics {
	f := promauto.With(r)
	return &keeperMetrics{
		journal:  f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_journal_lines_total", Help: "What other nodes have stored, as read from the journal: logs that have moved, devices that have connected."}),
		rechecks: f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_rechecks_total", Help: "Times that all sessions were looked at, because the journal did not reach back far enough."}),
		buried:   f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_nodes_buried_total", Help: "Nodes that this one has given up, because they were not heard of any more."}),
		lost:     f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_lost_total", Help: "Times that this node was given up by the others."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "parley_cluster_failures_total", Help: "Heartbeats and readings of the journal that have failed."}),
	}
}
