package chat

import (
	"context"
	"time"
)

// MessageText is what a message said at some time.
type MessageText struct {
	Seq       int64 // of the message, or of the edit that said it
	Content   string
	CreatedAt time.Time
}

// ReactionCount is how many users react to a message with an emoji.
type ReactionCount struct {
	Emoji string
	Users int
	Mine  bool // whether the one who asks is among them
}

// Reaction is one user's reaction to a message.
type Reaction struct {
	Emoji     string
	UserID    ID
	CreatedAt time.Time
}

// MessageStore reads what has become of messages. Its methods block for a round trip.
type MessageStore interface {
	// ListEdits returns up to limit of a message's texts after seq, oldest first,
	// beginning with the one it was sent with; none of a deleted message. NotFound if
	// the message is not in one of the user's conversations.
	ListEdits(ctx context.Context, user, message ID, after int64, limit int) ([]MessageText, error)
	// CountReactions returns the reactions to messages that the user may see, by message;
	// those that were used first come first.
	CountReactions(ctx context.Context, user ID, messages []Event) (map[ID][]ReactionCount, error)
	// ListReactions returns up to limit reactions to a message after one of them, by
	// emoji and user. NotFound as in ListEdits.
	ListReactions(ctx context.Context, user, message ID, after Reaction, limit int) ([]Reaction, error)
}

// SendAbout is Send for a command about a message whose conversation the caller does
// not know: it is looked up. NotFound if the message is not in one of the sender's
// conversations. The event is zero if there was nothing to do.
func (s *Service) SendAbout(ctx context.Context, sender ID, c *Command) (*Event, error) {
	m, err := s.store.GetMessage(ctx, sender, c.MessageID)
	if err != nil {
		return nil, err
	}
	e, _, err := s.Send(ctx, sender, m.ConversationID, c)
	return e, err
}
