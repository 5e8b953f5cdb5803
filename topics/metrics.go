package topics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	published prometheus.Counter
	copies    prometheus.Counter
	store     prometheus.Histogram
}

// newMetrics registers the package's metrics; a nil Registerer discards them.
func newMetrics(r prometheus.Registerer, e *Engine) *metrics {
	f := promauto.With(r)
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_topics_subscriptions", Help: "Filters on device topics, including those of sessions whose devices are away."}, func() float64 { n, _ := e.Counts(); return float64(n) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_topics_retained", Help: "Retained messages, counted every minute."}, func() float64 { return float64(e.retained.Load()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "parley_topics_retained_queue", Help: "Retained messages waiting for their commit."}, func() float64 { return float64(e.queue.Len()) })
	return &metrics{
		published: f.NewCounter(prometheus.CounterOpts{Name: "parley_topics_published_total", Help: "Publications to device topics accepted."}),
		copies:    f.NewCounter(prometheus.CounterOpts{Name: "parley_topics_copies_total", Help: "Copies of them handed to sessions."}),
		store: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_topics_retain_seconds", Help: "Time to store a batch of retained messages.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
	}
}
