package identity

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	running, waiting prometheus.Gauge
	rejected         prometheus.Counter
	seconds          prometheus.Histogram
	logins           *prometheus.CounterVec // result: ok, refused, reused
	pollFailures     prometheus.Counter
	revocations      prometheus.Gauge
}

// newMetrics makes the package's metrics; a nil registerer discards them.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		running:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "parley_identity_password_hashes_running", Help: "Password hashes being computed now."}),
		waiting:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "parley_identity_password_hashes_waiting", Help: "Callers waiting for their turn to hash a password."}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_identity_password_hashes_rejected_total", Help: "Callers sent away because too many were waiting."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "parley_identity_password_hash_seconds", Help: "How long one password hash took.", Buckets: []float64{.005, .01, .02, .05, .1, .2, .5, 1, 2},
		}),
		logins:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_identity_logins_total", Help: "Logins and refreshes by result."}, []string{"kind", "result"}),
		pollFailures: prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_identity_revocation_poll_failures_total", Help: "Times that revocations could not be read."}),
		revocations:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "parley_identity_revocations", Help: "Revoked logins, disabled users and changed passwords held in memory."}),
	}
	if r != nil {
		r.MustRegister(m.running, m.waiting, m.rejected, m.seconds, m.logins, m.pollFailures, m.revocations)
	}
	return m
}
