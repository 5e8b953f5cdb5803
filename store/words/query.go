package words

import (
	"cmp"
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

// Match reports whether the text has all of the query's phrases, and where: the
// marks, in order.
func (q *Query) match(text string) ([]mark, bool) {
	words := make([]Word, 0, min(len(text)/4+1, MaxWords))
	for w := range Of(text) {
		words = append(words, w)
	}
	var marks []mark
	for n, p := range q.Phrases {
		before := len(marks)
		for i := range words {
			if p.at(words[i:]) {
				for _, w := range words[i : i+len(p)] {
					marks = append(marks, mark{w.Start, w.End, n})
				}
			}
		}
		if len(marks) == before {
			return nil, false
		}
	}
	slices.SortStableFunc(marks, func(a, b mark) int { return cmp.Compare(a.start, b.start) })
	return marks, true
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
