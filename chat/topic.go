package chat

import "strings"

// TopicKind is the kind of one of Parley's own topics, which the contract lists.
type TopicKind uint8

// The kinds of topic; a Filter holds a set of them.
const (
	TopicMessages  TopicKind = 1 << iota // conv/{id}/messages
	TopicTyping                          // conv/{id}/typing
	TopicReads                           // conv/{id}/reads
	TopicPresence                        // user/{id}/presence
	TopicErrors                          // user/{id}/errors
	TopicDelivered                       // conv/{id}/delivered; a wildcard at the last level does not cover it

	convTopics = TopicMessages | TopicTyping | TopicReads
	userTopics = TopicPresence | TopicErrors
)

// Topic is the name of one of Parley's own topics.
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

var (
	convKinds = kindsByName(convTopics | TopicDelivered)
	userKinds = kindsByName(userTopics)
)

func kindsByName(set TopicKind) map[string]TopicKind {
	kinds := map[string]TopicKind{}
	for kind, name := range kindNames {
		if kind&set != 0 {
			kinds[name] = kind
		}
	}
	return kinds
}

// ParseTopic parses a topic name. One that is not exactly one of Parley's own topics is
// NotFound outside conv/ and user/, where it may be a device topic, and Invalid inside
// them. It is O(1) and does not allocate on success.
func ParseTopic(name string) (Topic, error) {
	const prefix, idLen = 5, 36
	conv := strings.HasPrefix(name, "conv/")
	if !conv && !strings.HasPrefix(name, "user/") {
		return Topic{}, &Error{Code: NotFound, Field: "topic", Msg: "is not one of Parley's topics, which begin with conv/ or user/"}
	}
	var t Topic
	if len(name) > prefix+idLen && name[prefix+idLen] == '/' && t.ID.parse(name[prefix:prefix+idLen]) {
		kinds := userKinds
		if conv {
			kinds = convKinds
		}
		t.Kind = kinds[name[prefix+idLen+1:]]
	}
	if t.Kind == 0 {
		return Topic{}, invalid("topic", "must be conv/{id}/messages, conv/{id}/typing, conv/{id}/reads or user/{id}/presence, with a UUID as the id")
	}
	return t, nil
}

// Filter is a topic filter on Parley's own topics. A wildcard for the id stands for the
// user's own conversations or contacts, now and later.
type Filter struct {
	Kinds TopicKind // the set of kinds it covers
	ID    ID        // the one conversation or user; zero: all of the user's own
}

// IsFilter reports whether a topic filter begins with conv/ or user/, and so is for
// ParseFilter.
func IsFilter(s string) bool {
	return strings.HasPrefix(s, "conv/") || strings.HasPrefix(s, "user/")
}

// ParseFilter parses a topic filter: the exact topics, conv/+/messages|typing|reads|delivered,
// conv/{id}/+, conv/{id}/#, conv/+/+, conv/+/#, conv/#, user/{id}/presence|errors,
// user/+/presence, user/{id}/+ and user/{id}/#. $share is Unsupported, everything else
// Invalid.
func ParseFilter(s string) (Filter, error) {
	if strings.HasPrefix(s, "$share/") {
		return Filter{}, &Error{Code: Unsupported, Field: "filter", Msg: "shared subscriptions are not offered on conv/ and user/"}
	}
	bad := invalid("filter", "must be one of Parley's topics, with + for the id or the last level, or # at the end")
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
	if who != "+" && (!f.ID.parse(who) || f.ID.IsZero()) { // in a Filter, zero stands for the wildcard
		return Filter{}, bad
	}
	all, kinds := convTopics, convKinds
	if !conv {
		all, kinds = userTopics, userKinds
	}
	f.Kinds = kinds[what]
	if what == "+" || what == "#" {
		f.Kinds = all
	}
	if f.Kinds == 0 || !conv && f.ID.IsZero() && f.Kinds != TopicPresence {
		return Filter{}, bad
	}
	return f, nil
}

// Covers reports whether the filter matches the topic. The caller checks that a topic
// covered by a wildcard is one of the user's own.
func (f Filter) Covers(t Topic) bool {
	return f.Kinds&t.Kind != 0 && (f.ID.IsZero() || f.ID == t.ID)
}
