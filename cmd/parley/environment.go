package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// others are variables that begin like ours and are none of ours: those of the project's
// clients and tests, and those that Kubernetes and Docker make for a service whose name begins
// with parley.
var others = regexp.MustCompile(`^PARLEY_(URL|(TEST|FUZZ|BENCH|CAMPAIGN)_.*|(.*_)?SERVICE_(HOST|PORT(_.*)?)|(.*_)?PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// checkEnvironment refuses variables that begin with PARLEY_ and that no flag reads, as an
// unknown flag is refused: they are misspelled, or not of this version.
func checkEnvironment(model *kong.Node, environ []string) error {
	known := variables(model)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		upper := strings.ToUpper(name)
		switch {
		case !strings.HasPrefix(upper, "PARLEY_"), slices.Contains(known, name), others.MatchString(name):
		case strings.HasSuffix(name, "PORT") && strings.Contains(value, "://"): // of a service, too: tcp://10.0.0.1:1883
		default:
			return fmt.Errorf("unknown environment variable %s%s", name, suggestion(upper, known))
		}
	}
	return nil
}

// variables are those that flags of any command read.
func variables(n *kong.Node) (names []string) {
	for _, f := range n.Flags {
		names = append(names, f.Envs...)
	}
	for _, child := range n.Children {
		names = append(names, variables(child)...)
	}
	return names
}

// suggestion names the known variable that was probably meant, if there is one.
func suggestion(name string, known []string) string {
	best, least := "", 4 // more letters than that are no slip
	for _, k := range known {
		if d := distance(name, k); d < least || strings.TrimPrefix(name, "PARLEY_") == k {
			best, least = k, min(d, least)
		}
	}
	if best == "" {
		return ""
	}
	return ", did you mean " + best + "?"
}

// distance is how many letters are to be put in, left out or replaced to make b of a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
