package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// event is a line of go test -json (go doc test2json; the build- actions: go help buildjson).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of the build- actions
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string // of a package's fail: the ImportPath whose build failed
}

// summary turns events into lines for people and counts what they say.
type summary struct {
	w      io.Writer
	module string // the path that is cut off packages' names
	paint  func(colour, s string) string

	passed, failed, skipped int

	packages map[string]*pkg             // those running
	builds   map[string]*strings.Builder // what building said, by ImportPath
	skips    map[string][]string         // tests by the reason they gave
}

// pkg is one package while its tests run.
type pkg struct {
	output strings.Builder // of no test in particular
	tests  map[string]*test
	order  []string
}

type test struct {
	output  strings.Builder
	status  string // "", pass, fail or skip
	parent  bool   // has subtests
	blamed  bool   // a subtest failed
	ended   bool
	elapsed float64
}

func newSummary(w io.Writer, colours bool) *summary {
	s := &summary{
		w:        w,
		paint:    func(_, text string) string { return text },
		packages: map[string]*pkg{},
		builds:   map[string]*strings.Builder{},
		skips:    map[string][]string{},
	}
	if colours {
		s.paint = func(colour, text string) string { return colour + text + "\x1b[0m" }
	}
	return s
}

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	dim   = "\x1b[2m"
)

// Line takes one line of go test's output; what is not an event is printed as it is.
func (s *summary) Line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		fmt.Fprintf(s.w, "%s\n", strings.TrimRight(string(line), "\n"))
		return
	}
	if e.Action == "build-output" {
		b := s.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			s.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	p := s.packages[e.Package]
	if p == nil {
		p = &pkg{tests: map[string]*test{}}
		s.packages[e.Package] = p
	}
	if e.Test != "" {
		p.event(e)
		return
	}
	switch e.Action {
	case "output":
		p.output.WriteString(e.Output)
	case "pass", "fail", "skip":
		delete(s.packages, e.Package)
		s.end(p, e)
	}
}

// event notes what e says about one test.
func (p *pkg) event(e event) {
	t := p.tests[e.Test]
	if t == nil {
		t = &test{}
		p.tests[e.Test] = t
		p.order = append(p.order, e.Test)
		if above, ok := parent(e.Test); ok && p.tests[above] != nil {
			p.tests[above].parent = true
		}
	}
	switch e.Action {
	case "output":
		if !strings.HasPrefix(e.Output, "=== ") { // RUN, PAUSE, CONT, NAME: go test's own talk
			t.output.WriteString(e.Output)
		}
	case "pass", "fail", "skip":
		t.status, t.elapsed, t.ended = e.Action, e.Elapsed, true
	}
}

// end counts a package that has ended and prints its line, and its failures.
func (s *summary) end(p *pkg, e event) {
	var passed, skipped int
	var failed []string
	for _, name := range slices.Backward(p.order) { // subtests before what holds them
		t := p.tests[name]
		if t.status == "" {
			// It never ended: the package panicked or ran out of time while it ran. Benchmarks
			// say nothing when they end well.
			if e.Action != "fail" || strings.HasPrefix(name, "Benchmark") {
				continue
			}
			t.status = "fail"
		}
		if t.status == "fail" {
			if above, ok := parent(name); ok && p.tests[above] != nil {
				p.tests[above].blamed = true
			}
		}
		switch {
		case t.status == "fail" && !t.blamed:
			failed = append(failed, name)
		case t.parent || t.status == "fail":
		case t.status == "skip":
			skipped++
			why := t.reason()
			s.skips[why] = append(s.skips[why], s.name(e.Package)+"."+name)
		case t.status == "pass" && !strings.HasPrefix(name, "Benchmark"):
			passed++
		}
	}
	bad := len(failed)
	if e.Action == "fail" && bad == 0 {
		bad = 1
	}
	s.passed += passed
	s.failed += bad
	s.skipped += skipped

	counts := fmt.Sprintf("%4d passed", passed)
	if bad > 0 {
		counts += fmt.Sprintf(", %d failed", bad)
	}
	if skipped > 0 {
		counts += fmt.Sprintf(", %d skipped", skipped)
	}
	switch {
	case bad > 0:
		s.line(s.paint(red, "FAIL"), e, counts)
		s.explain(p, e, failed)
	case len(p.tests) == 0:
		s.line(s.paint(dim, "  – "), e, s.paint(dim, "no tests"))
	default:
		s.line(s.paint(green, " ok "), e, counts)
	}
}

func (s *summary) line(mark string, e event, counts string) {
	fmt.Fprintf(s.w, "%s  %-28s %7.1fs  %s\n", mark, s.name(e.Package), e.Elapsed, counts)
}

// explain prints what there is to read about a package that failed: the failed tests in the
// order they were met, then what the package said (a panic, the race detector, the seed of the
// shuffle to repeat it with), or why it did not build.
func (s *summary) explain(p *pkg, e event, failed []string) {
	slices.Reverse(failed)
	for _, name := range failed {
		t := p.tests[name]
		took := fmt.Sprintf("(%.2fs)", t.elapsed)
		if !t.ended {
			took = "(never ended)"
		}
		fmt.Fprintf(s.w, "\n      %s %s\n", s.paint(red, name), s.paint(dim, took))
		s.indent(t.output.String())
		// What a subtest's parent printed often says what was set up; it is short if it is there.
		for above, ok := parent(name); ok; above, ok = parent(above) {
			if t := p.tests[above]; t != nil {
				s.indent(t.output.String())
				t.output.Reset() // once is enough
			}
		}
	}
	if b := s.builds[e.FailedBuild]; b != nil {
		s.indent(b.String())
	}
	fmt.Fprintln(s.w)
	s.indent(p.output.String())
	fmt.Fprintln(s.w)
}

// indent prints text under a package's line, without go test's closing words about it.
func (s *summary) indent(text string) {
	var kept []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		if trimmed == "PASS" || trimmed == "FAIL" || strings.HasPrefix(trimmed, "--- FAIL: ") ||
			strings.HasPrefix(line, "FAIL\t") || strings.HasPrefix(line, "exit status ") ||
			trimmed == "" && len(kept) == 0 {
			continue
		}
		kept = append(kept, line)
	}
	for len(kept) > 0 && strings.TrimSpace(kept[len(kept)-1]) == "" {
		kept = kept[:len(kept)-1]
	}
	for _, line := range kept {
		fmt.Fprintf(s.w, "      %s\n", line)
	}
}

// reason is what the test said when it skipped itself, without where it said so.
func (t *test) reason() string {
	for line := range strings.Lines(t.output.String()) {
		line = strings.TrimSpace(line)
		if where, what, ok := strings.Cut(line, ": "); ok && strings.Contains(where, ".go:") {
			return what
		}
	}
	return "no reason given"
}

func parent(test string) (string, bool) {
	i := strings.LastIndexByte(test, '/')
	if i < 0 {
		return "", false
	}
	return test[:i], true
}

// name is what a package is called within its module; the module's root goes by its last word.
func (s *summary) name(pkg string) string {
	pkg, _, _ = strings.Cut(pkg, " ") // "x [x.test]"
	if pkg == s.module {
		return path.Base(pkg)
	}
	rest, ok := strings.CutPrefix(pkg, s.module+"/")
	if !ok {
		return pkg
	}
	return rest
}

// Close ends the account: packages that never ended, skips by reason, what failed before (if
// anything), and the line.
func (s *summary) Close(after string) {
	for _, name := range slices.Sorted(maps.Keys(s.packages)) {
		s.end(s.packages[name], event{Action: "fail", Package: name})
	}
	if len(s.skips) > 0 {
		fmt.Fprintln(s.w)
	}
	reasons := slices.SortedFunc(maps.Keys(s.skips), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(s.skips[b]), len(s.skips[a])), cmp.Compare(a, b))
	})
	for _, why := range reasons {
		tests := s.skips[why]
		which := tests[0]
		if len(tests) > 1 {
			which = fmt.Sprintf("%d tests", len(tests))
		}
		fmt.Fprintf(s.w, "%s  %s: %s\n", s.paint(dim, "skip"), which, why)
	}
	if after != "" {
		fmt.Fprintf(s.w, "\n%s  %s: see above\n", s.paint(red, "FAIL"), after)
	}
	// No colours here: scripts read this line too.
	fmt.Fprintf(s.w, "\n%d passed, %d failed", s.passed, s.failed)
	if s.skipped > 0 {
		fmt.Fprintf(s.w, ", %d skipped", s.skipped)
	}
	fmt.Fprintln(s.w)
}
