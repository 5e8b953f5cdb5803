package store

import (
	"slices"

	"github.com/parleymq/parley/chat"
)

// group is the events of one transaction, and what became of them. It belongs to
// its shard's run and is reused for the next one.
type group struct {
	pending    []*chat.Append // not settled yet, in the order of their Append
	hasResent  bool
	commands   bool // some are not messages: see insertCommands
	unanswered bool // an attempt was not answered: some may be stored

	// The statement's view of pending, made by rank.
	ranks   []int32            // position among the pending events of its conversation, from 1; 0: checked against another roster than the first of them, or decided
	rows    int                // how many have a rank
	index   map[chat.ID]int    // conversation → index in convs
	convs   []conversationPart // in order of first appearance
	leaders map[eventKey]*chat.Append
	decided map[*chat.Append]decision // commands that are not to be stored, and why

	followers map[*chat.Append][]*chat.Append // repeats within the batch, settled with their leader
	stored    []stored                        // published after the commit
}

type conversationPart struct {
	id             chat.ID
	events         int32
	membersVersion int64
}

// eventKey is what stores a message once.
type eventKey struct{ conversation, sender, clientMsgID chat.ID }

func keyOf(e *chat.Event) eventKey { return eventKey{e.ConversationID, e.SenderID, e.ClientMsgID} }

func newGroup() *group {
	return &group{index: map[chat.ID]int{}, leaders: map[eventKey]*chat.Append{}, followers: map[*chat.Append][]*chat.Append{}, decided: map[*chat.Append]decision{}}
}

func (b *group) reset() {
	b.pending, b.hasResent, b.commands, b.unanswered = b.pending[:0], false, false, false
	clear(b.leaders)
	clear(b.followers)
}

// add puts an event into the batch, behind its leader if the same key is in it
// already, or, for a packet sent again, the first sending of that packet.
func (b *group) add(a *chat.Append) {
	key := keyOf(&a.Event)
	leader := b.leaders[key]
	if a.Resent {
		b.hasResent = true
		if leader == nil {
			leader = b.firstSending(&a.Event)
		}
	}
	if leader != nil {
		b.followers[leader] = append(b.followers[leader], a)
		return
	}
	b.commands = b.commands || a.Event.Type != chat.EventMessage
	b.leaders[key] = a
	b.pending = append(b.pending, a)
}

func (b *group) firstSending(e *chat.Event) *chat.Append {
	prefix := chat.ResendLast(e.ClientMsgID)
	for i := len(b.pending) - 1; i >= 0; i-- {
		if p := &b.pending[i].Event; p.ConversationID == e.ConversationID && p.SenderID == e.SenderID &&
			chat.ResendLast(p.ClientMsgID) == prefix && sameContent(p, e) {
			return b.pending[i]
		}
	}
	return nil
}

// rank numbers the pending events within their conversations.
func (b *group) rank() {
	clear(b.index)
	b.convs, b.ranks, b.rows = b.convs[:0], b.ranks[:0], 0
	for _, a := range b.pending {
		if _, decided := b.decided[a]; decided {
			b.ranks = append(b.ranks, 0)
			continue
		}
		i, ok := b.index[a.Event.ConversationID]
		if !ok {
			i = len(b.convs)
			b.index[a.Event.ConversationID] = i
			b.convs = append(b.convs, conversationPart{id: a.Event.ConversationID, membersVersion: a.MembersVersion})
		}
		c := &b.convs[i]
		if c.membersVersion != a.MembersVersion {
			b.ranks = append(b.ranks, 0)
			continue
		}
		c.events++
		b.ranks = append(b.ranks, c.events)
		b.rows++
	}
}

// largeBatch is how many events make a batch large: planning its statement then costs less
// than it saves.
const largeBatch = 32

// large reports whether the plans for the batch are to be made anew.
func (b *group) large() bool { return len(b.pending) > largeBatch }

// single reports whether one event is to be stored, after rank.
func (b *group) single() bool { return b.rows == 1 }

// settle notifies a's waiter, and those of its repeats, that it is stored.
func (b *group) settle(a *chat.Append, membersVersion int64) {
	b.stored = append(b.stored, stored{&a.Event, membersVersion})
	a.Done.Committed(a, nil)
	for _, f := range b.followers[a] {
		answerRepeat(f, &a.Event)
	}
}

// settleRepeat answers an event whose key is already in the log: with the first
// one's id and seq if they have the same content, with Conflict otherwise. An event that
// this very batch stored, in an unanswered commit, is settled as stored.
func (b *group) settleRepeat(a *chat.Append, first *chat.Event, m *writerMetrics) {
	if first.ID == a.Event.ID {
		a.Event.Seq, a.Event.CreatedAt = first.Seq, first.CreatedAt
		b.settle(a, a.MembersVersion)
		return
	}
	m.repeats.Inc()
	answerRepeat(a, first)
	for _, f := range b.followers[a] {
		answerRepeat(f, first)
	}
}

// settleDecision answers a command that was not stored.
func (b *group) settleDecision(a *chat.Append, d decision, m *writerMetrics) {
	switch {
	case d.first != nil:
		b.settleRepeat(a, d.first, m)
	case d.err != nil:
		b.refuse(a, d.err)
	default: // nothing to do
		for _, c := range append([]*chat.Append{a}, b.followers[a]...) {
			c.Repeat = true
			c.Done.Committed(c, nil)
		}
	}
}

func answerRepeat(a *chat.Append, first *chat.Event) {
	if !sameContent(&a.Event, first) {
		a.Done.Committed(a, &chat.Error{
			Code: chat.Conflict, Op: "store.Append", Field: "clientMsgId",
			Msg: "was used before for a message with other content; use a new one for each message",
		})
		return
	}
	a.Repeat = true
	a.Event.ID, a.Event.Seq, a.Event.CreatedAt = first.ID, first.Seq, first.CreatedAt
	a.Done.Committed(a, nil)
}

// sameContent reports whether two events have the same content. A message that was edited
// or deleted since counts as the same: its original text is gone.
func sameContent(a, b *chat.Event) bool {
	if a.Type != b.Type {
		return false
	}
	if !a.EditedAt.IsZero() || !b.EditedAt.IsZero() || !a.DeletedAt.IsZero() || !b.DeletedAt.IsZero() {
		return true
	}
	return a.Content == b.Content && a.EventDetail.Equal(&b.EventDetail)
}

// dropSuperseded refuses events that came over a connection that a newer one of the same
// device has superseded: the device sends them again over the new one.
func (b *group) dropSuperseded(events []*chat.Append) {
	for _, a := range events {
		b.pending = slices.DeleteFunc(b.pending, func(p *chat.Append) bool { return p == a })
		if again := b.followers[a]; len(again) > 0 { // the device has sent it again already, to this very batch
			delete(b.followers, a)
			b.followers[again[0]] = again[1:]
			b.pending, b.hasResent = append(b.pending, again[0]), true
		}
		b.refuse(a, &chat.Error{Code: chat.Unavailable, Op: "store.Append", Msg: "the device has connected again; this connection is over"})
	}
}

func (b *group) refuse(a *chat.Append, err error) {
	a.Done.Committed(a, err)
	for _, f := range b.followers[a] {
		f.Done.Committed(f, err)
	}
}
