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
	resent   prometheus.Counter
	cursors  prometheus.Counter
	save     prometheus.Histogram
	expired  prometheus.Counter

	deviceDropped    prometheus.Counter
	tooLarge         prometheus.Counter
	forgotten        prometheus.Counter
	partsDropped     prometheus.Counter
	deliveredDropped prometheus.Counter
}

// newMetrics registers the package's metrics; a nil Registerer discards them.
func newMetrics(r prometheus.Registerer, router *Router) *metrics {
	f := promauto.With(r)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "parley_delivery_device_waiting_bytes", Help: "Bytes of publications to device topics that wait in session queues.",
	}, func() float64 { return float64(router.Waiting()) })
	return &metrics{
		sessions: f.NewGauge(prometheus.GaugeOpts{Name: "parley_delivery_sessions", Help: "Connected sessions."}),
		pages:    f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_pages_total", Help: "Pages read from the log for sessions that are behind."}),
		caughtUp: f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_caught_up_events_total", Help: "Events that were sent from the log instead of live."}),
		failures: f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_failures_total", Help: "Failed reads of log pages and failed saves of cursors and receipts; each is tried again."}),
		resent:   f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_resent_total", Help: "Publications sent again after a reconnect, with DUP."}),
		cursors:  f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_saved_cursors_total", Help: "Cursors saved."}),
		save: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_delivery_save_seconds", Help: "Time to save a batch of cursors.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		expired: f.NewCounter(prometheus.CounterOpts{Name: "parley_delivery_expired_sessions_total", Help: "Sessions removed because their expiry had passed."}),

		deviceDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "parley_delivery_device_dropped_total", Help: "Copies of publications to device topics that were dropped: the session queue was full, or they exceeded the client's Maximum Packet Size.",
		}),
		tooLarge: f.NewCounter(prometheus.CounterOpts{
			Name: "parley_delivery_too_large_total", Help: "Events of logs that were not sent to a client because they exceeded its Maximum Packet Size.",
		}),
		forgotten: f.NewCounter(prometheus.CounterOpts{
			Name: "parley_delivery_forgotten_sessions_total", Help: "Kept sessions removed because their user had as many as they may.",
		}),
		partsDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "parley_delivery_parts_dropped_total", Help: "Ends of connections that were not saved because too many waited for the database: their sessions get some events again.",
		}),
		deliveredDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "parley_delivery_receipts_dropped_total", Help: "Delivery receipts that were not saved because too many waited for the database: later ones cover them.",
		}),
	}
}
