package chat

import (
	"context"
	"sync"
	"time"
)

const (
	confirmEvery   = time.Second
	confirmFor     = 5 * time.Minute // a commit may hang for long, behind a standby
	confirmPause   = time.Minute     // the longest between two looks at a conversation that is there
	maxUnconfirmed = 10_000          // members notice others at the next event of the conversation
)

// unconfirmed are conversations in which something may be stored that nobody was
// notified of: the database's answer was lost, or the members were not known in time.
type unconfirmed struct {
	mu      sync.Mutex
	entries map[ID]*unconfirmedEntry // mu guards
}

type unconfirmedEntry struct {
	until time.Time     // when it is given up
	next  time.Time     // when it is looked at
	pause time.Duration // until the look after that; doubles, as a statement may still wait in the server
	seen  HintNotice    // what the last look found
}

// add has a conversation looked at until its members were notified, or long enough.
func (u *unconfirmed) add(conversation ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.entries == nil {
		u.entries = map[ID]*unconfirmedEntry{}
	}
	now := time.Now()
	if e := u.entries[conversation]; e != nil {
		e.until, e.next, e.pause = now.Add(confirmFor), now, confirmEvery
	} else if len(u.entries) < maxUnconfirmed {
		u.entries[conversation] = &unconfirmedEntry{until: now.Add(confirmFor), next: now, pause: confirmEvery}
	}
}

// due returns the conversations that are to be looked at now.
func (u *unconfirmed) due() (list []ID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, e := range u.entries {
		if !time.Now().Before(e.next) {
			list = append(list, id)
		}
	}
	return list
}

// looked notes what a look has found (nil: nothing), and reports whether that is new.
func (u *unconfirmed) looked(conversation ID, found *HintNotice) (isNew bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	e, now := u.entries[conversation], time.Now()
	done := now.After(e.until)
	if found != nil {
		isNew, done = *found != e.seen, done || e.pause > confirmPause
		e.seen, e.next = *found, now.Add(e.pause)
		e.pause *= 2
	}
	if done {
		delete(u.entries, conversation)
	}
	return isNew
}

// Unconfirmed notes that something may be stored in a conversation although it was given
// up: the database's answer was lost. If it is, the members' sessions read it from the log
// within a second, or if its commit hangs, within a minute of its end. It does not block.
func (s *Service) Unconfirmed(conversation ID) { s.unconfirmed.add(conversation) }

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
		for _, conversation := range s.unconfirmed.due() {
			r, err := s.awaitRoster(ctx, conversation)
			var found *HintNotice
			if err == nil {
				found = &HintNotice{conversation, r.LastSeq, r.Version}
			}
			if s.unconfirmed.looked(conversation, found) {
				s.publisher.Hint(conversation, r.LastSeq, r)
				s.peers.Notify(Notice{Hint: found}, r.Members)
			}
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
