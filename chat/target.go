package chat

// MaxReactionEmojis is how many different emojis a message can have as reactions.
const MaxReactionEmojis = 50

// Target is the message that a command is about, as it is when the command's turn in the
// log has come, with everything decided before it.
type Target struct {
	Message   *Event                   // nil: there is no such message in the conversation
	Reactions map[string]int           // how many users react with each emoji
	Reacted   map[UserReaction]bool    // the reactions of those whose commands are to be decided
	Members   map[ID]TargetParticipant // of the command's senders
}

// UserReaction is a reaction of one user.
type UserReaction struct {
	UserID ID
	Emoji  string
}

// TargetParticipant is the participant who sends a command.
type TargetParticipant struct {
	Role      Role
	JoinedSeq int64 // the first seq that they may see
}

// Decide reports whether a command (an edit, delete or reaction, as the event that it is to
// become) is to be stored, and applies it to the target. false without an error means that
// there is nothing to do. An error concerns this command only: NotFound if its sender sees
// no such message, Forbidden if they may not do this, Conflict if the message has been
// deleted, Quota if it has MaxReactionEmojis. It does not block.
//
// A message may be edited and deleted by its sender, deleted by the owner and the admins of
// its group, and reacted to by every member.
func (t *Target) Decide(c *Event) (bool, error) {
	m := t.Message
	who, member := t.Members[c.SenderID]
	if m == nil || !member || m.Seq < who.JoinedSeq {
		return false, &Error{Code: NotFound, Op: "chat.Decide", Field: "messageId", Msg: "there is no message " + c.MessageID.String() + " in this conversation"}
	}
	decide := commandTypes[c.Type].decide
	if decide == nil {
		return false, &Error{Code: Internal, Op: "chat.Decide", Msg: "not a command about a message"}
	}
	return decide(t, c, who)
}

func (t *Target) edit(c *Event, _ TargetParticipant) (bool, error) {
	switch {
	case t.Message.SenderID != c.SenderID:
		return false, &Error{Code: Forbidden, Op: "chat.Decide", Field: "messageId", Msg: "only its sender may edit a message"}
	case !t.Message.DeletedAt.IsZero():
		return false, messageDeleted()
	case t.Message.Content == c.Content:
		return false, nil
	}
	t.Message.Content, t.Message.Mentions = c.Content, c.Mentions
	return true, nil
}

func (t *Target) delete(c *Event, who TargetParticipant) (bool, error) {
	if t.Message.SenderID != c.SenderID && who.Role != Owner && who.Role != GroupAdmin {
		return false, &Error{Code: Forbidden, Op: "chat.Decide", Field: "messageId", Msg: "only its sender, or an admin of the group, may delete a message"}
	}
	if !t.Message.DeletedAt.IsZero() {
		return false, nil
	}
	t.Message.DeletedAt = c.CreatedAt
	clear(t.Reactions)
	clear(t.Reacted)
	return true, nil
}

func (t *Target) react(c *Event, _ TargetParticipant) (bool, error) {
	mine := UserReaction{c.SenderID, c.Emoji}
	add, has := c.Op == OpAdd, t.Reacted[mine]
	switch {
	case add == has:
		return false, nil
	case !t.Message.DeletedAt.IsZero():
		return false, messageDeleted()
	case add && t.Reactions[c.Emoji] == 0 && len(t.Reactions) >= MaxReactionEmojis:
		return false, &Error{Code: Quota, Op: "chat.Decide", Field: "emoji", Msg: "the message has reactions with " + itoa(MaxReactionEmojis) + " different emojis, which is the limit"}
	}
	t.Reacted[mine] = add
	if add {
		t.Reactions[c.Emoji]++
	} else if t.Reactions[c.Emoji]--; t.Reactions[c.Emoji] <= 0 {
		delete(t.Reactions, c.Emoji)
	}
	return true, nil
}

func messageDeleted() error {
	return &Error{Code: Conflict, Op: "chat.Decide", Field: "messageId", Msg: "the message has been deleted"}
}
