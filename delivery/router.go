package delivery

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
)

// Log is what delivery reads; chat.Service is one.
type Log interface {
	// ReadLog returns up to limit events after seq as the user may see them, in
	// order; NotFound if the user is not a member.
	ReadLog(ctx context.Context, user, conversation chat.ID, after int64, limit int) ([]chat.Event, error)
	// ListPositions returns how far the log of each of the user's conversations reaches.
	ListPositions(ctx context.Context, user chat.ID) ([]chat.Position, error)
}

// Options configures a Router.
type Options struct {
	Log        Log
	Readers    int // pages read from the log at once, for all sessions together; 0: 8
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Router knows the connected sessions of this process, by user, and hands each
// committed event to those of its conversation's members. It implements
// chat.Publisher and is safe for concurrent use.
type Router struct {
	log     Log
	logger  *slog.Logger
	metrics *metrics
	shards  [64]routerShard
	readers chan struct{} // a place for each page being read

	ctx    context.Context // ends when Close is called: catch-ups stop
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool           // mu guards: no catch-up may start
	wg     sync.WaitGroup // the catch-ups under way
}

type routerShard struct {
	mu    sync.RWMutex
	users map[chat.ID][]*Session // mu guards; a slice is replaced, never changed
}

// NewRouter returns a router without sessions. Close ends what it starts.
func NewRouter(o Options) *Router {
	if o.Readers == 0 {
		o.Readers = 8
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Router{log: o.Log, logger: o.Logger.With("component", "delivery"), metrics: newMetrics(o.Registerer), readers: make(chan struct{}, o.Readers)}
	r.ctx, r.cancel = context.WithCancel(context.Background()) // catch-ups belong to the router, not to a caller
	for i := range r.shards {
		r.shards[i].users = map[chat.ID][]*Session{}
	}
	return r
}

var _ chat.Publisher = (*Router)(nil)

// Close stops all catch-ups and waits for them. Sessions go behind after that.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

func (r *Router) shard(user chat.ID) *routerShard { return &r.shards[user[15]%64] }

// Sessions returns the user's connected sessions. The slice must not be changed.
func (r *Router) Sessions(user chat.ID) []*Session {
	sh := r.shard(user)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.users[user]
}

// Attach adds a connection's session. If the same device is connected already,
// the old session is taken out, and returned for the caller to disconnect: the
// newest connection of a device is the one that stays (MQTT 5.0, 3.1.4).
func (r *Router) Attach(o SessionOptions) (s, old *Session) {
	s = &Session{Principal: o.Principal, ClientID: o.ClientID, router: r, sink: o.Sink, tails: map[chat.ID]*tail{}}
	s.window.limit = maxWindow
	if o.ReceiveMaximum > 0 {
		s.window.limit = min(maxWindow, o.ReceiveMaximum)
	}
	sh := r.shard(o.Principal.UserID)
	sh.mu.Lock()
	list := []*Session{s}
	for _, other := range sh.users[o.Principal.UserID] {
		if other.ClientID == o.ClientID {
			old = other
			continue
		}
		list = append(list, other)
	}
	sh.users[o.Principal.UserID] = list
	sh.mu.Unlock()
	r.metrics.sessions.Inc()
	if old != nil {
		old.close()
	}
	return s, old
}

// Detach takes the session out. It may be repeated, and after a take-over it
// leaves the new session alone.
func (r *Router) Detach(s *Session) {
	user := s.Principal.UserID
	sh := r.shard(user)
	sh.mu.Lock()
	var list []*Session
	for _, other := range sh.users[user] {
		if other != s {
			list = append(list, other)
		}
	}
	if list == nil {
		delete(sh.users, user)
	} else {
		sh.users[user] = list
	}
	sh.mu.Unlock()
	s.close()
}

func (s *Session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.tails, s.behind, s.window = map[chat.ID]*tail{}, nil, window{}
	s.router.metrics.sessions.Dec()
}

// Publish implements chat.Publisher: it offers the event to every session here of
// every member. The cost is a map look-up for each member and a buffer copy for
// each session.
func (r *Router) Publish(e *chat.Event, roster *chat.Roster) {
	var f *Frame
	for _, user := range roster.Members {
		for _, s := range r.Sessions(user) {
			if f == nil {
				f = NewEventFrame(e)
			}
			s.offer(f)
		}
	}
}
