package delivery

import (
	"context"
	"sync"
	"time"

	"github.com/parleymq/parley/chat"
)

// A device that connects here while its last connection is at another node is still
// there: that node is told, ends the connection, and stores how far it has come. So
// nothing that was acknowledged comes again, and what was not comes with its packet
// identifier and DUP. A node that does not do so in a moment may be dead, or stand
// still: then the session is taken as after a crash.

const (
	handoverWait  = 300 * time.Millisecond // for the other node
	handoverPoll  = 20 * time.Millisecond
	handoverTrust = 10 * time.Second // a node that has not answered is not waited for, for so long
)

// handovers remembers which nodes have not answered.
type handovers struct {
	mu     sync.Mutex
	silent map[string]time.Time // mu guards: nodes, by since when
}

func (h *handovers) awaits(node string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.silent[node]) > handoverTrust
}

func (h *handovers) note(node string, silent bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !silent {
		delete(h.silent, node)
		return
	}
	if h.silent == nil {
		h.silent = map[string]time.Time{}
	}
	h.silent[node] = time.Now()
}

// takeSession takes a session from the store, when the node that has its connection has
// let go of it, or does not answer.
func (r *Router) takeSession(ctx context.Context, t chat.SessionTake) (*chat.SessionState, error) {
	if r.cluster == nil || t.CleanStart {
		return r.sessions.TakeSession(ctx, t)
	}
	t.Await = true
	st, err := r.sessions.TakeSession(ctx, t)
	if err != nil || !st.Elsewhere {
		return st, err
	}
	from, silent := st.From, true
	if r.handovers.awaits(from) {
		r.cluster.Superseded(from, chat.SupersededNotice{UserID: t.UserID, ClientID: t.ClientID, Epoch: st.Epoch + 1, Resumed: true})
		for until := time.Now().Add(handoverWait); silent && time.Now().Before(until); {
			select {
			case <-ctx.Done():
				return nil, &chat.Error{Code: chat.Unavailable, Op: "delivery.Take", Msg: "another node has the session; try again", Err: context.Cause(ctx)}
			case <-time.After(handoverPoll):
			}
			if st, err = r.sessions.TakeSession(ctx, t); err != nil || !st.Elsewhere {
				r.handovers.note(from, false)
				return st, err
			}
			silent = st.From == from // or a third node was faster: who takes it last has it
		}
		r.handovers.note(from, silent)
	}
	t.Await = false
	return r.sessions.TakeSession(ctx, t)
}
