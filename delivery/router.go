package delivery

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	Log         Log
	Sessions    chat.SessionStore // keeps sessions between connections; nil: none is kept
	Receipts    Receipts          // keeps what was delivered to whom, together with Sessions; nil: nobody does
	Node        string            // the name under which sessions are taken
	SaveEvery   time.Duration     // how often places that moved are saved, so what a crash repeats; 0: 1 s
	MaxSessions int               // connected sessions of one user, beyond which Take refuses; 0: chat.MaxUserSessions
	Cluster     *Cluster          // nil: a node alone
	Readers     int               // pages read from the log at once, for all sessions together; 0: 8
	// Ended is told each Queue that nobody will come back to: what its session held of
	// device topics is over. It must not block. May be nil.
	Ended      func(*Queue)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Cluster is what a Router does where there are other nodes. Neither function may
// block, or call back.
type Cluster struct {
	// Here is told when the first connection of a user is made, and when the last one
	// has ended.
	Here func(user chat.ID, here bool)
	// Superseded is told of each connection of a device whose last one was at another node,
	// which may have it still.
	Superseded func(node string, n chat.SupersededNotice)
	// Asks is told when a session here has asked for what was delivered, the first to do so.
	Asks func()
	// Asking reports whether anybody at another node has asked for what was delivered.
	Asking func() bool
}

// Router knows the connected sessions of this process, by user, and hands each
// committed event to those of its conversation's members. It implements
// chat.Publisher and is safe for concurrent use.
type Router struct {
	log      Log
	sessions chat.SessionStore
	receipts Receipts
	node     string
	every    time.Duration
	most     int // connected sessions of one user
	ended    func(*Queue)
	logger   *slog.Logger
	metrics  *metrics
	boxes    boxes
	boxBytes atomic.Int64 // that wait in boxes
	shards   [64]routerShard
	readers  chan struct{} // a place for each page being read

	ctx    context.Context // ends when Close is called: catch-ups stop
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool           // mu guards: no catch-up may start
	wg     sync.WaitGroup // the catch-ups under way

	cluster   *Cluster
	followers *followers // nil: a node alone

	asking atomic.Int64 // connected sessions that have asked for what was delivered

	handovers handovers

	taking keyedLock // one connection of a device at a time is being made

	dirtyMu   sync.Mutex
	dirty     []*Session                     // dirtyMu guards: sessions with places to be saved
	delivered map[deliveredKey]int64         // dirtyMu guards: what is to be saved as delivered
	parts     map[deviceKey]chat.SessionPart // dirtyMu guards: ends of connections that could not be saved yet; taken out by the holder of the device's place in taking
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
	if o.MaxSessions == 0 {
		o.MaxSessions = chat.MaxUserSessions
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Sessions == nil {
		o.Receipts = nil // Run saves neither
	}
	if o.SaveEvery == 0 {
		o.SaveEvery = time.Second
	}
	r := &Router{
		log: o.Log, sessions: o.Sessions, receipts: o.Receipts, node: o.Node, ended: o.Ended, every: o.SaveEvery, most: o.MaxSessions,
		parts: map[deviceKey]chat.SessionPart{}, delivered: map[deliveredKey]int64{}, logger: o.Logger.With("component", "delivery"), metrics: newMetrics(o.Registerer), readers: make(chan struct{}, o.Readers),
	}
	if o.Cluster != nil {
		r.cluster, r.followers = o.Cluster, newFollowers()
	}
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

// Each calls f for every connected session, with what it writes to. f must not block.
func (r *Router) Each(f func(*Session, Sink)) {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.RLock()
		all := make([]*Session, 0, len(sh.users))
		for _, list := range sh.users {
			all = append(all, list...)
		}
		sh.mu.RUnlock()
		for _, s := range all {
			f(s, s.sink)
		}
	}
}

// Attach adds a connection's session without asking what is kept of the device:
// it begins empty, has started, and ends with its connection. If the same device is
// connected already, the old session is taken out, and returned for the caller to
// disconnect: the newest connection of a device is the one that stays (MQTT 5.0,
// 3.1.4). It does not count the user's sessions.
func (r *Router) Attach(o SessionOptions) (s, old *Session) {
	s, old, _ = r.attach(o, math.MaxInt)
	return s, old
}

func (r *Router) attach(o SessionOptions, most int) (s, old *Session, err error) {
	o.Expiry = 0
	old, _ = r.remove(o.Principal.UserID, func(s *Session) bool { return s.ClientID == o.ClientID })
	s = r.newSession(o)
	s.loading, s.started = 0, true
	return s, old, r.add(s, most)
}

// Take makes the session of a connection from what is kept of its device, which is
// nothing after a clean start. It must be started when CONNACK is out, and present
// is what that says. Of several connections of one device the last one stays; the
// others are told so (0x8E). Take asks the store, and so blocks for a few round
// trips, and for another connection of the same device that is being made;
// Unavailable if that fails or ctx ends, Quota if the user has as many connections
// of other devices as they may.
func (r *Router) Take(ctx context.Context, o SessionOptions) (s *Session, present bool, err error) {
	if r.sessions == nil {
		s, old, err := r.attach(o, r.most)
		if old != nil {
			old.Disconnect(ErrTakenOver)
		}
		if err != nil {
			return nil, false, err
		}
		s.mu.Lock()
		s.loading, s.started = 1, false
		s.mu.Unlock()
		return s, false, nil
	}
	key := deviceKey{o.Principal.UserID, o.ClientID}
	unlock, err := r.taking.lock(ctx, key)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	old, part := r.remove(o.Principal.UserID, func(s *Session) bool { return s.ClientID == o.ClientID })
	if old != nil {
		old.Disconnect(ErrTakenOver)
	}
	if err := r.save(ctx, key, part); err != nil {
		return nil, false, err
	}
	// It is found by Publish before the store is asked how far the logs reach: what
	// is committed after that answer is heard of.
	s = r.newSession(o)
	s.hints = map[chat.ID]int64{}
	if err := r.add(s, r.most); err != nil {
		return nil, false, err
	}
	st, err := r.takeSession(ctx, chat.SessionTake{
		UserID: o.Principal.UserID, ClientID: o.ClientID, CleanStart: o.CleanStart, Expiry: o.Expiry, Node: r.node, Now: time.Now(),
		Note: r.cluster != nil,
	})
	if err != nil {
		r.remove(o.Principal.UserID, func(other *Session) bool { return other == s })
		return nil, false, err
	}
	box := r.fetch(key)
	if box != nil && !box.follows(st) {
		r.endBox(box)
		box = nil
	}
	if !s.load(st, o.Expiry, box) && box != nil {
		r.leave(key, box)
	}
	if r.cluster != nil && st.From != "" {
		r.cluster.Superseded(st.From, chat.SupersededNotice{UserID: o.Principal.UserID, ClientID: o.ClientID, Epoch: st.Epoch, Resumed: st.Present})
	}
	return s, st.Present, nil
}

type deviceKey struct {
	user     chat.ID
	clientID string
}

// add lets the session be found by its user; Quota if they have most already, each
// of which costs memory and a copy of whatever is sent to them.
func (r *Router) add(s *Session, most int) error {
	sh := r.shard(s.Principal.UserID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	list := sh.users[s.Principal.UserID]
	if len(list) >= most {
		return &chat.Error{Code: chat.Quota, Op: "delivery.Take", Msg: "the user has as many connections as they may"}
	}
	sh.users[s.Principal.UserID] = append(list[:len(list):len(list)], s)
	if r.cluster != nil && len(list) == 0 {
		r.cluster.Here(s.Principal.UserID, true)
	}
	r.metrics.sessions.Inc()
	return nil
}

// remove takes the one session of the user that is meant out, closes it, and
// returns it with what is to be kept of it; nil if there is none.
func (r *Router) remove(user chat.ID, meant func(*Session) bool) (*Session, *chat.SessionPart) {
	sh := r.shard(user)
	var found *Session
	sh.mu.Lock()
	var list []*Session
	for _, s := range sh.users[user] {
		if found == nil && meant(s) {
			found = s
		} else {
			list = append(list, s)
		}
	}
	if list == nil {
		delete(sh.users, user)
		if r.cluster != nil && found != nil {
			r.cluster.Here(user, false)
		}
	} else {
		sh.users[user] = list
	}
	sh.mu.Unlock()
	if found == nil {
		return nil, nil
	}
	return found, found.close()
}

// Detach takes the session of a connection that has ended out and saves what is to
// be kept of it. It may be repeated, and after a take-over it leaves the new session
// alone. It blocks for a round trip; what cannot be saved now is tried again by Run.
func (r *Router) Detach(s *Session) {
	remove := func() *chat.SessionPart {
		_, part := r.remove(s.Principal.UserID, func(other *Session) bool { return other == s })
		return part
	}
	if !s.Kept() && s.noted.id.IsZero() {
		remove()
		return
	}
	ctx, cancel := chat.WithDeadline(context.Background(), readTimeout, "delivery.Detach") // the connection's own context has ended with it
	defer cancel()
	key := deviceKey{s.Principal.UserID, s.ClientID}
	unlock, err := r.taking.lock(ctx, key) // a Take that began meanwhile must not miss what is saved here
	if err != nil {
		if part := remove(); part != nil {
			r.postpone(key, *part)
		}
		return
	}
	defer unlock()
	if part := remove(); part != nil {
		_ = r.save(ctx, key, part) // if it fails, it was put off
	}
}

// close ends the session, and returns what is to be kept of it, or nil.
func (s *Session) close() *chat.SessionPart {
	part, box, keep := s.shut()
	switch {
	case box == nil:
	case keep:
		s.router.leave(deviceKey{s.Principal.UserID, s.ClientID}, box)
	default:
		s.router.endBox(box)
	}
	return part
}

func (s *Session) shut() (part *chat.SessionPart, box *Queue, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, false
	}
	box, keep = s.park(time.Now())
	switch {
	case !s.kept.id.IsZero():
		part = s.part(time.Now())
	case !s.noted.id.IsZero():
		part = &chat.SessionPart{ID: s.noted.id, Epoch: s.noted.epoch, Now: time.Now()}
	}
	for _, t := range slices.Concat(s.kept.saving, s.kept.dirty) {
		if s.tails[t.conversation] == t {
			s.router.noteDelivered(s.Principal.UserID, t.conversation, t.acked)
		}
	}
	s.closed = true
	s.noteAsking()
	for id := range s.tails {
		s.router.followers.remove(id, s)
	}
	s.tails, s.behind, s.window, s.kept.dirty = map[chat.ID]*tail{}, nil, window{}, nil
	s.router.metrics.sessions.Dec()
	return part, box, keep
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

// Hint implements chat.Publisher.
func (r *Router) Hint(conversation chat.ID, seq int64, roster *chat.Roster) {
	topic := chat.Topic{Kind: chat.TopicMessages, ID: conversation}
	for _, user := range roster.Members {
		for _, s := range r.Sessions(user) {
			s.hint(topic, seq)
		}
	}
}

// Signal implements chat.Publisher.
func (r *Router) Signal(t chat.Topic, payload []byte, users []chat.ID, except func(chat.ID) bool) {
	f := NewSignalFrame(t, payload)
	for _, user := range users {
		sessions := r.Sessions(user)
		if len(sessions) == 0 || except != nil && except(user) {
			continue
		}
		for _, s := range sessions {
			s.Signal(f)
		}
	}
}
