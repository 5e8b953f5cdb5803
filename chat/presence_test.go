package chat_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
)

func TestParseStatus(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]chat.Status{
		`{"status":"online"}`: chat.Online, ` {"status":"away","x":[1]}`: chat.Away, `{"status":"invisible"}`: chat.Invisible, `{"status":"offline"}`: chat.Offline,
		``: "", `"online"`: "", `{}`: "", `{"status":null}`: "", `{"status":1}`: "", `{"status":"Online"}`: "", `{"status":"online"`: "",
		"{\"status\":\"online\",\"x\":\"\xff\"}": "", `{"status":"online","x":"` + strings.Repeat("x", 1024) + `"}`: "",
	} {
		got, err := chat.ParseStatus([]byte(payload))
		if got != want || (err == nil) != (want != "") || err != nil && chat.CodeOf(err) != chat.Invalid {
			t.Errorf("ParseStatus(%.40q) = %q, %v; want %q", payload, got, err, want)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	for _, seed := range []string{`{"status":"online"}`, `{"status":"invisible","status":"away"}`, `{}`, ``, `null`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := chat.ParseStatus(payload)
		if known := slices.Contains([]chat.Status{chat.Online, chat.Away, chat.Invisible, chat.Offline}, got); known != (err == nil) {
			t.Errorf("ParseStatus(%q) = %q, %v", payload, got, err)
		}
	})
}
