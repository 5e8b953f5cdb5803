package redis

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// reason is why a frame was dropped; a label of the metrics.
type reason string

const (
	reasonAway     reason = "away"      // Redis is unavailable
	reasonUnknown  reason = "unknown"   // no such peer
	reasonTooLarge reason = "too_large" // over cluster.MaxFrame
	reasonFull     reason = "full"      // too much waits for that peer
	reasonGone     reason = "gone"      // the peer left while it waited
	reasonFailed   reason = "failed"    // Redis did not take it, or did not say so in time
	reasonUnheard  reason = "unheard"   // Redis took it, and the peer was not subscribed; a Cluster cannot tell
)

type metrics struct {
	beats         *prometheus.CounterVec
	flushes       *prometheus.CounterVec
	subscriptions prometheus.Counter
	sent          prometheus.Counter
	messages      prometheus.Counter
	sentBytes     prometheus.Counter
	dropped       *prometheus.CounterVec
	publish       prometheus.Histogram
	received      prometheus.Counter
	receivedBytes prometheus.Counter
	ignored       *prometheus.CounterVec
	missed        prometheus.Counter
	registered    *prometheus.CounterVec
	located       prometheus.Counter
	unlocated     prometheus.Counter
}

// newMetrics registers the metrics of the link; a nil Registerer discards them.
func newMetrics(r prometheus.Registerer, l *Link) *metrics {
	f := promauto.With(r)
	gauge := func(name, help string, value func() int) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vec := func(label, name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	gauge("parley_redis_up", "1 while heartbeats to Redis succeed.", func() int {
		if l.client.Load() == nil {
			return 0
		}
		return 1
	})
	gauge("parley_redis_peers", "Other nodes, as the database knows them.", l.peers.count)
	gauge("parley_redis_strangers", "Nodes with a lease in Redis that the database does not know: another installation uses the same Redis in the same name.", func() int { return int(l.foreign.Load()) })
	gauge("parley_redis_queue_bytes", "Bytes of frames that wait to be sent, plus 64 for each frame.", l.peers.queued)
	gauge("parley_redis_registry_waiting", "Users whose entry in the registry is still to be written or removed.", l.reg.waiting)
	return &metrics{
		beats:         vec("outcome", "parley_redis_heartbeats_total", "Heartbeats to Redis, by outcome: ok, failed."),
		flushes:       vec("found_by", "parley_redis_flushes_total", "Times that Redis had lost entries, by what was missing: lease, registry. All are written again."),
		subscriptions: counter("parley_redis_subscriptions_ended_total", "Subscriptions that ended or could not be made; each is followed by another one."),
		sent:          counter("parley_redis_frames_sent_total", "Frames that Redis took for a node that is subscribed."),
		messages:      counter("parley_redis_messages_total", "Messages to other nodes; each holds the frames that had gathered."),
		sentBytes:     counter("parley_redis_sent_bytes_total", "Bytes of messages to other nodes."),
		dropped:       vec("reason", "parley_redis_frames_dropped_total", "Frames that were not sent, by reason: away, unknown, too_large, full, gone, failed, unheard."),
		publish: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_redis_publish_seconds", Help: "Round trip of the messages that are sent together.", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		received:      counter("parley_redis_frames_received_total", "Frames received from other nodes."),
		receivedBytes: counter("parley_redis_received_bytes_total", "Bytes of messages received."),
		ignored:       vec("reason", "parley_redis_messages_ignored_total", "Messages received and ignored, by reason: version, malformed, repeated."),
		missed:        counter("parley_redis_messages_missed_total", "Messages of other nodes that did not arrive, as later ones show."),
		registered:    vec("operation", "parley_redis_registry_total", "Entries of the registry written, by operation: register, renew, unregister, failed."),
		located:       counter("parley_redis_located_users_total", "Users looked up in the registry."),
		unlocated:     counter("parley_redis_locate_failures_total", "Look-ups in the registry that failed in whole or in part."),
	}
}
