package mosquitto

import (
	"errors"
	"fmt"
	"strings"
)

const maxLevels = 201 // Mosquitto: at most 200 separators

// validateFilter reports what is wrong with a topic filter of an ACL file by
// Mosquitto's rules: + and # are whole levels, and # is the last one.
func validateFilter(f string) error {
	switch {
	case f == "":
		return errors.New("the topic is empty")
	case len(f) > 65535:
		return errors.New("the topic has more than 65,535 bytes")
	case strings.Count(f, "/") >= maxLevels:
		return fmt.Errorf("the topic has more than %d levels", maxLevels)
	}
	for rest, more := f, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if strings.ContainsAny(level, "+#") && len(level) > 1 || level == "#" && more {
			return fmt.Errorf("the topic %q has a wildcard in the wrong place", clip(f))
		}
	}
	return nil
}

// matches reports whether a topic filter matches a topic name (MQTT 5.0, 4.7); one that
// begins with $ is matched only by filters that do. It is O(length), and does not allocate.
func matches[F ~string | ~[]byte](filter F, topic string) bool {
	if len(filter) == 0 || topic == "" || (filter[0] == '$') != (topic[0] == '$') {
		return false
	}
	f, t := 0, 0
	for {
		fe, te := levelEnd(filter, f), levelEnd(topic, t)
		switch {
		case fe-f == 1 && filter[f] == '#':
			return true
		case fe-f == 1 && filter[f] == '+':
		case string(filter[f:fe]) != topic[t:te]:
			return false
		}
		moreF, moreT := fe < len(filter), te < len(topic)
		switch {
		case !moreF && !moreT:
			return true
		case !moreT: // a/# covers a
			return fe+2 == len(filter) && filter[fe+1] == '#'
		case !moreF:
			return false
		}
		f, t = fe+1, te+1
	}
}

// levelEnd returns where the level that begins at i ends.
func levelEnd[S ~string | ~[]byte](s S, i int) int {
	for i < len(s) && s[i] != '/' {
		i++
	}
	return i
}
