package delivery

import (
	"context"
	"math"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

// Cluster is how a Router reaches the other nodes. None of its functions may block, or
// call back into the Router.
type Cluster struct {
	// Online is called when the first connection of a user is made, and when the last one
	// has ended.
	Online func(user chat.ID, online bool)
	// Superseded notifies the named node that a device whose last connection was there has
	// connected here. The node may still have that connection.
	Superseded func(node string, n chat.SupersededNotice)
	// WantReceipts is called when the first session here subscribes to delivery receipts.
	WantReceipts func()
	// ReceiptsWanted reports whether a session at another node subscribes to delivery receipts.
	ReceiptsWanted func() bool
}

// follow adds a tail for a conversation that has none. mu is held.
func (s *Session) follow(t *tail) {
	s.tails[t.conversation] = t
	s.router.followers.add(t.conversation, s, math.MaxInt, nil)
}

// unfollow removes the tail of a conversation. mu is held.
func (s *Session) unfollow(conversation chat.ID) {
	delete(s.tails, conversation)
	s.router.followers.remove(conversation, func(other *Session) bool { return other == s }, nil)
}

// HintFollowers tells the sessions here that follow a conversation that its log reaches
// seq. Those that lack something read it, as far as their users may see it. A session
// that is being created may miss it: call again a moment later. It does not block.
func (r *Router) HintFollowers(conversation chat.ID, seq int64) {
	topic := chat.Topic{Kind: chat.TopicMessages, ID: conversation}
	for _, s := range r.followers.list(conversation) {
		s.hint(topic, seq)
	}
}

// Recheck asks how far the logs of all connected users reach, one user after the other,
// for sessions that may have missed what other nodes have stored. It blocks for a round
// trip per user. It may be repeated after an error; it then starts from the beginning.
func (r *Router) Recheck(ctx context.Context) error {
	for _, user := range r.users.ids() {
		if err := r.recheck(ctx, user); err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) recheck(ctx context.Context, user chat.ID) error {
	ctx, cancel := chat.WithDeadline(ctx, readTimeout, "delivery.Recheck")
	defer cancel()
	positions, err := r.log.ListPositions(ctx, user)
	if err != nil {
		return err
	}
	for _, s := range r.Sessions(user) {
		for _, p := range positions {
			s.hint(chat.Topic{Kind: chat.TopicMessages, ID: p.ConversationID}, p.LastSeq)
		}
	}
	return nil
}

// DropSuperseded ends the connection that a device has here, if there is one, because the
// device has connected at another node with a higher epoch. It reports false if the
// connection here is the newer, or may be because it is still being created. It does
// not block.
func (r *Router) DropSuperseded(n chat.SupersededNotice) bool {
	for _, s := range r.Sessions(n.UserID) {
		if s.ClientID != n.ClientID {
			continue
		}
		if !s.supersede(n.Epoch) {
			return false
		}
		s.Disconnect(ErrTakenOver)
	}
	r.dropQueue(deviceKey{n.UserID, n.ClientID}, n.Epoch)
	return true
}

// supersede notes that another node has the session, with the given epoch; false if this
// connection is the newer, or its epoch is not known yet.
func (s *Session) supersede(epoch int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hints != nil || s.stored.epoch >= epoch {
		return false
	}
	s.superseded = true
	return true
}

// DisconnectAll ends every connection, of a node that was evicted by the others: its
// sessions may have moved. It does not block.
func (r *Router) DisconnectAll() {
	r.Each(func(s *Session, _ Sink) { s.Disconnect(ErrNodeEvicted) })
}

// A device may connect here while its last connection is still open at another node. That
// node is told, ends the connection, publishes its will if that is due, and stores how far
// the client has acknowledged: so nothing acknowledged is sent again, and the rest goes
// out with its packet identifiers and DUP. A node that does not answer within handoverWait may be dead or frozen; the
// session is then taken over as after a crash.
const (
	handoverWait  = 300 * time.Millisecond
	handoverPoll  = 20 * time.Millisecond
	handoverTrust = 10 * time.Second // how long a node that has not answered is not waited for again
)

// takeSession takes a session over from its last connection, once the node that has that
// connection has released it or has failed to answer.
func (r *Router) takeSession(ctx context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	t.Await = r.cluster != nil && !t.CleanStart
	st, err := r.sessions.TakeSession(ctx, t)
	if err != nil || !st.Elsewhere {
		return st, err
	}
	from := st.From
	if since, ok := r.unresponsive.Load(from); !ok || time.Since(since.(time.Time)) > handoverTrust {
		r.cluster.Superseded(from, chat.SupersededNotice{UserID: t.UserID, ClientID: t.ClientID, Epoch: st.Epoch + 1, Resumed: true})
		silent := true
		for until := time.Now().Add(handoverWait); silent && time.Now().Before(until); {
			if !backoff.Sleep(ctx, handoverPoll) {
				return nil, &chat.Error{Code: chat.Unavailable, Op: "delivery.Take", Msg: "another node has the session; try again", Err: context.Cause(ctx)}
			}
			if st, err = r.sessions.TakeSession(ctx, t); err != nil || !st.Elsewhere {
				r.unresponsive.Delete(from)
				return st, err
			}
			silent = st.From == from // or a third node was faster: the last one to take the session has it
		}
		if silent {
			r.unresponsive.Store(from, time.Now())
		} else {
			r.unresponsive.Delete(from)
		}
	}
	t.Await = false
	return r.sessions.TakeSession(ctx, t)
}
