package topics

import (
	"strings"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

// Filter is a valid topic filter (MQTT 5.0, 4.7 and 4.8.2); see ParseFilter.
type Filter struct {
	Topic string // the filter without $share/{name}/
	Share string // the name of the shared subscription; "": not shared
}

const sharePrefix = "$share/"

// ParseFilter parses a topic filter: at most chat.MaxTopicBytes bytes of UTF-8 and
// chat.MaxTopicLevels levels, where a wildcard is a whole level and # the last one;
// optionally after $share/{name}/, where name has no /, + or #. Anything else is Invalid.
// It does not allocate on success.
func ParseFilter(s string) (Filter, error) {
	f := Filter{Topic: s}
	if strings.HasPrefix(s, sharePrefix) {
		name, topic, ok := strings.Cut(s[len(sharePrefix):], "/")
		if !ok || name == "" || len(name) > chat.MaxTopicBytes || strings.ContainsAny(name, "+#") || !utf8.ValidString(name) {
			return Filter{}, badFilter("a shared subscription is $share/{name}/{filter}, whose name must not contain /, + or #")
		}
		f.Share, f.Topic = name, topic
	}
	if err := checkTopic(f.Topic, "filter"); err != nil {
		return Filter{}, err
	}
	for rest, more := f.Topic, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#" && more:
			return Filter{}, badFilter("# must be the last level")
		case len(level) > 1 && strings.ContainsAny(level, "+#"):
			return Filter{}, badFilter("a wildcard must be a whole level")
		}
	}
	return f, nil
}

func badFilter(msg string) error { return &chat.Error{Code: chat.Invalid, Field: "filter", Msg: msg} }

// CheckName checks a topic name against the same limits; wildcards are Invalid.
func CheckName(s string) error {
	if strings.ContainsAny(s, "+#") {
		return &chat.Error{Code: chat.Invalid, Field: "topic", Msg: "a topic name must not contain + or #"}
	}
	return checkTopic(s, "topic")
}

func checkTopic(s, field string) error {
	switch {
	case s == "" || len(s) > chat.MaxTopicBytes:
		return &chat.Error{Code: chat.Invalid, Field: field, Msg: "must have 1 to 1024 bytes"}
	case strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s):
		return &chat.Error{Code: chat.Invalid, Field: field, Msg: "must be UTF-8 without NUL"}
	case strings.Count(s, "/") >= chat.MaxTopicLevels:
		return &chat.Error{Code: chat.Invalid, Field: field, Msg: "must have at most 32 levels"}
	}
	return nil
}

// Covers reports whether the filter matches a topic name (MQTT 5.0, 4.7). A name that
// begins with $ is matched only by a filter that does [MQTT-4.7.2-1]. O(levels), and it
// does not allocate.
func (f Filter) Covers(name string) bool {
	filter := f.Topic
	if strings.HasPrefix(name, "$") && (filter[0] == '+' || filter[0] == '#') {
		return false
	}
	for more := true; ; {
		want, restFilter, moreFilter := strings.Cut(filter, "/")
		if want == "#" {
			return true // also for the level above, where the name has ended
		}
		if !more {
			return false
		}
		var level string
		level, name, more = strings.Cut(name, "/")
		if want != "+" && want != level {
			return false
		}
		if !moreFilter {
			return !more
		}
		filter = restFilter
	}
}

// below returns the levels before the first wildcard, without the slash after them, and
// whether there is a wildcard: without one they are the only topic that the filter covers.
func (f Filter) below() (string, bool) {
	for at := 0; at < len(f.Topic); {
		if f.Topic[at] == '+' || f.Topic[at] == '#' {
			return f.Topic[:max(0, at-1)], true
		}
		next := strings.IndexByte(f.Topic[at:], '/')
		if next < 0 {
			break
		}
		at += next + 1
	}
	return f.Topic, false
}

// devPrefix begins the names that are each user's own.
const devPrefix = "dev/"
