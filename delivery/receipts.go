package delivery

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// maxDelivered bounds the receipts that wait to be saved. Beyond it they are dropped and
// counted: the next acknowledgement of the same user in the same conversation covers them.
const maxDelivered = 100_000

// Receipts stores how far users have received logs; chat.Service is one.
type Receipts interface {
	// MarkDelivered stores how far users' devices have acknowledged logs, and returns what
	// is news. It blocks for a round trip; an error may be repeated.
	MarkDelivered(ctx context.Context, moves []chat.DeliveredMove) ([]chat.DeliveredPlace, error)
	// NotifyDelivered notifies the subscribers of what is news.
	NotifyDelivered(ctx context.Context, places []chat.DeliveredPlace)
}

type deliveredKey struct{ user, conversation chat.ID }

// noteDelivered has Run save that a device of the user has acknowledged a log up to seq.
func (r *Router) noteDelivered(user, conversation chat.ID, seq int64) {
	if r.receipts == nil || seq < 1 {
		return
	}
	r.dirtyMu.Lock()
	defer r.dirtyMu.Unlock()
	key := deliveredKey{user, conversation}
	have, ok := r.delivered[key]
	switch {
	case !ok && len(r.delivered) >= maxDelivered:
		r.metrics.deliveredDropped.Inc()
	case seq > have:
		r.delivered[key] = seq
	}
}

// saveDelivered stores the receipts since the last time and notifies their subscribers.
// What cannot be stored now is tried again with what comes until then.
func (r *Router) saveDelivered(ctx context.Context) {
	r.dirtyMu.Lock()
	delivered := r.delivered
	r.delivered = map[deliveredKey]int64{}
	r.dirtyMu.Unlock()
	moves := make([]chat.DeliveredMove, 0, len(delivered))
	for key, seq := range delivered {
		moves = append(moves, chat.DeliveredMove{ConversationID: key.conversation, UserID: key.user, UpTo: seq})
	}
	for len(moves) > 0 {
		n := min(saveBatch, len(moves))
		if !r.markDelivered(ctx, moves[:n]) {
			break
		}
		moves = moves[n:]
	}
	for _, m := range moves {
		r.noteDelivered(m.UserID, m.ConversationID, m.UpTo)
	}
}

func (r *Router) markDelivered(ctx context.Context, moves []chat.DeliveredMove) bool {
	ctx, cancel := chat.WithDeadline(ctx, readTimeout, "delivery.markDelivered")
	defer cancel()
	places, err := r.receipts.MarkDelivered(ctx, moves)
	if err != nil {
		r.metrics.failures.Inc()
		r.logger.Warn("delivery receipts could not be saved; trying again", "moves", len(moves), "err", err)
		return false
	}
	if len(places) > 0 && (r.ReceiptsWanted() || r.cluster != nil && r.cluster.ReceiptsWanted()) {
		r.receipts.NotifyDelivered(ctx, places)
	}
	return true
}

// ReceiptsWanted reports whether a session here subscribes to delivery receipts.
func (r *Router) ReceiptsWanted() bool { return r.wantReceipts.Load() > 0 }

// countReceiptWants counts the session in or out of those that subscribe to delivery receipts. mu
// is held.
func (s *Session) countReceiptWants() {
	wants := s.subs.delivered > 0 && !s.closed
	switch {
	case wants && !s.wantsReceipts:
		if s.router.wantReceipts.Add(1) == 1 && s.router.cluster != nil {
			s.router.cluster.WantReceipts()
		}
	case !wants && s.wantsReceipts:
		s.router.wantReceipts.Add(-1)
	}
	s.wantsReceipts = wants
}
