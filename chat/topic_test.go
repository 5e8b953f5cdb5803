package chat_test

import (
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
)

const nobody = "00000000-0000-0000-0000-000000000000"

var allTopics = []chat.TopicKind{chat.TopicMessages, chat.TopicTyping, chat.TopicReads, chat.TopicPresence, chat.TopicErrors, chat.TopicDelivered}

func TestParseTopic(t *testing.T) {
	t.Parallel()
	for name, kind := range map[string]chat.TopicKind{
		"conv/" + anID + "/messages": chat.TopicMessages, "conv/" + anID + "/typing": chat.TopicTyping, "conv/" + anID + "/reads": chat.TopicReads, "conv/" + anID + "/delivered": chat.TopicDelivered,
		"user/" + anID + "/presence": chat.TopicPresence, "user/" + anID + "/errors": chat.TopicErrors,
	} {
		got, err := chat.ParseTopic(name)
		if err != nil || got.Kind != kind || got.ID.String() != anID || got.String() != name {
			t.Errorf("ParseTopic(%q) = %v, %v", name, got, err)
		}
	}
	for _, test := range []struct {
		name string
		code chat.Code
	}{
		{"", chat.NotFound},
		{"$SYS/uptime", chat.NotFound},
		{"sensors/1", chat.NotFound},
		{"/conv/" + anID + "/messages", chat.NotFound},
		{"Conv/" + anID + "/messages", chat.NotFound},
		{"conv", chat.NotFound},
		{"user", chat.NotFound},
		{"$share/g/conv/" + anID + "/messages", chat.NotFound},
		{"conv/", chat.Invalid},
		{"user/", chat.Invalid},
		{"conv/" + anID, chat.Invalid},
		{"conv/" + anID + "/", chat.Invalid},
		{"conv/" + anID + "/message", chat.Invalid},
		{"conv/" + anID + "/messages/", chat.Invalid},
		{"conv/" + anID + "/messages/x", chat.Invalid},
		{"conv//" + anID + "/messages", chat.Invalid},
		{"conv/" + anID + "/presence", chat.Invalid},
		{"user/" + anID + "/messages", chat.Invalid},
		{"conv/+/messages", chat.Invalid},
		{"conv/" + anID + "/+", chat.Invalid},
		{"conv/" + anID + "/#", chat.Invalid},
		{"user/" + anID + "/Presence", chat.Invalid},
		{"conv/" + anID + "/messages\x00", chat.Invalid},
	} {
		if got, err := chat.ParseTopic(test.name); chat.CodeOf(err) != test.code || got != (chat.Topic{}) || !strings.HasPrefix(chat.PublicMessage(err), "topic: ") {
			t.Errorf("ParseTopic(%q) = %v, %v, want %s", test.name, got, err, test.code)
		}
	}
}

func TestParseTopicDoesNotAllocate(t *testing.T) { // not parallel: it counts
	if n := testing.AllocsPerRun(100, func() { _, _ = chat.ParseTopic("conv/" + anID + "/messages") }); n > 0 {
		t.Errorf("ParseTopic allocates %v times", n)
	}
}

// filters are all that the contract knows, and the kinds each covers.
var filters = map[string]chat.TopicKind{
	"conv/ID/messages": chat.TopicMessages, "conv/ID/typing": chat.TopicTyping, "conv/ID/reads": chat.TopicReads,
	"conv/+/messages": chat.TopicMessages, "conv/+/typing": chat.TopicTyping, "conv/+/reads": chat.TopicReads,
	"conv/ID/delivered": chat.TopicDelivered, "conv/+/delivered": chat.TopicDelivered, // no wildcard in their place covers them
	"conv/ID/+": chat.TopicMessages | chat.TopicTyping | chat.TopicReads, "conv/ID/#": chat.TopicMessages | chat.TopicTyping | chat.TopicReads,
	"conv/+/+": chat.TopicMessages | chat.TopicTyping | chat.TopicReads, "conv/+/#": chat.TopicMessages | chat.TopicTyping | chat.TopicReads,
	"conv/#":           chat.TopicMessages | chat.TopicTyping | chat.TopicReads,
	"user/ID/presence": chat.TopicPresence, "user/ID/errors": chat.TopicErrors, "user/+/presence": chat.TopicPresence,
	"user/ID/+": chat.TopicPresence | chat.TopicErrors, "user/ID/#": chat.TopicPresence | chat.TopicErrors,
}

// Every filter of three levels made of these, and of fewer and more, is one of the
// above or refused.
func TestParseFilter(t *testing.T) {
	t.Parallel()
	first := []string{"conv", "user", "+", "#", "", "$SYS", "Conv"}
	second := []string{"ID", "+", "#", "", "x", "CAPITALS", nobody}
	third := []string{"messages", "typing", "reads", "delivered", "presence", "errors", "+", "#", "", "x", "messages/", "messages/#", "messages+"}
	var all []string
	for _, a := range first {
		all = append(all, a)
		for _, b := range second {
			all = append(all, a+"/"+b)
			for _, c := range third {
				all = append(all, a+"/"+b+"/"+c, a+"/"+b+"/"+c+"/x")
			}
		}
	}
	seen := 0
	for _, text := range all {
		want, ok := filters[strings.Replace(text, "CAPITALS", "ID", 1)]
		capitals := strings.Contains(text, "CAPITALS")
		text := strings.NewReplacer("CAPITALS", strings.ToUpper(anID), "ID", anID).Replace(text)
		f, err := chat.ParseFilter(text)
		switch {
		case ok:
			if !capitals {
				seen++
			}
			var id chat.ID
			if strings.Contains(strings.ToLower(text), anID) {
				id = chat.MustParseID(anID)
			}
			if err != nil || f.Kinds != want || f.ID != id {
				t.Errorf("ParseFilter(%q) = %v, %v, want kinds %b", text, f, err, want)
			}
		case chat.CodeOf(err) != chat.Invalid || f != (chat.Filter{}):
			t.Errorf("ParseFilter(%q) = %v, %v, want it refused", text, f, err)
		}
	}
	if seen != len(filters) {
		t.Errorf("%d of %d filters were tried", seen, len(filters))
	}
	for _, s := range []string{"$share/g/conv/+/messages", "$share/g/conv/#", "$share/g/x", "$share/", "$share//"} {
		if _, err := chat.ParseFilter(s); chat.CodeOf(err) != chat.Unsupported {
			t.Errorf("ParseFilter(%q): %v, want unsupported", s, err)
		}
	}
}

// The zero id is nobody's, and means "all of mine" in a Filter:
// conv/00000000-…/messages was a wildcard once.
func TestNobodysFilterIsNoWildcard(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"conv/" + nobody + "/messages", "conv/" + nobody + "/#", "user/" + nobody + "/presence", "user/" + nobody + "/+"} {
		if f, err := chat.ParseFilter(s); chat.CodeOf(err) != chat.Invalid {
			t.Errorf("ParseFilter(%q) = %v, %v, want it refused", s, f, err)
		}
	}
}

func FuzzTopics(f *testing.F) {
	for s := range filters {
		f.Add(strings.Replace(s, "ID", anID, 1))
	}
	f.Add("$share/g/conv/#")
	f.Add("conv/" + nobody + "/messages")
	f.Fuzz(func(t *testing.T, s string) {
		topic, err := chat.ParseTopic(s)
		if err == nil && topic.String() != s {
			t.Fatalf("ParseTopic(%q) = %v", s, topic)
		}
		filter, ferr := chat.ParseFilter(s)
		if err == nil && !topic.ID.IsZero() && (ferr != nil || !filter.Covers(topic)) {
			t.Fatalf("%q is a topic, and as a filter %v, %v", s, filter, ferr)
		}
		if ferr != nil {
			return
		}
		if !chat.IsFilter(s) || filter.Kinds == 0 {
			t.Fatalf("ParseFilter(%q) = %v", s, filter)
		}
		for _, kind := range allTopics {
			for _, id := range []chat.ID{chat.MustParseID(anID), filter.ID, {1}} {
				topic := chat.Topic{Kind: kind, ID: id}
				if id.IsZero() {
					continue
				}
				want := mqttMatch(s, topic.String()) && (kind != chat.TopicDelivered || strings.HasSuffix(s, "/delivered"))
				if got := filter.Covers(topic); got != want {
					t.Fatalf("filter %q covers %s: %v, want %v", s, topic, got, want)
				}
			}
		}
	})
}

// mqttMatch is what MQTT says (5.0, 4.7), for filters that are valid.
func mqttMatch(filter, topic string) bool {
	fs, ts := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, f := range fs {
		switch {
		case f == "#":
			return true
		case i >= len(ts) || f != "+" && f != ts[i]:
			return false
		}
	}
	return len(fs) == len(ts)
}
