package app

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
)

// presenceCollectors are metrics of what chat counts, which does not know what they
// are collected with.
func presenceCollectors(s *chat.Service) []prometheus.Collector {
	gauge := func(name, help string, f func(chat.PresenceStats) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(f(s.Presences.Stats())) })
	}
	counter := func(name, help string, f func() int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) })
	}
	return []prometheus.Collector{
		gauge("parley_presence_users", "Users who are connected, or were a moment ago.", func(st chat.PresenceStats) int { return st.Users }),
		gauge("parley_presence_queue", "Users whose presence may have to be told, and changes of contacts.", func(st chat.PresenceStats) int { return st.Queued }),
		counter("parley_presence_changes_total", "Changes of presence that were told to contacts.", func() int64 { return s.Presences.Stats().Told }),
		counter("parley_presence_dropped_total", "Changes of contacts that nobody was told of, because too many came at once.", func() int64 { return s.Presences.Stats().Dropped }),
		counter("parley_presence_failures_total", "Statements about presence that failed; they are tried again.", func() int64 { return s.Presences.Stats().Failures }),
		counter("parley_wills_sent_total", "Wills handed to the log of their conversation.", func() int64 { sent, _ := s.Wills.Counts(); return sent }),
		counter("parley_wills_dropped_total", "Wills that were refused, or too many at once.", func() int64 { _, dropped := s.Wills.Counts(); return dropped }),
	}
}
