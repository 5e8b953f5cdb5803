package delivery

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	sessions prometheus.Gauge
	pages    prometheus.Counter
	caughtUp prometheus.Counter
	failures prometheus.Counter
}

// newMetrics registers the package's metrics; a nil Registerer discards them.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		sessions: f.NewGauge(prometheus.GaugeOpts{Name: "parley_delivery_sessions", Help: "Connected sessions."}),
		pages:    f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_pages_total", Help: "Pages read from the log for sessions that are behind."}),
		caughtUp: f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_caught_up_events_total", Help: "Events that sessions got from the log instead of live."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_read_failures_total", Help: "Pages that could not be read."}),
	}
}
