package chat

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/batch"
)

const (
	readsEvery  = 25 * time.Millisecond // at least, from one transaction to the next
	readsHold   = time.Second           // quiet moves: one transaction for each user and conversation
	readsQueue  = 65_536                // moves that wait for their commit, half of them in the queue; then callers wait
	readsBatch  = 1000                  // participants in one transaction
	readsPlaces = 4                     // quiet moves of one user and conversation; beyond that, some are dropped
	readsNews   = 4                     // transactions whose changes wait to be announced; beyond that, the next one waits
	readsStop   = 2 * time.Second       // for what is left when the process stops

	// MaxReadPayload bounds the payload of conv/{id}/reads: room for MaxReadIDs ids.
	MaxReadPayload = 64 << 10
)

// ReadStore moves how far participants have read.
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

// ReadMove is a participant's request to have read the log up to one of several places.
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

// Receipts says who has read a message, and who was delivered it, apart from its sender.
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

// Settler is notified of what became of something that it waits for.
type Settler interface {
	// Settle is called exactly once, from any goroutine. It must not block, nor call
	// back.
	Settle(err error)
}

// Read is the payload of conv/{id}/reads: exactly one field is set.
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
	if err := decodeJSON(payload, &in); err != nil {
		return Read{}, readError(err)
	}
	switch {
	case (in.UpTo == nil) == (in.MessageIDs == nil):
		return Read{}, invalid("upTo", "exactly one of upTo and messageIds is required")
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
			return Read{}, invalid("messageIds", "must hold UUIDs")
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
	case CodeOf(err) == Invalid:
		return err
	case errors.As(err, &te) && te.Field == "upTo":
		return invalid("upTo", readUpTo+", not "+withArticle(te.Value))
	case errors.As(err, &te) && te.Field != "":
		return invalid("messageIds", "must be an array of ids, not "+withArticle(te.Value))
	}
	return invalid("payload", `must be a JSON object: {"upTo":seq} or {"messageIds":[…]}`)
}

// reads stores how far participants have read, by one transaction at a time: the first
// move at once, those that come meanwhile together in the next. Callers may wait for a
// move, and are notified when it is durable. Of the moves that nobody waits for (quiet),
// those of one user in one conversation are stored once in each readsHold, or sooner if
// more than readsPlaces of them lead beyond the known end of the log. A quiet move is
// dropped only in favour of one that goes further and is known to count.
type reads struct {
	moves ReadStore
	clock Clock
	queue *batch.Queue[*readMove]
	kept  atomic.Int64 // moves that run has taken from the queue and not settled

	// Owned by run.
	waiting map[readKey]*readWait // all that wait for a transaction
	due     []*readWait           // of those, what goes into the next ones, oldest first
	rested  map[readKey]int64     // stored since the last readsHold began, and where the log ended then; 0: unknown
}

type readKey struct{ conversation, user ID }

// readMove is a request to move how far a user has read a conversation.
type readMove struct {
	key   readKey
	upTo  int64
	quiet bool // nobody waits for it: it may take its time
	done  Settler
}

// readWait is the moves of a user in a conversation. Each is judged by itself: one
// beyond the end of the log does not spoil the others.
type readWait struct {
	key   readKey
	moves []*readMove
	due   bool
}

func newReads(store ReadStore, clock Clock) *reads {
	return &reads{
		moves: store, clock: clock, waiting: map[readKey]*readWait{}, rested: map[readKey]int64{},
		queue: batch.NewQueue(batch.Limits{Items: readsQueue / 2, BatchItems: readsBatch, BatchBytes: math.MaxInt, Patience: storePatience}, func(*readMove) int { return 0 }),
	}
}

// submit queues a move. It blocks while the queue is full, until ctx ends: Unavailable,
// and the move is not settled.
func (r *reads) submit(ctx context.Context, m readMove) error {
	err := r.queue.Put(ctx, &m)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, batch.ErrClosed):
		return &Error{Code: Unavailable, Op: "chat.reads", Msg: "the server is stopping; try again"}
	}
	return &Error{Code: Unavailable, Op: "chat.reads", Msg: "too many wait for the database; try again", Err: err}
}

// pending returns how many moves wait for their commit.
func (r *reads) pending() int { return r.queue.Len() + int(r.kept.Load()) }

// run stores moves until ctx ends, then what is left. changed is called with what has
// moved, by one goroutine, after the moves were settled.
func (r *reads) run(ctx context.Context, changed func(context.Context, []ReadPlace)) error {
	news := make(chan []ReadPlace, readsNews) // full: block, the next transaction waits
	var notifier sync.WaitGroup
	notifier.Go(func() {
		for places := range news {
			changed(ctx, places)
		}
	})
	defer notifier.Wait()
	defer close(news)
	context.AfterFunc(ctx, r.queue.Close)
	hold := time.NewTicker(readsHold)
	defer hold.Stop()
	var pause <-chan time.Time // nil: the next transaction may begin at once
	var next []*readMove
	for closed := false; !closed; {
		in := r.queue.C()
		if r.kept.Load() >= readsQueue/2 {
			in = nil
		}
		select {
		case m, ok := <-in:
			if closed = !ok; closed {
				r.endHold()
				break
			}
			next = r.queue.Gather(next[:0], m)
			for _, m := range next {
				r.add(m)
			}
		case <-hold.C:
			r.endHold()
		case <-pause:
			pause = nil
		}
		if len(r.due) > 0 && (pause == nil || closed) {
			pause = time.After(readsEvery)
			r.flush(ctx, news)
		}
	}
	return nil
}

// add keeps a move until the transaction that it goes into.
func (r *reads) add(m *readMove) {
	r.kept.Add(1)
	w := r.waiting[m.key]
	if w == nil {
		w = &readWait{key: m.key}
		r.waiting[m.key] = w
	}
	w.moves = append(w.moves, m)
	if _, rested := r.rested[m.key]; !m.quiet || !rested {
		r.makeDue(w) // with what was held
	}
	if m.quiet {
		r.thin(w)
	}
}

// thin keeps the quiet moves few: the lowest is dropped if another one goes further that
// the log is known to reach. If there is none, they are stored now.
func (r *reads) thin(w *readWait) {
	lowest, quiet, reached, end := -1, 0, 0, r.rested[w.key]
	for i, m := range w.moves {
		if !m.quiet {
			continue
		}
		quiet++
		if m.upTo <= end {
			reached++
		}
		if lowest < 0 || m.upTo < w.moves[lowest].upTo {
			lowest = i
		}
	}
	switch {
	case quiet <= readsPlaces:
	case reached > 1:
		r.settle(w.moves[lowest], nil)
		w.moves = slices.Delete(w.moves, lowest, lowest+1)
	default:
		r.makeDue(w)
	}
}

// makeDue has the moves of a key stored by the next transaction.
func (r *reads) makeDue(w *readWait) {
	if !w.due {
		w.due = true
		r.due = append(r.due, w)
	}
}

// endHold ends a readsHold: what was held is due.
func (r *reads) endHold() {
	clear(r.rested)
	for _, w := range r.waiting {
		r.makeDue(w)
	}
}

// flush stores what is due.
func (r *reads) flush(ctx context.Context, news chan<- []ReadPlace) {
	for len(r.due) > 0 {
		n := min(len(r.due), readsBatch)
		moves := make([]ReadMove, n)
		for i, w := range r.due[:n] {
			moves[i] = ReadMove{ConversationID: w.key.conversation, UserID: w.key.user, Places: w.places()}
		}
		places, err := r.store(ctx, moves)
		at := make(map[readKey]*ReadPlace, len(places))
		var changed []ReadPlace
		for i := range places {
			p := &places[i]
			at[readKey{p.ConversationID, p.UserID}] = p
			if !p.At.IsZero() {
				changed = append(changed, *p)
			}
		}
		for _, w := range r.due[:n] {
			p := at[w.key]
			for _, m := range w.moves {
				r.settle(m, cmp.Or(err, readOutcome(m, p)))
			}
			delete(r.waiting, w.key)
			r.rested[w.key] = 0
			if p != nil {
				r.rested[w.key] = p.LastSeq
			}
		}
		if r.due = r.due[n:]; len(r.due) == 0 {
			r.due = nil
		}
		if len(changed) > 0 {
			news <- changed
		}
	}
}

// places returns where the moves lead, each place once.
func (w *readWait) places() []int64 {
	all := make([]int64, len(w.moves))
	for i, m := range w.moves {
		all[i] = m.upTo
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// store moves participants. While the database is unavailable it tries again, for
// storePatience: repeating a move changes nothing.
func (r *reads) store(ctx context.Context, moves []ReadMove) ([]ReadPlace, error) {
	write, cancel := WithDeadline(context.WithoutCancel(ctx), storePatience, "chat.reads")
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(readsStop, cancel) })() // nobody has longer than that when we stop
	for wait := backoff.New(10*time.Millisecond, time.Second); ; {
		places, err := r.moves.MoveReads(write, moves, Timestamp(r.clock.Now()))
		if err == nil || CodeOf(err) != Unavailable || !wait.Sleep(write) {
			return places, err
		}
	}
}

func (r *reads) settle(m *readMove, err error) {
	m.done.Settle(err)
	r.kept.Add(-1)
}

// readOutcome is what became of a move; p is where the participant is now, nil if there is none.
func readOutcome(m *readMove, p *ReadPlace) error {
	switch {
	case p == nil:
		return NotParticipant(m.key.conversation)
	case m.upTo > p.LastSeq:
		return invalid("upTo", "is "+strconv.FormatInt(m.upTo, 10)+", and the conversation ends at seq "+strconv.FormatInt(p.LastSeq, 10))
	}
	return nil
}

func readPayload(conversation, user ID, upTo int64, at time.Time) []byte {
	b := append([]byte(`{"conversationId":"`), conversation.String()...)
	b = append(append(b, `","userId":"`...), user.String()...)
	b = append(b, `","upTo":`...)
	b = strconv.AppendInt(b, upTo, 10)
	b = append(b, `,"at":"`...)
	b = at.UTC().AppendFormat(b, TimeFormat)
	return append(b, `"}`...)
}
