package mosquitto

import (
	"errors"
	"fmt"
	"strings"
)

const maxACLFile = 64 << 20 // bytes

// access is what a rule is about.
type access uint8

const (
	read access = 1 << iota
	write
	deny access = 0
)

// ACL is the contents of an ACL file: who may read and write which topics. It does not
// change.
type ACL struct {
	users     map[string]*rules
	anonymous rules // topic lines before the first user line: for clients without a user name only
	patterns  rules
	count     int
	warnings  []Fault
}

// rules are those of one user, or the patterns. Whatever the order of the lines, a deny
// rule wins: Mosquitto puts them first.
type rules struct {
	denied  []string
	allowed []rule
}

type rule struct {
	access access
	filter string
}

func (r *rules) add(a access, filter string) {
	if a == deny {
		r.denied = append(r.denied, filter)
		return
	}
	r.allowed = append(r.allowed, rule{a, filter})
}

// ParseACL reads an ACL file. A malformed line is an error that names it, and makes the
// whole file unusable, as in Mosquitto.
func ParseACL(text []byte) (*ACL, error) {
	a := &ACL{users: map[string]*rules{}}
	at := &a.anonymous
	var fault error
	lines(text, func(n int, line []byte) {
		if fault == nil {
			if err := a.line(&at, n, trimRight(string(line))); err != nil {
				fault = fmt.Errorf("line %d: %w", n, err)
			}
		}
	})
	if fault != nil {
		return nil, fault
	}
	return a, nil
}

func trimRight(s string) string { return strings.TrimRight(s, " \t\n\v\f\r") }

// line parses one line: words are separated by spaces only.
func (a *ACL) line(at **rules, n int, line string) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	if strings.ContainsRune(line, 0) {
		return errors.New("it contains NUL")
	}
	what, tail, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	switch what {
	case "user":
		name := trimBlanks(tail)
		if name == "" {
			return errors.New("user: the name is missing")
		}
		if a.users[name] == nil {
			a.users[name] = &rules{}
		}
		*at = a.users[name]
	case "topic", "pattern":
		acc, filter, err := parseRule(tail)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		a.count++
		if what == "topic" {
			(*at).add(acc, filter)
			return nil
		}
		a.patterns.add(acc, filter)
		if !strings.Contains(filter, "%c") && !strings.Contains(filter, "%u") {
			a.warnings = append(a.warnings, Fault{n, fmt.Sprintf("the pattern %q contains neither %%c nor %%u: it applies to everybody", clip(filter))})
		}
	default:
		return fmt.Errorf("%q: want user, topic or pattern, or # in the first column", clip(what))
	}
	return nil
}

// parseRule reads what follows topic or pattern: perhaps an access, and a filter,
// which may hold blanks.
func parseRule(s string) (access, string, error) {
	first, filter, two := strings.Cut(strings.TrimLeft(s, " "), " ")
	acc := read | write
	if !two {
		filter = first
	} else {
		switch first {
		case "read":
			acc = read
		case "write":
			acc = write
		case "readwrite":
		case "deny":
			acc = deny
		default:
			return 0, "", fmt.Errorf("access is %q: want read, write, readwrite or deny", clip(first))
		}
		filter = trimBlanks(filter)
	}
	return acc, filter, validateFilter(filter)
}

// user is who asks: what an ACL decides by.
type user struct {
	name     string
	unnamed  bool // it has no user name at all
	clientID string
}

// may reports whether the user has the access to the topic name.
func (a *ACL) may(u user, topic string, acc access) bool {
	own := &a.anonymous
	if !u.unnamed {
		own = a.users[u.name]
	}
	if own != nil {
		if allowed, decided := own.decide(topic, acc, nil); decided {
			return allowed
		}
	}
	if len(a.patterns.denied)+len(a.patterns.allowed) == 0 {
		return false
	}
	if strings.ContainsAny(u.name, "+#") || strings.ContainsAny(u.clientID, "+#") {
		return false // a name in a pattern must not become a wildcard
	}
	allowed, _ := a.patterns.decide(topic, acc, &u)
	return allowed
}

// decide looks for the first rule about the topic. With a user, %u and %c stand for
// the user name and the client id.
func (r *rules) decide(topic string, acc access, u *user) (allowed, decided bool) {
	for _, filter := range r.denied {
		if covers(filter, topic, u) {
			return false, true
		}
	}
	for i := range r.allowed {
		if r.allowed[i].access&acc != 0 && covers(r.allowed[i].filter, topic, u) {
			return true, true
		}
	}
	return false, false
}

func covers(filter, topic string, u *user) bool {
	if u == nil || strings.IndexByte(filter, '%') < 0 {
		return matches(filter, topic)
	}
	if u.unnamed && strings.Contains(filter, "%u") {
		return false
	}
	var room [256]byte
	b := room[:0]
	for i := 0; i < len(filter); i++ {
		switch {
		case strings.HasPrefix(filter[i:], "%c"):
			b = append(b, u.clientID...)
			i++
		case strings.HasPrefix(filter[i:], "%u"):
			b = append(b, u.name...)
			i++
		default:
			b = append(b, filter[i])
		}
	}
	return matches(b, topic)
}
