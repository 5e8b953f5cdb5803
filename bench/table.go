package bench

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Printer writes reports for a terminal, 80 columns wide.
type Printer struct {
	W     io.Writer
	Color bool
}

const width = 80

func (p Printer) line(format string, args ...any) { fmt.Fprintf(p.W, format+"\n", args...) }

func (p Printer) style(code, s string) string {
	if !p.Color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p Printer) bold(s string) string  { return p.style("1", s) }
func (p Printer) dim(s string) string   { return p.style("2", s) }
func (p Printer) red(s string) string   { return p.style("31", s) }
func (p Printer) green(s string) string { return p.style("32", s) }

// pad puts spaces before s, or behind it if n is negative; s may have colours.
func pad(s string, n int) string {
	plain := s
	for {
		i := strings.Index(plain, "\x1b[")
		if i < 0 {
			break
		}
		plain = plain[:i] + plain[i+strings.IndexByte(plain[i:], 'm')+1:]
	}
	spaces := strings.Repeat(" ", max(0, max(n, -n)-utf8.RuneCountInString(plain)))
	if n < 0 {
		return s + spaces
	}
	return spaces + s
}

// number writes a value with as many digits as matter: 48,312, 12.3, 0.42.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return thousands(strconv.FormatFloat(v, 'f', 0, 64))
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a == 0 || a >= 1 && v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a < 0.005:
		return strconv.FormatFloat(v, 'g', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func thousands(digits string) string {
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return sign + digits
}

// value writes a metric's value with its unit.
func value(v float64, unit string) string {
	switch unit {
	case "ms":
		switch {
		case v >= 1000:
			return number(v/1000) + " s"
		case v < 0.1 && v > 0:
			return number(v*1000) + " µs"
		}
		return number(v) + " ms"
	case "/s":
		return number(v) + "/s"
	case "B":
		switch {
		case math.Abs(v) >= 1<<20:
			return number(v/(1<<20)) + " MiB"
		case math.Abs(v) >= 10<<10:
			return number(v/1024) + " KiB"
		}
		return number(v) + " B"
	case "":
		return number(v)
	}
	return number(v) + " " + unit
}

// Line shows how far a workload is, in a line of 79 columns at most.
func (p Progress) Line() string {
	const length = 20
	bar := ""
	if p.Part > 0 {
		done := min(length, int(p.Part*length+0.5))
		bar = strings.Repeat("━", done) + strings.Repeat("─", length-done)
	}
	rate, p99 := "", ""
	if p.Rate > 0 {
		rate = number(p.Rate) + " " + p.Unit + "/s"
	}
	if p.P99 > 0 {
		p99 = "p99 " + value(ms(p.P99), "ms")
	}
	line := []rune(strings.Join(nonEmpty(p.Workload, bar, p.Phase, rate, p99), "  "))
	return string(line[:min(len(line), width-2)])
}

// half is half of what lies between the lowest and the highest run, in percent of the median.
func half(s Spread) string {
	if s.Value == 0 {
		return ""
	}
	return fmt.Sprintf("±%.0f %%", 50*(s.High-s.Low)/math.Abs(s.Value))
}

// Report writes a report.
func (p Printer) Report(r *Report) {
	p.line("")
	p.line(" %s", p.bold(strings.Join(nonEmpty("Parley "+r.Server.Version, ownText(r.Server), prefixed("PostgreSQL ", r.Server.PostgreSQL)), " · ")))
	p.line(" %s", p.dim(r.Machine.String()))
	p.line("")
	p.titles(r)
	p.latencies("", r, false)
	p.costs(r)
	p.latencies("The machine's limits", r, true)
	for _, note := range r.Notes {
		p.wrapped(" Note: ", note)
	}
	p.verdict(r)
}

func ownText(s Server) string {
	if s.Own {
		return "started for this"
	}
	return s.URL
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func nonEmpty(all ...string) (some []string) {
	for _, s := range all {
		if s = strings.TrimSpace(s); s != "" {
			some = append(some, s)
		}
	}
	return some
}

// String describes the machine in a line.
func (m Machine) String() string {
	memory := ""
	if m.Memory > 0 {
		memory = number(math.Round(float64(m.Memory)/(1<<30))) + " GiB"
	}
	load := ""
	if m.Load != "" {
		load = "load " + m.Load
	}
	return strings.Join(nonEmpty(fmt.Sprintf("%d CPUs", m.CPUs), m.CPU, memory, m.OS, load), " · ")
}

const nameWidth = 14

func (p Printer) titles(r *Report) {
	for _, w := range r.Workloads {
		if !w.Limit {
			p.wrapped(" "+pad(w.Name, -nameWidth)+" ", w.Title)
		}
	}
	p.line("")
}

// wrapped writes text behind a heading, and its further lines below the first.
func (p Printer) wrapped(head, text string) {
	indent := utf8.RuneCountInString(head)
	line, used := p.bold(head), indent
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if i > 0 && used+1+n > width-1 {
			p.line("%s", line)
			line, used = strings.Repeat(" ", indent), indent
		} else if i > 0 {
			line, used = line+" ", used+1
		}
		line, used = line+word, used+n
	}
	p.line("%s", line)
}

// latencies writes rates and percentiles of the workloads, or of the limits.
func (p Printer) latencies(heading string, r *Report, limits bool) {
	columns := []struct {
		head, metric string
		width        int
	}{{"rate", "rate", 18}, {"p50", "p50", 9}, {"p90", "p90", 9}, {"p99", "p99", 9}, {"p99.9", "p99.9", 9}, {"max", "max", 9}}
	first := true
	for _, w := range r.Workloads {
		if w.Limit != limits || len(w.Runs) == 0 {
			continue
		}
		if first {
			head := " " + p.bold(pad(heading, -nameWidth))
			for _, c := range columns {
				n := c.width
				if c.metric == "rate" {
					n -= max(0, utf8.RuneCountInString(heading)-nameWidth)
				}
				head += p.dim(pad(c.head, n))
			}
			p.line("%s", strings.TrimRight(head, " "))
			first = false
		}
		row, spread := " "+pad(w.Name, -nameWidth), " "+pad("", nameWidth)
		several := false
		for _, c := range columns {
			s, ok := w.Get(c.metric)
			text := ""
			if ok {
				text = value(s.Value, s.Unit)
				if c.metric == "rate" {
					text = number(s.Value) + " " + w.short() + "/s"
				}
				several = several || s.Runs > 1
			} else if c.metric == "p50" {
				if s, ok := w.Get("elapsed"); ok {
					row += "   " + s.Label + " after " + value(s.Value, s.Unit)
					break
				}
			}
			row += pad(text, c.width)
			if ok && s.Runs > 1 {
				spread += pad(half(s), c.width)
			}
		}
		p.line("%s", strings.TrimRight(row, " "))
		if several {
			p.line("%s", p.dim(strings.TrimRight(spread, " ")))
		}
	}
	if !first {
		p.line("")
	}
}

// short is what is counted, short enough for a column.
func (w *Workload) short() string {
	if short := map[string]string{
		"messages": "msg", "deliveries": "dlv", "connections": "conn", "requests": "req", "searches": "req", "updates": "upd", "events": "ev", "round trips": "rt",
	}[w.Unit]; short != "" {
		return short
	}
	return w.Unit
}

// costs writes what processes and PostgreSQL have used.
func (p Printer) costs(r *Report) {
	first := true
	all := slices.Clone(r.Workloads)
	slices.SortStableFunc(all, func(a, b *Workload) int { return rank(a) - rank(b) })
	for _, w := range all {
		get := func(name string) float64 {
			s, ok := w.Get(name)
			if !ok {
				return math.NaN()
			}
			return s.Value
		}
		row := []string{
			both(get("cpu.server.user"), get("cpu.server.system")), both(get("cpu.postgres.user"), get("cpu.postgres.system")),
			text(get("per-cpu-second"), ""), text(get("memory.server"), ""), text(get("memory.postgres"), ""), text(get("wal"), "B"), text(get("disk"), "B"),
		}
		if math.IsNaN(get("cpu.server.user")) && math.IsNaN(get("wal")) && math.IsNaN(get("cpu.broker.user")) {
			continue
		}
		if !math.IsNaN(get("cpu.broker.user")) {
			row[0], row[3] = both(get("cpu.broker.user"), get("cpu.broker.system")), text(get("memory.broker"), "")
		}
		widths := []int{12, 12, 9, 7, 7, 9, 9}
		if first {
			first = false
			p.line(" %s%s", p.bold(pad("Cost of one", -nameWidth)), p.dim(pad("CPU, µs", 12)+pad("CPU, µs", 12)+pad("per", 9)+pad("memory, MiB", 14)+pad("WAL", 9)+pad("disk", 9)))
			p.line(" %s%s", pad("", nameWidth), p.dim(pad("server", 12)+pad("PostgreSQL", 12)+pad("CPU·s", 9)+pad("server", 7)+pad("PG", 7)))
		}
		out := " " + pad(w.Name, -nameWidth)
		for i, cell := range row {
			out += pad(cell, widths[i])
		}
		p.line("%s", strings.TrimRight(out, " "))
	}
	if first {
		return
	}
	p.line(" %s", p.dim("CPU is user + system; WAL and disk are PostgreSQL's"))
	for _, w := range r.Workloads {
		for _, name := range []string{"memory.connection", "cpu.connect", "cpu.idle", "later.cpu", "later.wal"} {
			if s, ok := w.Get(name); ok && s.Value > 0.5 {
				p.line(" %s %s: %s", pad(w.Name, -nameWidth+1), s.Label, p.bold(value(s.Value, s.Unit)))
			}
		}
	}
	p.line("")
}

// rank has the machine's limits last.
func rank(w *Workload) int { return map[bool]int{true: 1}[w.Limit] }

func both(user, system float64) string {
	if math.IsNaN(user) {
		return ""
	}
	short := func(v float64) string {
		if v < 100 {
			return strconv.FormatFloat(v, 'f', 1, 64)
		}
		return number(v)
	}
	return short(user) + " + " + short(system)
}

func text(v float64, unit string) string {
	if math.IsNaN(v) {
		return ""
	}
	return value(v, unit)
}

// verdict says whether everything arrived.
func (p Printer) verdict(r *Report) {
	checked := false
	for _, w := range r.Workloads {
		for _, run := range w.Runs {
			checked = checked || run.Faults != nil && !w.Limit
		}
	}
	failures := r.Failures()
	for _, f := range failures {
		p.line(" %s %s", p.red("FAILED"), f)
	}
	switch {
	case r.Interrupted:
		p.line(" Interrupted: what had been measured by then.")
	case checked && len(failures) == 0:
		p.line(" %s nothing lost, nothing twice, everything in order.", p.green("Checked:"))
	}
}

// Compare writes the differences of two reports, called a and b, and reports whether anything is worse.
func (p Printer) Compare(a, b *Report, nameA, nameB string) (worse bool) {
	all, apart := Compare(a, b)
	p.line("")
	p.line(" %s %s · %s", p.bold("A"), nameA, reportTitle(a))
	p.line(" %s %s · %s", p.bold("B"), nameB, reportTitle(b))
	if a.Machine.CPU != b.Machine.CPU || a.Machine.CPUs != b.Machine.CPUs {
		p.line(" %s", p.red("They are of different machines."))
	}
	last := ""
	for _, d := range all {
		if d.Workload != last {
			last = d.Workload
			p.line("")
			p.line(" %s%s", p.bold(pad(d.Workload, -38)), p.dim(pad("A", 12)+pad("B", 12)+pad("B/A", 8)))
		}
		label := d.A.Label
		if utf8.RuneCountInString(label) > 37 {
			label = string([]rune(label)[:36]) + "…"
		}
		verdict := d.Verdict
		switch verdict {
		case "worse":
			worse = true
			verdict = p.red(verdict)
		case "better":
			verdict = p.green(verdict)
		}
		p.line("%s", strings.TrimRight(" "+pad(label, -38)+pad(value(d.A.Value, d.A.Unit), 12)+pad(value(d.B.Value, d.B.Unit), 12)+pad(ratio(d.Ratio), 8)+"  "+verdict, " "))
	}
	p.line("")
	for _, s := range apart {
		p.wrapped(" Not compared: ", s)
	}
	p.wrapped(" ", fmt.Sprintf("Marked is what differs by more than %.0f %%; with three runs or more of each (--repeat), by more than %.0f %% if no run of one is among those of the other.", 100*(noise-1), 100*(noiseFew-1)))
	return worse
}

func ratio(r float64) string {
	if math.IsInf(r, 0) {
		return "–"
	}
	return strconv.FormatFloat(r, 'f', 2, 64)
}

func reportTitle(r *Report) string {
	return cmp.Or(r.Server.Version, "?") + " · " + r.Began.Format("2006-01-02 15:04") + fmt.Sprintf(" · %d CPUs", r.Machine.CPUs)
}
