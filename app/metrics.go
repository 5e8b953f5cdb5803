package app

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/parleymq/parley/chat"
)

// registerChat registers metrics of what chat counts, which does not know what they
// are collected with.
func registerChat(r prometheus.Registerer, s *chat.Service) {
	f := promauto.With(r)
	gauge := func(o prometheus.GaugeOpts, value func() int) {
		f.NewGaugeFunc(o, func() float64 { return float64(value()) })
	}
	counter := func(o prometheus.CounterOpts, value func() int64) {
		f.NewCounterFunc(o, func() float64 { return float64(value()) })
	}
	presence := s.Presences.Stats
	gauge(prometheus.GaugeOpts{Name: "parley_presence_users", Help: "Users who are connected, or were a moment ago."}, func() int { return presence().Users })
	gauge(prometheus.GaugeOpts{Name: "parley_presence_queue", Help: "Users whose presence may have to be told, and changes of contacts."}, func() int { return presence().Queued })
	counter(prometheus.CounterOpts{Name: "parley_presence_changes_total", Help: "Changes of presence that were told to contacts."}, func() int64 { return presence().Told })
	counter(prometheus.CounterOpts{Name: "parley_presence_dropped_total", Help: "Changes of contacts that nobody was told of, because too many came at once."}, func() int64 { return presence().Dropped })
	counter(prometheus.CounterOpts{Name: "parley_presence_failures_total", Help: "Statements about presence that failed; they are tried again."}, func() int64 { return presence().Failures })
	wills := func(onDevices bool) (sent, dropped func() int64) {
		return func() int64 { n, _ := s.Wills.Counts(onDevices); return n }, func() int64 { _, n := s.Wills.Counts(onDevices); return n }
	}
	sent, dropped := wills(false)
	counter(prometheus.CounterOpts{Name: "parley_wills_sent_total", Help: "Wills published in conversations."}, sent)
	counter(prometheus.CounterOpts{Name: "parley_wills_dropped_total", Help: "Wills on conversations that were refused, or too many at once."}, dropped)
	sent, dropped = wills(true)
	counter(prometheus.CounterOpts{Name: "parley_topics_wills_sent_total", Help: "Wills published on device topics."}, sent)
	counter(prometheus.CounterOpts{Name: "parley_topics_wills_dropped_total", Help: "Wills on device topics that were refused, or too many at once."}, dropped)
	gauge(prometheus.GaugeOpts{Name: "parley_reads_waiting", Help: "Moves of what users have read that wait for their commit."}, s.ReadsWaiting)
}
