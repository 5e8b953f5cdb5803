package chat_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

func TestParseEmoji(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"👍", "👍🏽", "❤", "❤️", "☺️", "©️", "1️⃣", "#⃣", "🇨🇭", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏴", "👨‍👩‍👧‍👦", "👩🏽‍❤️‍💋‍👨🏿", "🏳️‍🌈", "🏴‍☠️", "🧑‍🚀", "🐦‍🔥", "🫨", "🀄", "\U0001fae9", // the last of Unicode 16
	} {
		if _, ok := chat.ParseEmoji(s); !ok {
			t.Errorf("%q is an emoji", s)
		}
	}
	for _, s := range []string{
		"", "a", "1", "#", "é", "x👍", "👍x", "👍👍", "👍 ", " 👍", "\x00", "\xff", "👍\xff", "🇨", "🇨🇭🇨", "👍️🏽", "👨\u200d", "\u200d👨", "👨\u200d\u200d👩", "️", "⃣", "1️", "👍︎",
		"\U000e007f", "🏴\U000e007f", "🏴\U000e0067", "<b>", ":+1:", "中", "\u200b", strings.Repeat("👨\u200d", 9) + "👨", "👨\u200da",
	} {
		if _, ok := chat.ParseEmoji(s); ok {
			t.Errorf("%q is no emoji", s)
		}
	}
}

func FuzzParseEmoji(f *testing.F) {
	for _, s := range []string{"👍", "👩🏽‍❤️‍💋‍👨🏿", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "1️⃣", "🇨🇭", "a", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		one, ok := chat.ParseEmoji(s)
		if !ok {
			return
		}
		if !utf8.ValidString(s) || len(one) > chat.MaxEmojiBytes || strings.ContainsAny(s, " <>&\"'\x00\n") || s == "" {
			t.Errorf("%q passes for an emoji", s)
		}
		bare := strings.ReplaceAll(s, "\ufe0f", "")
		if strings.ReplaceAll(one, "\ufe0f", "") != bare {
			t.Errorf("%q became %q", s, one)
		}
		for _, same := range []string{one, bare} {
			if again, ok := chat.ParseEmoji(same); !ok || again != one {
				t.Errorf("%q is %q, and %q is %q, %t", s, one, same, again, ok)
			}
		}
	})
}

// One emoji, whatever the keyboard: the fully qualified form of emoji-test.txt.
func TestEmojiHasOneForm(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"\u2764": "\u2764\ufe0f", "\u2764\ufe0f": "\u2764\ufe0f", "\U0001f44d\ufe0f": "\U0001f44d", "\U0001f44d": "\U0001f44d",
		"1\u20e3": "1\ufe0f\u20e3", "1\ufe0f\u20e3": "1\ufe0f\u20e3", "\u00a9": "\u00a9\ufe0f", "\u261d\U0001f3fd": "\u261d\U0001f3fd",
		"\U0001f3f3\u200d\U0001f308": "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f3f4\u200d\u2620": "\U0001f3f4\u200d\u2620\ufe0f",
		"\U0001f469\U0001f3fd\u200d\u2764\u200d\U0001f468": "\U0001f469\U0001f3fd\u200d\u2764\ufe0f\u200d\U0001f468", "\U0001f1e8\U0001f1ed": "\U0001f1e8\U0001f1ed",
	} {
		if got, ok := chat.ParseEmoji(s); !ok || got != want {
			t.Errorf("%+q is %+q, %t, want %+q", s, got, ok, want)
		}
	}
}
