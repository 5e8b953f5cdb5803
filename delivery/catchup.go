package delivery

import (
	"context"
	"time"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

const (
	pageSize    = 100 // events read from the log at once
	readTimeout = 5 * time.Second

	// Where several nodes store events of one conversation, an event of another node may
	// arrive a moment after one of this node's that follows it. Such an early event is
	// kept for that moment, so that the log need not be read for what is on its way.
	earlyWait = 15 * time.Millisecond
	maxEarly  = 32 // of each log
)

// Subscribe adds filters, in place of those with the same text. From its return on, the
// session receives every event that is committed in the conversations they cover. It asks
// the log for their ends, and so blocks for a round trip; after an error, which is
// Unavailable, none of the filters is held.
func (s *Session) Subscribe(ctx context.Context, subs []Subscription) error {
	s.mu.Lock()
	before := make(map[string]Subscription)
	messages := false
	for _, sub := range subs {
		if old, ok := s.subs.byText[sub.Text]; ok {
			before[sub.Text] = *old
		}
		messages = messages || sub.Filter.Kinds&chat.TopicMessages != 0
	}
	for _, sub := range subs {
		sub.held = before[sub.Text].held
		s.subs.put(sub)
	}
	s.countReceiptWants()
	if s.closed || !messages && !s.stored.kept {
		s.mu.Unlock()
		return nil
	}
	s.loading++ // until the ends are known, events only raise tail.known
	s.mu.Unlock()

	ends, err := s.positions(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.loading--
	if err != nil {
		for _, sub := range subs {
			s.subs.remove(sub.Text)
		}
		for _, old := range before {
			s.subs.put(old)
		}
		s.countReceiptWants()
		s.dropUncovered()
	} else {
		s.begin(ends)
		for _, sub := range subs {
			s.subs.hold(sub.Text)
		}
	}
	for _, t := range s.tails {
		s.learn(t, t.known)
	}
	return err
}

// begin starts the tails that have not started, of conversations that are covered, at the
// ends of their logs. Where a filter has covered a conversation since before, its user has
// joined it since, and everything in it is owed: the log decides where the tail starts. The
// same holds for a conversation that is missing from ends but is known.
func (s *Session) begin(ends []chat.Position) {
	if s.closed {
		return
	}
	for _, p := range ends {
		covered, held := s.covers(p.ConversationID)
		if !covered {
			continue
		}
		t := s.tails[p.ConversationID]
		if t == nil {
			t = &tail{conversation: p.ConversationID, joining: true}
			s.follow(t)
		}
		switch {
		case !t.joining:
		case held:
			t.known = max(t.known, p.LastSeq)
		default:
			t.sent, t.acked, t.joining = p.LastSeq, p.LastSeq, false
		}
	}
}

// resume sends what waits in the queue, and starts a catch-up if the session is behind, has
// room, and none runs. mu is held.
func (s *Session) resume() {
	s.pump()
	if s.catching || s.closed || s.stalled || s.loading > 0 || s.waiting || s.window.active > (s.window.limit+1)/2 {
		return // a window that is more than half full waits, so that pages are worth their query
	}
	if s.window.idle == 0 && (len(s.behind) == 0 || s.logRoom() <= 0) {
		return
	}
	r := s.router
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	s.catching = true
	r.wg.Go(func() { s.catchUp(r.ctx) }) // ends when the session is level, full or closed; Close waits for it
}

// catchUp reads the logs of the tails that are behind, a page at a time and in turn, until
// there is none left, or no room.
func (s *Session) catchUp(ctx context.Context) {
	for pause := backoff.New(10*time.Millisecond, 2*time.Second); ; {
		w, ok := s.nextBehind(ctx)
		if !ok {
			return
		}
		var err error
		if len(w.resend) > 0 {
			err = s.sendAgain(ctx, w.resend)
		} else {
			var page []chat.Event
			page, err = s.router.read(ctx, func(ctx context.Context) ([]chat.Event, error) {
				s.router.metrics.pages.Inc()
				return s.router.log.ReadLog(ctx, s.Principal.UserID, w.tail.conversation, w.after, w.limit)
			})
			s.sendPage(w, page, err)
		}
		if err == nil || chat.CodeOf(err) == chat.NotFound {
			pause.Reset()
			continue
		}
		s.yield()
		s.router.metrics.failures.Inc()
		s.router.logger.Warn("reading the log failed; trying again", "client_id", s.ClientID, "err", err)
		pause.Sleep(ctx)
	}
}

// read calls f, which reads events, when one of the slots for readers is free.
func (r *Router) read(ctx context.Context, f func(context.Context) ([]chat.Event, error)) ([]chat.Event, error) {
	select {
	case r.readers <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-r.readers }()
	ctx, cancel := chat.WithDeadline(ctx, readTimeout, "delivery.read")
	defer cancel()
	return f(ctx)
}

// work is a page to be read, or publications of an earlier connection to be sent again.
type work struct {
	resend []resend
	tail   *tail
	after  int64
	limit  int
	known  int64 // what was known of the log before it was read
}

// nextBehind returns what is to be done next. If there is nothing, or no room, it ends the
// catch-up, under the same lock under which that is certain.
func (s *Session) nextBehind(ctx context.Context) (w work, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.stalled || s.loading > 0 || ctx.Err() != nil {
		s.catching = false
		return work{}, false
	}
	if again := s.toResend(); len(again) > 0 {
		return work{resend: again}, true
	}
	for len(s.behind) > 0 && s.behind[0].known <= s.behind[0].sent { // what was missing has arrived live
		s.behind[0].queued = false
		s.behind = s.behind[1:]
	}
	room := s.logRoom()
	if len(s.behind) == 0 || room <= 0 {
		s.catching = false
		s.resume() // the queue may have the room that no log needs
		return work{}, false
	}
	t := s.behind[0]
	return work{tail: t, after: t.sent, limit: min(pageSize, room), known: t.known}, true
}

// yield lets the queue have the window while a log cannot be read.
func (s *Session) yield() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logNext = false
	s.pump()
}

// sendPage sends a page of a log, as far as there is room. The page is everything after
// w.after that the user may see, up to its own last event: where it leaves numbers out, the
// user was not a member then.
func (s *Session) sendPage(w work, page []chat.Event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := w.tail
	if s.closed || len(s.behind) == 0 || s.behind[0] != t {
		return
	}
	if len(page) > 0 {
		t.known = max(t.known, page[len(page)-1].Seq) // what does not fit now is not forgotten
	}
	for i := range page {
		e := &page[i]
		if e.Seq <= t.sent {
			continue // was sent live meanwhile
		}
		if t.joining {
			t.acked, t.joining = e.Seq-1, false
		}
		t.sent = e.Seq - 1
		if !s.send(t, NewEventFrame(e, s.router.epoch)) {
			break
		}
		s.router.metrics.caughtUp.Inc()
	}
	// Nothing to see, or no member any more: the log ends here for this user, unless more
	// was heard of it while it was read. The tail is kept, so that a user who is a member
	// again goes on from there.
	if (err == nil && len(page) == 0 || chat.CodeOf(err) == chat.NotFound) && t.known == w.known {
		t.known = t.sent
	}
	s.sendEarly(t)
	s.behind = s.behind[1:]
	if t.queued = t.known > t.sent; t.queued {
		s.behind = append(s.behind, t) // behind the others, also after an error
	}
}

// keepEarly keeps an event that has arrived before its predecessor, and delays the
// catch-up. mu is held.
func (s *Session) keepEarly(t *tail, f *Frame) {
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
		for _, t := range s.behind { // what has not arrived is read from the log, with what follows it
			t.early = nil
		}
		s.resume()
	})
}

// sendEarly sends the early events of a log that are next now. mu is held.
func (s *Session) sendEarly(t *tail) {
	for i := 0; i < len(t.early); {
		f := t.early[i]
		switch {
		case f.Seq == t.sent+1 && !s.stalled && s.send(t, f):
			i = 0 // the next one may come before it
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
