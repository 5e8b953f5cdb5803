package chat_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

func TestIsEmoji(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"👍", "👍🏽", "❤", "❤️", "☺️", "©️", "1️⃣", "#⃣", "🇨🇭", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏴", "👨‍👩‍👧‍👦", "👩🏽‍❤️‍💋‍👨🏿", "🏳️‍🌈", "🏴‍☠️", "🧑‍🚀", "🐦‍🔥", "🫨", "🀄", "\U0001fae9", // the last of Unicode 16
	} {
		if !chat.IsEmoji(s) {
			t.Errorf("%q is an emoji", s)
		}
	}
	for _, s := range []string{
		"", "a", "1", "#", "é", "x👍", "👍x", "👍👍", "👍 ", " 👍", "\x00", "\xff", "👍\xff", "🇨", "🇨🇭🇨", "👍️🏽", "👨\u200d", "\u200d👨", "👨\u200d\u200d👩", "️", "⃣", "1️", "👍︎",
		"\U000e007f", "🏴\U000e007f", "🏴\U000e0067", "<b>", ":+1:", "中", "\u200b", strings.Repeat("👨\u200d", 9) + "👨", "👨\u200da",
	} {
		if chat.IsEmoji(s) {
			t.Errorf("%q is no emoji", s)
		}
	}
}

func FuzzIsEmoji(f *testing.F) {
	for _, s := range []string{"👍", "👩🏽‍❤️‍💋‍👨🏿", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "🇨🇭", "a", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if chat.IsEmoji(s) && (!utf8.ValidString(s) || len(s) > chat.MaxEmojiBytes || strings.ContainsAny(s, " <>&\"'\x00\n") || s == "") {
			t.Errorf("%q passes for an emoji", s)
		}
	})
}
