package app

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/presence"
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

// registerPresence registers metrics of what presence counts.
func registerPresence(r prometheus.Registerer, e *presence.Engine) {
	f := promauto.With(r)
	gauge := func(name, help string, value func(presence.Stats) int) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value(e.Stats())) })
	}
	counter := func(name, help string, value func(presence.Stats) int64) {
		f.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(value(e.Stats())) })
	}
	gauge("parley_presence_users", "Users who are connected, or were a moment ago.", func(s presence.Stats) int { return s.Users })
	gauge("parley_presence_queue", "Users, and changes of contacts, of which contacts may have to be notified.", func(s presence.Stats) int { return s.Queued })
	counter("parley_presence_changes_total", "Changes of presence that contacts were notified of.", func(s presence.Stats) int64 { return s.Told })
	counter("parley_presence_dropped_total", "Changes of contacts that nobody was notified of, because too many came at once.", func(s presence.Stats) int64 { return s.Dropped })
	counter("parley_presence_failures_total", "Statements about presence that failed; they are tried again.", func(s presence.Stats) int64 { return s.Failures })
}

func newHTTPTurnedAway(r prometheus.Registerer) prometheus.Counter {
	return promauto.With(r).NewCounter(prometheus.CounterOpts{
		Name: "parley_http_turned_away_total", Help: "HTTP connections closed at once, because too many were open.",
	})
}
