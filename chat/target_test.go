package chat_test

import (
	"fmt"
	"testing"

	"github.com/parleymq/parley/chat"
)

// Who may do what to a message, and what is left of it.
func TestDecide(t *testing.T) {
	t.Parallel()
	owner, admin, late := chat.ID{0xa1}, chat.ID{0xa2}, chat.ID{0xa3} // late joined after the message
	stranger := chat.ID{0xa4}
	message := chat.ID{0x99}
	target := func() *chat.Target {
		return &chat.Target{
			Message:   &chat.Event{Seq: 5, Type: chat.EventMessage, ID: message, SenderID: ben, Content: "hello"},
			Reactions: map[string]int{"👍": 1}, Reacted: map[chat.UserReaction]bool{{UserID: ben, Emoji: "👍"}: true},
			Members: map[chat.ID]chat.TargetParticipant{
				owner: {chat.Owner, 1}, admin: {chat.GroupAdmin, 1}, ann: {chat.GroupMember, 1}, ben: {chat.GroupMember, 1}, late: {chat.GroupMember, 6},
			},
		}
	}
	deleted := func() *chat.Target {
		d := target()
		d.Message.DeletedAt, d.Message.Content = noon, ""
		return d
	}
	gone := func() *chat.Target { g := target(); g.Message = nil; return g }
	crowded := func() *chat.Target {
		c := target()
		for i := range chat.MaxReactionEmojis - 1 {
			c.Reactions[fmt.Sprint(i)] = 1
		}
		return c
	}
	edit := func(content string) chat.Event { return chat.Event{Type: chat.EventEdit, Content: content} }
	react := func(op, emoji string) chat.Event {
		return chat.Event{Type: chat.EventReaction, EventDetail: chat.EventDetail{Op: op, Emoji: emoji}}
	}
	del := chat.Event{Type: chat.EventDelete, CreatedAt: noon}
	for name, test := range map[string]struct {
		target func() *chat.Target
		by     chat.ID
		c      chat.Event
		stored bool
		code   chat.Code
	}{
		"edit one's own":                {target, ben, edit("x"), true, ""},
		"edit to the same":              {target, ben, edit("hello"), false, ""},
		"edit another's":                {target, ann, edit("x"), false, chat.Forbidden},
		"edit as the owner":             {target, owner, edit("x"), false, chat.Forbidden},
		"edit what is deleted":          {deleted, ben, edit("x"), false, chat.Conflict},
		"edit another's, deleted":       {deleted, ann, edit("x"), false, chat.Forbidden},
		"edit what is not there":        {gone, ben, edit("x"), false, chat.NotFound},
		"edit as a stranger":            {target, stranger, edit("x"), false, chat.NotFound},
		"delete one's own":              {target, ben, del, true, ""},
		"delete another's":              {target, ann, del, false, chat.Forbidden},
		"delete as the owner":           {target, owner, del, true, ""},
		"delete as an admin":            {target, admin, del, true, ""},
		"delete again":                  {deleted, ben, del, false, ""},
		"delete another's, deleted":     {deleted, ann, del, false, chat.Forbidden},
		"delete what one cannot see":    {target, late, del, false, chat.NotFound},
		"react":                         {target, ann, react(chat.OpAdd, "👍"), true, ""},
		"react again":                   {target, ben, react(chat.OpAdd, "👍"), false, ""},
		"react otherwise":               {target, ben, react(chat.OpAdd, "🎉"), true, ""},
		"take back":                     {target, ben, react(chat.OpRemove, "👍"), true, ""},
		"take back what is not there":   {target, ann, react(chat.OpRemove, "👍"), false, ""},
		"react to what is deleted":      {deleted, ann, react(chat.OpAdd, "👍"), false, chat.Conflict},
		"react to what one cannot see":  {target, late, react(chat.OpAdd, "👍"), false, chat.NotFound},
		"one emoji more":                {crowded, ann, react(chat.OpAdd, "🎉"), false, chat.Quota},
		"an emoji that is there":        {crowded, ann, react(chat.OpAdd, "👍"), true, ""},
		"a message is no command on it": {target, ann, chat.Event{Type: chat.EventMessage}, false, chat.Internal},
	} {
		c := test.c
		c.SenderID, c.MessageID = test.by, message
		stored, err := test.target().Decide(&c)
		if stored != test.stored || chat.CodeOf(err) != test.code {
			t.Errorf("%s: %t, %v, want %t, %q", name, stored, err, test.stored, test.code)
		}
	}
}

// What was decided counts for what comes after it in the same batch.
func TestDecideInOrder(t *testing.T) {
	t.Parallel()
	message := chat.ID{0x99}
	target := &chat.Target{
		Message:   &chat.Event{Seq: 5, Type: chat.EventMessage, ID: message, SenderID: ann, Content: "one"},
		Reactions: map[string]int{}, Reacted: map[chat.UserReaction]bool{},
		Members: map[chat.ID]chat.TargetParticipant{ann: {chat.GroupMember, 1}},
	}
	detail := chat.EventDetail{MessageID: message, Emoji: "👍"}
	for i, step := range []struct {
		kind        chat.EventType
		content, op string
		stored      bool
		code        chat.Code
	}{
		{chat.EventEdit, "two", "", true, ""},
		{chat.EventEdit, "two", "", false, ""},
		{chat.EventEdit, "one", "", true, ""},
		{chat.EventReaction, "", chat.OpAdd, true, ""},
		{chat.EventReaction, "", chat.OpAdd, false, ""},
		{chat.EventReaction, "", chat.OpRemove, true, ""},
		{chat.EventReaction, "", chat.OpAdd, true, ""},
		{chat.EventDelete, "", "", true, ""},
		{chat.EventDelete, "", "", false, ""},
		{chat.EventReaction, "", chat.OpRemove, false, ""},
		{chat.EventEdit, "three", "", false, chat.Conflict},
	} {
		detail.Op = step.op
		stored, err := target.Decide(&chat.Event{Type: step.kind, SenderID: ann, Content: step.content, CreatedAt: noon, EventDetail: detail})
		if stored != step.stored || chat.CodeOf(err) != step.code {
			t.Errorf("step %d, %s: %t, %v", i, step.kind, stored, err)
		}
	}
}
