package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type writerMetrics struct {
	commit  prometheus.Histogram
	batch   prometheus.Histogram
	events  prometheus.Counter
	repeats prometheus.Counter
	retries prometheus.Counter
	queued  prometheus.Gauge
}

// newWriterMetrics registers the writer's metrics; a nil Registerer discards them.
func newWriterMetrics(r prometheus.Registerer) *writerMetrics {
	f := promauto.With(r)
	return &writerMetrics{
		commit: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_log_commit_seconds", Help: "Time from the start of a batch to the end of its transaction, retries included.",
			Buckets: prometheus.ExponentialBuckets(0.0002, 2, 16),
		}),
		batch: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_log_batch_events", Help: "Events in one transaction.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		events:  f.NewCounter(prometheus.CounterOpts{Name: "parley_log_events_total", Help: "Events stored."}),
		repeats: f.NewCounter(prometheus.CounterOpts{Name: "parley_log_repeats_total", Help: "Messages that had been stored before under the same clientMsgId."}),
		retries: f.NewCounter(prometheus.CounterOpts{Name: "parley_log_retries_total", Help: "Transactions tried again because the database was unavailable or refused them."}),
		queued:  f.NewGauge(prometheus.GaugeOpts{Name: "parley_log_queued_events", Help: "Events waiting for their commit in the shard that committed last."}),
	}
}

type indexerMetrics struct {
	waiting  prometheus.Gauge
	indexed  prometheus.Counter
	failures prometheus.Counter
	step     prometheus.Histogram
}

// newIndexerMetrics registers the indexer's metrics; a nil Registerer discards them.
func newIndexerMetrics(r prometheus.Registerer) *indexerMetrics {
	f := promauto.With(r)
	return &indexerMetrics{
		waiting:  f.NewGauge(prometheus.GaugeOpts{Name: "parley_search_waiting_events", Help: "Events counted that are not in the search index; up to 63 of each conversation may stay so."}),
		indexed:  f.NewCounter(prometheus.CounterOpts{Name: "parley_search_followed_events_total", Help: "Events that the search index has processed."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "parley_search_failures_total", Help: "Failed steps of the search index; each is retried."}),
		step: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_search_step_seconds", Help: "Time to process up to 4,096 events of a conversation.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
	}
}
