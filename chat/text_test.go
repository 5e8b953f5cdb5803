package chat_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

// What shows nothing, and is not empty.
var inkless = []string{
	" ", "\t\n", "\u00a0\u3000", "\u200b", "\u200d\u2060\ufeff", "\u00ad", "\u034f", "\ufe0f", "\U000e0100", "\u2800", "\u3164\uffa0", "\u115f\u1160", "\u202e", "\u2028", "\x07",
	"\U000e0067",
}

func TestMessagesShowSomething(t *testing.T) {
	t.Parallel()
	for _, text := range inkless {
		for _, c := range []chat.Command{{Type: chat.EventMessage, Content: text}, {Type: chat.EventEdit, Content: text, MessageID: chat.NewID()}} {
			if err := c.Validate(); chat.CodeOf(err) != chat.Invalid || !strings.HasPrefix(chat.PublicMessage(err), "content: must show something") {
				t.Errorf("%s of %+q: %v", c.Type, text, err)
			}
		}
	}
	for _, text := range []string{".", "\u202eabc\u202c", "line\nbreak \x07", "👩‍👩‍👧", "❤", "\u0301", "می\u200cخواهم", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"} {
		if err := (&chat.Command{Type: chat.EventMessage, Content: text}).Validate(); err != nil {
			t.Errorf("%+q: %v", text, err)
		}
	}
}

func TestNamesAreOneVisibleLine(t *testing.T) {
	t.Parallel()
	for field, validate := range map[string]func(string) error{"displayName": chat.ValidateDisplayName, "title": chat.ValidateTitle} {
		for _, name := range append([]string{"a\nb", "a\r\n", "a\x07", "\x1b[31mred", "a\u2028b", "a\u202eb", "\u2066a\u2069", "a\u0085b", "a\x7f"}, inkless...) {
			if err := validate(name); chat.CodeOf(err) != chat.Invalid || !strings.HasPrefix(chat.PublicMessage(err), field+": ") {
				t.Errorf("%s %+q: %v", field, name, err)
			}
		}
		for _, name := range []string{"", "Ann", "אבג\u200f!", "👩‍👩‍👧 Smith", "❤️", "می\u200cخواهم", "O’Brien-Ångström", "中文 名", "a\u00a0b"} {
			if err := validate(name); err != nil {
				t.Errorf("%s %+q: %v", field, name, err)
			}
		}
	}
}

func FuzzName(f *testing.F) {
	for _, s := range append(inkless, "Ann", "a\nb", "a\u202eb") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		err := chat.ValidateTitle(s)
		if err == nil && (!utf8.ValidString(s) || strings.ContainsAny(s, "\x00\x07\n\r\u202e\u2066\u2028") || s != "" && strings.TrimSpace(s) == "") {
			t.Errorf("%+q is taken", s)
		}
		if err != nil && chat.CodeOf(err) != chat.Invalid {
			t.Errorf("%+q: %v", s, err)
		}
	})
}
