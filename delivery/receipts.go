package delivery

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// maxDelivered bounds what waits for being saved as delivered. What comes beyond it
// is dropped and counted: the next acknowledgement of the same user in the same
// conversation says so, too.
const maxDelivered = 100_000

// Receipts keeps how far users were delivered logs; chat.Service is one.
type Receipts interface {
	// MarkDelivered stores how far users' devices have acknowledged logs, and
	// returns what is news. It blocks for a round trip; an error may be repeated.
	MarkDelivered(ctx context.Context, moves []chat.DeliveredMove) ([]chat.DeliveredPlace, error)
	// TellDelivered lets those who have asked for it hear what is news.
	TellDelivered(ctx context.Context, places []chat.DeliveredPlace)
}

type deliveredKey struct{ user, conversation chat.ID }

// noteDelivered keeps for Run to save that a user's device has acknowledged a log up
// to seq.
func (r *Router) noteDelivered(user, conversation chat.ID, seq int64) {
	if r.receipts == nil || seq < 1 {
		return
	}
	r.dirtyMu.Lock()
	defer r.dirtyMu.Unlock()
	r.noteDeliveredLocked(deliveredKey{user, conversation}, seq)
}

func (r *Router) noteDeliveredLocked(key deliveredKey, seq int64) {
	have, ok := r.delivered[key]
	switch {
	case !ok && len(r.delivered) >= maxDelivered:
		r.metrics.deliveredDropped.Inc()
	case seq > have:
		r.delivered[key] = seq
	}
}

// saveDelivered stores what was delivered since the last time, and lets those who
// have asked for it hear of it. What cannot be stored now is tried again with what
// comes until then.
func (r *Router) saveDelivered(ctx context.Context) {
	r.dirtyMu.Lock()
	delivered := r.delivered
	r.delivered = map[deliveredKey]int64{}
	r.dirtyMu.Unlock()
	moves := make([]chat.DeliveredMove, 0, min(len(delivered), saveBatch))
	for key, seq := range delivered {
		moves = append(moves, chat.DeliveredMove{ConversationID: key.conversation, UserID: key.user, UpTo: seq})
		if len(moves) < saveBatch && len(moves) < len(delivered) {
			continue
		}
		if !r.markDelivered(ctx, moves) {
			break
		}
		for _, m := range moves {
			delete(delivered, deliveredKey{m.UserID, m.ConversationID})
		}
		moves = moves[:0]
	}
	r.dirtyMu.Lock()
	defer r.dirtyMu.Unlock()
	for key, seq := range delivered {
		r.noteDeliveredLocked(key, seq)
	}
}

func (r *Router) markDelivered(ctx context.Context, moves []chat.DeliveredMove) bool {
	ctx, cancel := chat.WithDeadline(ctx, readTimeout, "delivery.markDelivered")
	defer cancel()
	places, err := r.receipts.MarkDelivered(ctx, moves)
	if err != nil {
		r.metrics.failures.Inc()
		r.logger.Warn("what was delivered could not be saved; trying again", "moves", len(moves), "err", err)
		return false
	}
	if len(places) > 0 && (r.Asking() || r.cluster != nil && r.cluster.Asking()) {
		r.receipts.TellDelivered(ctx, places)
	}
	return true
}

// Asking reports whether a session here has asked for what was delivered.
func (r *Router) Asking() bool { return r.asking.Load() > 0 }

// noteAsking counts the session among those that have asked for what was delivered,
// or not any more. mu is held.
func (s *Session) noteAsking() {
	asks := s.subs.delivered > 0 && !s.closed
	switch {
	case asks && !s.asks:
		if s.router.asking.Add(1) == 1 && s.router.cluster != nil {
			s.router.cluster.Asks()
		}
	case !asks && s.asks:
		s.router.asking.Add(-1)
	}
	s.asks = asks
}
