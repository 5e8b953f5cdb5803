package words

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

const (
	excerptRunes    = 160  // about how long an excerpt is
	excerptLead     = 40   // of it, before the first mark
	excerptSlack    = 20   // as much may be lost at an end, so as not to cut a word
	MaxExcerptBytes = 2048 // whatever the text is made of
)

// Excerpt returns the piece of a text in which the most of the query is found first,
// in parts: those that the query asks for are marked, and joined they are a piece of
// the text as it was written. It reports false if the text has not got all that the
// query asks for.
func (q *Query) Excerpt(text string) ([]chat.ExcerptPart, bool) {
	marks := q.match(text)
	if len(marks) == 0 {
		return nil, false
	}
	first := q.best(text, marks)
	start, end := window(text, marks[first])
	var parts []chat.ExcerptPart
	add := func(to int, match bool) {
		if to = min(to, end); to <= start {
			return
		}
		if n := len(parts); n > 0 && parts[n-1].Match == match {
			parts[n-1].Text += text[start:to]
		} else {
			parts = append(parts, chat.ExcerptPart{Text: text[start:to], Match: match})
		}
		start = to
	}
	for _, m := range marks {
		if m.start < end {
			add(m.start, false)
			add(m.end, true)
		}
	}
	add(end, false)
	return parts, true
}

// best returns the mark to begin with: the first of those that have the most phrases
// within an excerpt's length.
func (q *Query) best(text string, marks []mark) int {
	if len(q.Phrases) == 1 {
		return 0
	}
	at := make([]int, len(marks)) // where each begins, in runes
	for i, runes, pos := 0, 0, 0; i < len(marks); i++ {
		runes += utf8.RuneCountInString(text[pos:marks[i].start])
		at[i], pos = runes, marks[i].start
	}
	best, most := 0, 0
	seen, distinct := make([]int, len(q.Phrases)), 0
	for i, j := 0, 0; i < len(marks); i++ {
		for ; j < len(marks) && at[j]-at[i] < excerptRunes-excerptLead-excerptSlack; j++ {
			if seen[marks[j].phrase]++; seen[marks[j].phrase] == 1 {
				distinct++
			}
		}
		if distinct > most {
			best, most = i, distinct
		}
		if seen[marks[i].phrase]--; seen[marks[i].phrase] == 0 {
			distinct--
		}
	}
	return best
}

// window returns where the excerpt around a mark begins and ends: between words, or
// else between characters.
func window(text string, m mark) (start, end int) {
	start = back(text, m.start, excerptLead)
	if back(text, m.start, excerptLead+excerptSlack) == 0 {
		start = 0
	} else if i := strings.IndexFunc(text[start:m.start], unicode.IsSpace); i >= 0 {
		start += i
		start += len(text[start:m.start]) - len(strings.TrimLeftFunc(text[start:m.start], unicode.IsSpace))
	}
	start = whole(text, start, m.start)

	end = forward(text, start, excerptRunes)
	if forward(text, end, excerptSlack) == len(text) {
		end = len(text)
	} else if low := max(m.end, back(text, end, excerptSlack)); low < end {
		if i := strings.LastIndexFunc(text[low:end], unicode.IsSpace); i >= 0 {
			end = low + i
		}
	}
	end = max(end, m.end)
	if end < len(text) {
		end = whole(text, end, len(text))
	}
	if end-start > MaxExcerptBytes {
		end = start + len(clip(text[start:end], MaxExcerptBytes))
	}
	if m.start >= end { // the lead alone is longer than that
		start = m.start
		end = start + len(clip(text[start:max(m.end, start)], MaxExcerptBytes))
	}
	return start, end
}

func back(text string, i, runes int) int {
	for ; i > 0 && runes > 0; runes-- {
		_, size := utf8.DecodeLastRuneInString(text[:i])
		i -= size
	}
	return i
}

func forward(text string, i, runes int) int {
	for ; i < len(text) && runes > 0; runes-- {
		_, size := utf8.DecodeRuneInString(text[i:])
		i += size
	}
	return i
}

// whole moves i forward to where no character (grapheme) is cut, at most to limit.
func whole(text string, i, limit int) int {
	for i > 0 && i < limit && inside(text, i) {
		_, size := utf8.DecodeRuneInString(text[i:])
		i += size
	}
	return i
}

// inside reports whether a cut before i would be within a character, by those rules
// of Unicode's (UAX #29) that texts of people need.
func inside(text string, i int) bool {
	before, size := utf8.DecodeLastRuneInString(text[:i])
	r, _ := utf8.DecodeRuneInString(text[i:])
	switch {
	case before == '\r' && r == '\n', classOf(r) == extend, before == 0x200d && unicode.IsSymbol(r):
		return true
	case 0x1160 <= r && r <= 0x11ff || 0xd7b0 <= r && r <= 0xd7ff: // vowels and finals of Hangul
		return unicode.Is(unicode.Hangul, before)
	case isFlag(r) && isFlag(before):
		odd := true
		for i -= size; i > 0; i -= size {
			if before, size = utf8.DecodeLastRuneInString(text[:i]); !isFlag(before) {
				break
			}
			odd = !odd
		}
		return odd
	}
	return false
}
