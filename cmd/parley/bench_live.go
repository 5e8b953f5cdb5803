package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/parleymq/parley/bench"
)

// liveLine is one line on a terminal that is written over as things go on. Where there is no terminal, it is
// silent. Its methods may be called from any goroutine.
type liveLine struct {
	w io.Writer // nil: no terminal

	mu       sync.Mutex
	shown    bool
	last     time.Time
	workload string // and which run of it
}

func newLiveLine(w io.Writer) *liveLine {
	if !isTerminal(w) {
		w = nil
	}
	return &liveLine{w: w}
}

// write shows a line, but not more than ten a second unless it must.
func (l *liveLine) write(must bool, line func() string) {
	if l.w == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !must && time.Since(l.last) < 100*time.Millisecond {
		return
	}
	l.last, l.shown = time.Now(), true
	fmt.Fprintf(l.w, "\r\x1b[2K %s", line())
}

// clear takes the line away.
func (l *liveLine) clear() {
	if l.w == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.shown {
		fmt.Fprint(l.w, "\r\x1b[2K")
		l.shown = false
	}
}

func (l *liveLine) say(text string) { l.write(true, func() string { return text + " …" }) }

// begin names what is measured from now on.
func (l *liveLine) begin(name string, run, runs int) {
	l.mu.Lock()
	l.workload = name
	if runs > 1 {
		l.workload = fmt.Sprintf("%s, run %d of %d", name, run+1, runs)
	}
	l.mu.Unlock()
	l.say(name)
}

func (l *liveLine) progress(p bench.Progress) {
	l.write(false, func() string { p.Workload = l.workload; return p.Line() })
}

func (l *liveLine) people(what string, done, of int) {
	if of > 0 && done < of {
		l.progress(bench.Progress{Phase: fmt.Sprintf("logging in %d of %d %s", done, of, what), Part: float64(done) / float64(of)})
	}
}
