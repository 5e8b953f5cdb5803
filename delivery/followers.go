package delivery

import (
	"context"
	"slices"
	"sync"

	"github.com/parleymq/parley/chat"
)

// followers knows which sessions have a place in which log, so that what another node
// has stored finds them without asking who is a member. nil knows nothing, and costs
// nothing.
type followers struct{ shards [64]followersShard }

type followersShard struct {
	mu sync.RWMutex
	of map[chat.ID][]*Session // mu guards; a slice is replaced, never changed
}

func newFollowers() *followers {
	f := &followers{}
	for i := range f.shards {
		f.shards[i].of = map[chat.ID][]*Session{}
	}
	return f
}

func (f *followers) shard(conversation chat.ID) *followersShard {
	return &f.shards[conversation.Shard(len(f.shards))]
}

func (f *followers) add(conversation chat.ID, s *Session) {
	if f == nil {
		return
	}
	sh := f.shard(conversation)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list := sh.of[conversation]
	sh.of[conversation] = append(list[:len(list):len(list)], s)
}

func (f *followers) remove(conversation chat.ID, s *Session) {
	if f == nil {
		return
	}
	sh := f.shard(conversation)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(sh.of[conversation]), func(other *Session) bool { return other == s })
	if len(rest) == 0 {
		delete(sh.of, conversation)
	} else {
		sh.of[conversation] = rest
	}
}

func (f *followers) list(conversation chat.ID) []*Session {
	if f == nil {
		return nil
	}
	sh := f.shard(conversation)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.of[conversation]
}

// follow gives the session a place in a log in which it has none. mu is held.
func (s *Session) follow(t *tail) {
	s.tails[t.conversation] = t
	s.router.followers.add(t.conversation, s)
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

// Recheck asks how far the logs of all connected users reach, one user after the
// other, for sessions that may have missed what other nodes have stored. It blocks for
// a round trip for each user, and returns how many it has asked for; an error may be
// repeated, and begins anew.
func (r *Router) Recheck(ctx context.Context) (int, error) {
	users := r.users()
	for i, user := range users {
		if err := r.recheck(ctx, user); err != nil {
			return i, err
		}
	}
	return len(users), nil
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

// users returns everybody who has a session here.
func (r *Router) users() []chat.ID {
	var users []chat.ID
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.RLock()
		for user := range sh.users {
			users = append(users, user)
		}
		sh.mu.RUnlock()
	}
	return users
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
		if !s.loaded() || s.Epoch() >= n.Epoch {
			return false
		}
		s.leaves()
		s.Disconnect(ErrTakenOver)
	}
	r.boxMoved(deviceKey{n.UserID, n.ClientID}, n.Epoch)
	return true
}

// leaves notes that the session goes on at another node: nothing waits for it here.
func (s *Session) leaves() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.elsewhere = true
}

// loaded reports whether the session's epoch is known.
func (s *Session) loaded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hints == nil
}

// DisconnectAll ends every connection, of a node that was evicted by the others: its
// sessions may have moved. It does not block.
func (r *Router) DisconnectAll() {
	for _, user := range r.users() {
		for _, s := range r.Sessions(user) {
			s.Disconnect(ErrNodeEvicted)
		}
	}
}
