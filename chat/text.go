package chat

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// hasInk reports whether anything of a text can be seen: a character that is neither white
// space nor a control, and not ignorable by default (Unicode, 5.21), such as U+200B.
func hasInk(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsGraphic(r) && !unicode.In(r, blank...) })
}

// blank are the graphic characters that show nothing. Unicode counts the fillers of Hangul as
// letters and the Braille pattern of no dots as a symbol.
var blank = []*unicode.RangeTable{
	unicode.White_Space, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector,
	{R16: []unicode.Range16{{Lo: 0x2800, Hi: 0x2800, Stride: 1}}},
}

const invisible = "must show something: it has only spaces and invisible characters"

// validateName returns what is wrong with a name that is shown in one line amid other text,
// as Invalid; the empty name is right. Line breaks and other controls, and the characters
// that change the direction of what follows, are refused (RFC 8264, 9.12 and 9.13; RFC 8266).
// ZWJ, ZWNJ and variation selectors, which RFC 8266 refuses too, are taken: emoji are made
// of them, and Persian is written with them.
func validateName(field, s string, maxRunes int) error {
	switch n := utf8.RuneCountInString(s); {
	case !utf8.ValidString(s) || strings.ContainsRune(s, 0):
		return invalid(field, "must be valid UTF-8 without NUL")
	case n > maxRunes:
		return invalid(field, "is too long: "+itoa(n)+" characters, limit "+itoa(maxRunes))
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) }):
		return invalid(field, "must be one line, without control characters")
	case strings.ContainsFunc(s, isDirectional):
		return invalid(field, "must not change the direction of the text around it (U+202A to U+202E, U+2066 to U+2069)")
	case s != "" && !hasInk(s):
		return invalid(field, invisible)
	}
	return nil
}

// isDirectional reports whether r opens or closes an embedding, an override or an isolate
// (Unicode, Annex 9).
func isDirectional(r rune) bool { return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 }
