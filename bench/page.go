package bench

import (
	"cmp"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// WritePage writes the report as one HTML page, which needs nothing beside it and asks nobody for anything.
func (r *Report) WritePage(w io.Writer) error { return pageTemplate.Execute(w, pageOf(r)) }

// What the template shows.
type (
	page struct {
		Title, Server, Machine, Began string
		Notes, Failures               []string
		Interrupted, Checked          bool
		Loads, Limits                 []*pageWorkload
		Bars                          []pageBar // rates beside each other
	}
	pageWorkload struct {
		Name, Title, Runs string
		Failed            string
		Cells             map[string]string // of the table, by metric
		Tiles             []pageTile
		Charts            []pageChart
		Metrics           []pageMetric
		Spread            bool // there are several runs
	}
	pageTile   struct{ Label, Value, Unit, Spread string }
	pageMetric struct{ Label, Value, Low, High string }
	pageBar    struct {
		Name, Value string
		Part        float64 // of the highest
		Limit       bool
	}
	pageChart struct {
		Title   string
		Legend  []pageLegend
		XTicks  []pageTick
		YTicks  []pageTick
		XLabel  string
		Areas   []pagePath // filled, in the order in which they are drawn
		Lines   []pagePath
		Hovers  []pageHover
		Measure pageMeasure
	}
	pageLegend struct{ Class, Text string }
	pageTick   struct {
		At   float64
		Text string
	}
	pagePath  struct{ Class, D string }
	pageHover struct {
		X, Width float64
		Text     string
	}
	pageMeasure struct{ Width, Height, Left, Right, Top, Bottom float64 }
)

func pageOf(r *Report) page {
	p := page{
		Title:   "Parley " + r.Server.Version,
		Server:  strings.Join(nonEmpty(withoutScheme(ownText(r.Server)), prefixed("PostgreSQL ", r.Server.PostgreSQL)), " · "),
		Machine: r.Machine.String(), Began: r.Began.Format("2 January 2006, 15:04"),
		Notes: r.Notes, Failures: r.Failures(), Interrupted: r.Interrupted,
	}
	most := 0.0
	all := slices.Clone(r.Workloads)
	slices.SortStableFunc(all, func(a, b *Workload) int { return rank(a) - rank(b) })
	for _, w := range all {
		v := pageOfWorkload(w)
		if w.Limit {
			p.Limits = append(p.Limits, v)
		} else {
			p.Loads = append(p.Loads, v)
		}
		for _, run := range w.Runs {
			p.Checked = p.Checked || run.Faults != nil && !w.Limit
		}
		if s, ok := w.Get("rate"); ok && ofMessages(w) {
			most = max(most, s.Value)
			p.Bars = append(p.Bars, pageBar{Name: w.Name, Value: number(s.Value) + " " + w.Unit + "/s", Part: s.Value, Limit: w.Limit})
		}
	}
	for i := range p.Bars {
		p.Bars[i].Part /= most
	}
	if len(p.Limits) == 0 || len(p.Bars) == len(p.Limits) {
		p.Bars = nil
	}
	p.Checked = p.Checked && len(p.Failures) == 0
	return p
}

// ofMessages reports whether it is a workload whose rate is one of messages stored or passed on at full speed.
func ofMessages(w *Workload) bool {
	return w.Limit && (w.Unit == "rows" || w.Name == "mosquitto") || w.Name == "chat"
}

// withoutScheme is an address as text, which is no link.
func withoutScheme(s string) string {
	if _, rest, ok := strings.Cut(s, "://"); ok {
		return rest
	}
	return s
}

func pageOfWorkload(w *Workload) *pageWorkload {
	v := &pageWorkload{Name: w.Name, Title: w.Title, Cells: map[string]string{}, Spread: len(w.Runs) > 1}
	if len(w.Runs) > 1 {
		v.Runs = fmt.Sprintf("median of %d runs; the charts show the median one", len(w.Runs))
	}
	for _, run := range w.Runs {
		v.Failed = cmp.Or(v.Failed, run.Failed())
	}
	for _, s := range w.Summary() {
		v.Cells[strings.NewReplacer(".", "", "-", "").Replace(s.Name)] = value(s.Value, s.Unit)
		if s.Name == "rate" {
			v.Cells["rate"] = number(s.Value) + " " + w.short() + "/s"
		}
		v.Metrics = append(v.Metrics, pageMetric{s.Label, value(s.Value, s.Unit), value(s.Low, s.Unit), value(s.High, s.Unit)})
	}
	tile := func(name, label string) {
		s, ok := w.Get(name)
		if !ok {
			return
		}
		n, unit, _ := strings.Cut(value(s.Value, s.Unit), " ")
		if name == "rate" {
			n, unit = number(s.Value), w.Unit+"/s"
		}
		t := pageTile{Label: label, Value: n, Unit: unit}
		if s.Runs > 1 {
			t.Spread = half(s)
		}
		v.Tiles = append(v.Tiles, t)
	}
	for _, t := range [][2]string{
		{"rate", "rate"},
		{"p50", "median latency"},
		{"p99", "99th percentile"},
		{"elapsed", "all after"},
		{"memory.connection", "memory per connection"},
		{"per-cpu-second", w.Unit + " per CPU second"},
		{"wal", "write-ahead log for one"},
	} {
		tile(t[0], t[1])
	}
	for _, of := range [][2]string{{"server", "server"}, {"postgres", "PostgreSQL"}} {
		user, ok := w.Get("cpu." + of[0] + ".user")
		system, _ := w.Get("cpu." + of[0] + ".system") // with the other
		if ok {
			n, unit, _ := strings.Cut(value(user.Value+system.Value, user.Unit), " ")
			v.Tiles = append(v.Tiles, pageTile{Label: of[1] + " CPU for one", Value: n, Unit: unit})
		}
	}
	run := w.typical()
	if c, ok := curveChart(run); ok {
		v.Charts = append(v.Charts, c)
	}
	if len(run.Series) > 2 {
		v.Charts = append(v.Charts, rateChart(w, run), latencyChart(run))
		if c, ok := cpuChart(run); ok {
			v.Charts = append(v.Charts, c)
		}
	}
	return v
}

// The size of charts, which is also about their size on a screen, so that texts stay readable on a small one.
var measure = pageMeasure{Width: 270, Height: 170, Left: 48, Right: 262, Top: 8, Bottom: 146}

// scale maps values to places.
type scale struct {
	low, high float64 // values
	from, to  float64 // places
	log       bool
}

func (s scale) at(v float64) float64 {
	low, high := s.low, s.high
	if s.log {
		v, low, high = math.Log10(max(v, s.low)), math.Log10(low), math.Log10(high)
	}
	if high == low {
		return s.from
	}
	return math.Round(10*(s.from+(v-low)/(high-low)*(s.to-s.from))) / 10
}

// linear is a scale from 0 with at most five round ticks.
func linear(most, from, to float64, label func(float64) string) (scale, []pageTick) {
	if most <= 0 {
		most = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, f := range []float64{0.2, 0.25, 0.5, 1, 2, 2.5} {
		if most/(step*f) <= 4 {
			step *= f
			break
		}
	}
	s := scale{low: 0, high: math.Ceil(most/step) * step, from: from, to: to}
	var ticks []pageTick
	for i := range int(math.Round(s.high/step)) + 1 {
		ticks = append(ticks, pageTick{s.at(float64(i) * step), label(float64(i) * step)})
	}
	return s, ticks
}

// decades is a logarithmic scale with few ticks.
func decades(least, most, from, to float64, label func(float64) string) (scale, []pageTick) {
	least = max(least, 0.001)
	low, high := math.Pow(10, math.Floor(math.Log10(least))), math.Pow(10, math.Floor(math.Log10(max(most, least))))
	for _, f := range []float64{5, 2} {
		if low*f <= least {
			low *= f
			break
		}
	}
	for _, f := range []float64{1, 2, 5, 10} {
		if high*f >= most {
			high *= f
			break
		}
	}
	if high <= low {
		high = 10 * low
	}
	s := scale{low: low, high: high, from: from, to: to, log: true}
	var ticks []pageTick
	few := math.Log10(high/low) > 2
	for v := low; v <= high*1.001; {
		first := math.Round(v / math.Pow(10, math.Floor(math.Log10(v)*1.0000001)))
		if !few || first == 1 {
			ticks = append(ticks, pageTick{s.at(v), label(v)})
		}
		if first == 2 {
			v *= 2.5
		} else {
			v *= 2
		}
	}
	return s, ticks
}

func line(points [][2]float64) string {
	var b strings.Builder
	for i, p := range points {
		b.WriteString(map[bool]string{true: "M", false: "L"}[i == 0])
		fmt.Fprintf(&b, "%g %g", p[0], p[1])
	}
	return b.String()
}

// tick is a number without zeros at its end.
func tick(v float64) string {
	s := number(v)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

func msTick(v float64) string {
	switch {
	case v >= 1000:
		return tick(v/1000) + " s"
	case v < 0.1 && v > 0:
		return tick(v*1000) + " µs"
	}
	return tick(v) + " ms"
}

// curveChart shows which latency how many stay under, with ever more room for the slowest.
func curveChart(r *Figures) (pageChart, bool) {
	if len(r.Curve) < 3 {
		return pageChart{}, false
	}
	c := pageChart{Title: "Latency by percentile", Measure: measure}
	nines := func(q float64) float64 { return -math.Log10(1 - q) }
	last := nines(r.Curve[len(r.Curve)-2].Quantile) + 0.15 // the maximum is drawn a little farther right
	x := scale{low: 0, high: last, from: measure.Left, to: measure.Right}
	for _, t := range []struct {
		q    float64
		text string
	}{{0.5, "50 %"}, {0.9, "90 %"}, {0.99, "99 %"}, {0.999, "99.9"}, {0.9999, "99.99"}, {0.99999, "99.999"}} {
		if nines(t.q) <= last && (t.q > 0.5 || last < 4) {
			c.XTicks = append(c.XTicks, pageTick{x.at(nines(t.q)), t.text})
		}
	}
	y, ticks := decades(r.Curve[0].MS, r.Curve[len(r.Curve)-1].MS, measure.Bottom, measure.Top, msTick)
	c.YTicks = ticks
	var points [][2]float64
	for i, p := range r.Curve {
		at := last
		if i < len(r.Curve)-1 {
			at = nines(p.Quantile)
		}
		points = append(points, [2]float64{x.at(at), y.at(p.MS)})
		if i > 0 {
			text := fmt.Sprintf("%s %%: %s", strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.4f", 100*p.Quantile), "0"), "."), msTick(p.MS))
			c.Hovers = append(c.Hovers, pageHover{points[i-1][0], points[i][0] - points[i-1][0], text})
		}
	}
	floor := fmt.Sprintf("L%g %gL%g %gZ", points[len(points)-1][0], measure.Bottom, points[0][0], measure.Bottom)
	c.Areas = []pagePath{{"under", line(points) + floor}}
	c.Lines = []pagePath{{"one", line(points)}}
	return c, true
}

// timeChart is the frame of charts over time.
func timeChart(title string, r *Figures, most float64, label func(float64) string) (c pageChart, x, y scale) {
	c = pageChart{Title: title, Measure: measure}
	last := r.Series[len(r.Series)-1].At
	rounded, ticks := linear(last, measure.Left, measure.Right, tick)
	x = scale{low: 0, high: last, from: measure.Left, to: measure.Right}
	for _, t := range ticks {
		if v := (t.At - measure.Left) / (measure.Right - measure.Left) * rounded.high; v <= last*1.02 {
			c.XTicks = append(c.XTicks, pageTick{min(x.at(v), measure.Right), t.Text})
		}
	}
	if n := len(c.XTicks); n > 0 {
		c.XTicks[n-1].Text += " s"
	}
	y, c.YTicks = linear(most, measure.Bottom, measure.Top, label)
	before := 0.0
	for _, p := range r.Series {
		c.Hovers = append(c.Hovers, pageHover{X: x.at(before), Width: x.at(p.At) - x.at(before)})
		before = p.At
	}
	return c, x, y
}

func rateChart(w *Workload, r *Figures) pageChart {
	most := 0.0
	for _, p := range r.Series {
		most = max(most, p.Rate)
	}
	unit := w.Unit
	if w.Unit == "deliveries" {
		unit = "messages" // which is what the series counts
	}
	c, x, y := timeChart(strings.ToUpper(unit[:1])+unit[1:]+" a second", r, most, compact)
	var points [][2]float64
	for i, p := range r.Series {
		points = append(points, [2]float64{x.at(p.At), y.at(p.Rate)})
		c.Hovers[i].Text = fmt.Sprintf("%s s: %s/s", number(p.At), number(p.Rate))
	}
	points = append([][2]float64{{measure.Left, points[0][1]}}, points...)
	c.Areas = []pagePath{{"under", line(points) + fmt.Sprintf("L%g %gL%g %gZ", points[len(points)-1][0], measure.Bottom, measure.Left, measure.Bottom)}}
	c.Lines = []pagePath{{"one", line(points)}}
	return c
}

// compact writes 12,000 as 12k.
func compact(v float64) string {
	switch {
	case v >= 1e6:
		return tick(v/1e6) + "M"
	case v >= 1e4:
		return tick(v/1e3) + "k"
	}
	return tick(v)
}

func latencyChart(r *Figures) pageChart {
	most := 0.0
	for _, p := range r.Series {
		most = max(most, p.P99)
	}
	c, x, y := timeChart("Latency over time", r, most, msTick)
	var p50, p99 [][2]float64
	for i, p := range r.Series {
		if p.P99 == 0 {
			continue // nothing was completed
		}
		p50 = append(p50, [2]float64{x.at(p.At), y.at(p.P50)})
		p99 = append(p99, [2]float64{x.at(p.At), y.at(p.P99)})
		c.Hovers[i].Text = fmt.Sprintf("%s s: p50 %s, p99 %s", number(p.At), msTick(p.P50), msTick(p.P99))
	}
	c.Lines = []pagePath{{"two", line(p99)}, {"one", line(p50)}}
	c.Legend = []pageLegend{{"one", "p50"}, {"two", "p99"}}
	return c
}

// cpuChart stacks what server and PostgreSQL use.
func cpuChart(r *Figures) (pageChart, bool) {
	parts := []struct {
		class, text string
		of          func(SeriesPoint) float64
	}{
		{"server-user", "server, user", func(p SeriesPoint) float64 { return p.ServerUser }},
		{"server-system", "server, system", func(p SeriesPoint) float64 { return p.ServerSystem }},
		{"postgres-user", "PostgreSQL, user", func(p SeriesPoint) float64 { return p.PostgresUser }},
		{"postgres-system", "PostgreSQL, system", func(p SeriesPoint) float64 { return p.PostgresSystem }},
	}
	most := 0.0
	for _, p := range r.Series {
		most = max(most, p.ServerUser+p.ServerSystem+p.PostgresUser+p.PostgresSystem)
	}
	if most == 0 {
		return pageChart{}, false
	}
	c, x, y := timeChart("CPU, in cores", r, most, tick)
	floor := make([]float64, len(r.Series))
	for _, part := range parts {
		var top, bottom [][2]float64
		for i, p := range r.Series {
			bottom = append([][2]float64{{x.at(p.At), y.at(floor[i])}}, bottom...)
			floor[i] += part.of(p)
			top = append(top, [2]float64{x.at(p.At), y.at(floor[i])})
		}
		top = append([][2]float64{{measure.Left, top[0][1]}}, top...)
		bottom = append(bottom, [2]float64{measure.Left, bottom[len(bottom)-1][1]})
		c.Areas = append(c.Areas, pagePath{part.class, line(top) + "L" + strings.TrimPrefix(line(bottom), "M") + "Z"})
		c.Legend = append(c.Legend, pageLegend{part.class, part.text})
	}
	for i, p := range r.Series {
		c.Hovers[i].Text = fmt.Sprintf("%s s: server %s + %s, PostgreSQL %s + %s", number(p.At), number(p.ServerUser), number(p.ServerSystem), number(p.PostgresUser), number(p.PostgresSystem))
	}
	return c, true
}
