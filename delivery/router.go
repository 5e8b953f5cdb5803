package delivery

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/parleymq/parley/chat"
)

// Log reads the logs of conversations. Both methods block for a round trip.
type Log interface {
	// ReadLog returns up to limit events after seq, in order, as the user may see them;
	// NotFound if the user is not a member.
	ReadLog(ctx context.Context, user, conversation chat.ID, after int64, limit int) ([]chat.Event, error)
	// ListPositions returns how far the log of each of the user's conversations reaches.
	ListPositions(ctx context.Context, user chat.ID) ([]chat.Position, error)
}

// Options configures a Router. Log and Sessions are required.
type Options struct {
	Log         Log
	Sessions    chat.SessionStore
	Receipts    Receipts      // stores how far users have received logs; nil: nobody does
	Epoch       chat.LogEpoch // of the log: part of every event
	Node        string        // the name under which sessions are taken over
	SaveEvery   time.Duration // how often cursors that moved are saved, and so how much a crash sends again; 0: 1 s
	MaxSessions int           // connected sessions of one user, beyond which Take refuses; 0: chat.MaxUserSessions
	Cluster     *Cluster      // nil: a lone node
	Readers     int           // pages read from the log at once, over all sessions; 0: 8
	QueueBytes  int           // of publications to device topics that wait for one session; 0: chat.MaxQueuedBytes
	// Ended is called with each Queue whose session has ended: its filters on device
	// topics are to be removed. It must not block. May be nil.
	Ended      func(*Queue)
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics
}

// Router holds the connected sessions of this process and hands each committed event to
// those of its conversation's members. It implements chat.Publisher and is safe for
// concurrent use.
type Router struct {
	log       Log
	sessions  chat.SessionStore
	receipts  Receipts
	epoch     chat.LogEpoch
	node      string
	every     time.Duration
	most      int // connected sessions of one user
	ended     func(*Queue)
	logger    *slog.Logger
	metrics   *metrics
	users     index         // sessions by user
	followers *index        // sessions by the conversations they have a tail for; nil: a lone node
	readers   chan struct{} // full: the next page waits

	ctx    context.Context // ends when Close is called: catch-ups stop
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool           // mu guards: no catch-up may start
	wg     sync.WaitGroup // the catch-ups under way

	cluster      *Cluster
	unresponsive sync.Map  // nodes that did not answer a take-over, by name: when that was
	taking       keyedLock // held while a device's session is taken over, or its end is saved

	queues      map[deviceKey]*Queue // queuesMu guards: of sessions that are kept, and whose devices are away
	queuesMu    sync.Mutex
	queuedBytes atomic.Int64  // over all queues
	queueBytes  int           // Options.QueueBytes
	losses      *rate.Limiter // of log lines, see lost

	wantReceipts atomic.Int64 // connected sessions that subscribe to delivery receipts

	dirtyMu   sync.Mutex
	dirty     []*Session                     // dirtyMu guards: sessions with cursors to be saved
	delivered map[deliveredKey]int64         // dirtyMu guards: receipts to be saved
	parts     map[deviceKey]chat.SessionPart // dirtyMu guards: ends of connections that could not be saved yet; removed by the holder of the device's key in taking
}

type deviceKey struct {
	user     chat.ID
	clientID string
}

// NewRouter returns a router without sessions. Run saves their cursors; Close ends the
// catch-ups.
func NewRouter(o Options) *Router {
	o.Readers = cmp.Or(o.Readers, 8)
	o.MaxSessions = cmp.Or(o.MaxSessions, chat.MaxUserSessions)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	o.SaveEvery = cmp.Or(o.SaveEvery, time.Second)
	o.QueueBytes = cmp.Or(o.QueueBytes, chat.MaxQueuedBytes)
	r := &Router{
		log: o.Log, sessions: o.Sessions, receipts: o.Receipts, epoch: o.Epoch, node: o.Node, ended: o.Ended, every: o.SaveEvery, most: o.MaxSessions,
		queueBytes: o.QueueBytes, losses: rate.NewLimiter(1, 10),
		logger: o.Logger.With("component", "delivery"), readers: make(chan struct{}, o.Readers),
		parts: map[deviceKey]chat.SessionPart{}, delivered: map[deliveredKey]int64{}, queues: map[deviceKey]*Queue{},
	}
	if o.Cluster != nil {
		r.cluster, r.followers = o.Cluster, new(index)
	}
	r.metrics = newMetrics(o.Registerer, r)
	r.ctx, r.cancel = context.WithCancel(context.Background()) // catch-ups belong to the router, not to a caller
	return r
}

var _ chat.Publisher = (*Router)(nil)

// Close stops all catch-ups and waits for them; none starts afterwards.
func (r *Router) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

// Sessions returns the user's connected sessions. The slice must not be changed.
func (r *Router) Sessions(user chat.ID) []*Session { return r.users.list(user) }

// Each calls f for every connected session, with its sink. f must not block.
func (r *Router) Each(f func(*Session, Sink)) {
	for _, user := range r.users.ids() {
		for _, s := range r.Sessions(user) {
			f(s, s.sink)
		}
	}
}

// Take creates the session of a connection from what is kept of its device, which is
// nothing after a clean start, and reports whether anything was: CONNACK's session
// present. Session.Start is due once CONNACK is out. Of several connections of one device
// the last one stays; the others are ended with ErrTakenOver.
//
// It blocks for a few round trips, and while another connection of the same device is
// being created: Unavailable if that fails or ctx ends. Quota if the user has as many
// connections of other devices as they may.
func (r *Router) Take(ctx context.Context, o SessionOptions) (s *Session, present bool, err error) {
	user, key := o.Principal.UserID, deviceKey{o.Principal.UserID, o.ClientID}
	unlock, err := r.taking.lock(ctx, key)
	if err != nil {
		return nil, false, err
	}
	defer unlock()
	old, part := r.remove(user, func(s *Session) bool { return s.ClientID == o.ClientID })
	if old != nil {
		old.Disconnect(ErrTakenOver)
	}
	if err := r.save(ctx, key, part); err != nil {
		return nil, false, err
	}
	if o.Settle != nil {
		o.Settle(ctx)
	}
	// Publish finds the session before the store is asked how far the logs reach: what is
	// committed after the store's answer is in s.hints.
	s = r.newSession(o)
	if err := r.add(s); err != nil {
		return nil, false, err
	}
	st, err := r.takeSession(ctx, chat.SessionTake{
		UserID: user, ClientID: o.ClientID, CleanStart: o.CleanStart, Expiry: o.Expiry, Node: r.node, Now: time.Now(),
		Note: r.cluster != nil,
	})
	if err != nil {
		r.remove(user, func(other *Session) bool { return other == s })
		return nil, false, err
	}
	for _, client := range st.Forgotten {
		r.metrics.forgotten.Inc()
		r.lossLog(chat.Device{UserID: user, ClientID: client}).Warn("kept session forgotten: its user has as many as they may", "limit", chat.MaxUserSessions)
	}
	queue := r.fetchQueue(key)
	if queue != nil && !queue.continues(st) {
		r.endQueue(queue)
		queue = nil
	}
	if !s.load(st, o.Expiry, queue) && queue != nil {
		r.parkQueue(key, queue)
	}
	if r.cluster != nil && st.From != "" {
		r.cluster.Superseded(st.From, chat.SupersededNotice{UserID: user, ClientID: o.ClientID, Epoch: st.Epoch, Resumed: st.Present})
	}
	if o.Taken != nil {
		o.Taken(s, st.Present)
	}
	return s, st.Present, nil
}

// lossLog returns the log for what a device has lost; of many losses in one second it takes one.
func (r *Router) lossLog(d chat.Device) *slog.Logger {
	if !r.losses.Allow() {
		return slog.New(slog.DiscardHandler)
	}
	return r.logger.With("user", d.UserID, "client_id", d.ClientID)
}

// add makes the session known to Sessions and Publish; Quota if its user has as many as
// they may, each of which costs memory and a copy of whatever is sent to the user.
func (r *Router) add(s *Session) error {
	user := s.Principal.UserID
	if !r.users.add(user, s, r.most, func() { r.online(user, true) }) {
		return &chat.Error{Code: chat.Quota, Op: "delivery.Take", Msg: "the user has as many connections as they may"}
	}
	r.metrics.sessions.Inc()
	return nil
}

// remove removes the one session of the user for which match is true, closes it, and
// returns it with what is to be saved of it; nil if there is none.
func (r *Router) remove(user chat.ID, match func(*Session) bool) (*Session, *chat.SessionPart) {
	s := r.users.remove(user, match, func() { r.online(user, false) })
	if s == nil {
		return nil, nil
	}
	r.metrics.sessions.Dec()
	return s, s.close()
}

func (r *Router) online(user chat.ID, online bool) {
	if r.cluster != nil {
		r.cluster.Online(user, online)
	}
}

// Detach removes the session of a connection that has ended and saves its state. It may
// be repeated, and does not touch the session of a newer connection of the device. It
// blocks for a round trip; what cannot be saved now is tried again by Run.
func (r *Router) Detach(s *Session) {
	remove := func() *chat.SessionPart {
		_, part := r.remove(s.Principal.UserID, func(other *Session) bool { return other == s })
		return part
	}
	if s.stored.id.IsZero() {
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
		_ = r.save(ctx, key, part) // if it fails, it is postponed
	}
}

// close ends the session and returns what is to be saved of it, or nil.
func (s *Session) close() *chat.SessionPart {
	part, queue, keep := s.shut()
	switch {
	case queue == nil:
	case keep:
		s.router.parkQueue(deviceKey{s.Principal.UserID, s.ClientID}, queue)
	default:
		s.router.endQueue(queue)
	}
	return part
}

func (s *Session) shut() (part *chat.SessionPart, queue *Queue, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	queue, keep = s.detachQueue(now)
	if !s.stored.id.IsZero() {
		part = s.part(now)
	}
	for _, t := range slices.Concat(s.saving, s.dirty) {
		if s.tails[t.conversation] == t {
			s.router.noteDelivered(s.Principal.UserID, t.conversation, s.delivered(t))
		}
	}
	s.closed = true
	s.countReceiptWants()
	for id := range s.tails {
		s.unfollow(id)
	}
	s.behind, s.window, s.dirty = nil, window{}, nil
	return part, queue, keep
}

// Publish implements chat.Publisher: it offers the event to every session here of every
// member. The cost is a map look-up per member and a buffer copy per session.
func (r *Router) Publish(e *chat.Event, roster *chat.Roster) {
	var f *Frame
	for _, user := range roster.Members {
		for _, s := range r.Sessions(user) {
			if f == nil {
				f = NewEventFrame(e, r.epoch)
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
