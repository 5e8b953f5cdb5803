package delivery

import "time"

// Where several nodes store events of one conversation, the events of another node may
// come a moment after one of this node's that follows them. Such an early one is kept
// for that moment, so that the log need not be read for what is on its way.

const (
	earlyWait = 15 * time.Millisecond
	maxEarly  = 32 // of each log
)

// await keeps an event that came before its turn, and has the catch-up wait. mu is held.
func (s *Session) await(t *tail, f *Frame) {
	if s.router.cluster == nil || s.catching || t.queued && !s.waiting || len(t.early) >= maxEarly {
		return
	}
	t.early = append(t.early, f)
	if s.waiting {
		return
	}
	s.waiting = true
	time.AfterFunc(earlyWait, func() { // holds the session for no longer than that
		s.mu.Lock()
		defer s.mu.Unlock()
		s.waiting = false
		for _, t := range s.behind { // what has not come is read from the log, with what came after it
			t.early = nil
		}
		s.resume()
	})
}

// sendEarly sends the early events of a log whose turn has come. mu is held.
func (s *Session) sendEarly(t *tail) {
	for i := 0; i < len(t.early); {
		f := t.early[i]
		switch {
		case f.Seq == t.sent+1 && !s.stalled && s.send(t, f):
			i = 0 // the next one may be before it
			continue
		case f.Seq > t.sent+1:
			i++
			continue
		case f.Seq == t.sent+1: // no room: it is read from the log
			t.early = nil
			return
		}
		t.early = append(t.early[:i], t.early[i+1:]...)
	}
}
