package parley_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/conformance.md says of each normative statement of MQTT 5.0 which tests are about
// it, or why there is none. The tests must be there, under these names.
func TestConformanceTable(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile(`(?m)^\| (\d[\d.]*-\d+) \| (.+) \| (.+) \|$`)
	named := regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	excused := regexp.MustCompile(`^(the client's|not offered: .|\*\*differs:\*\* .|device topics)`)
	seen := map[string]bool{}
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		if seen[m[1]] {
			t.Errorf("[MQTT-%s] is there twice", m[1])
		}
		seen[m[1]] = true
		if !named.MatchString(m[3]) && !excused.MatchString(m[3]) {
			t.Errorf("[MQTT-%s]: %q names no test, and says neither that it is the client's, nor that it is not offered, nor how we differ", m[1], m[3])
		}
	}
	// The appendix of the specification has 251; a row that is not of the form above is missed here.
	if len(seen) != 251 {
		t.Errorf("there are %d statements, want 251", len(seen))
	}
	there := map[string]bool{}
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		dir, name := m[1], m[2]
		if there[dir+name] {
			continue
		}
		there[dir+name] = true
		if err := hasTest(dir, name); err != nil {
			t.Error(err)
		}
	}
}

// hasTest looks for a test's function in a package's files.
func hasTest(dir, name string) error {
	files, err := filepath.Glob(filepath.Join(filepath.FromSlash(dir), "*_test.go"))
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "\nfunc "+name+"(") {
			return nil
		}
	}
	return fmt.Errorf("docs/conformance.md names %s.%s, and there is no such test", dir, name)
}
