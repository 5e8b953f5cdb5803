package hooks

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	connects *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

// newMetrics registers the package's metrics; a nil Registerer discards them.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		connects: f.NewCounterVec(prometheus.CounterOpts{Name: "parley_mqtt_connects_total", Help: "CONNECT packets, by what they were answered: accepted, or the error's code."}, []string{"outcome"}),
		refused:  f.NewCounterVec(prometheus.CounterOpts{Name: "parley_mqtt_refused_publishes_total", Help: "Publishes refused, by the error's code."}, []string{"code"}),
	}
}
