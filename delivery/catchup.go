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
)

// Subscribe adds filters, in place of those with the same text. From its return
// on, the session receives every event committed in the conversations they cover.
// It asks the log for their ends, and so blocks for a round trip; after an error,
// which is Unavailable, none of the filters is held.
func (s *Session) Subscribe(ctx context.Context, subs []Subscription) error {
	s.mu.Lock()
	before := make(map[string]Subscription)
	wanted := false
	for _, sub := range subs {
		if old, ok := s.subs.byText[sub.Text]; ok {
			before[sub.Text] = old
		}
		wanted = wanted || sub.Filter.Kinds&chat.TopicMessages != 0
	}
	for _, sub := range subs {
		sub.held = before[sub.Text].held
		s.subs.put(sub)
	}
	s.noteAsking()
	if s.closed || !wanted && s.kept.id.IsZero() {
		s.mu.Unlock()
		return nil
	}
	s.loading++ // until the ends are known, events only raise what is known
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
		s.noteAsking()
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

// begin gives each conversation that is covered, and has no place yet, the end of
// its log as the place to start from. Where a filter has covered it since before,
// it was joined after that filter's Subscribe, and everything since is owed: its
// log decides. So it does for a conversation that is missing from ends but was
// heard of: it was joined just now.
func (s *Session) begin(ends []chat.Position) {
	if s.closed {
		return
	}
	for _, p := range ends {
		covered, held := s.subs.covers(chat.Topic{Kind: chat.TopicMessages, ID: p.ConversationID})
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

// resume sends what waits of device topics, and starts a catch-up if the session is
// behind, has room, and none runs.
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

// catchUp reads the logs of the tails that are behind, a page at a time and in
// turn, until there is none, or no room.
func (s *Session) catchUp(ctx context.Context) {
	for wait := backoff.New(10*time.Millisecond, 2*time.Second); ; {
		w, ok := s.nextBehind(ctx)
		if !ok {
			return
		}
		var err error
		if len(w.resend) > 0 {
			err = s.sendAgain(ctx, w.resend)
		} else {
			var page []chat.Event
			page, err = s.router.readPage(ctx, s.Principal.UserID, w.tail.conversation, w.after, w.limit)
			s.take(w, page, err)
		}
		if err == nil || chat.CodeOf(err) == chat.NotFound {
			wait.Reset()
			continue
		}
		s.yield()
		s.router.metrics.failures.Inc()
		s.router.logger.Warn("reading the log failed; trying again", "client_id", s.ClientID, "err", err)
		wait.Sleep(ctx)
	}
}

// work is one page to be read, or publications of an earlier connection to be
// sent again.
type work struct {
	resend []resend
	tail   *tail
	after  int64
	limit  int
	known  int64 // what was known of the log before it was read
}

// nextBehind returns the page whose turn it is. If there is none, or no room, it
// marks the catch-up as ended, in the same instant in which that is certain.
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
	for len(s.behind) > 0 && s.behind[0].known <= s.behind[0].sent { // what was missing has come by itself
		s.behind[0].queued = false
		s.behind = s.behind[1:]
	}
	room := s.logRoom()
	if len(s.behind) == 0 || room <= 0 {
		s.catching = false
		s.resume() // what waits of device topics may have the room that no log needs
		return work{}, false
	}
	t := s.behind[0]
	return work{tail: t, after: t.sent, limit: min(pageSize, room), known: t.known}, true
}

// yield lets device publications have their turn while a log cannot be read.
func (s *Session) yield() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turnOfLog = false
	s.pump()
}

// take sends a page of a tail's log, as far as there is room. The page is
// everything after w.after that the user may see, up to its own last event: where
// it leaves numbers out, the user was not a member then.
func (s *Session) take(w work, page []chat.Event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := w.tail
	if s.closed || len(s.behind) == 0 || s.behind[0] != t {
		return
	}
	if len(page) > 0 {
		t.known = max(t.known, page[len(page)-1].Seq) // whatever does not fit now is not forgotten
	}
	for i := range page {
		e := &page[i]
		if e.Seq <= t.sent {
			continue // the live side has sent it meanwhile
		}
		if t.joining {
			t.acked, t.joining = e.Seq-1, false
		}
		t.sent = e.Seq - 1
		if !s.send(t, NewEventFrame(e)) {
			break
		}
		s.router.metrics.caughtUp.Inc()
	}
	// Nothing to see, or no member any more: the log ends here for this user,
	// unless more was heard of it while it was read. The place is kept, so that
	// whoever is a member again goes on from there.
	if (err == nil && len(page) == 0 || chat.CodeOf(err) == chat.NotFound) && t.known == w.known {
		t.known = t.sent
	}
	s.sendEarly(t)
	s.behind = s.behind[1:]
	if t.queued = t.known > t.sent; t.queued {
		s.behind = append(s.behind, t) // the others have their turn first, also after an error
	}
}

// readPage asks the log, when there is a place among the readers.
func (r *Router) readPage(ctx context.Context, user, conversation chat.ID, after int64, limit int) ([]chat.Event, error) {
	select {
	case r.readers <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-r.readers }()
	ctx, cancel := chat.WithDeadline(ctx, readTimeout, "delivery.readPage")
	defer cancel()
	r.metrics.pages.Inc()
	return r.log.ReadLog(ctx, user, conversation, after, limit)
}
