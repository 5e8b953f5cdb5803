package chat_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
)

// nameStore is a fakeStore in which users have names.
type nameStore struct {
	*fakeStore
	ids   map[string]chat.ID
	asked [][]string
}

func (s *nameStore) FindUsernames(_ context.Context, names []string) (map[string]chat.ID, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	s.asked = append(s.asked, names)
	found := map[string]chat.ID{}
	for _, name := range names {
		if id, ok := s.ids[name]; ok {
			found[name] = id
		}
	}
	return found, nil
}

func TestMentionCandidates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                            "",
		"hello":                       "",
		"@":                           "",
		"@a":                          "", // no name is so short
		"@ann":                        "ann",
		"hi @Ann, and @ben_2!":        "ann; ben_2",
		"@ann.":                       "ann. ann",
		"(@ann...)":                   "ann... ann.. ann. ann",
		"@a.b-c":                      "a.b-c",
		"ann@example.com":             "",
		"@ann@example.com":            "ann",
		"@@ann":                       "",
		".@ann -@ben":                 "ann; ben",
		"你好@ann":                      "ann",
		"@ann你好":                      "ann",
		"@_ann":                       "",
		"@" + strings.Repeat("x", 33): "",
	} {
		var got []string
		for _, c := range chat.MentionCandidates(text) {
			got = append(got, strings.Join(c, " "))
		}
		if s := strings.Join(got, "; "); s != want {
			t.Errorf("%q may mention %q, want %q", text, s, want)
		}
	}
	if n := len(chat.MentionCandidates(strings.Repeat("@ann ", 10_000))); n != chat.MaxMentions {
		t.Errorf("%d mentions are looked at, want %d", n, chat.MaxMentions)
	}
}

// Only members are mentioned, each once, in the order of the text; who has which name
// is asked once.
func TestMentions(t *testing.T) {
	t.Parallel()
	st, log := &nameStore{fakeStore: newFakeStore(), ids: map[string]chat.ID{"ann": ann, "ben": ben, "ben.": {0x77}, "zoe": {0x99}}}, &fakeLog{}
	st.put(room, ann, ben)
	s := chat.NewService(st, fixedClock{noon}, nil)
	s.Use(log, &fakePublisher{})
	send := func(kind chat.EventType, text string) []chat.ID {
		t.Helper()
		c := chat.Command{Type: kind, Content: text, MessageID: chat.ID{1}}
		if err := s.Submit(t.Context(), ann, room, &c, chat.Source{}, &chat.Append{}); err != nil {
			t.Fatal(err)
		}
		return log.appends[len(log.appends)-1].Event.Mentions
	}
	for range 2 {
		if got := send(chat.EventMessage, "@ben and @zoe and @nobody, @Ann, @ben"); !slices.Equal(got, []chat.ID{ben, ann}) {
			t.Errorf("mentioned: %v", got)
		}
	}
	if len(st.asked) != 2 || !slices.Equal(st.asked[1], []string{"nobody"}) {
		t.Errorf("asked for %v; what is known need not be asked for", st.asked)
	}
	if got := send(chat.EventEdit, "ask @ben"); !slices.Equal(got, []chat.ID{ben}) {
		t.Errorf("an edit mentions %v", got)
	}
	if got := send(chat.EventMessage, "ask @ben."); got != nil {
		t.Errorf("the longest name is somebody else's, who is no member, and %v are mentioned", got)
	}
	st.fail = &chat.Error{Code: chat.Unavailable}
	err := s.Submit(t.Context(), ann, room, &chat.Command{Type: chat.EventMessage, Content: "@unknown"}, chat.Source{}, &chat.Append{})
	if chat.CodeOf(err) != chat.Unavailable {
		t.Errorf("without a database: %v", err)
	}
}

func FuzzMentionCandidates(f *testing.F) {
	for _, s := range []string{"@ann", "a@b", "@@", "@a.b. @c", "@\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, names := range chat.MentionCandidates(text) {
			for _, name := range names {
				if chat.ValidateUsername(name) != nil || !strings.Contains(strings.ToLower(text), "@"+name) {
					t.Errorf("%q mentions %q", text, name)
				}
			}
		}
	})
}

func BenchmarkMentionCandidates(b *testing.B) {
	text := fmt.Sprint(strings.Repeat("nobody is mentioned here. ", 8))
	b.ReportAllocs()
	for b.Loop() {
		chat.MentionCandidates(text)
	}
}
