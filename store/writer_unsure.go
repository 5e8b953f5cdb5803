package store

import (
	"context"
	"time"

	"github.com/parleymq/parley/chat"
)

// An event that was given up because the database was away may be stored all the
// same: the answer was lost, or the statement still waited somewhere. Its sender
// sends it again and is answered as for any repeat, or never comes back; either way
// nobody would have told the members who are connected. So the shard looks for such
// events, for a while, and hands on those that it finds.

const (
	unsureEvery = time.Second // how often they are looked for
	unsureFor   = time.Minute // and for how long
	maxUnsure   = 1000        // events of each shard; those beyond are found at the next event of their conversations
)

// unsure is an event that was given up at some time.
type unsure struct {
	a     *chat.Append // a copy: its waiter has been told
	until time.Time
}

// doubt keeps what is given up, before its waiters are told.
func (s *shard) doubt(pending []*chat.Append) {
	until := time.Now().Add(unsureFor)
	for _, a := range pending {
		if len(s.unsure) < maxUnsure {
			s.unsure = append(s.unsure, unsure{&chat.Append{Event: a.Event, MembersVersion: a.MembersVersion}, until})
		}
	}
}

// wait returns the next event to be stored; false when the queue is closed. While
// it waits, it looks for what is unsure.
func (s *shard) wait(ctx context.Context) (*chat.Append, bool) {
	for {
		if len(s.unsure) > 0 && time.Since(s.looked) >= unsureEvery {
			s.lookAgain(ctx)
			s.looked = time.Now()
		}
		var again <-chan time.Time
		if len(s.unsure) > 0 {
			again = time.After(unsureEvery)
		}
		select {
		case a, ok := <-s.queue:
			return a, ok
		case <-again:
		}
	}
}

// lookAgain hands on the unsure events that are in the log, and forgets those that
// have not come there in time.
func (s *shard) lookAgain(ctx context.Context) {
	ctx, cancel := chat.WithDeadline(ctx, unsureEvery, "store.unsure")
	defer cancel()
	pending := make([]*chat.Append, len(s.unsure))
	for i, u := range s.unsure {
		pending[i] = u.a
	}
	found, err := s.stmt.lookup(ctx, pending)
	if err != nil {
		s.stmt.release()
		return // the database is away, which commit reports
	}
	var list []stored
	keep := s.unsure[:0]
	for _, u := range s.unsure {
		e, ok := found[keyOf(&u.a.Event)]
		switch {
		case ok: // whichever sending of it was stored: that it is told twice does no harm
			list = append(list, stored{&e, u.a.MembersVersion})
		case time.Now().Before(u.until):
			keep = append(keep, u)
		}
	}
	clear(s.unsure[len(keep):])
	s.unsure = keep
	if len(list) > 0 {
		s.stored <- list
	}
}
