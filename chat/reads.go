package chat

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	readsEvery  = 25 * time.Millisecond // at least between two transactions
	readsHold   = time.Second           // those that nobody waits for: one for each user and conversation
	readsQueue  = 65_536                // moves that wait for their commit
	readsBatch  = 1000                  // users' conversations in one transaction
	readsPlaces = 4                     // of one user and conversation that nobody waits for; beyond that, some give way
	readsTold   = 4                     // transactions whose news wait for being told; beyond that, the next one waits
	readsStop   = 2 * time.Second       // for what is left when the process stops

	// MaxReadPayload bounds the payload of conv/{id}/reads: room for MaxReadIDs ids.
	MaxReadPayload = 64 << 10
)

// ReadStore is what the rules of reading need of the database.
type ReadStore interface {
	// MoveReads moves each participant named to the highest of their places that
	// the log reaches, if that is further than they were, and returns where things
	// are for those who are participants, in any order. It is one transaction, and
	// may be repeated. A participant is named once.
	MoveReads(ctx context.Context, moves []ReadMove, now time.Time) ([]ReadPlace, error)
	// LocateMessages returns those of the messages that the user may see, in any
	// order, each as its id, conversation and seq.
	LocateMessages(ctx context.Context, user ID, messages []ID) ([]Event, error)
}

// ReadMove is what a participant says to have read: up to one of the places.
type ReadMove struct {
	ConversationID, UserID ID
	Places                 []int64 // of which those beyond the end of the log do not count
}

// ReadPlace is where a participant is after a ReadMove.
type ReadPlace struct {
	ConversationID, UserID ID

	LastSeq        int64 // the end of the log
	MembersVersion int64
	ReadSeq        int64     // has read up to here
	At             time.Time // when that was; zero: the move changed nothing
}

// Receipts is what became of a message with those who may see it, its sender apart.
type Receipts struct {
	ReadBy         []ReadReceipt // the first MaxListedReceipts, in the order in which they read it
	ReadCount      int           // all of them
	DeliveredTo    []ID          // the first MaxListedReceipts, ascending; reading implies delivery
	DeliveredCount int
}

// ReadReceipt says when somebody has read a message.
type ReadReceipt struct {
	UserID ID
	At     time.Time
}

// Settler is told what became of something that it waits for.
type Settler interface {
	// Settle is called exactly once, from any goroutine. It must not block, nor call
	// back.
	Settle(err error)
}

// Read is what the payload of conv/{id}/reads says: either field is set.
type Read struct {
	UpTo       int64
	MessageIDs []ID
}

// ParseRead reads the payload of conv/{id}/reads: {"upTo":seq} or
// {"messageIds":[…]}, exactly one of the two. Invalid names what is wrong.
func ParseRead(payload []byte) (Read, error) {
	var in struct {
		UpTo       *int64   `json:"upTo"`
		MessageIDs []string `json:"messageIds"`
	}
	if len(payload) > MaxReadPayload || !utf8.Valid(payload) {
		return Read{}, invalid("payload", "must be a JSON object of at most "+itoa(MaxReadPayload)+` bytes of UTF-8: {"upTo":seq} or {"messageIds":[…]}`)
	}
	if err := json.Unmarshal(payload, &in); err != nil {
		return Read{}, readError(err)
	}
	switch {
	case (in.UpTo == nil) == (in.MessageIDs == nil):
		return Read{}, invalid("upTo", "is required, or messageIds instead, not both")
	case in.UpTo != nil && *in.UpTo < 1:
		return Read{}, invalid("upTo", readUpTo)
	case in.UpTo != nil:
		return Read{UpTo: *in.UpTo}, nil
	case len(in.MessageIDs) == 0, len(in.MessageIDs) > MaxReadIDs:
		return Read{}, readIDs(len(in.MessageIDs))
	}
	ids := make([]ID, len(in.MessageIDs))
	for i, text := range in.MessageIDs {
		if !ids[i].parse(text) {
			return Read{}, invalid("messageIds", "must hold UUIDs in lower-case text")
		}
		if ids[i].IsZero() {
			return Read{}, invalid("messageIds", zeroID)
		}
	}
	return Read{MessageIDs: ids}, nil
}

const readUpTo = "must be the seq of an event, 1 or more"

func readIDs(n int) error {
	return invalid("messageIds", "has "+itoa(n)+" ids, limit 1 to "+itoa(MaxReadIDs))
}

func readError(err error) error {
	var te *json.UnmarshalTypeError
	switch {
	case errors.As(err, &te) && te.Field == "upTo":
		return invalid("upTo", readUpTo+", not "+withArticle(te.Value))
	case errors.As(err, &te) && te.Field != "":
		return invalid("messageIds", "must be an array of ids, not "+withArticle(te.Value))
	}
	return invalid("payload", `must be a JSON object: {"upTo":seq} or {"messageIds":[…]}`)
}

// reads gathers moves of what participants have read, and has them stored by one
// transaction at a time: the first at once, those that come meanwhile together
// with the next. Somebody may wait for a move, and is told when it is durable. Of
// those that nobody waits for, a user has at most one stored in each readsHold for
// each conversation, and sooner if readsPlaces and more lead beyond what is known of
// the log. One gives way to another only if that goes further and is known to count.
//
// It holds at most readsQueue moves; beyond that, callers wait. It is safe for
// concurrent use.
type reads struct {
	store ReadStore
	clock Clock
	slots chan struct{} // a place for each move that waits; full: block, with ctx
	wake  chan struct{} // there is something due

	mu     sync.Mutex
	due    map[readKey]*readWait // mu guards: for the next transaction
	held   map[readKey]*readWait // mu guards: for later: nobody waits, and the last was stored just now
	rested map[readKey]int64     // mu guards: stored since the last readsHold began, when the log ended there; 0: not heard yet
	closed bool                  // mu guards: Run has ended
}

type readKey struct{ conversation, user ID }

// readWait is the moves of a user in a conversation. Each is judged by itself: one
// beyond the end of the log does not spoil the others.
type readWait struct {
	asks  []readAsk
	quiet []readAsk // those that nobody waits for
}

type readAsk struct {
	upTo int64
	done Settler
}

func newReads(store ReadStore, clock Clock) *reads {
	return &reads{
		store: store, clock: clock, slots: make(chan struct{}, readsQueue), wake: make(chan struct{}, 1),
		due: map[readKey]*readWait{}, held: map[readKey]*readWait{}, rested: map[readKey]int64{},
	}
}

var errReadsStopped = &Error{Code: Unavailable, Op: "chat.reads", Msg: "the server is stopping; try again"}

// submit queues a move; quiet says that nobody waits for it, so that it may take its
// time. It blocks while there is no room, until ctx ends: Unavailable, and done is
// not called.
func (r *reads) submit(ctx context.Context, key readKey, a readAsk, quiet bool) error {
	select {
	case r.slots <- struct{}{}:
	default:
		select {
		case r.slots <- struct{}{}:
		case <-ctx.Done():
			return &Error{Code: Unavailable, Op: "chat.reads", Msg: "too many wait for the database; try again", Err: context.Cause(ctx)}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		<-r.slots
		return errReadsStopped
	}
	w := r.waitOf(key, quiet)
	if !quiet {
		w.asks = append(w.asks, a)
		return nil
	}
	w.quiet = append(w.quiet, a)
	if len(w.quiet) > readsPlaces {
		r.thin(key, w)
	}
	return nil
}

// thin has one of the moves that nobody waits for give way, if another one goes
// further that the log is known to reach. If there is none, they are stored now. mu is
// held.
func (r *reads) thin(key readKey, w *readWait) {
	lowest, reached, end := 0, 0, r.rested[key]
	for i := range w.quiet {
		if w.quiet[i].upTo <= end {
			reached++
		}
		if w.quiet[i].upTo < w.quiet[lowest].upTo {
			lowest = i
		}
	}
	if reached > 1 {
		w.quiet[lowest].done.Settle(nil)
		w.quiet = slices.Delete(w.quiet, lowest, lowest+1)
		<-r.slots
		return
	}
	if r.held[key] == w {
		r.hasten(key, w)
	}
}

// hasten has the moves of a key stored with the next transaction. mu is held.
func (r *reads) hasten(key readKey, w *readWait) {
	delete(r.held, key) // a key is in one of the two
	r.due[key] = w
	r.wakeUp()
}

// waitOf returns where a move of the key waits. mu is held.
func (r *reads) waitOf(key readKey, quiet bool) *readWait {
	if w := r.due[key]; w != nil {
		return w
	}
	w := r.held[key]
	if w == nil {
		w = &readWait{}
	}
	if _, rested := r.rested[key]; quiet && rested {
		r.held[key] = w
		return w
	}
	r.hasten(key, w) // what is stored now takes what was held with it
	return w
}

func (r *reads) wakeUp() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// rest ends a readsHold: what was held is due.
func (r *reads) rest() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.rested)
	for key, w := range r.held {
		r.due[key] = w // a key is in one of the two
	}
	clear(r.held)
	if len(r.due) > 0 {
		r.wakeUp()
	}
}

// run stores moves until ctx ends, then what is left. told is called with what has
// changed, by one goroutine, after those who wait for it were told.
func (r *reads) run(ctx context.Context, told func(context.Context, []ReadPlace)) error {
	news := make(chan []ReadPlace, readsTold) // full: block, the next transaction waits
	var teller sync.WaitGroup
	teller.Go(func() {
		for places := range news {
			told(ctx, places)
		}
	})
	defer teller.Wait()
	defer close(news)
	tick := time.NewTicker(readsHold)
	defer tick.Stop()
	pause := time.NewTimer(readsEvery)
	defer pause.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			continue
		case <-tick.C:
			r.rest()
			continue
		case <-r.wake:
		}
		pause.Reset(readsEvery)
		r.flush(ctx, news)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
	r.rest()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.flush(ctx, news)
	return nil
}

// flush stores what is due.
func (r *reads) flush(ctx context.Context, news chan<- []ReadPlace) {
	for {
		batch, more := r.take()
		if len(batch) == 0 {
			return
		}
		moves := make([]ReadMove, 0, len(batch))
		for key, w := range batch {
			moves = append(moves, ReadMove{ConversationID: key.conversation, UserID: key.user, Places: w.places()})
		}
		places, err := r.move(ctx, moves)
		changed := r.settle(batch, places, err)
		if len(changed) > 0 {
			news <- changed
		}
		if !more {
			return
		}
	}
}

// take takes out what goes into the next transaction, and says whether that leaves any.
func (r *reads) take() (batch map[readKey]*readWait, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.due) <= readsBatch {
		batch, r.due = r.due, map[readKey]*readWait{}
	} else {
		batch = make(map[readKey]*readWait, readsBatch)
		for key, w := range r.due {
			if len(batch) == readsBatch {
				break
			}
			batch[key] = w
			delete(r.due, key)
		}
	}
	for key := range batch {
		r.rested[key] = 0 // no more than the transactions of a readsHold
	}
	return batch, len(r.due) > 0
}

// places returns where the moves lead, each place once.
func (w *readWait) places() []int64 {
	all := make([]int64, 0, len(w.asks)+len(w.quiet))
	for _, list := range [2][]readAsk{w.asks, w.quiet} {
		for i := range list {
			all = append(all, list[i].upTo)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// move has a batch stored. While the database is away it tries again, for
// storePatience: to repeat a move changes nothing.
func (r *reads) move(ctx context.Context, moves []ReadMove) ([]ReadPlace, error) {
	write, cancel := WithDeadline(context.WithoutCancel(ctx), storePatience, "chat.reads")
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(readsStop, cancel) })() // nobody has longer than that when we stop
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		places, err := r.store.MoveReads(write, moves, Timestamp(r.clock.Now()))
		if err == nil || CodeOf(err) != Unavailable {
			return places, err
		}
		select {
		case <-write.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// settle tells those who wait what became of a batch, and returns what has changed.
func (r *reads) settle(batch map[readKey]*readWait, places []ReadPlace, err error) (changed []ReadPlace) {
	at := make(map[readKey]*ReadPlace, len(places))
	for i := range places {
		p := &places[i]
		at[readKey{p.ConversationID, p.UserID}] = p
		if !p.At.IsZero() {
			changed = append(changed, *p)
		}
	}
	r.heard(at)
	for key, w := range batch {
		for _, list := range [2][]readAsk{w.asks, w.quiet} {
			for i := range list {
				outcome := err
				if err == nil {
					outcome = readOutcome(key, at[key], list[i].upTo)
				}
				list[i].done.Settle(outcome)
				<-r.slots
			}
		}
	}
	return changed
}

// heard notes how far the logs reach of those that were stored just now.
func (r *reads) heard(at map[readKey]*ReadPlace) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, p := range at {
		if _, rested := r.rested[key]; rested {
			r.rested[key] = p.LastSeq
		}
	}
}

func readOutcome(key readKey, p *ReadPlace, upTo int64) error {
	switch {
	case p == nil:
		return NotParticipant(key.conversation)
	case upTo > p.LastSeq:
		return invalid("upTo", "is "+strconv.FormatInt(upTo, 10)+", and the conversation ends at seq "+strconv.FormatInt(p.LastSeq, 10))
	}
	return nil
}

// waiting returns how many moves wait.
func (r *reads) waiting() int { return len(r.slots) }

func readPayload(conversation, user ID, upTo int64, at time.Time) []byte {
	b := append([]byte(`{"conversationId":"`), conversation.String()...)
	b = append(append(b, `","userId":"`...), user.String()...)
	b = append(b, `","upTo":`...)
	b = strconv.AppendInt(b, upTo, 10)
	b = append(b, `,"at":"`...)
	b = at.UTC().AppendFormat(b, TimeFormat)
	return append(b, `"}`...)
}
