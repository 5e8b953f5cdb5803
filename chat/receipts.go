package chat

import (
	"context"
	"time"
)

// SubmitRead moves how far the user has read a conversation. That only goes forward: an
// earlier place is accepted and changes nothing. An error means that the move was refused
// now, and done is not called. Otherwise done is called once, after the commit: Invalid
// for a place beyond the end of the log. A quiet move, which nobody waits for, is stored
// within a second, and may be dropped in favour of one that goes further.
//
// Forbidden if the user is not a participant; Invalid naming messageIds if one of
// them is no message of the conversation, and then nothing is done. It may wait for
// the store, and while too many moves wait, within a limit of its own and until
// ctx ends: Unavailable.
func (s *Service) SubmitRead(ctx context.Context, user, conversation ID, r *Read, quiet bool, done Settler) error {
	if _, err := s.Rosters.Require(ctx, conversation, user); err != nil {
		return err
	}
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.SubmitRead")
	defer cancel()
	upTo := r.UpTo
	if len(r.MessageIDs) > 0 {
		ends, missing, err := s.locate(ctx, user, conversation, r.MessageIDs)
		if err != nil {
			return err
		}
		if !missing.IsZero() {
			return invalid("messageIds", "there is no message "+missing.String()+" in this conversation")
		}
		upTo = ends[conversation]
	}
	return s.reads.submit(ctx, readMove{readKey{conversation, user}, upTo, quiet, done})
}

// locate returns the last seq of the messages in each of their conversations, or
// the first of the messages that is not there for the user, or if conversation is
// not zero, in it.
func (s *Service) locate(ctx context.Context, user, conversation ID, messages []ID) (ends map[ID]int64, missing ID, err error) {
	found, err := s.store.LocateMessages(ctx, user, messages)
	if err != nil {
		return nil, ID{}, err
	}
	ends = map[ID]int64{}
	known := make(map[ID]struct{}, len(found))
	for i := range found {
		m := &found[i]
		if conversation.IsZero() || m.ConversationID == conversation {
			known[m.ID] = struct{}{}
			ends[m.ConversationID] = max(ends[m.ConversationID], m.Seq)
		}
	}
	for _, id := range messages {
		if _, ok := known[id]; !ok {
			return nil, id, nil
		}
	}
	return ends, ID{}, nil
}

// MarkRead is SubmitRead for callers who wait, with a place. It returns after the
// commit.
func (s *Service) MarkRead(ctx context.Context, user, conversation ID, upTo int64) error {
	if upTo < 1 {
		return invalid("upTo", readUpTo)
	}
	w := make(settleChan, 1)
	if err := s.SubmitRead(ctx, user, conversation, &Read{UpTo: upTo}, false, w); err != nil {
		return err
	}
	return w.wait(ctx)
}

// MarkMessagesRead moves how far the user has read the conversations of the
// messages, 1 to MaxReadIDs, which may be of several. NotFound naming the first that
// is not there, or is not for the user, and then nothing is done. It returns after
// the commit.
func (s *Service) MarkMessagesRead(ctx context.Context, user ID, messages []ID) error {
	if len(messages) == 0 || len(messages) > MaxReadIDs {
		return readIDs(len(messages))
	}
	ends, missing, err := s.locate(ctx, user, ID{}, messages)
	switch {
	case err != nil:
		return err
	case !missing.IsZero():
		return &Error{Code: NotFound, Op: "chat.MarkMessagesRead", Field: "messageIds", Msg: "there is no message " + missing.String()}
	}
	w := make(settleChan, len(ends))
	n := 0
	for conversation, upTo := range ends {
		if err = s.reads.submit(ctx, readMove{readKey{conversation, user}, upTo, false, w}); err != nil {
			break
		}
		n++
	}
	for range n {
		if e := w.wait(ctx); e != nil && err == nil {
			err = e
		}
	}
	return err
}

// settleChan has room for every outcome, so that Settle does not block.
type settleChan chan error

func (w settleChan) Settle(err error) { w <- err }

func (w settleChan) wait(ctx context.Context) error {
	select {
	case err := <-w:
		return err
	case <-ctx.Done():
		return &Error{Code: Unavailable, Op: "chat.MarkRead", Msg: "not confirmed in time; send it again", Err: context.Cause(ctx)}
	}
}

// RunReads stores what SubmitRead and its like have queued, until ctx ends; then
// what is left. It is to be run once.
func (s *Service) RunReads(ctx context.Context) error { return s.reads.run(ctx, s.announceReads) }

// ReadsWaiting returns how many moves of what users have read wait for their commit.
func (s *Service) ReadsWaiting() int { return s.reads.pending() }

// announceReads notifies members, and the reader's other devices, of what was read. It is
// a signal: if the members are not known in time, they are notified of the next one.
func (s *Service) announceReads(ctx context.Context, places []ReadPlace) {
	ctx, cancel := WithDeadline(ctx, signalPatience, "chat.announceReads")
	defer cancel()
	for _, p := range places {
		n := &ReceiptNotice{p.ConversationID, p.UserID, p.ReadSeq, p.At, p.MembersVersion}
		if to := s.signalReceipt(ctx, TopicReads, n); len(to) > 0 {
			s.peers.Notify(Notice{Read: n}, to)
		}
	}
}

// signalPatience is how long a signal waits for the members of a conversation to be known.
const signalPatience = 2 * time.Second

// rosterAt returns the members as of a version or a later one, so that nobody is notified
// of what happened after they left; nil if they are not known in time.
func (s *Service) rosterAt(ctx context.Context, conversation ID, version int64) *Roster {
	r, err := s.Rosters.Get(ctx, conversation)
	if err == nil && r.Version < version {
		r, err = s.Rosters.Reload(ctx, conversation)
	}
	if err != nil {
		return nil
	}
	return r
}

// DeliveredMove is how far a user's devices have acknowledged a conversation's log.
type DeliveredMove struct {
	ConversationID, UserID ID
	UpTo                   int64
}

// DeliveredPlace is a DeliveredMove that went further than those before.
type DeliveredPlace struct {
	DeliveredMove
	MembersVersion int64
}

// DeliveredStore is what the rules of delivery receipts need of the database.
type DeliveredStore interface {
	// MoveDelivered notes how far participants were delivered logs, which goes
	// forward only, and returns those that have moved, in any order. Users who are not
	// participants are ignored. It is one transaction, and may be repeated. A
	// participant is named once.
	MoveDelivered(ctx context.Context, moves []DeliveredMove, now time.Time) ([]DeliveredPlace, error)
}

// MarkDelivered stores how far users' devices have acknowledged logs, and returns
// what is news. It blocks for a round trip; Unavailable may be repeated.
func (s *Service) MarkDelivered(ctx context.Context, moves []DeliveredMove) ([]DeliveredPlace, error) {
	return s.store.MoveDelivered(ctx, moves, Timestamp(s.clock.Now()))
}

// NotifyDelivered notifies members who have subscribed to it of what MarkDelivered has
// returned.
func (s *Service) NotifyDelivered(ctx context.Context, places []DeliveredPlace) {
	ctx, cancel := WithDeadline(ctx, signalPatience, "chat.NotifyDelivered")
	defer cancel()
	at := Timestamp(s.clock.Now())
	for _, p := range places {
		n := &ReceiptNotice{p.ConversationID, p.UserID, p.UpTo, at, p.MembersVersion}
		if to := s.signalReceipt(ctx, TopicDelivered, n); len(to) > 0 {
			s.peers.Notify(Notice{Received: n}, to)
		}
	}
}

// signalReceipt notifies members at this node of a receipt, and returns whom it concerns:
// all members of a conversation that makes them contacts, the one who has read or received
// included. In a larger one, and where one of two has blocked the other, only the reader's
// own devices are notified of reading, and nobody of a delivery.
func (s *Service) signalReceipt(ctx context.Context, kind TopicKind, n *ReceiptNotice) (to []ID) {
	r := s.rosterAt(ctx, n.ConversationID, n.MembersVersion)
	switch {
	case r == nil || !r.Has(n.UserID):
		return nil
	case len(r.Members) <= MaxContactMembers && !r.Blocked:
		to = r.Members
	case kind == TopicReads:
		to = []ID{n.UserID}
	default:
		return nil
	}
	s.publisher.Signal(Topic{Kind: kind, ID: n.ConversationID}, readPayload(n.ConversationID, n.UserID, n.UpTo, n.At), to, nil)
	return to
}

// receiptArrived is announceReads and NotifyDelivered for what another node has stored.
func (s *Service) receiptArrived(ctx context.Context, kind TopicKind, n *ReceiptNotice) {
	ctx, cancel := WithDeadline(ctx, signalPatience, "chat.receiptArrived")
	defer cancel()
	s.signalReceipt(ctx, kind, n)
}
