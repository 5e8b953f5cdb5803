package topics

import (
	"strings"

	"github.com/parleymq/parley/chat"
)

// Own is the chat.TopicAccess that allows users with an account their own names, those
// below dev/, and nothing else.
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

// Open is the chat.TopicAccess that allows every device topic to everybody. With it,
// clients without an account connect as anonymous. It is for test benches.
type Open struct{}

// MayPublish implements chat.TopicAccess.
func (Open) MayPublish(chat.TopicUser, string) bool { return true }

// MaySubscribe implements chat.TopicAccess.
func (Open) MaySubscribe(chat.TopicUser, string) bool { return true }

// MayReceive implements chat.TopicAccess.
func (Open) MayReceive(chat.TopicUser, string) bool { return true }
