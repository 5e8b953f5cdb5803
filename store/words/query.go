package words

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

// Query is a search: all of its phrases must be in a text.
type Query struct {
	Phrases []Phrase // 1 to chat.MaxSearchWords, all different
}

// Phrase is words that follow each other; most often one.
type Phrase []Term

// Term is a word of a query.
type Term struct {
	Text   string // as Word.Term
	Prefix bool   // words that begin with it will do
}

// ParseQuery parses a search as typed. Words are separated by spaces; each finds
// the words that begin with it. What is typed without a space between ("don't",
// "e-mail", 東京) must be together in the text, and so must words in double quotes,
// which must also be complete. Invalid naming q if it has no word in it, or is over a
// limit.
func ParseQuery(text string) (*Query, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "":
		return nil, invalid("must not be empty")
	case len(text) > chat.MaxSearchBytes:
		return nil, invalid("has " + strconv.Itoa(len(text)) + " bytes, limit " + strconv.Itoa(chat.MaxSearchBytes))
	case !utf8.ValidString(text) || strings.IndexByte(text, 0) >= 0:
		return nil, invalid("must be valid UTF-8 without NUL")
	}
	q := &Query{}
	for text != "" {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case unicode.IsSpace(r):
			text = text[size:]
		case isQuote(r):
			text = text[size:]
			end := strings.IndexFunc(text, isQuote)
			if end < 0 { // still being typed
				q.add(text, true)
				text = ""
				continue
			}
			q.add(text[:end], false)
			_, size = utf8.DecodeRuneInString(text[end:])
			text = text[end+size:]
		default:
			end := strings.IndexFunc(text, func(r rune) bool { return unicode.IsSpace(r) || isQuote(r) })
			if end < 0 {
				end = len(text)
			}
			q.add(text[:end], true)
			text = text[end:]
		}
	}
	switch n := len(q.Phrases); {
	case n == 0:
		return nil, invalid("has no word in it: letters, digits or emoji")
	case n > chat.MaxSearchWords:
		return nil, invalid("has " + strconv.Itoa(n) + " different words, limit " + strconv.Itoa(chat.MaxSearchWords))
	}
	return q, nil
}

func isQuote(r rune) bool { return r == '"' || r == '“' || r == '”' || r == '„' }

func invalid(msg string) error {
	return &chat.Error{Code: chat.Invalid, Op: "words.ParseQuery", Field: "q", Msg: msg}
}

func (q *Query) add(text string, prefix bool) {
	var p Phrase
	for w := range Of(text) {
		p = append(p, Term{Text: w.Term})
	}
	if len(p) == 0 {
		return
	}
	p[len(p)-1].Prefix = prefix
	if !slices.ContainsFunc(q.Phrases, func(o Phrase) bool { return slices.Equal(o, p) }) {
		q.Phrases = append(q.Phrases, p)
	}
}

// mark is a word of a text that the query asks for.
type mark struct {
	start, end int
	phrase     int // which asks for it
}

// locate returns the words of a text and where among them each of the query's phrases begins;
// no words, if the text does not have all phrases.
func (q *Query) locate(text string) (words []Word, at [][]uint32) {
	words = make([]Word, 0, min(len(text)/4+1, MaxWords))
	for w := range Of(text) {
		words = append(words, w)
	}
	at = make([][]uint32, len(q.Phrases))
	for n, p := range q.Phrases {
		for i := range words {
			if p.at(words[i:]) {
				at[n] = append(at[n], uint32(i+1))
			}
		}
		if len(at[n]) == 0 {
			return nil, nil
		}
	}
	return words, at
}

// match returns the words of a text that the query asks for, in order; none, if the text does
// not have all of its phrases.
func (q *Query) match(text string) []mark {
	words, at := q.locate(text)
	var marks []mark
	for n, begins := range at {
		for _, i := range begins {
			for _, w := range words[i-1:][:len(q.Phrases[n])] {
				marks = append(marks, mark{w.Start, w.End, n})
			}
		}
	}
	slices.SortStableFunc(marks, func(a, b mark) int { return cmp.Compare(a.start, b.start) })
	return marks
}

// Find returns where each of the query's phrases begins in a text, as numbers of words from 1,
// and how many words the text has; false if it does not have all of them.
func (q *Query) Find(text string) (at [][]uint32, count int, ok bool) {
	words, at := q.locate(text)
	return at, len(words), len(words) > 0
}

// Rank says how well a text matches, from above 0 to 1, by what Find says of it: the more often
// each phrase is in it, and the closer together they are, the better; and the better, the
// shorter it is.
func Rank(at [][]uint32, count int) float32 {
	var sum float64
	for _, begins := range at {
		for i := range begins { // as ts_rank counts: the n-th adds 1/n², in all less than π²/6
			sum += 1 / float64((i+1)*(i+1))
		}
	}
	sum /= float64(len(at)) * math.Pi * math.Pi / 6
	if len(at) > 1 {
		sum /= 1 + math.Log(float64(closest(at))/float64(len(at)))
	}
	return float32(sum / (1 + math.Log(float64(max(count, 1)))))
}

// closest returns the number of words from the first to the last phrase, where they are closest
// together; at least their number.
func closest(at [][]uint32) uint32 {
	next := make([]int, len(at))
	least := uint32(math.MaxUint32)
	for {
		low, high, first := uint32(math.MaxUint32), uint32(0), 0
		for i, n := range next {
			if at[i][n] < low {
				low, first = at[i][n], i
			}
			high = max(high, at[i][n])
		}
		least = min(least, high-low+1)
		if next[first]++; next[first] == len(at[first]) {
			return max(least, uint32(len(at)))
		}
	}
}

// at reports whether the phrase is at the beginning of words.
func (p Phrase) at(words []Word) bool {
	if len(words) < len(p) {
		return false
	}
	for i, t := range p {
		if words[i].Term != t.Text && !(t.Prefix && strings.HasPrefix(words[i].Term, t.Text)) {
			return false
		}
	}
	return true
}
