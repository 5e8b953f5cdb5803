package broker

import (
	"bytes"
	"unicode/utf8"
)

// runes checks that a text is UTF-8 without NUL (MQTT 5.0, 1.5.4), in pieces that
// may end within a character.
type runes struct {
	begun [utf8.UTFMax]byte // the character at hand, as far as it has come
	n     int               // bytes of it
}

// within reports whether the text ends within a character, and begins another text.
func (r *runes) within() bool {
	within := r.n > 0
	r.n = 0
	return within
}

// feed reports whether the next piece is well-formed.
func (r *runes) feed(piece []byte) bool {
	if bytes.IndexByte(piece, 0) >= 0 {
		return false
	}
	for r.n > 0 && len(piece) > 0 {
		r.begun[r.n] = piece[0]
		r.n, piece = r.n+1, piece[1:]
		if b := r.begun[:r.n]; utf8.FullRune(b) {
			if !utf8.Valid(b) {
				return false
			}
			r.n = 0
		}
	}
	for i := max(0, len(piece)-utf8.UTFMax+1); i < len(piece); i++ {
		if !utf8.FullRune(piece[i:]) {
			r.n = copy(r.begun[:], piece[i:])
			piece = piece[:i]
		}
	}
	return utf8.Valid(piece)
}
