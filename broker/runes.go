package broker

// runes checks that a text is UTF-8 without NUL (MQTT 5.0, 1.5.4), in pieces that
// may end within a character.
type runes struct {
	more      byte // bytes that the character at hand still needs
	low, high byte // between which its next one must be
}

// within reports whether the text ends within a character, and begins another text.
func (r *runes) within() bool {
	within := r.more > 0
	*r = runes{}
	return within
}

// feed reports whether the next piece is well-formed (Unicode, table 3-7).
func (r *runes) feed(piece []byte) bool {
	for _, c := range piece {
		if r.more > 0 {
			if c < r.low || c > r.high {
				return false
			}
			r.more--
			r.low, r.high = 0x80, 0xbf
			continue
		}
		r.low, r.high = 0x80, 0xbf
		switch {
		case c == 0, c >= 0x80 && c < 0xc2, c > 0xf4:
			return false
		case c < 0x80:
		case c < 0xe0:
			r.more = 1
		case c < 0xf0:
			r.more = 2
		default:
			r.more = 3
		}
		switch c {
		case 0xe0:
			r.low = 0xa0 // overlong
		case 0xed:
			r.high = 0x9f // surrogates
		case 0xf0:
			r.low = 0x90 // overlong
		case 0xf4:
			r.high = 0x8f // beyond U+10FFFF
		}
	}
	return true
}
