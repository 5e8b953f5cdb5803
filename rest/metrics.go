package rest

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	requests *prometheus.CounterVec // route, method, status
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
	panics   prometheus.Counter
	limited  *prometheus.CounterVec // route
}

// newMetrics makes the package's metrics; a nil registerer discards them.
func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_rest_requests_total", Help: "Requests answered."}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "parley_rest_request_seconds", Help: "How long requests took.", Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "parley_rest_requests_in_flight", Help: "Requests being worked on."}),
		panics:   prometheus.NewCounter(prometheus.CounterOpts{Name: "parley_rest_panics_total", Help: "Handlers that panicked: bugs."}),
		limited:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "parley_rest_limited_total", Help: "Requests refused by the rate limit of their address."}, []string{"route"}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.inFlight, m.panics, m.limited)
	}
	return m
}
