package topics_test

import (
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/topics"
)

func TestParseFilter(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{
		"a": true, "/": true, "//": true, "#": true, "+": true, "+/+": true, "a/#": true, "+/#": true, "/+": true, " ": true, "$SYS/#": true, "dev/é/x": true,
		"$share/g/a": true, "$share/g/#": true, "$share/g//": true, "$share": true,
		"": false, "a#": false, "#/a": false, "a/#/b": false, "+a": false, "a+/b": false, "a\x00": false, "\xff": false, "##": false, "++": false, "+#": false,
		"$share/": false, "$share/g": false, "$share//a": false, "$share/+/a": false, "$share/g#/a": false, "$share/g/": false, "$share/g/a#": false, "$share/\xff/a": false,
		strings.Repeat("a", 1024): true, strings.Repeat("a", 1025): false, strings.Repeat("/", 31): true, strings.Repeat("/", 32): false,
		"$share/g/" + strings.Repeat("a", 1024): true, "$share/" + strings.Repeat("g", 1025) + "/a": false,
	} {
		f, err := topics.ParseFilter(text)
		if (err == nil) != ok || err != nil && chat.CodeOf(err) != chat.Invalid {
			t.Errorf("ParseFilter(%.40q) = %+v, %v", text, f, err)
		}
	}
	if f, _ := topics.ParseFilter("$share/g/a/+"); f != (topics.Filter{Topic: "a/+", Share: "g"}) {
		t.Errorf("got %+v", f)
	}
}

// The examples of MQTT 5.0, 4.7.
func TestCovers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		filter, name string
		want         bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/#", "sport", true},
		{"sport/#", "sports", false},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+/#", "a", true},
		{"#", "$SYS/", false},
		{"+/monitor/Clients", "$SYS/monitor/Clients", false},
		{"$SYS/#", "$SYS/", true},
		{"$SYS/monitor/+", "$SYS/monitor/Clients", true},
		{"+/$x", "a/$x", true},
		{"a/+/#", "a", false},
		{"a//b", "a/b", false},
	} {
		f, err := topics.ParseFilter(tt.filter)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Covers(tt.name); got != tt.want || naive(tt.filter, tt.name) != tt.want {
			t.Errorf("Covers(%q, %q) = %v, want %v", tt.filter, tt.name, got, tt.want)
		}
	}
}

// naive matches level by level, as the specification tells it.
func naive(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	if name[0] == '$' && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i := range f {
		if f[i] == "#" {
			return len(n) >= i
		}
		if i >= len(n) || f[i] != "+" && f[i] != n[i] {
			return false
		}
	}
	return len(f) == len(n)
}

// FuzzCovers compares the filter, and the tree that it is put into beside others, with
// the naive matcher.
func FuzzCovers(f *testing.F) {
	for _, s := range []string{"a/b|a/+|#|+/#|$SYS/#|a/b", "/|+|+/+", "a//|a/#", "$x|#", "a/b/c|a/+/#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parts := strings.Split(s, "|")
		name := parts[len(parts)-1]
		if topics.CheckName(name) != nil {
			if _, err := topics.ParseFilter(name); err == nil && !strings.ContainsAny(name, "+#") && !strings.HasPrefix(name, "$share/") {
				t.Errorf("%q is a filter, and no name", name)
			}
			return
		}
		e := topics.New(topics.Options{Access: topics.Open{}, OneSpace: true})
		r := &receiver{}
		var texts []string
		covered := false
		for i, text := range parts[:len(parts)-1] {
			filter, err := topics.ParseFilter(text)
			if err != nil {
				continue
			}
			want := naive(filter.Topic, name)
			if got := filter.Covers(name); got != want {
				t.Errorf("Covers(%q, %q) = %v, want %v", text, name, got, want)
			}
			covered = covered || want && filter.Share == ""
			if filter.Share == "" {
				e.Subscribe(r, user(alice, "a"), text, topics.Subscription{Filter: filter, Identifier: uint32(i + 1)})
				texts = append(texts, text)
			}
		}
		e.Arrive(&chat.Publication{Topic: name})
		if (len(r.got) == 1) != covered || len(r.got) > 1 {
			t.Errorf("%q came %d times by %q", name, len(r.got), texts)
		}
		for _, text := range texts {
			e.Unsubscribe(r, text)
		}
		r.got = nil
		e.Arrive(&chat.Publication{Topic: name})
		if n, sessions := e.Counts(); len(r.got) != 0 || n != 0 || sessions != 0 {
			t.Errorf("after unsubscribing from all of %q it came %d times; %d filters of %d sessions are left", texts, len(r.got), n, sessions)
		}
	})
}
