package topics

import (
	"strings"

	"github.com/parleymq/parley/chat"
)

// Own is the chat.TopicAccess that opens names below dev/ to everybody who has an
// account, and nothing else. They are each user's own.
type Own struct{}

// MayPublish implements chat.TopicAccess.
func (Own) MayPublish(u chat.TopicUser, topic string) bool { return own(u, topic) }

// MaySubscribe implements chat.TopicAccess.
func (Own) MaySubscribe(u chat.TopicUser, filter string) bool { return own(u, filter) }

// MayReceive implements chat.TopicAccess.
func (Own) MayReceive(u chat.TopicUser, topic string) bool { return own(u, topic) }

func own(u chat.TopicUser, topic string) bool {
	return u.Principal.HasAccount() && strings.HasPrefix(topic, devPrefix)
}

// Open is the chat.TopicAccess that opens every device topic to everybody. With it
// whoever has no account connects as anonymous. It is for test benches.
type Open struct{}

// MayPublish implements chat.TopicAccess.
func (Open) MayPublish(chat.TopicUser, string) bool { return true }

// MaySubscribe implements chat.TopicAccess.
func (Open) MaySubscribe(chat.TopicUser, string) bool { return true }

// MayReceive implements chat.TopicAccess.
func (Open) MayReceive(chat.TopicUser, string) bool { return true }

// Any is the chat.TopicAccess that allows what one of its members allows.
type Any []chat.TopicAccess

// MayPublish implements chat.TopicAccess.
func (a Any) MayPublish(u chat.TopicUser, topic string) bool {
	for _, m := range a {
		if m.MayPublish(u, topic) {
			return true
		}
	}
	return false
}

// MaySubscribe implements chat.TopicAccess.
func (a Any) MaySubscribe(u chat.TopicUser, filter string) bool {
	for _, m := range a {
		if m.MaySubscribe(u, filter) {
			return true
		}
	}
	return false
}

// MayReceive implements chat.TopicAccess.
func (a Any) MayReceive(u chat.TopicUser, topic string) bool {
	for _, m := range a {
		if m.MayReceive(u, topic) {
			return true
		}
	}
	return false
}
