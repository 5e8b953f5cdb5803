package chat_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

func TestCheckJSON(t *testing.T) {
	t.Parallel()
	var many strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&many, `"%d":%d,`, i, i)
	}
	for text, want := range map[string]string{
		`{}`:  "",
		`[]`:  "",
		`"a"`: "",
		`{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}`: "",
		`{"a":"a","b":"a"}`:                         "",
		`["a","a"]`:                                 "",
		`{"A":1,"a":2}`:                             "",
		`{"a":1,"b":2,"a":3}`:                       `names "a" twice in one object`,
		`[0,{"x":{"a":[],"a":{}}}]`:                 `names "a" twice in one object`,
		`{"a":[1,{"b":"]}"}],"a":1}`:                `names "a" twice in one object`,
		`{"é":1,"\u00e9":1}`:                        `names "é" twice in one object`,
		`{"a\"":1,"a\\\"":1}`:                       "",
		`{"":1,"":1}`:                               `names "" twice in one object`,
		"{" + many.String() + `"x":1}`:              "",
		"{" + many.String() + `"9999":1}`:           `names "9999" twice in one object`,
		`"\ud83d\ude00"`:                            "",
		`"\\ud83d"`:                                 "",
		`"\ud83d"`:                                  `has the escape \ud83d, a surrogate without its other half`,
		`"\uD83Dx\ude00"`:                           `has the escape \uD83D, a surrogate without its other half`,
		`"\ude00\ud83d"`:                            `has the escape \ude00, a surrogate without its other half`,
		`{"\ud83d\ud83d":1}`:                        `has the escape \ud83d, a surrogate without its other half`,
		`"\ud83d\n\\"`:                              `has the escape \ud83d, a surrogate without its other half`,
	} {
		got := ""
		if err := chat.CheckJSON([]byte(text)); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("CheckJSON(%.80s) = %q, want %q", text, got, want)
		}
	}
}

func TestCheckJSONDoesNotAllocate(t *testing.T) { // not parallel: it counts
	data := []byte(`{"type":"message","content":"hello\n","clientMsgId":"0198c0de-0000-7000-8000-000000000000","attachments":["a"]}`)
	if n := testing.AllocsPerRun(100, func() { _ = chat.CheckJSON(data) }); n > 0 {
		t.Errorf("CheckJSON allocates %v times", n)
	}
}

// CheckJSON against the decoder of encoding/json, which reads names one by one, and
// replaces half a pair by U+FFFD.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{"a":1,"a":2}`, `{"a":{"b":[{}]},"b":"\ud800"}`, `["\\ud800","\ud83d\ude00"]`, `{"\u0061":1,"a":2}`, `"\ufffd"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) || !utf8.Valid(data) {
			return
		}
		twice, err := namesTwice(json.NewDecoder(bytes.NewReader(data)))
		if err != nil {
			t.Skip(err)
		}
		if got, want := chat.CheckJSON(data) != nil, twice || halfPairs(t, data); got != want {
			t.Errorf("CheckJSON(%q) refuses: %t, want %t", data, got, want)
		}
	})
}

// namesTwice reports whether the next value has an object with two members of one name.
func namesTwice(d *json.Decoder) (twice bool, err error) {
	token, err := d.Token()
	if err != nil || token != json.Delim('{') && token != json.Delim('[') {
		return false, err
	}
	seen := map[any]bool{}
	for d.More() {
		if token == json.Delim('{') {
			name, err := d.Token()
			if err != nil {
				return twice, err
			}
			twice = twice || seen[name]
			seen[name] = true
		}
		inner, err := namesTwice(d)
		if err != nil {
			return twice, err
		}
		twice = twice || inner
	}
	_, err = d.Token()
	return twice, err
}

// halfPairs reports whether a string has an escaped surrogate without its other half: it
// decodes to U+FFFD, which is not written there.
func halfPairs(t *testing.T, data []byte) bool {
	t.Helper()
	const replacement = "\ufffd"
	written := strings.Count(string(data), replacement)
	for i := 0; i+6 <= len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		if r, err := strconv.ParseUint(string(data[i+2:i+6]), 16, 16); data[i+1] == 'u' && err == nil && r == 0xfffd {
			written++
		}
		i++ // what is escaped does not begin an escape
	}
	decoded := 0
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		token, err := d.Token()
		if err != nil {
			return decoded != written
		}
		if s, ok := token.(string); ok {
			decoded += strings.Count(s, replacement)
		}
	}
}
