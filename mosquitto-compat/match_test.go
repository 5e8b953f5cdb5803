package mosquitto

import (
	"strings"
	"testing"
)

// naive is topic matching as MQTT 5.0, 4.7 says it, level by level.
func naive(filter, topic string) bool {
	if filter == "" || topic == "" || strings.HasPrefix(filter, "$") != strings.HasPrefix(topic, "$") {
		return false
	}
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return len(t) >= i
		}
		if i >= len(t) || level != "+" && level != t[i] {
			return false
		}
	}
	return len(f) == len(t)
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		filter, topic string
		want          bool
	}{
		{"#", "a/b", true},
		{"#", "$SYS/a", false},
		{"$SYS/#", "$SYS", true},
		{"+/b", "$a/b", false},
		{"a/#", "a", true},
		{"a/#", "ab", false},
		{"+/#", "a", true},
		{"+", "/", false},
		{"+/+", "/", true},
		{"a/+", "a/", true},
		{"a/+", "a", false},
		{"a/+/#", "a/", true},
		{"/", "/", true},
		{"a//#", "a/", true},
		{"", "", false},
		{"a", "", false},
		{"#", "/", true},
		{"a/b", "a/b/", false},
		{"a/b/", "a/b", false},
	} {
		if got := matches(tt.filter, tt.topic); got != tt.want {
			t.Errorf("matches(%q, %q) = %v", tt.filter, tt.topic, got)
		}
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Add("+/+", "/")
	f.Add("$SYS/#", "$SYS")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if validateFilter(filter) != nil || strings.ContainsAny(topic, "+#") {
			return
		}
		if got, want := matches(filter, topic), naive(filter, topic); got != want {
			t.Errorf("matches(%q, %q) = %v, want %v", filter, topic, got, want)
		}
		if matches(filter, topic) != matches([]byte(filter), topic) {
			t.Errorf("matches(%q, %q) differs between strings and bytes", filter, topic)
		}
	})
}
