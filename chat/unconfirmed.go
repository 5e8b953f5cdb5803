package chat

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	confirmEvery   = time.Second
	confirmFor     = 5 * time.Minute // a commit may hang for long, behind a standby
	maxUnconfirmed = 10_000          // members notice others at the next event of the conversation
)

// unconfirmed are conversations in which something may have been stored that nobody was
// notified of: the database's answer was lost, or the members were not known in time.
type unconfirmed struct {
	mu    sync.Mutex
	until map[ID]time.Time // mu guards
}

// add has a conversation looked at until it is there, or long enough.
func (u *unconfirmed) add(conversation ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = map[ID]time.Time{}
	}
	if _, ok := u.until[conversation]; ok || len(u.until) < maxUnconfirmed {
		u.until[conversation] = time.Now().Add(confirmFor)
	}
}

func (u *unconfirmed) list() []ID {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Collect(maps.Keys(u.until))
}

// settle forgets a conversation that was found, or looked for long enough.
func (u *unconfirmed) settle(conversation ID, found bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if found || time.Now().After(u.until[conversation]) {
		delete(u.until, conversation)
	}
}

// Run looks for unconfirmed changes, until ctx ends: the sessions of a conversation's
// members read from its log what they lack.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, conversation := range s.unconfirmed.list() {
			r, err := s.awaitRoster(ctx, conversation)
			if err == nil {
				s.publisher.Hint(conversation, r.LastSeq, r)
				s.peers.Notify(Notice{Hint: &HintNotice{conversation, r.LastSeq, r.Version}}, r.Members)
			}
			s.unconfirmed.settle(conversation, err == nil)
			if err != nil && CodeOf(err) != NotFound {
				break // the store is unavailable: the others wait, too
			}
		}
	}
}

func (s *Service) awaitRoster(ctx context.Context, conversation ID) (*Roster, error) {
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.awaitRoster")
	defer cancel()
	r, err := s.store.AwaitRoster(ctx, conversation) // a change whose commit hangs is decided when this returns
	if err != nil {
		return nil, err
	}
	s.Rosters.put(r)
	return r, nil
}
