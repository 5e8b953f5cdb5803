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

// isEmoji reports whether s is exactly one emoji by the grammar of UTS #51, 1.4.9: elements
// joined by ZWJ, each a character with the property Emoji, optionally with a presentation
// selector or a skin tone; a flag of two regional indicators; a keycap; or a flag with
// tags. It does not matter whether any font shows it.
func isEmoji(s string) bool {
	if s == "" || len(s) > MaxEmojiBytes {
		return false
	}
	for {
		rest, ok := cutEmojiElement(s)
		if !ok {
			return false
		}
		if rest == "" {
			return true
		}
		if s, ok = cutRune(rest, zeroWidthJoiner); !ok || s == "" {
			return false
		}
	}
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

// emoji holds the code points of emoji.txt.
var emoji = sync.OnceValue(func() *unicode.RangeTable {
	t := &unicode.RangeTable{}
	for line := range strings.Lines(emojiData) {
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
})
