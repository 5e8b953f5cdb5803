package chat

import (
	"context"
	"sync"
	"time"
)

const (
	doubtEvery = time.Second
	doubtFor   = 5 * time.Minute // a commit may hang for long, behind a standby
	maxDoubts  = 10_000          // beyond that, the next event of a conversation is how it is heard of
)

// doubts are conversations in which something may have been stored that nobody was
// told of: the answer of the database was lost, or the members were not known in
// time.
type doubts struct {
	mu    sync.Mutex
	until map[ID]time.Time // mu guards
}

func (d *doubts) add(conversation ID, until time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.until == nil {
		d.until = map[ID]time.Time{}
	}
	if _, ok := d.until[conversation]; ok || len(d.until) < maxDoubts {
		d.until[conversation] = until
	}
}

func (d *doubts) list() []ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := make([]ID, 0, len(d.until))
	for id := range d.until {
		ids = append(ids, id)
	}
	return ids
}

// settle forgets a doubt: it was cleared up, or is too old.
func (d *doubts) settle(conversation ID, cleared bool, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if cleared || now.After(d.until[conversation]) {
		delete(d.until, conversation)
	}
}

// Run clears up what is in doubt, until ctx ends: a conversation that is there after
// all is shown to its members' sessions, which read from its log what they lack.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(doubtEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, conversation := range s.doubts.list() {
			r, err := s.reload(ctx, conversation)
			if err == nil {
				s.publisher.Hint(conversation, r.LastSeq, r)
				s.peers.Notify(Notice{Hint: &HintNotice{conversation, r.LastSeq, r.Version}}, r.Members)
			}
			s.doubts.settle(conversation, err == nil, time.Now())
			if err != nil && CodeOf(err) != NotFound {
				break // the store is away: the others wait, too
			}
		}
	}
}

func (s *Service) reload(ctx context.Context, conversation ID) (*Roster, error) {
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.doubt")
	defer cancel()
	r, err := s.store.AwaitRoster(ctx, conversation) // a change whose commit hangs is decided when this returns
	if err != nil {
		return nil, err
	}
	s.Rosters.put(r)
	return r, nil
}

// doubt has a conversation looked at until it is there, or long enough.
func (s *Service) doubt(conversation ID) { s.doubts.add(conversation, time.Now().Add(doubtFor)) }
