package mosquitto

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// Report writes the verdict on each line for people: a table for each file, in the order
// in which they were read.
func (c *Config) Report(w io.Writer) error {
	var files []string
	of := map[string][]Note{}
	for _, n := range c.Notes {
		if _, known := of[n.File]; !known {
			files = append(files, n.File)
		}
		of[n.File] = append(of[n.File], n)
	}
	for _, f := range files {
		fmt.Fprintf(w, "\n  %s\n\n", f)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, n := range of[f] {
			line := ""
			if n.Line > 0 {
				line = strconv.Itoa(n.Line)
			}
			what := n.Option
			if n.Value != "" {
				what += " " + n.Value
			}
			what = shorten(what)
			for i, part := range wrap(printable(n.Text)) {
				if i > 0 {
					fmt.Fprintf(t, "\t\t\t%s\n", part)
					continue
				}
				fmt.Fprintf(t, "  %4s\t%s\t%s\t%s\n", line, printable(what), n.Verdict, part)
			}
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n  %s\n\n", c.count())
	return err
}

const (
	whatColumns = 44
	textColumns = 60
)

// shorten leaves out the middle of a text that is too long for its column.
func shorten(s string) string {
	r := []rune(s)
	if len(r) <= whatColumns {
		return s
	}
	return string(r[:whatColumns-20]) + "…" + string(r[len(r)-19:])
}

// wrap breaks a text into lines, at blanks.
func wrap(s string) []string {
	lines := []string{""}
	for w := range strings.FieldsSeq(s) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = w
		case utf8.RuneCountInString(*last)+1+utf8.RuneCountInString(w) <= textColumns:
			*last += " " + w
		default:
			lines = append(lines, w)
		}
	}
	return lines
}

// printable keeps the contents of a file from controlling the terminal or the table.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// count sums the verdicts up.
func (c *Config) count() string {
	var n [4]int
	for _, note := range c.Notes {
		if note.Line > 0 {
			n[note.Verdict]++
		}
	}
	return fmt.Sprintf("%d lines taken, %d with a difference, %d ignored, %d refused.", n[Taken], n[Changed], n[Ignored], n[Refused])
}
