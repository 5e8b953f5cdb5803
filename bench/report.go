package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Report is the result of "parley bench": what --json writes. Fields are added, never changed, within a Format.
type Report struct {
	Format      int         `json:"format"`
	Version     string      `json:"version"` // of the program that measured
	Began       time.Time   `json:"began"`
	Machine     Machine     `json:"machine"` // where it ran
	Server      Server      `json:"server"`
	Notes       []string    `json:"notes,omitempty"` // what was left out or would be misread
	Interrupted bool        `json:"interrupted,omitempty"`
	Workloads   []*Workload `json:"workloads"`
}

// reportFormat is the Format that this package writes.
const reportFormat = 1

// Server is what was measured.
type Server struct {
	URL        string   `json:"url"`
	MQTT       []string `json:"mqtt"`
	Version    string   `json:"version,omitempty"`
	PostgreSQL string   `json:"postgresql,omitempty"` // its version
	Own        bool     `json:"own"`                  // it was started for this
}

// Workload is one kind of load, or one limit of the machine, and what was measured in each run of it.
type Workload struct {
	Name  string     `json:"name"`            // "chat", "rate 200": unique in a report
	Title string     `json:"title"`           // its parameters, in words; with others, figures cannot be compared
	Unit  string     `json:"unit"`            // what is counted, in the plural: "messages"
	Limit bool       `json:"limit,omitempty"` // it is one of the machine, or of another program
	Runs  []*Figures `json:"runs"`
}

// Figures is what one run has measured.
type Figures struct {
	Metrics []Metric      `json:"metrics"`
	Curve   []CurvePoint  `json:"curve,omitempty"` // the latency at every percentile
	Series  []SeriesPoint `json:"series,omitempty"`
	Faults  *Faults       `json:"faults,omitempty"`
	Error   string        `json:"error,omitempty"` // why it failed, or ended early
}

// Metric is one figure.
type Metric struct {
	Name   string  `json:"name"`  // "rate", "p99", "cpu.server.user"
	Label  string  `json:"label"` // in words
	Unit   string  `json:"unit"`  // "/s", "ms", "µs", "B", "MiB", "s" or "" for a number
	Value  float64 `json:"value"`
	Better string  `json:"better,omitempty"` // "more" or "less"; "": neither
}

// CurvePoint says which latency a part of all did not exceed.
type CurvePoint struct {
	Quantile float64 `json:"quantile"` // 0 to 1
	MS       float64 `json:"ms"`
}

// SeriesPoint is one interval of a run. CPU is in cores: 1 is all of one.
type SeriesPoint struct {
	At             float64 `json:"at"` // its end, in seconds since the measurement began
	Rate           float64 `json:"rate"`
	P50            float64 `json:"p50"` // ms; 0 if nothing was completed
	P99            float64 `json:"p99"`
	ServerUser     float64 `json:"serverUser,omitempty"`
	ServerSystem   float64 `json:"serverSystem,omitempty"`
	PostgresUser   float64 `json:"postgresUser,omitempty"`
	PostgresSystem float64 `json:"postgresSystem,omitempty"`
}

func (r *Figures) add(name, label, unit string, value float64, better string) {
	if !math.IsNaN(value) && !math.IsInf(value, 0) {
		r.Metrics = append(r.Metrics, Metric{name, label, unit, value, better})
	}
}

// percentiles are the figures that stand for a distribution.
var percentiles = []struct {
	name     string
	quantile float64
}{{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}}

// addLatency adds the percentiles of a distribution; prefix tells it from others of the run.
func (r *Figures) addLatency(prefix, label string, l *Latency) {
	if l == nil || l.Count() == 0 {
		return
	}
	for _, p := range percentiles {
		r.add(prefix+p.name, label+", "+p.name, "ms", ms(l.Quantile(p.quantile)), "less")
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// setCurve keeps the whole distribution, with as many points as can be told apart in a picture.
func (r *Figures) setCurve(l *Latency) {
	r.Curve = nil
	for q := range curveQuantiles(l.Count()) {
		r.Curve = append(r.Curve, CurvePoint{q, ms(l.Quantile(q))})
	}
}

// curveQuantiles yields 0, and then quantiles ever closer to 1, as far as n measurements say anything about.
func curveQuantiles(n int64) func(yield func(float64) bool) {
	return func(yield func(float64) bool) {
		if n == 0 || !yield(0) {
			return
		}
		for i := 1; ; i++ {
			rest := math.Pow(10, -float64(i)/12)
			if rest*float64(n) < 1 {
				yield(1)
				return
			}
			if !yield(1 - rest) {
				return
			}
		}
	}
}

// Failed names what went wrong, "" if nothing did.
func (r *Figures) Failed() string {
	if r.Error == "" && r.Faults != nil && r.Faults.Any() {
		return r.Faults.Error()
	}
	return r.Error
}

// interrupted is the Error of a run that was ended from outside: it is no failure.
const interrupted = "interrupted"

// Failures are those of all runs.
func (r *Report) Failures() (all []string) {
	for _, w := range r.Workloads {
		for i, run := range w.Runs {
			if why := run.Failed(); why != "" && why != interrupted {
				name := w.Name
				if len(w.Runs) > 1 {
					name += fmt.Sprintf(", run %d", i+1)
				}
				all = append(all, name+": "+why)
			}
		}
	}
	return all
}

// Spread is a metric over all runs of a workload.
type Spread struct {
	Metric            // Value is the median
	Low, High float64 // of all runs
	Runs      int
}

// Summary returns the metrics of a workload, over the runs that have them.
func (w *Workload) Summary() []Spread {
	var order []Metric
	values := map[string][]float64{}
	for _, r := range w.Runs {
		for _, m := range r.Metrics {
			if values[m.Name] == nil {
				order = append(order, m)
			}
			values[m.Name] = append(values[m.Name], m.Value)
		}
	}
	all := make([]Spread, len(order))
	for i, m := range order {
		v := values[m.Name]
		slices.Sort(v)
		m.Value = (v[(len(v)-1)/2] + v[len(v)/2]) / 2
		all[i] = Spread{m, v[0], v[len(v)-1], len(v)}
	}
	return all
}

// Get returns a metric of a workload over its runs.
func (w *Workload) Get(name string) (Spread, bool) {
	for _, s := range w.Summary() {
		if s.Name == name {
			return s, true
		}
	}
	return Spread{}, false
}

// typical is the run whose rate is the median: the one that is drawn.
func (w *Workload) typical() *Figures {
	runs := slices.Clone(w.Runs)
	key := func(r *Figures) float64 {
		if len(r.Metrics) == 0 {
			return -1
		}
		return r.Metrics[0].Value
	}
	slices.SortStableFunc(runs, func(a, b *Figures) int { return int(math.Copysign(1, key(a)-key(b))) })
	if len(runs) == 0 {
		return &Figures{}
	}
	return runs[len(runs)/2]
}

// Write writes the report as JSON.
func (r *Report) Write(w io.Writer) error {
	r.Format = reportFormat
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// ReadReport reads what Write has written.
func ReadReport(from io.Reader) (*Report, error) {
	var r Report
	if err := json.NewDecoder(from).Decode(&r); err != nil {
		return nil, fmt.Errorf("not a report of parley bench: %w", err)
	}
	if r.Format != reportFormat {
		return nil, fmt.Errorf("a report of format %d, where %d is known", r.Format, reportFormat)
	}
	return &r, nil
}

// Difference is a metric in two reports.
type Difference struct {
	Workload string
	A, B     Spread
	Ratio    float64 // of B to A
	Verdict  string  // "worse", "better", or "" where it is neither, or too close
}

// Differences from a threshold on are told from noise: less for medians of several runs that do not overlap.
const (
	noise    = 1.10
	noiseFew = 1.03
)

// Compare returns the metrics that both reports have, of workloads with the same parameters. apart names the
// workloads that cannot be compared, and why.
func Compare(a, b *Report) (all []Difference, apart []string) {
	for _, wa := range a.Workloads {
		i := slices.IndexFunc(b.Workloads, func(w *Workload) bool { return w.Name == wa.Name })
		switch {
		case i < 0:
			apart = append(apart, wa.Name+": only in the first")
			continue
		case b.Workloads[i].Title != wa.Title:
			apart = append(apart, fmt.Sprintf("%s: %s in the first, %s in the second", wa.Name, wa.Title, b.Workloads[i].Title))
			continue
		}
		for _, ma := range wa.Summary() {
			if mb, ok := b.Workloads[i].Get(ma.Name); ok {
				all = append(all, difference(wa.Name, ma, mb))
			}
		}
	}
	for _, wb := range b.Workloads {
		if !slices.ContainsFunc(a.Workloads, func(w *Workload) bool { return w.Name == wb.Name }) {
			apart = append(apart, wb.Name+": only in the second")
		}
	}
	return all, apart
}

func difference(workload string, a, b Spread) Difference {
	d := Difference{Workload: workload, A: a, B: b, Ratio: 1}
	if a.Value != 0 {
		d.Ratio = b.Value / a.Value
	} else if b.Value != 0 {
		d.Ratio = math.Inf(1)
	}
	least := noise
	if a.Runs > 2 && b.Runs > 2 {
		least = noiseFew
		if a.Low <= b.High && b.Low <= a.High {
			return d // some run of one is as some run of the other
		}
	}
	less, more := d.Ratio < 1/least, d.Ratio > least
	switch {
	case less && a.Better == "more", more && a.Better == "less":
		d.Verdict = "worse"
	case less && a.Better == "less", more && a.Better == "more":
		d.Verdict = "better"
	}
	return d
}
