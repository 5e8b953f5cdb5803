// Package words takes texts apart into the words that they can be found by, and says
// where in a text those of a query are. Index, query and marking use the same code, so
// that what was written finds itself.
//
// A word is a run of letters, digits and their marks, as long as one would write it
// between spaces. It is looked for without accents and case: compatibility forms are
// decomposed (NFKD), the marks that one leaves out when in a hurry are dropped, and a
// few letters that do not decompose (ø, ß, æ …) are spelled as they are typed without
// them. Letters that differ by keyboard or place only are one (the ک of Persian and the ك
// of Arabic, か and カ, the כ and ך of Hebrew), and digits of all scripts are those of
// ASCII. Scripts that put no spaces between words (Chinese, Japanese, Thai and the
// like) give one word for each character, and a run of them in a query is looked for
// as it stands; so every piece of such a text can be found, without a dictionary. An
// emoji is a word too, whatever its colour.
package words

import (
	_ "embed"
	"iter"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// MaxWords is how many words of a text are looked at: what PostgreSQL can number
	// (MAXENTRYPOS). Those after it are not found.
	MaxWords = 16_383
	// MaxTermBytes is where a term is cut; longer words are found by their beginning.
	MaxTermBytes = 48
	// maxRawBytes is how much of a word is folded: more does not fit into a term, but
	// for what is made of marks only.
	maxRawBytes = 1024
)

// Word is one word of a text.
type Word struct {
	Start, End int    // in bytes; no character (grapheme) is cut
	Term       string // what it is looked for as: 1 to MaxTermBytes bytes of letters, digits, marks or emoji
}

// Of returns the words of a text in order, at most MaxWords. Any string will do.
func Of(text string) iter.Seq[Word] {
	return func(yield func(Word) bool) {
		n := 0
		for i := 0; i < len(text) && n < MaxWords; {
			end, kind := span(text, i)
			if kind != other {
				if term := fold(text[i:end], kind); term != "" {
					if n++; !yield(Word{i, end, term}) {
						return
					}
				}
			}
			i = end
		}
	}
}

// class says what a character does to the word it is in.
type class byte

const (
	other  class = iota
	letter       // continues the word
	alone        // is a word by itself
	emoji
	extend // belongs to the character before
	silent // is not seen: joins the letters around it
)

// without are the scripts that put no spaces between words.
var without = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar}

func classOf(r rune) class {
	switch {
	case r < utf8.RuneSelf:
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
			return letter
		}
		return other
	case r == 0xad || r == 0x2060: // soft hyphen, word joiner
		return silent
	case unicode.IsMark(r), r == 0x200c, r == 0x200d, // non-joiner and joiner
		r == 0xff9e, r == 0xff9f, // half-width voiced sound marks
		r == 0xe33, r == 0xeb3, // Thai and Lao am: letters that never stand first
		isTone(r), 0xe0020 <= r && r <= 0xe007f: // tags
		return extend
	case unicode.IsLetter(r) || unicode.IsNumber(r):
		if r == 0x30fc || r == 0xff70 || unicode.In(r, without...) { // the long vowel of kana is of no script
			return alone
		}
		return letter
	case isEmoji(r):
		return emoji
	}
	return other
}

func isEmoji(r rune) bool {
	return (0x2300 <= r && r <= 0x23ff || 0x2600 <= r && r <= 0x27bf || 0x2b00 <= r && r <= 0x2bff || r >= 0x1f000) && unicode.Is(unicode.So, r)
}

func isTone(r rune) bool { return 0x1f3fb <= r && r <= 0x1f3ff }

func isFlag(r rune) bool { return 0x1f1e6 <= r && r <= 0x1f1ff } // a regional indicator: two make a flag

// span returns the end of what begins at i, and what it is; it is longer than nothing.
func span(text string, i int) (int, class) {
	r, size := utf8.DecodeRuneInString(text[i:])
	i += size
	kind := classOf(r)
	switch kind {
	case letter:
		for i < len(text) {
			next, size := utf8.DecodeRuneInString(text[i:])
			c := classOf(next)
			if c == silent {
				after, _ := utf8.DecodeRuneInString(text[i+size:])
				c = classOf(after)
			}
			if c != letter && c != extend {
				break
			}
			i += size
		}
	case alone:
		i, _ = extended(text, i)
	case emoji:
		if next, size := utf8.DecodeRuneInString(text[i:]); isFlag(r) && isFlag(next) {
			i += size
		}
		for joined := true; joined; { // by zero-width joiners
			if i, joined = extended(text, i); joined {
				next, size := utf8.DecodeRuneInString(text[i:])
				if joined = unicode.IsSymbol(next); joined {
					i += size
				}
			}
		}
	default:
		kind = other
	}
	return i, kind
}

// extended returns where what belongs to the character before i ends, and whether
// that is a joiner.
func extended(text string, i int) (end int, joiner bool) {
	for i < len(text) {
		r, size := utf8.DecodeRuneInString(text[i:])
		if classOf(r) != extend {
			break
		}
		i, joiner = i+size, r == 0x200d
	}
	return i, joiner
}

// fold returns what a word is looked for as, or "" if nothing is left of it.
func fold(raw string, kind class) string {
	if len(raw) > maxRawBytes {
		raw = clip(raw, maxRawBytes)
	}
	ascii := true
	for i := range len(raw) {
		ascii = ascii && raw[i] < utf8.RuneSelf
	}
	b := make([]byte, 0, min(len(raw)+8, 2*MaxTermBytes))
	switch {
	case ascii:
		for i := range min(len(raw), MaxTermBytes) {
			c := raw[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			b = append(b, c)
		}
		return string(b)
	case kind == emoji:
		for _, r := range raw {
			if unicode.IsSymbol(r) && !isTone(r) {
				b = utf8.AppendRune(b, r)
			}
		}
		return clip(string(b), MaxTermBytes)
	}
	for _, r := range norm.NFKD.String(raw) {
		b = appendFolded(b, r)
	}
	return clip(norm.NFC.String(string(b)), MaxTermBytes) // what has kept its marks is whole again
}

// appendFolded appends a decomposed character without its case, or nothing.
func appendFolded(b []byte, r rune) []byte {
	if r < utf8.RuneSelf {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		} else if classOf(r) != letter {
			return b
		}
		return append(b, byte(r))
	}
	if r == 0x345 { // the iota below a Greek vowel, whose capital is a letter
		return b
	}
	if unicode.Is(unicode.Nd, r) {
		return append(b, digit(r))
	}
	if r >= 0x3041 && r <= 0x3096 || r == 0x309d || r == 0x309e { // hiragana, of which katakana is a copy
		r += 0x60
	}
	r = unicode.ToLower(unicode.ToUpper(r)) // both: σ and ς, s and ſ, i and ı have one capital
	if s, ok := spelled[r]; ok {
		return append(b, s...)
	}
	if isLeftOut(r) || !unicode.In(r, unicode.L, unicode.N, unicode.M) {
		return b
	}
	if same, ok := alike()[r]; ok {
		r = same
	}
	return utf8.AppendRune(b, r)
}

// digit returns the ASCII digit of the value of r, which is in Nd: its ranges are runs of ten.
func digit(r rune) byte {
	zero := r
	for zero > 0 && unicode.Is(unicode.Nd, zero-1) {
		zero--
	}
	return '0' + byte((r-zero)%10)
}

//go:embed alike.txt
var alikeData string

// alike holds, for letters of alike.txt, the first of their line.
var alike = sync.OnceValue(func() map[rune]rune {
	m := map[rune]rune{}
	for line := range strings.Lines(alikeData) {
		line = strings.TrimSpace(line)
		first, _ := utf8.DecodeRuneInString(line)
		if first == '#' {
			continue
		}
		for _, r := range line {
			m[r] = first
		}
	}
	return m
})

// spelled are letters that do not decompose, as one types them without their keys.
var spelled = map[rune]string{
	'ß': "ss", 'æ': "ae", 'œ': "oe", 'ø': "o", 'ł': "l", 'đ': "d", 'ð': "d", 'þ': "th", 'ħ': "h", 'ŧ': "t", 'ŋ': "n", 'ĸ': "k",
	'ɓ': "b", 'ɗ': "d", 'ƙ': "k", 'ŀ': "l", 'ƒ': "f", 'ʼ': "", 'ʻ': "", 'ʹ': "", 'ـ': "",
}

// isLeftOut reports whether a mark is one that is often not typed: accents, the points
// of Hebrew and Arabic, the nukta of Indian scripts. The vowel signs of other scripts are letters to those who read
// them, and stay.
func isLeftOut(r rune) bool {
	switch {
	case 0x300 <= r && r <= 0x36f, 0x483 <= r && r <= 0x487, 0x591 <= r && r <= 0x5c7, 0x610 <= r && r <= 0x61a, 0x64b <= r && r <= 0x65f,
		r == 0x670, r == 0x93c, r == 0x9bc, r == 0xa3c, r == 0xabc, r == 0xb3c, 0x6d6 <= r && r <= 0x6ed, 0x1ab0 <= r && r <= 0x1aff, 0x1dc0 <= r && r <= 0x1dff, 0x20d0 <= r && r <= 0x20ff,
		0xfe00 <= r && r <= 0xfe0f, 0xfe20 <= r && r <= 0xfe2f, 0xe0100 <= r && r <= 0xe01ef:
		return unicode.IsMark(r)
	}
	return false
}

// clip cuts s to at most limit bytes, between runes.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
