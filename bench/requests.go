package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// RepeatOptions says what to do again and again.
type RepeatOptions struct {
	Workers  int                                            // how many do it at once, each one thing after the other
	Times    int                                            // by all together; 0: for as long as Duration says
	Duration time.Duration                                  // after Warmup
	Warmup   time.Duration                                  // not measured
	Do       func(ctx context.Context, worker, n int) error // n counts 0, 1, 2 … for each worker; an error ends everything

	Measuring func()        // as in Options
	Interval  time.Duration // likewise
	Seen      func(Point)   // likewise
}

// RepeatResult is what was measured.
type RepeatResult struct {
	Elapsed time.Duration
	Done    int64
	Latency *Latency // of one
	Series  []Point
}

// Rate is how many were done a second.
func (r *RepeatResult) Rate() float64 { return rate(r.Done, r.Elapsed) }

// Repeat does something until the time is over, and returns when all workers have ended. The result has what was
// measured, also beside an error.
func Repeat(ctx context.Context, o RepeatOptions) (*RepeatResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	times := newRecorder()
	m := newMeter(times, o.Seen)
	var warm <-chan time.Time
	if o.Warmup > 0 {
		warm = time.After(o.Warmup)
	} else if o.Measuring != nil {
		o.Measuring()
	}
	end := m.began.Add(o.Warmup + o.Duration)
	var count atomic.Int64
	var wg sync.WaitGroup
	for worker := range o.Workers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				start := time.Now()
				taken := count.Add(1)
				if o.Times > 0 && taken > int64(o.Times) || o.Times == 0 && start.After(end) {
					count.Add(-1)
					return
				}
				if err := o.Do(ctx, worker, n); err != nil {
					count.Add(-1)
					cancel(err)
					return
				}
				times.record(worker, time.Since(start))
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }() // ends with the workers
	every := o.Interval
	if every == 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-warm:
			warm = nil
			m.restart(count.Load())
			tick.Reset(every)
			if o.Measuring != nil {
				o.Measuring()
			}
		case <-tick.C:
			if warm != nil {
				if o.Seen != nil {
					o.Seen(Point{At: -time.Until(m.began.Add(o.Warmup)), Length: every, Latency: newLatency()})
				}
				continue
			}
			m.tick(count.Load())
		case <-done:
			m.tick(count.Load())
			return &RepeatResult{Elapsed: m.last.Sub(m.began), Done: m.total.Count(), Latency: m.total, Series: m.series}, context.Cause(ctx)
		}
	}
}
