package store

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/words"
)

const (
	// stretch is how many consecutive events of a log share a lexeme prefix (qualifier). A
	// search reads one stretch after the other, newest first, until it has enough hits, so
	// that its cost does not grow with the frequency of a word; a rare word costs an index
	// look-up for each stretch. With 1024, common words and ranking took five times as long
	// in BenchmarkSearch, and rare words 0.6 times.
	stretch = 256

	maxTerms     = 4096 // distinct terms of a message; further words cannot be found
	maxPositions = 255  // of a term in a message: PostgreSQL's limit
)

// qualifier is the prefix of the lexemes of a stretch of a conversation's log. It contains
// the last 48 bits of the id, which are random: two conversations that share them only slow
// each other down, because a search also compares the whole id.
func qualifier(conversation chat.ID, stretch int64) string {
	b := base64.RawURLEncoding.AppendEncode(make([]byte, 0, 16), conversation[len(conversation)-6:])
	return string(append(strconv.AppendInt(b, stretch, 36), '.'))
}

// appendVector appends a message's terms as the text of a tsvector, or nothing if there
// are none.
func appendVector(b []byte, conversation chat.ID, seq int64, content string) []byte {
	positions := map[string][]int{}
	var order []string
	n := 0
	for w := range words.Of(content) {
		n++
		at, ok := positions[w.Term]
		if !ok {
			if len(order) == maxTerms {
				continue
			}
			order = append(order, w.Term)
		}
		if len(at) < maxPositions {
			positions[w.Term] = append(at, n)
		}
	}
	slices.Sort(order) // adjacent index entries are inserted together
	q := qualifier(conversation, seq/stretch)
	for _, term := range order {
		b = append(append(append(append(b, '\''), q...), term...), '\'', ':') // neither has a quote or a backslash in it
		for i, at := range positions[term] {
			if i > 0 {
				b = append(b, ',')
			}
			b = strconv.AppendInt(b, int64(at), 10)
		}
		b = append(b, ' ')
	}
	return b
}

// vectorQuery returns a query as the text of a tsquery for one stretch.
func vectorQuery(q *words.Query, qualifier string) string {
	var b strings.Builder
	for i, phrase := range q.Phrases {
		if i > 0 {
			b.WriteString(" & ")
		}
		for j, term := range phrase {
			b.WriteString([]string{"(", " <-> "}[min(j, 1)])
			b.WriteString("'" + qualifier + term.Text + "'")
			if term.Prefix {
				b.WriteString(":*")
			}
		}
		b.WriteByte(')')
	}
	return b.String()
}
