package chat

import "context"

// commandType is what the rules know of one type of command. To add a command, add its
// type here, its fields to Command and ParseCommand, what it becomes to EventDetail and
// Event.AppendJSON, and its effect on a message to the store's writer.
type commandType struct {
	// validate checks the fields of the type, but for MessageID.
	validate func(*Command) error
	// event sets the fields of the type in the event that the command is to become, as far
	// as it may be before the command's turn in the log. It may wait for the store.
	event func(context.Context, *Service, *Roster, *Command, *Event) error
	// decide decides a command about a message when its turn in the log has come; see
	// Target.Decide. Nil: the command is not about a message.
	decide func(*Target, *Event, TargetParticipant) (bool, error)
	// despiteBlock: one may also do this in a direct conversation that a block has closed.
	despiteBlock bool
}

var commandTypes = map[EventType]commandType{
	EventMessage:  {validate: validateMessage, event: messageEvent},
	EventEdit:     {validate: validateEdit, event: editEvent, decide: (*Target).edit},
	EventDelete:   {validate: func(*Command) error { return nil }, event: aboutMessage, decide: (*Target).delete, despiteBlock: true},
	EventReaction: {validate: validateReaction, event: reactionEvent, decide: (*Target).react},
}

func validateMessage(c *Command) error {
	switch {
	case c.Content == "" && len(c.Attachments) == 0:
		return invalid("content", "must not be empty")
	case c.Content != "" && !hasInk(c.Content):
		return invalid("content", invisible)
	case len(c.Attachments) > MaxAttachments:
		return invalid("attachments", "has "+itoa(len(c.Attachments))+" ids, limit "+itoa(MaxAttachments))
	}
	return nil
}

func messageEvent(ctx context.Context, s *Service, r *Roster, c *Command, e *Event) (err error) {
	if len(c.Attachments) > 0 {
		return invalid("attachments", "there is no attachment "+c.Attachments[0].String())
	}
	if err := s.checkReply(ctx, e.SenderID, r.ConversationID, c.ReplyTo); err != nil {
		return err
	}
	e.ReplyTo, e.Content = c.ReplyTo, c.Content
	e.Mentions, err = s.mentioned(ctx, c.Content, r)
	return err
}

func validateEdit(c *Command) error {
	if c.Content == "" {
		return invalid("content", "must not be empty; to take a message back, delete it")
	}
	if !hasInk(c.Content) {
		return invalid("content", invisible+"; to take a message back, delete it")
	}
	return nil
}

func editEvent(ctx context.Context, s *Service, r *Roster, c *Command, e *Event) (err error) {
	e.MessageID, e.Content = c.MessageID, c.Content
	e.Mentions, err = s.mentioned(ctx, c.Content, r)
	return err
}

func aboutMessage(_ context.Context, _ *Service, _ *Roster, c *Command, e *Event) error {
	e.MessageID = c.MessageID
	return nil
}

func validateReaction(c *Command) error {
	if c.Op != OpAdd && c.Op != OpRemove {
		return invalid("op", `must be "add" or "remove"`)
	}
	var ok bool
	if c.Emoji, ok = parseEmoji(c.Emoji); !ok {
		return invalid("emoji", "must be one emoji, of at most "+itoa(MaxEmojiBytes)+" bytes")
	}
	return nil
}

func reactionEvent(_ context.Context, _ *Service, _ *Roster, c *Command, e *Event) error {
	e.MessageID, e.Emoji, e.Op = c.MessageID, c.Emoji, c.Op
	return nil
}

// closedFor reports whether a block between its two participants keeps an event of the type
// out of a direct conversation.
func (r *Roster) closedFor(t EventType) bool { return r.Blocked && !commandTypes[t].despiteBlock }
