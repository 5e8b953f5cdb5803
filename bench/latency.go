package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is a distribution of times, from a microsecond to two minutes, with three significant digits.
type Latency struct{ h *hdrhistogram.Histogram }

const maxLatency = 2 * time.Minute

func newLatency() *Latency {
	return &Latency{hdrhistogram.New(1, maxLatency.Microseconds(), 3)}
}

// record adds a time. Longer ones than can be recorded count as the longest.
func (l *Latency) record(d time.Duration) {
	_ = l.h.RecordValue(max(min(d, maxLatency).Microseconds(), 1)) // fails only above the highest
}

// Count returns how many times were recorded.
func (l *Latency) Count() int64 { return l.h.TotalCount() }

// Max returns the longest time, 0 if there is none.
func (l *Latency) Max() time.Duration { return micros(l.h.Max()) }

// Mean returns the mean, 0 if there is none.
func (l *Latency) Mean() time.Duration { return time.Duration(l.h.Mean() * float64(time.Microsecond)) }

// Quantile returns the time that the given part of all, 0 to 1, does not exceed; 0 if there is none.
func (l *Latency) Quantile(q float64) time.Duration {
	if l.h.TotalCount() == 0 {
		return 0
	}
	return min(micros(l.h.ValueAtQuantile(100*q)), l.Max()) // the histogram names the end of a range
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// recorder collects times from many goroutines, which hardly ever wait for each other, and gives them out
// interval by interval.
type recorder struct {
	shards [16]struct {
		mu sync.Mutex
		l  *Latency
		_  [48]byte // apart in the CPU's caches
	}
}

func newRecorder() *recorder {
	r := &recorder{}
	for i := range r.shards {
		r.shards[i].l = newLatency()
	}
	return r
}

// record adds a time; who is the number of the goroutine.
func (r *recorder) record(who int, d time.Duration) {
	s := &r.shards[who%len(r.shards)]
	s.mu.Lock()
	s.l.record(d)
	s.mu.Unlock()
}

// take returns what was recorded since the last call.
func (r *recorder) take() *Latency {
	sum := newLatency()
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		if s.l.Count() > 0 {
			sum.h.Merge(s.l.h)
			s.l.h.Reset()
		}
		s.mu.Unlock()
	}
	return sum
}

// Point is one interval of a measurement.
type Point struct {
	At      time.Duration // its end, since the measurement began
	Length  time.Duration
	Done    int64    // messages acknowledged in it, or whatever else is counted
	Latency *Latency // of what was completed in it
}

// Rate is how much was done a second.
func (p *Point) Rate() float64 { return rate(p.Done, p.Length) }

func rate(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// meter is the time series of a measurement, owned by the goroutine that calls its methods.
type meter struct {
	began, last time.Time
	counted     int64
	total       *Latency
	recorder    *recorder
	series      []Point
	seen        func(Point) // of each point; nil: nobody
}

func newMeter(r *recorder, seen func(Point)) *meter {
	now := time.Now()
	return &meter{began: now, last: now, total: newLatency(), recorder: r, seen: seen}
}

// restart forgets everything so far, of which count was done.
func (m *meter) restart(count int64) {
	m.recorder.take()
	m.began = time.Now()
	m.last, m.counted, m.total, m.series = m.began, count, newLatency(), nil
}

// tick ends an interval; count is what was done since the beginning.
func (m *meter) tick(count int64) {
	now := time.Now()
	p := Point{At: now.Sub(m.began), Length: now.Sub(m.last), Done: count - m.counted, Latency: m.recorder.take()}
	if p.Length <= 0 {
		return
	}
	m.last, m.counted = now, count
	m.total.h.Merge(p.Latency.h)
	m.series = append(m.series, p)
	if m.seen != nil {
		m.seen(p)
	}
}
