package broker

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	connections  prometheus.Gauge
	acceptErrors prometheus.Counter
	turnedAway   prometheus.Counter
	panics       prometheus.Counter
	heldBack     *prometheus.CounterVec

	handshakeErrors prometheus.Counter
}

// newMetrics registers the package's metrics; a nil Registerer discards them.
func newMetrics(r prometheus.Registerer) *metrics {
	f := promauto.With(r)
	return &metrics{
		connections:  f.NewGauge(prometheus.GaugeOpts{Name: "parley_mqtt_connections", Help: "Open MQTT connections, over TCP and WebSocket."}),
		acceptErrors: f.NewCounter(prometheus.CounterOpts{Name: "parley_mqtt_accept_errors_total", Help: "Failures to accept a connection."}),
		turnedAway:   f.NewCounter(prometheus.CounterOpts{Name: "parley_mqtt_turned_away_total", Help: "Connections closed at once because there were too many, or the server was stopping."}),
		panics:       f.NewCounter(prometheus.CounterOpts{Name: "parley_mqtt_panics_total", Help: "Packets that caused a panic."}),

		heldBack: f.NewCounterVec(prometheus.CounterOpts{Name: "parley_mqtt_held_back_seconds_total", Help: "Time for which connections were not read from because a budget was used up: their own, their user's or their address'."}, []string{"budget"}),

		handshakeErrors: f.NewCounter(prometheus.CounterOpts{Name: "parley_mqtt_tls_handshake_errors_total", Help: "Connections that ended before TLS was established: no TLS client, a certificate that one of the two does not trust, or silence."}),
	}
}

// newProxyRefused registers the metric of Proxies; a nil Registerer discards it.
func newProxyRefused(r prometheus.Registerer) prometheus.Counter {
	return promauto.With(r).NewCounter(prometheus.CounterOpts{Name: "parley_proxy_refused_total", Help: "Connections from trusted load balancers that were closed because they had no usable PROXY header."})
}
