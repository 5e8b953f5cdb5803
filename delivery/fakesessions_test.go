package delivery_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

// fakeSessions keeps one session of Alice's in memory, by the rules of
// chat.SessionStore.
type fakeSessions struct {
	log *fakeLog

	mu        sync.Mutex
	state     chat.SessionState // ID zero: there is none; Cursors are not used
	cursors   map[chat.ID]int64
	connected bool
}

// node is the store as one process sees it. A process that has died writes no more.
type node struct {
	*fakeSessions
	dead     atomic.Bool
	meantime func() // runs between the snapshot of TakeSession and its answer
}

var errDead = &chat.Error{Code: chat.Unavailable, Op: "fake"}

func (n *node) TakeSession(_ context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	defer n.meantime()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead.Load() {
		return nil, errDead
	}
	if n.state.ID.IsZero() || t.CleanStart {
		n.state, n.cursors = chat.SessionState{NextPacketID: 1}, map[chat.ID]int64{}
		if t.Expiry > 0 {
			n.state.ID, n.state.Epoch, n.connected = chat.NewID(), 1, true
		}
		return new(n.state), nil
	}
	n.state.Epoch++
	n.state.Present = true
	if n.connected { // the end of the last connection was not saved
		n.state.NextPacketID = 1 + uint16((int(n.state.NextPacketID)+32766)%65535)
	}
	st := n.state
	st.Subscriptions = slices.Clone(st.Subscriptions)
	n.log.set(func() {
		for id, c := range n.log.convs {
			if c.joined == 0 {
				continue
			}
			acked, ok := n.cursors[id]
			if !ok {
				acked = c.joined - 1
			}
			st.Cursors = append(st.Cursors, chat.CursorState{ConversationID: id, Acked: acked, LastSeq: c.last})
		}
	})
	n.state.Inflight, n.connected = nil, true
	return &st, nil
}

// current reports whether a write of the session's connection counts.
func (n *node) current(id chat.ID, epoch int64) error {
	switch {
	case n.dead.Load():
		return errDead
	case n.state.ID != id || n.state.Epoch != epoch:
		return &chat.Error{Code: chat.Conflict, Op: "fake"}
	}
	return nil
}

func (n *node) ChangeSubscriptions(ctx context.Context, c chat.SubscriptionChange) ([]chat.Position, error) {
	n.mu.Lock()
	if err := n.current(c.SessionID, c.Epoch); err != nil {
		n.mu.Unlock()
		return nil, err
	}
	n.state.Subscriptions = c.Subscriptions
	if c.EndAll {
		clear(n.cursors)
	}
	for _, id := range c.End {
		delete(n.cursors, id)
	}
	for _, k := range c.Keep {
		n.cursors[k.ConversationID] = max(n.cursors[k.ConversationID], k.Acked)
	}
	var ends []chat.Position
	n.log.mu.Lock()
	for id, conv := range n.log.convs {
		if conv.joined == 0 || !c.All && len(c.Begin) == 0 {
			continue
		}
		if _, ok := n.cursors[id]; !ok && (c.All || slices.Contains(c.Begin, id)) {
			n.cursors[id] = conv.last
		}
		ends = append(ends, chat.Position{ConversationID: id, LastSeq: conv.last})
	}
	gate := n.log.endsGate
	n.log.mu.Unlock()
	n.mu.Unlock()
	return ends, wait(ctx, gate)
}

func (n *node) SaveCursors(_ context.Context, updates []chat.CursorUpdate, packetIDs []chat.PacketIDUpdate) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead.Load() {
		return errDead
	}
	for _, u := range updates {
		if n.current(u.SessionID, u.Epoch) == nil {
			n.cursors[u.ConversationID] = max(n.cursors[u.ConversationID], u.Acked)
		}
	}
	for _, p := range packetIDs {
		if n.current(p.SessionID, p.Epoch) == nil {
			n.state.NextPacketID = p.Next
		}
	}
	return nil
}

func (n *node) PartSession(_ context.Context, p chat.SessionPart) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.current(p.ID, p.Epoch); err != nil {
		return err
	}
	for _, c := range p.Cursors {
		n.cursors[c.ConversationID] = max(n.cursors[c.ConversationID], c.Acked)
	}
	n.state.Inflight, n.state.NextPacketID, n.connected = p.Inflight, p.NextPacketID, false
	return nil
}

func (n *node) ReadEvents(ctx context.Context, user chat.ID, refs []chat.EventRef) ([]chat.Event, error) {
	n.log.mu.Lock()
	err := n.log.fail
	var events []chat.Event
	for _, r := range refs {
		if c := n.log.convs[r.ConversationID]; user == alice && c != nil && c.joined > 0 && r.Seq >= c.joined && r.Seq <= c.last {
			events = append(events, *event(r.ConversationID, r.Seq))
		}
	}
	gate := n.log.readGates
	n.log.mu.Unlock()
	if werr := wait(ctx, gate); werr != nil {
		return nil, werr
	}
	return events, err
}

func (n *node) ReleaseSessions(context.Context, string, time.Time) (int64, error) { return 0, nil }

func (n *node) DeleteExpiredSessions(context.Context, time.Time, int) (int64, error) { return 0, nil }
