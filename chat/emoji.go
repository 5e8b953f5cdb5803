package chat

import (
	_ "embed"
	"fmt"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// MaxEmojiBytes is the longest emoji that a reaction may have. A family of four with skin
// tones has 41 bytes.
const MaxEmojiBytes = 64

const (
	zeroWidthJoiner   = 0x200d
	textPresentation  = 0xfe0e
	emojiPresentation = 0xfe0f
	enclosingKeycap   = 0x20e3
	blackFlag         = 0x1f3f4
	cancelTag         = 0xe007f
)

// parseEmoji returns the one text of an emoji: fully qualified (UTS #51, 1.4.4), so that an
// emoji is the same whether or not its sender's keyboard adds U+FE0F. ok is false if s is not
// exactly one emoji by the grammar of UTS #51, 1.4.9, of at most MaxEmojiBytes: elements
// joined by ZWJ, each a character with the property Emoji, optionally with a presentation
// selector or a skin tone; a flag of two regional indicators; a keycap; or a flag with tags.
// It does not matter whether any font shows it.
func parseEmoji(s string) (qualified string, ok bool) {
	if s == "" || len(s) > MaxEmojiBytes {
		return "", false
	}
	var b []byte
	for {
		rest, ok := cutEmojiElement(s)
		if !ok {
			return "", false
		}
		b = appendQualified(b, s[:len(s)-len(rest)])
		if rest == "" {
			return string(b), len(b) <= MaxEmojiBytes
		}
		if s, ok = cutRune(rest, zeroWidthJoiner); !ok || s == "" {
			return "", false
		}
		b = utf8.AppendRune(b, zeroWidthJoiner)
	}
}

// appendQualified appends an element with U+FE0F where its first character would be shown
// as text without it, and nowhere else.
func appendQualified(b []byte, element string) []byte {
	first, n := utf8.DecodeRuneInString(element)
	b = utf8.AppendRune(b, first)
	element, _ = cutRune(element[n:], emojiPresentation)
	next, _ := utf8.DecodeRuneInString(element)
	if next == enclosingKeycap || unicode.Is(textByDefault(), first) && !isSkinTone(next) {
		b = utf8.AppendRune(b, emojiPresentation)
	}
	return append(b, element...)
}

// cutEmojiElement takes one element off the front of s.
func cutEmojiElement(s string) (rest string, ok bool) {
	first, n := utf8.DecodeRuneInString(s)
	rest = s[n:]
	switch {
	case first >= '0' && first <= '9' || first == '#' || first == '*':
		rest, _ = cutRune(rest, emojiPresentation)
		return cutRune(rest, enclosingKeycap)
	case isRegionalIndicator(first):
		second, n := utf8.DecodeRuneInString(rest)
		return rest[n:], isRegionalIndicator(second)
	case !unicode.Is(emoji(), first):
		return s, false
	}
	if r, n := utf8.DecodeRuneInString(rest); r == emojiPresentation || isSkinTone(r) {
		rest = rest[n:]
	} else if r == textPresentation {
		return s, false
	}
	if first == blackFlag {
		return cutTags(rest)
	}
	return rest, true
}

// cutTags takes the tags of a flag off the front of s, if there are any: they end
// with a cancel tag.
func cutTags(s string) (rest string, ok bool) {
	rest = s
	for {
		r, n := utf8.DecodeRuneInString(rest)
		if r < 0xe0020 || r > cancelTag {
			return rest, rest == s
		}
		rest = rest[n:]
		if r == cancelTag {
			return rest, len(rest) < len(s)-n
		}
	}
}

func cutRune(s string, want rune) (rest string, ok bool) {
	r, n := utf8.DecodeRuneInString(s)
	if r != want {
		return s, false
	}
	return s[n:], true
}

func isRegionalIndicator(r rune) bool { return r >= 0x1f1e6 && r <= 0x1f1ff }

func isSkinTone(r rune) bool { return r >= 0x1f3fb && r <= 0x1f3ff }

//go:embed emoji.txt
var emojiData string

//go:embed emoji_text.txt
var emojiTextData string

var (
	emoji         = sync.OnceValue(func() *unicode.RangeTable { return parseRanges(emojiData) })
	textByDefault = sync.OnceValue(func() *unicode.RangeTable { return parseRanges(emojiTextData) })
)

// parseRanges parses lines of code points, or of the first and the last of a range.
func parseRanges(data string) *unicode.RangeTable {
	t := &unicode.RangeTable{}
	for line := range strings.Lines(data) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var first, last uint32
		if n, _ := fmt.Sscanf(line, "%x %x", &first, &last); n == 1 {
			last = first
		}
		if last <= 0xffff {
			t.R16 = append(t.R16, unicode.Range16{Lo: uint16(first), Hi: uint16(last), Stride: 1})
		} else {
			t.R32 = append(t.R32, unicode.Range32{Lo: first, Hi: last, Stride: 1})
		}
	}
	return t
}
