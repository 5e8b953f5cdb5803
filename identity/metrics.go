package identity

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	running, waiting prometheus.Gauge
	rejected         prometheus.Counter
	seconds          prometheus.Histogram
	logins           *prometheus.CounterVec // kind: password, refresh; result: ok, repeated, refused, reused
	pollFailures     prometheus.Counter
	revocations      prometheus.Gauge
}

// newMetrics makes the package's metrics; with a nil registerer nobody collects them.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		running:  f.NewGauge(prometheus.GaugeOpts{Name: "parley_identity_password_hashes_running", Help: "Password hashes being computed now."}),
		waiting:  f.NewGauge(prometheus.GaugeOpts{Name: "parley_identity_password_hashes_waiting", Help: "Callers waiting to hash a password."}),
		rejected: f.NewCounter(prometheus.CounterOpts{Name: "parley_identity_password_hashes_rejected_total", Help: "Callers rejected because too many were waiting to hash a password."}),
		seconds: f.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_identity_password_hash_seconds", Help: "How long one password hash took.", Buckets: []float64{.005, .01, .02, .05, .1, .2, .5, 1, 2},
		}),
		logins:       f.NewCounterVec(prometheus.CounterOpts{Name: "parley_identity_logins_total", Help: "Logins and refreshes by result."}, []string{"kind", "result"}),
		pollFailures: f.NewCounter(prometheus.CounterOpts{Name: "parley_identity_revocation_poll_failures_total", Help: "Failed reads of the revocations made by other nodes."}),
		revocations:  f.NewGauge(prometheus.GaugeOpts{Name: "parley_identity_revocations", Help: "Revoked logins, disabled users and changed passwords held in memory."}),
	}
}
