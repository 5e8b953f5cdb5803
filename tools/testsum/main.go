// Testsum runs go test and says what matters: a line for each package as it ends, the output of
// what failed, why tests were skipped, and at the very end one line that a person and a script
// can both read:
//
//	412 passed, 0 failed, 3 skipped
//
// Usage:
//
//	testsum [-m dir,dir] [-after text] [-- go test arguments]
//
// It exits 1 when anything failed, and when go test failed without saying which test.
//
// A test with subtests is counted as its subtests, so a table of fifty cases is fifty and not
// fifty-one. A package that fails without a failing test (it did not build, it panicked outside
// of one, it leaked after all had passed) counts as one failed.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	modules := flag.String("m", ".", "directories of the modules to test, separated by commas")
	after := flag.String("after", "", "what else has failed already; said before the last line, and makes the exit status 1")
	flag.Parse()

	sum := newSummary(os.Stdout, colours(os.Stdout))
	var broken bool
	for dir := range strings.SplitSeq(*modules, ",") {
		if err := run(sum, dir, flag.Args()); err != nil && sum.failed == 0 {
			fmt.Fprintf(os.Stderr, "testsum: go test in %s: %v\n", dir, err)
			broken = true
		}
	}
	sum.Close(*after)
	if broken || sum.failed > 0 || *after != "" {
		os.Exit(1)
	}
}

// run tests one module and returns how go test itself ended.
func run(sum *summary, dir string, args []string) error {
	list := exec.Command("go", "-C", dir, "list", "-m")
	list.Stderr = os.Stderr
	module, err := list.Output()
	if err != nil {
		return err
	}
	sum.module = strings.TrimSpace(string(module))

	cmd := exec.Command("go", append([]string{"-C", dir, "test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	return errors.Join(read(sum, out), cmd.Wait())
}

// read hands each line of r to sum. Lines have no bound: a test may print what it likes.
func read(sum *summary, r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			sum.Line(line)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// colours reports whether f is a terminal that wants them.
func colours(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == ""
}
