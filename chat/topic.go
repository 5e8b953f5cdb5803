package chat

import "strings"

// TopicKind says which of the contract's topics a topic is.
type TopicKind uint8

// The kinds of topic; a Filter holds a set of them.
const (
	TopicMessages  TopicKind = 1 << iota // conv/{id}/messages
	TopicTyping                          // conv/{id}/typing
	TopicReads                           // conv/{id}/reads
	TopicPresence                        // user/{id}/presence
	TopicErrors                          // user/{id}/errors
	TopicDelivered                       // conv/{id}/delivered, for those who name it: a wildcard in its place does not ask for it

	convTopics = TopicMessages | TopicTyping | TopicReads
	userTopics = TopicPresence | TopicErrors
)

// Topic is a topic name of the contract.
type Topic struct {
	Kind TopicKind
	ID   ID // of the conversation or the user
}

// String returns the topic name.
func (t Topic) String() string { return string(t.Append(nil)) }

// Append appends the topic name.
func (t Topic) Append(b []byte) []byte {
	if t.Kind&(convTopics|TopicDelivered) != 0 {
		b = append(b, "conv/"...)
	} else {
		b = append(b, "user/"...)
	}
	b = append(t.ID.append(b), '/')
	return append(b, kindNames[t.Kind]...)
}

var kindNames = map[TopicKind]string{
	TopicMessages: "messages", TopicTyping: "typing", TopicReads: "reads", TopicPresence: "presence", TopicErrors: "errors",
	TopicDelivered: "delivered",
}

// ParseTopic reads a topic name. Anything that is not exactly one of the
// contract's topics is refused: NotFound outside conv/ and user/ (a topic for
// somebody else), Invalid inside them. It is O(1) and does not allocate on success.
func ParseTopic(name string) (Topic, error) {
	const prefix, idLen = 5, 36
	conv := strings.HasPrefix(name, "conv/")
	if !conv && !strings.HasPrefix(name, "user/") {
		return Topic{}, &Error{Code: NotFound, Field: "topic", Msg: "is none of Parley's: they begin with conv/ or user/"}
	}
	var t Topic
	if len(name) > prefix+idLen && name[prefix+idLen] == '/' && t.ID.parse(name[prefix:prefix+idLen]) {
		switch rest := name[prefix+idLen+1:]; {
		case conv && rest == "messages":
			t.Kind = TopicMessages
		case conv && rest == "typing":
			t.Kind = TopicTyping
		case conv && rest == "reads":
			t.Kind = TopicReads
		case conv && rest == "delivered":
			t.Kind = TopicDelivered
		case !conv && rest == "presence":
			t.Kind = TopicPresence
		case !conv && rest == "errors":
			t.Kind = TopicErrors
		}
	}
	if t.Kind == 0 {
		return Topic{}, invalid("topic", "must be conv/{id}/messages, conv/{id}/typing, conv/{id}/reads or user/{id}/presence, with an id in lower-case text")
	}
	return t, nil
}

// Filter is a topic filter of the contract. A wildcard means "mine": the user's
// own conversations and contacts, now and later.
type Filter struct {
	Kinds TopicKind // a set: the kinds it covers
	ID    ID        // the one conversation or user; zero: all of mine
}

// IsFilter reports whether a topic filter begins in Parley's namespaces, conv/
// and user/, so that ParseFilter is the one to judge it.
func IsFilter(s string) bool {
	return strings.HasPrefix(s, "conv/") || strings.HasPrefix(s, "user/")
}

// ParseFilter reads a topic filter: the exact topics, conv/+/messages|typing|reads|delivered,
// conv/{id}/+, conv/{id}/#, conv/+/+, conv/+/#, conv/#, user/{id}/presence|errors,
// user/+/presence, user/{id}/+ and user/{id}/#. $share is Unsupported, everything
// else Invalid. It is O(length of at most three levels).
func ParseFilter(s string) (Filter, error) {
	if strings.HasPrefix(s, "$share/") {
		return Filter{}, &Error{Code: Unsupported, Field: "filter", Msg: "shared subscriptions are not offered on conv/ and user/"}
	}
	bad := invalid("filter", "must be a topic of Parley's, with + for the id or the last level, or # at the end")
	if !IsFilter(s) || len(s) > len("conv/")+36+len("/delivered") {
		return Filter{}, bad
	}
	conv, rest := s[0] == 'c', s[5:]
	if conv && rest == "#" {
		return Filter{Kinds: convTopics}, nil
	}
	who, what, ok := strings.Cut(rest, "/")
	if !ok {
		return Filter{}, bad
	}
	var f Filter
	if who != "+" && (!f.ID.parse(who) || f.ID.IsZero()) { // the zero id is nobody's, and means all of mine here
		return Filter{}, bad
	}
	all, named := convTopics, convTopics|TopicDelivered
	if !conv {
		all, named = userTopics, userTopics
	}
	for kind, name := range kindNames {
		if kind&named != 0 && name == what {
			f.Kinds = kind
		}
	}
	if what == "+" || what == "#" {
		f.Kinds = all
	}
	if f.Kinds == 0 || !conv && f.ID.IsZero() && f.Kinds != TopicPresence {
		return Filter{}, bad
	}
	return f, nil
}

// Covers reports whether the filter matches the topic, taken by itself: whose
// topic it is, is for the caller.
func (f Filter) Covers(t Topic) bool {
	return f.Kinds&t.Kind != 0 && (f.ID.IsZero() || f.ID == t.ID)
}
