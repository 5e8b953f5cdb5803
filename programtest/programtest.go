// Package programtest finds the external programs that tests start: brokers, databases, compilers,
// other people's clients.
//
// The file programs beside this one declares what a machine must have to run the tests.
// scripts/test installs all of it and nothing else, and this package finds only what is declared.
// A test that uses anything more therefore fails on every machine, also on one where the program
// happens to be installed. TestOnlyHere checks that tests start programs in no other way.
//
// Where a declared program is missing, a test skips on a developer's machine and fails if CI is set.
package programtest

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

//go:embed programs
var table string

// things maps each declared program to the thing that brings it, a name that scripts/need knows.
var things = sync.OnceValue(func() map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] == "#" {
			continue
		}
		for _, alternatives := range fields[1:] {
			for _, program := range strings.Split(alternatives, "|") {
				m[program] = fields[0]
			}
		}
	}
	return m
})

// Path returns the absolute path of a declared program. It looks in PATH and, since servers are
// often kept out of a user's PATH, in /usr/sbin and /usr/local/sbin. A program that is not declared
// fails the test; one that is missing ends it as Missing does.
func Path(t testing.TB, name string) string {
	t.Helper()
	thing, declared := things()[name]
	if !declared {
		t.Fatalf("%s is not declared: a machine that is set up by scripts/test does not have it. Add it to programtest/programs", name)
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && filepath.IsAbs(path) {
			return path
		}
	}
	Missing(t, thing, "there is no "+name+" here")
	return ""
}

// Missing ends a test because a declared thing is not installed: the test skips, or fails where CI
// is set. why says what was looked for in vain.
func Missing(t testing.TB, thing, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s, and CI is set: scripts/need %s", why, thing)
	}
	t.Skipf("%s: scripts/need %s", why, thing)
}
