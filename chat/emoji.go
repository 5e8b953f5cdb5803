package chat

import (
	"unicode"
	"unicode/utf8"
)

// MaxEmojiBytes is the longest emoji that a reaction may have: a family of four with
// skin tones has 41.
const MaxEmojiBytes = 64

const (
	zeroWidthJoiner   = 0x200d
	textPresentation  = 0xfe0e
	emojiPresentation = 0xfe0f
	enclosingKeycap   = 0x20e3
	blackFlag         = 0x1f3f4
	cancelTag         = 0xe007f
)

// isEmoji reports whether s is exactly one emoji, by the grammar of UTS #51, 1.4.9:
// elements joined by ZWJ, each a character with the property Emoji, maybe with a
// presentation selector or a skin tone; a flag of two regional indicators; a keycap; a
// flag with tags. It does not ask whether any font has a picture for it.
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
	case !unicode.Is(emoji, first):
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

// emoji are the characters with the property Emoji beyond ASCII (Unicode 15.0,
// emoji-data.txt), and the room that is kept for those of later versions.
var emoji = &unicode.RangeTable{
	R16: []unicode.Range16{
		{0x00a9, 0x00a9, 1},
		{0x00ae, 0x00ae, 1},
		{0x203c, 0x203c, 1},
		{0x2049, 0x2049, 1},
		{0x2122, 0x2122, 1},
		{0x2139, 0x2139, 1},
		{0x2194, 0x2199, 1},
		{0x21a9, 0x21aa, 1},
		{0x231a, 0x231b, 1},
		{0x2328, 0x2328, 1},
		{0x23cf, 0x23cf, 1},
		{0x23e9, 0x23f3, 1},
		{0x23f8, 0x23fa, 1},
		{0x24c2, 0x24c2, 1},
		{0x25aa, 0x25ab, 1},
		{0x25b6, 0x25b6, 1},
		{0x25c0, 0x25c0, 1},
		{0x25fb, 0x25fe, 1},
		{0x2600, 0x2604, 1},
		{0x260e, 0x260e, 1},
		{0x2611, 0x2611, 1},
		{0x2614, 0x2615, 1},
		{0x2618, 0x2618, 1},
		{0x261d, 0x261d, 1},
		{0x2620, 0x2620, 1},
		{0x2622, 0x2623, 1},
		{0x2626, 0x2626, 1},
		{0x262a, 0x262a, 1},
		{0x262e, 0x262f, 1},
		{0x2638, 0x263a, 1},
		{0x2640, 0x2640, 1},
		{0x2642, 0x2642, 1},
		{0x2648, 0x2653, 1},
		{0x265f, 0x2660, 1},
		{0x2663, 0x2663, 1},
		{0x2665, 0x2666, 1},
		{0x2668, 0x2668, 1},
		{0x267b, 0x267b, 1},
		{0x267e, 0x267f, 1},
		{0x2692, 0x2697, 1},
		{0x2699, 0x2699, 1},
		{0x269b, 0x269c, 1},
		{0x26a0, 0x26a1, 1},
		{0x26a7, 0x26a7, 1},
		{0x26aa, 0x26ab, 1},
		{0x26b0, 0x26b1, 1},
		{0x26bd, 0x26be, 1},
		{0x26c4, 0x26c5, 1},
		{0x26c8, 0x26c8, 1},
		{0x26ce, 0x26cf, 1},
		{0x26d1, 0x26d1, 1},
		{0x26d3, 0x26d4, 1},
		{0x26e9, 0x26ea, 1},
		{0x26f0, 0x26f5, 1},
		{0x26f7, 0x26fa, 1},
		{0x26fd, 0x26fd, 1},
		{0x2702, 0x2702, 1},
		{0x2705, 0x2705, 1},
		{0x2708, 0x270d, 1},
		{0x270f, 0x270f, 1},
		{0x2712, 0x2712, 1},
		{0x2714, 0x2714, 1},
		{0x2716, 0x2716, 1},
		{0x271d, 0x271d, 1},
		{0x2721, 0x2721, 1},
		{0x2728, 0x2728, 1},
		{0x2733, 0x2734, 1},
		{0x2744, 0x2744, 1},
		{0x2747, 0x2747, 1},
		{0x274c, 0x274c, 1},
		{0x274e, 0x274e, 1},
		{0x2753, 0x2755, 1},
		{0x2757, 0x2757, 1},
		{0x2763, 0x2764, 1},
		{0x2795, 0x2797, 1},
		{0x27a1, 0x27a1, 1},
		{0x27b0, 0x27b0, 1},
		{0x27bf, 0x27bf, 1},
		{0x2934, 0x2935, 1},
		{0x2b05, 0x2b07, 1},
		{0x2b1b, 0x2b1c, 1},
		{0x2b50, 0x2b50, 1},
		{0x2b55, 0x2b55, 1},
		{0x3030, 0x3030, 1},
		{0x303d, 0x303d, 1},
		{0x3297, 0x3297, 1},
		{0x3299, 0x3299, 1},
	},
	R32: []unicode.Range32{
		{0x1f004, 0x1f004, 1},
		{0x1f0cf, 0x1f0cf, 1},
		{0x1f170, 0x1f171, 1},
		{0x1f17e, 0x1f17f, 1},
		{0x1f18e, 0x1f18e, 1},
		{0x1f191, 0x1f19a, 1},
		{0x1f1e6, 0x1f1ff, 1},
		{0x1f201, 0x1f202, 1},
		{0x1f21a, 0x1f21a, 1},
		{0x1f22f, 0x1f22f, 1},
		{0x1f232, 0x1f23a, 1},
		{0x1f250, 0x1f251, 1},
		{0x1f300, 0x1f321, 1},
		{0x1f324, 0x1f393, 1},
		{0x1f396, 0x1f397, 1},
		{0x1f399, 0x1f39b, 1},
		{0x1f39e, 0x1f3f0, 1},
		{0x1f3f3, 0x1f3f5, 1},
		{0x1f3f7, 0x1f4fd, 1},
		{0x1f4ff, 0x1f53d, 1},
		{0x1f549, 0x1f54e, 1},
		{0x1f550, 0x1f567, 1},
		{0x1f56f, 0x1f570, 1},
		{0x1f573, 0x1f57a, 1},
		{0x1f587, 0x1f587, 1},
		{0x1f58a, 0x1f58d, 1},
		{0x1f590, 0x1f590, 1},
		{0x1f595, 0x1f596, 1},
		{0x1f5a4, 0x1f5a5, 1},
		{0x1f5a8, 0x1f5a8, 1},
		{0x1f5b1, 0x1f5b2, 1},
		{0x1f5bc, 0x1f5bc, 1},
		{0x1f5c2, 0x1f5c4, 1},
		{0x1f5d1, 0x1f5d3, 1},
		{0x1f5dc, 0x1f5de, 1},
		{0x1f5e1, 0x1f5e1, 1},
		{0x1f5e3, 0x1f5e3, 1},
		{0x1f5e8, 0x1f5e8, 1},
		{0x1f5ef, 0x1f5ef, 1},
		{0x1f5f3, 0x1f5f3, 1},
		{0x1f5fa, 0x1f64f, 1},
		{0x1f680, 0x1f6c5, 1},
		{0x1f6cb, 0x1f6d2, 1},
		{0x1f6d5, 0x1f6d7, 1},
		{0x1f6dc, 0x1f6e5, 1},
		{0x1f6e9, 0x1f6e9, 1},
		{0x1f6eb, 0x1f6ec, 1},
		{0x1f6f0, 0x1f6f0, 1},
		{0x1f6f3, 0x1f6fc, 1},
		{0x1f7e0, 0x1f7eb, 1},
		{0x1f7f0, 0x1f7f0, 1},
		{0x1f90c, 0x1f93a, 1},
		{0x1f93c, 0x1f945, 1},
		{0x1f947, 0x1faff, 1},
		{0x1fc00, 0x1fffd, 1},
	},
	LatinOffset: 2,
}
