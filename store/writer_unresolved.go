package store

import (
	"context"
	"time"

	"github.com/parleymq/parley/chat"
)

// An event that was given up because the database was unavailable may be stored all the
// same: the answer was lost, or the statement was still waiting in the server. Its sender
// sends it again and is answered as for any repeat, or never comes back; either way nobody
// would have notified the members who are connected. So the shard looks such events up for
// a while, and publishes those that it finds.

const (
	resolveEvery  = time.Second // how often they are looked up
	resolveFor    = time.Minute // and for how long
	maxUnresolved = 1000        // events of each shard; members notice others at the next event of the conversation
)

// unresolved is an event that was given up.
type unresolved struct {
	a     *chat.Append // a copy: its waiter has been answered
	until time.Time
}

// keepUnresolved remembers what is given up, before its waiters are answered.
func (s *shard) keepUnresolved(pending []*chat.Append) {
	until := time.Now().Add(resolveFor)
	for _, a := range pending {
		if len(s.unresolved) < maxUnresolved {
			s.unresolved = append(s.unresolved, unresolved{&chat.Append{Event: a.Event, MembersVersion: a.MembersVersion}, until})
		}
	}
}

// wait returns the next event to be stored; false when the queue is closed. While
// it waits, it looks up what is unresolved.
func (s *shard) wait(ctx context.Context) (*chat.Append, bool) {
	for {
		var again <-chan time.Time
		if len(s.unresolved) > 0 {
			if time.Since(s.resolved) >= resolveEvery {
				s.resolve(ctx)
				s.resolved = time.Now()
			}
			again = time.After(resolveEvery)
		}
		select {
		case a, ok := <-s.queue.C():
			return a, ok
		case <-again:
		}
	}
}

// resolve publishes the unresolved events that are in the log, and forgets those that
// have not appeared there in time.
func (s *shard) resolve(ctx context.Context) {
	ctx, cancel := chat.WithDeadline(ctx, resolveEvery, "store.resolve")
	defer cancel()
	pending := make([]*chat.Append, len(s.unresolved))
	for i, u := range s.unresolved {
		pending[i] = u.a
	}
	found, err := s.stmt.lookup(ctx, pending)
	if err != nil {
		s.stmt.release()
		return // the database is unavailable, which commit reports
	}
	var list []stored
	keep := s.unresolved[:0]
	for _, u := range s.unresolved {
		e, ok := found[keyOf(&u.a.Event)]
		switch {
		case ok: // whichever sending of it was stored: publishing it twice does no harm
			list = append(list, stored{&e, u.a.MembersVersion})
		case time.Now().Before(u.until):
			keep = append(keep, u)
		}
	}
	clear(s.unresolved[len(keep):])
	s.unresolved = keep
	if len(list) > 0 {
		s.stored <- list
	}
}
