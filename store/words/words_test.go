package words_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/words"
)

func terms(text string) []string {
	out := []string{}
	for w := range words.Of(text) {
		out = append(out, w.Term)
	}
	return out
}

func TestOf(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{" .,;-!?\t\n", ""},
		{"Hello, World!", "hello world"},
		{"don't e-mail ann@example.org", "don t e mail ann example org"},
		{"3.14 and 2026-03-04 x2", "3 14 and 2026 03 04 x2"},
		{"Crème Brûlée, Ångström", "creme brulee angstrom"},
		{"Cre\u0300me", "creme"}, // decomposed as macOS does it
		{"Straße STRASSE", "strasse strasse"},
		{"Łódź Ørsted Þór Œuvre", "lodz orsted thor oeuvre"},
		{"İstanbul ISTANBUL ıstanbul", "istanbul istanbul istanbul"},
		{"ΣΟΦΌΣ σοφος", "σοφοσ σοφοσ"},
		{"Ёлка елка", "елка елка"},
		{"שָׁלוֹם שלום", "שלום שלום"},
		{"مُحَمَّد محمد أحمد", "محمد محمد احمد"},
		{"می\u200cخواهم", "مىخواةم"},
		{"کتاب كتاب", "كتاب كتاب"}, // of a Persian and an Arabic keyboard
		{"فارسی فارسي فارسى", "فارسى فارسى فارسى"},
		{"ہے مدرسة مدرسه", "ةى مدرسة مدرسة"},
		{"۱۲۳ ١٢٣ १२३ １２３ 123", "123 123 123 123 123"},
		{"৪২ x²", "42 x2"},
		{"מלך מלכ", "םלך םלך"},
		{"क़लम कलम", "कलम कलम"},
		{"ᾳ α", "α α"},
		{"Ґанок ганок", "ганок ганок"},
		{"ﬁne ＷＩＤＥ m²", "fine wide m2"},
		{"in\u00adter\u00ADnational", "international"},
		{"東京都 2024年", "東 京 都 2024 年"},
		{"カメラ ｶﾒﾗ が", "カ メ ラ カ メ ラ ガ"},
		{"ｶﾞ か\u3099", "ガ ガ"},
		{"한국어 \u1112\u1161\u11ab", "한국어 한"},
		{"น้ำ", "น\u0e49\u0e4dา"},
		{"हिन्दी भाषा", "हिन्दी भाषा"},
		{"👍🏽 👍 ❤️", "👍 👍 ❤"},
		{"😂😂go", "😂 😂 go"},
		{"👨‍👩‍👧 🇩🇪🇫🇷", "👨👩👧 🇩🇪 🇫🇷"},
		{"1️⃣", "1"},
		{"x\xffy", "x y"},
		{"a\u0301\u0301\u0301", "a"},
		{strings.Repeat("ab", 100), strings.Repeat("ab", 24)},
		{strings.Repeat("é", 100), strings.Repeat("e", 48)},
		{strings.Repeat("ж", 100), strings.Repeat("ж", 24)},
	} {
		if got := terms(tt.text); strings.Join(got, " ") != tt.want {
			t.Errorf("words of %q are %q, want %q", tt.text, got, tt.want)
		}
	}
	if n := len(terms(strings.Repeat("a ", 30_000))); n != words.MaxWords {
		t.Errorf("of 30,000 words %d are looked at, want %d", n, words.MaxWords)
	}
}

func query(t testing.TB, text string) *words.Query {
	t.Helper()
	q, err := words.ParseQuery(text)
	if err != nil {
		t.Fatalf("ParseQuery(%q): %v", text, err)
	}
	return q
}

func TestParseQuery(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"hello", "hello*"},
		{"  Hello  wörld ", "hello*|world*"},
		{`"Hello World"`, "hello world"},
		{`say "hello world" now`, "say*|hello world|now*"},
		{`"hello wor`, "hello wor*"},
		{"“hello world” x", "hello world|x*"},
		{`""hello""`, "hello*"},
		{"don't", "don t*"},
		{"東京", "東 京*"},
		{"hello hello HELLO", "hello*"},
		{"- , hello !", "hello*"},
		{"👍🏽", "👍*"},
		{strings.Repeat("é", 128), strings.Repeat("e", 48) + "*"},
	} {
		var got []string
		for _, p := range query(t, tt.text).Phrases {
			var b []string
			for _, w := range p {
				b = append(b, w.Text+map[bool]string{true: "*"}[w.Prefix])
			}
			got = append(got, strings.Join(b, " "))
		}
		if s := strings.Join(got, "|"); s != tt.want {
			t.Errorf("%q asks for %q, want %q", tt.text, s, tt.want)
		}
	}
	for text, want := range map[string]string{
		"":                                  "must not be empty",
		" \t":                               "must not be empty",
		"...":                               "has no word in it: letters, digits or emoji",
		`""`:                                "has no word in it: letters, digits or emoji",
		strings.Repeat("é", 129):            "has 258 bytes, limit 256",
		"a\x00b":                            "must be valid UTF-8 without NUL",
		"a\xff":                             "must be valid UTF-8 without NUL",
		"a b c d e f g h i j k l m n o p q": "has 17 different words, limit 16",
	} {
		_, err := words.ParseQuery(text)
		var e *chat.Error
		if !errors.As(err, &e) || e.Code != chat.Invalid || e.Field != "q" || e.Msg != want {
			t.Errorf("ParseQuery(%q) = %v, want invalid q: %s", text, err, want)
		}
	}
}

// show is an excerpt with its marks in brackets.
func show(parts []chat.ExcerptPart) string {
	var b strings.Builder
	for _, p := range parts {
		if p.Match {
			b.WriteString("[" + p.Text + "]")
		} else {
			b.WriteString(p.Text)
		}
	}
	return b.String()
}

func TestExcerpt(t *testing.T) {
	t.Parallel()
	filler := strings.TrimSpace(strings.Repeat("lorem ipsum ", 40))
	for _, tt := range []struct{ name, query, text, want string }{
		{"word", "world", "Hello, World!", "Hello, [World]!"},
		{"prefix", "wor hel", "Hello, World!", "[Hello], [World]!"},
		{"accents", "creme", "une Crème, please", "une [Crème], please"},
		{"without accents", "crème", "une creme", "une [creme]"},
		{"not all", "hello moon", "Hello, World!", ""},
		{"complete only", `"wor"`, "Hello, World!", ""},
		{"phrase", `"b c"`, "a b c, b d c", "a [b] [c], b d c"},
		{"together", "don't", "do not, don’t", "do not, [don]’[t]"},
		{"all of them", "ha", "ha ha, haha", "[ha] [ha], [haha]"},
		{"without spaces", "京都", "東京都と京都", "東[京都]と[京都]"},
		{"emoji", "👨", "the 👨‍👩‍👧 family", "the [👨‍👩‍👧] family"},
		{"colour", "👍", "ok 👍🏽!", "ok [👍🏽]!"},
		{"long", "needle", filler + " needle " + filler, "lorem ipsum lorem ipsum lorem ipsum [needle] lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem"},
		{"at the end", "needle", filler + " needle", "lorem ipsum lorem ipsum lorem ipsum [needle]"},
		{"where most are", "one two", "one " + filler + " two one", "lorem ipsum lorem ipsum lorem ipsum [two] [one]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			parts, ok := query(t, tt.query).Excerpt(tt.text)
			if ok != (tt.want != "") || show(parts) != tt.want {
				t.Errorf("%q in %.60q: got %v %q, want %q", tt.query, tt.text, ok, show(parts), tt.want)
			}
		})
	}
}

// Whatever a text is made of, an excerpt is a short piece of it, and what is marked
// is what was looked for.
func checkExcerpt(t *testing.T, q *words.Query, text string) {
	t.Helper()
	parts, ok := q.Excerpt(text)
	if !ok {
		return
	}
	var all strings.Builder
	marked := false
	for i, p := range parts {
		all.WriteString(p.Text)
		if p.Text == "" || i > 0 && parts[i-1].Match == p.Match {
			t.Fatalf("parts %+v are not told apart", parts)
		}
		if !p.Match {
			continue
		}
		marked = true
		if len(all.String()) < words.MaxExcerptBytes-4 && !asked(q, terms(p.Text)) {
			t.Fatalf("%q is marked, and %v does not ask for it", p.Text, q.Phrases)
		}
	}
	if !strings.Contains(text, all.String()) || !marked || all.Len() > words.MaxExcerptBytes {
		t.Fatalf("the excerpt %+v is no piece of %q with a mark", parts, text)
	}
}

// asked reports whether each of the terms is one of the query's, or begins with one.
func asked(q *words.Query, terms []string) bool {
	for _, term := range terms {
		if !slices.ContainsFunc(q.Phrases, func(p words.Phrase) bool {
			return slices.ContainsFunc(p, func(t words.Term) bool { return strings.HasPrefix(term, t.Text) })
		}) {
			return false
		}
	}
	return len(terms) > 0
}

func FuzzWords(f *testing.F) {
	for _, seed := range []string{"Hello, World!", "Crème Brûlée", "東京都", "👨‍👩‍👧 🇩🇪", "ｶﾞ", "\u0300a\u0300", "x\xff\xfe", "한국", "ﷺ", "½ ⑴ ŉ", strings.Repeat("a\u0301", 600)} {
		f.Add(seed, "wor")
	}
	f.Fuzz(func(t *testing.T, text, typed string) {
		end := 0
		for w := range words.Of(text) {
			if w.Start < end || w.End <= w.Start || w.End > len(text) {
				t.Fatalf("word %+v of %q is out of order", w, text)
			}
			end = w.End
			if w.Term == "" || len(w.Term) > words.MaxTermBytes || !utf8.ValidString(w.Term) || strings.ContainsAny(w.Term, "'\\ .:*\x00") {
				t.Fatalf("the term %q of %q is none", w.Term, text)
			}
		}
		if q, err := words.ParseQuery(typed); err == nil {
			checkExcerpt(t, q, text)
			if strings.Contains(text, " "+strings.TrimSpace(typed)+" ") && !strings.ContainsAny(typed, "\"“”„") {
				if _, ok := q.Excerpt(text); !ok && len(text) < words.MaxWords {
					t.Fatalf("%q is not found in %q", typed, text)
				}
			}
		}
		if q, err := words.ParseQuery(text); err == nil { // what was written finds itself
			if _, ok := q.Excerpt(text); !ok {
				t.Fatalf("%q does not find itself, by %v", text, q.Phrases)
			}
			checkExcerpt(t, q, text+" "+text)
		}
	})
}

func BenchmarkWords(b *testing.B) {
	text := strings.Repeat("Lorem ipsum dolor sit amet, consectétur adipiscing elit; ", 4)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		for range words.Of(text) {
		}
	}
}
