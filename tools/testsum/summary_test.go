package main

import (
	"fmt"
	"strings"
	"testing"
)

// play feeds lines of go test -json (quotes written as ') to a summary and returns it with what
// it printed.
func play(t *testing.T, after, lines string) (*summary, string) {
	t.Helper()
	var out strings.Builder
	s := newSummary(&out, false)
	s.module = "m"
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		s.Line([]byte(strings.ReplaceAll(strings.TrimSpace(line), "'", `"`) + "\n"))
	}
	s.Close(after)
	return s, out.String()
}

func TestSummary(t *testing.T) {
	tests := []struct {
		name, lines, after string
		want               string   // the last line
		says, silent       []string // what must and must not be printed
	}{{
		name: "subtests are counted, not what holds them",
		lines: `
			{'Action':'run','Package':'m/a','Test':'T'}
			{'Action':'run','Package':'m/a','Test':'T/x'}
			{'Action':'run','Package':'m/a','Test':'T/y'}
			{'Action':'pass','Package':'m/a','Test':'T/x'}
			{'Action':'pass','Package':'m/a','Test':'T/y'}
			{'Action':'pass','Package':'m/a','Test':'T'}
			{'Action':'pass','Package':'m/a','Elapsed':1.5}`,
		want: "2 passed, 0 failed",
		says: []string{" ok   a ", "1.5s     2 passed"},
	}, {
		name: "a failed subtest is one failure, shown with its output",
		lines: `
			{'Action':'run','Package':'m/a','Test':'T'}
			{'Action':'output','Package':'m/a','Test':'T','Output':'=== RUN T\n'}
			{'Action':'run','Package':'m/a','Test':'T/x'}
			{'Action':'output','Package':'m/a','Test':'T/x','Output':'    a_test.go:7: want 1\n'}
			{'Action':'fail','Package':'m/a','Test':'T/x'}
			{'Action':'fail','Package':'m/a','Test':'T'}
			{'Action':'output','Package':'m/a','Output':'-test.shuffle 42\n'}
			{'Action':'fail','Package':'m/a'}`,
		want:   "0 passed, 1 failed",
		says:   []string{"T/x", "a_test.go:7: want 1", "-test.shuffle 42"},
		silent: []string{"=== RUN"},
	}, {
		name: "a test that never ended has failed",
		lines: `
			{'Action':'run','Package':'m/a','Test':'T'}
			{'Action':'output','Package':'m/a','Test':'T','Output':'panic: test timed out\n'}
			{'Action':'fail','Package':'m/a'}`,
		want: "0 passed, 1 failed",
		says: []string{"T (never ended)", "panic: test timed out"},
	}, {
		name: "a package that never ended has failed",
		lines: `
			{'Action':'run','Package':'m/a','Test':'T'}
			{'Action':'pass','Package':'m/a','Test':'T'}`,
		want: "1 passed, 1 failed",
	}, {
		name: "a package may fail when all of its tests passed",
		lines: `
			{'Action':'run','Package':'m/a','Test':'T'}
			{'Action':'pass','Package':'m/a','Test':'T'}
			{'Action':'output','Package':'m/a','Output':'goleak: found unexpected goroutines\n'}
			{'Action':'fail','Package':'m/a'}`,
		want: "1 passed, 1 failed",
		says: []string{"goleak: found unexpected goroutines"},
	}, {
		name: "a package that does not build is one failure",
		lines: `
			{'ImportPath':'m/a [m/a.test]','Action':'build-output','Output':'a.go:3: undefined: x\n'}
			{'ImportPath':'m/a [m/a.test]','Action':'build-fail'}
			{'Action':'start','Package':'m/a'}
			{'Action':'output','Package':'m/a','Output':'FAIL\tm/a [build failed]\n'}
			{'Action':'fail','Package':'m/a','FailedBuild':'m/a [m/a.test]'}`,
		want:   "0 passed, 1 failed",
		says:   []string{"a.go:3: undefined: x"},
		silent: []string{"build failed"},
	}, {
		name: "skips are gathered by reason",
		lines: `
			{'Action':'run','Package':'m/a','Test':'T'}
			{'Action':'output','Package':'m/a','Test':'T','Output':'    a_test.go:7: no redis-server\n'}
			{'Action':'skip','Package':'m/a','Test':'T'}
			{'Action':'run','Package':'m/a','Test':'U'}
			{'Action':'output','Package':'m/a','Test':'U','Output':'    a_test.go:9: no redis-server\n'}
			{'Action':'skip','Package':'m/a','Test':'U'}
			{'Action':'pass','Package':'m/a'}`,
		want: "0 passed, 0 failed, 2 skipped",
		says: []string{"skip  2 tests: no redis-server"},
	}, {
		name: "benchmarks are run, not counted",
		lines: `
			{'Action':'run','Package':'m/a','Test':'BenchmarkX'}
			{'Action':'output','Package':'m/a','Test':'BenchmarkX','Output':'BenchmarkX 1 5 ns/op\n'}
			{'Action':'bench','Package':'m/a','Test':'BenchmarkX'}
			{'Action':'pass','Package':'m/a'}`,
		want: "0 passed, 0 failed",
	}, {
		name:  "what failed before is said, and does not touch the counts",
		lines: `{'Action':'skip','Package':'m'}`,
		after: "lint",
		want:  "0 passed, 0 failed",
		says:  []string{"FAIL  lint: see above", "no tests"},
	}, {
		name:  "what is no event is passed on",
		lines: "warning: something",
		want:  "0 passed, 0 failed",
		says:  []string{"warning: something\n"},
	}}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, out := play(t, tt.after, tt.lines)
			if !strings.HasSuffix(out, "\n"+tt.want+"\n") {
				t.Errorf("last line: want %q alone on a line, got:\n%s", tt.want, out)
			}
			if got := fmt.Sprintf("%d passed, %d failed", s.passed, s.failed); !strings.HasPrefix(tt.want, got) {
				t.Errorf("counted %s, want %s", got, tt.want)
			}
			for _, text := range tt.says {
				if !strings.Contains(out, text) {
					t.Errorf("%q is missing in:\n%s", text, out)
				}
			}
			for _, text := range tt.silent {
				if strings.Contains(out, text) {
					t.Errorf("%q should not be in:\n%s", text, out)
				}
			}
		})
	}
}
