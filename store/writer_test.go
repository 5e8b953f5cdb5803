package store_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// writerRig is a writer over a database of its own, under the real rules.
type writerRig struct {
	t       *testing.T
	s       *store.Store
	w       *store.Writer
	rules   *chat.Service
	line    *line
	stop    func() // ends Run and waits for it
	members []chat.ID
	conv    chat.ID // a group of them

	mu        sync.Mutex
	published map[chat.ID][]chat.Event // by conversation, in the order of Committed
	hinted    map[chat.ID]int64        // by conversation: how far Hint said that it reaches
}

// Publish implements chat.Publisher.
func (r *writerRig) Publish(e *chat.Event, _ *chat.Roster) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.published[e.ConversationID] = append(r.published[e.ConversationID], *e)
}

func newWriterRig(t *testing.T, o store.WriterOptions) *writerRig {
	t.Helper()
	r := &writerRig{t: t, s: storetest.New(t), line: &line{}, published: map[chat.ID][]chat.Event{}, hinted: map[chat.ID]int64{}}
	r.members = users(t, r.s, 3)
	r.conv = group(t, r.s, now, r.members...).ID
	r.rules = chat.NewService(r.s, chat.SystemClock{}, nil)
	o.Recheck, o.Committed, o.GivenUp = r.rules.Recheck, r.rules.Committed, r.rules.Unconfirmed
	config := r.s.WriterConfig()
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return r.line.dial(ctx, network, addr, dial)
	}
	config.ConnConfig.RuntimeParams["application_name"] = "writer"
	r.w = store.NewWriter(config, o)
	r.rules.Use(r.w, r)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.w.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error("Run:", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// finish stops the writer, and compares what was published with the log, and the
// database with its promises.
func (r *writerRig) finish() {
	r.t.Helper()
	r.stop()
	storetest.Check(r.t, r.s)
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, events := range r.published {
		for i := 1; i < len(events); i++ {
			if events[i].Seq <= events[i-1].Seq {
				r.t.Errorf("conversation %s: event %d was published after %d", id, events[i].Seq, events[i-1].Seq)
			}
		}
	}
}

// outcome waits for one Append, and counts how often it is told.
type outcome struct {
	chat.Append
	told atomic.Int32
	err  chan error
}

func (o *outcome) Committed(_ *chat.Append, err error) {
	o.told.Add(1)
	o.err <- err
}

// message is an Append that is checked already.
func (r *writerRig) message(sender, key chat.ID, content string) *outcome {
	o := &outcome{err: make(chan error, 10)}
	id := chat.NewID()
	if key.IsZero() {
		key = id
	}
	o.MembersVersion, o.Done = 1, o
	o.Event = chat.Event{ConversationID: r.conv, Type: chat.EventMessage, ID: id, SenderID: sender, ClientMsgID: key, Content: content}
	return o
}

func (r *writerRig) append(os ...*outcome) {
	r.t.Helper()
	for _, o := range os {
		if err := r.w.Append(r.t.Context(), &o.Append); err != nil {
			r.t.Fatal(err)
		}
	}
}

// wait returns the outcome.
func (r *writerRig) wait(o *outcome) error {
	r.t.Helper()
	select {
	case err := <-o.err:
		return err
	case <-time.After(time.Minute):
		r.t.Fatal("an outcome is not told")
		return nil
	}
}

func (r *writerRig) stored(os ...*outcome) {
	r.t.Helper()
	for _, o := range os {
		if err := r.wait(o); err != nil {
			r.t.Fatalf("message %q: %v", o.Event.Content, err)
		}
	}
}

// hold keeps the conversation locked, so that what is appended meanwhile gathers
// in one batch behind the first; release lets go.
func (r *writerRig) hold() (release func()) {
	r.t.Helper()
	tx, err := r.s.Pool().Begin(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := tx.Exec(r.t.Context(), `SELECT FROM conversations WHERE id = $1 FOR UPDATE`, r.conv); err != nil {
		r.t.Fatal(err)
	}
	r.append(r.message(r.members[0], chat.ID{}, "the one in front"))
	for { // until it waits for the lock
		var waiting int
		err := r.s.Pool().QueryRow(r.t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'writer' AND wait_event_type = 'Lock' AND datname = current_database()`).Scan(&waiting)
		if err != nil {
			r.t.Fatal(err)
		}
		if waiting > 0 {
			break
		}
	}
	return func() {
		if err := tx.Rollback(context.Background()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			r.t.Error(err)
		}
	}
}

// line is the way to the database, and can be cut.
type line struct {
	mu     sync.Mutex
	cut    bool // nothing is let through
	reads  int  // counts down: at 0 the answer is lost, after the server gave it
	silent bool // the answers are swallowed
	conns  map[*lineConn]struct{}
}

type lineConn struct {
	net.Conn
	l *line
}

func (l *line) dial(ctx context.Context, network, addr string, dial func(context.Context, string, string) (net.Conn, error)) (net.Conn, error) {
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	if cut {
		return nil, errors.New("the line is cut")
	}
	c, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := &lineConn{c, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[*lineConn]struct{}{}
	}
	l.conns[conn] = struct{}{}
	return conn, nil
}

func (c *lineConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.l.silent && err == nil { // the answer never comes
		c.l.mu.Unlock()
		_, err = io.Copy(io.Discard, c.Conn) // until the deadline, or Close
		c.l.mu.Lock()
		return 0, cmp.Or(err, io.EOF)
	}
	if c.l.reads > 0 {
		if c.l.reads--; c.l.reads == 0 {
			_ = c.Close()
			return 0, net.ErrClosed
		}
	}
	return n, err
}

// loseAnswer loses the n-th answer from now on, with its connection.
func (l *line) loseAnswer(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads = n
}

// silence swallows what the database says from now on, on connections there are.
func (l *line) silence(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silent = on
}

func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
	if cut {
		for c := range l.conns {
			_ = c.Close()
		}
		l.conns = nil
	}
}

// rows returns how many messages have the key, and the seq of the last.
func (r *writerRig) rows(key chat.ID) (n int, seq int64) {
	r.t.Helper()
	err := r.s.Pool().QueryRow(r.t.Context(), `SELECT count(*), coalesce(max(seq), 0) FROM events WHERE client_msg_id = $1`, key).Scan(&n, &seq)
	if err != nil {
		r.t.Fatal(err)
	}
	return n, seq
}

func wantCode(t *testing.T, err error, code chat.Code) {
	t.Helper()
	if chat.CodeOf(err) != code {
		t.Errorf("outcome %v, want %s", err, code)
	}
}

// Twelve appenders draw from the same moving window of keys: every message is
// sent several times at once. Each key is stored once, and all hear the same.
func TestWriterStoresOnceInOrder(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{MaxBatch: 50})
	convs := make([]chat.ID, 10)
	for i := range convs {
		convs[i] = group(t, r.s, now, r.members...).ID
	}
	keys := make([]chat.ID, 280)
	for i := range keys {
		keys[i] = chat.NewID()
	}
	var mu sync.Mutex
	answers := map[chat.ID]chat.Event{}
	var wg sync.WaitGroup
	for appender := range 12 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(appender), 7))
			for round := range 25 {
				var os []*outcome
				for range 20 {
					k := round*10 + rnd.IntN(40)
					o := r.message(r.members[k%3], keys[k], fmt.Sprint("message ", k))
					o.Event.ConversationID = convs[k%len(convs)]
					if err := r.w.Append(t.Context(), &o.Append); err != nil {
						t.Error(err)
						return
					}
					os = append(os, o)
				}
				for _, o := range os {
					if err := <-o.err; err != nil {
						t.Error(err)
						continue
					}
					mu.Lock()
					if first, ok := answers[o.Event.ClientMsgID]; ok && (first.Seq != o.Event.Seq || first.ID != o.Event.ID || !first.CreatedAt.Equal(o.Event.CreatedAt)) {
						t.Errorf("one message was answered with %d (%s) and %d (%s)", first.Seq, first.ID, o.Event.Seq, o.Event.ID)
					}
					answers[o.Event.ClientMsgID] = o.Event
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	r.finish()
	published := 0
	for _, events := range r.published {
		published += len(events)
	}
	if published != len(answers) {
		t.Errorf("%d events were published for %d keys", published, len(answers))
	}
	for key, e := range answers {
		if n, seq := r.rows(key); n != 1 || seq != e.Seq {
			t.Fatalf("key %s: %d rows, seq %d, answered with %d", key, n, seq, e.Seq)
		}
	}
}

func TestWriterRepeats(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{})
	key := chat.NewID()
	first := r.message(r.members[0], key, "hello")
	r.append(first)
	r.stored(first)
	again, other, another := r.message(r.members[0], key, "hello"), r.message(r.members[0], key, "other"), r.message(r.members[1], key, "of another sender")
	reply := r.message(r.members[0], key, "hello")
	reply.Event.ReplyTo = first.Event.ID
	r.append(again, other, another, reply)
	r.stored(again, another)
	if again.Event.Seq != first.Event.Seq || again.Event.ID != first.Event.ID || !again.Event.CreatedAt.Equal(first.Event.CreatedAt) || !again.Repeat {
		t.Errorf("the repeat was answered with %+v, the first with %+v", again.Event, first.Event)
	}
	if another.Repeat || first.Repeat {
		t.Error("a first message is called a repeat")
	}
	for _, o := range []*outcome{other, reply} {
		err := r.wait(o)
		var e *chat.Error
		if !errors.As(err, &e) || e.Code != chat.Conflict || !e.Existing.IsZero() || e.Field != "clientMsgId" {
			t.Errorf("the same key for something else: %v, want conflict", err)
		}
	}
	change := r.edit(r.members[0], first.Event.ID, "edited")
	r.append(change)
	r.stored(change)
	edited := r.message(r.members[0], key, "hello") // whose first text is not known any more
	r.append(edited)
	r.stored(edited)
	if !edited.Repeat {
		t.Error("the repeat of a message that was edited since is none")
	}
	r.finish()
}

func TestWriterRepeatsWithinABatch(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1})
	release := r.hold()
	key := chat.NewID()
	first, again, other, next := r.message(r.members[0], key, "hello"), r.message(r.members[0], key, "hello"), r.message(r.members[0], key, "other"), r.message(r.members[0], chat.ID{}, "next")
	r.append(first, again, other, next)
	release()
	r.stored(first, again, next)
	wantCode(t, r.wait(other), chat.Conflict)
	if !again.Repeat || again.Event.ID != first.Event.ID || again.Event.Seq != first.Event.Seq || next.Event.Seq != first.Event.Seq+1 {
		t.Errorf("first %d, repeat %d (%v), next %d", first.Event.Seq, again.Event.Seq, again.Repeat, next.Event.Seq)
	}
	r.finish()
}

// resent is a message without key that came in a packet, as chat.Submit makes it.
func (r *writerRig) resent(session uint64, packet uint16, n uint8, dup bool, content string) *outcome {
	o := r.message(r.members[0], chat.ResendKey(session, packet, time.Now(), n), content)
	o.Resent = dup
	return o
}

func TestWriterResentPackets(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1})
	first := r.resent(1, 7, 1, false, "hello")
	r.append(first)
	r.stored(first)
	elsewhere := group(t, r.s, now, r.members...).ID // the newest in the conversation counts
	for _, test := range []struct {
		name   string
		o      *outcome
		conv   chat.ID
		repeat bool
	}{
		{"sent again", r.resent(1, 7, 2, true, "hello"), r.conv, true},
		{"another packet", r.resent(1, 8, 3, true, "hello"), r.conv, false},
		{"another session", r.resent(2, 7, 4, true, "hello"), r.conv, false},
		{"another conversation", r.resent(1, 7, 5, true, "hello"), elsewhere, false},
		{"another text", r.resent(1, 7, 6, true, "good day"), elsewhere, false},
		{"not marked as sent again", r.resent(1, 7, 7, false, "good day"), elsewhere, false},
	} {
		test.o.Event.ConversationID = test.conv
		r.append(test.o)
		r.stored(test.o)
		if test.o.Repeat != test.repeat || test.repeat != (test.o.Event.ID == first.Event.ID) {
			t.Errorf("%s: repeat %v with id %s, the first has %s", test.name, test.o.Repeat, test.o.Event.ID, first.Event.ID)
		}
	}
	bye := r.resent(1, 7, 8, true, "bye")
	r.append(bye)
	r.stored(bye)
	again := r.resent(1, 7, 9, true, "bye")
	old := r.resent(1, 7, 10, true, "hello") // the identifier has been used again since
	r.append(again, old)
	r.stored(again, old)
	if !again.Repeat || again.Event.ID != bye.Event.ID || old.Repeat {
		t.Errorf("the newest message under a packet identifier counts: %v, %v", again.Repeat, old.Repeat)
	}

	release := r.hold() // the first sending and the second in one batch
	a, b := r.resent(1, 9, 11, false, "one"), r.resent(1, 9, 12, true, "one")
	r.append(a, b)
	release()
	r.stored(a, b)
	if a.Repeat || !b.Repeat || a.Event.Seq != b.Event.Seq {
		t.Errorf("in one batch: %d (%v) and %d (%v)", a.Event.Seq, a.Repeat, b.Event.Seq, b.Repeat)
	}
	r.finish()
}

// Who was removed since the message was checked has it refused; who stays has it
// stored, although the version has moved on.
func TestWriterMembersChange(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1})
	release := r.hold()
	stays, goes := r.message(r.members[1], chat.ID{}, "stays"), r.message(r.members[2], chat.ID{}, "goes")
	goesAgain := r.message(r.members[2], goes.Event.ClientMsgID, "goes")
	other := group(t, r.s, now, r.members...).ID
	elsewhere := r.message(r.members[2], chat.ID{}, "elsewhere")
	elsewhere.Event.ConversationID = other
	r.append(stays, goes, goesAgain, elsewhere)
	release()
	exec(t, r.s, `WITH gone AS (DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2)
		UPDATE conversations SET members_version = members_version + 1 WHERE id = $1`, r.conv, r.members[2])
	r.stored(elsewhere)
	if err := r.wait(stays); err != nil {
		t.Error(err)
	}
	// The change and the batch may have met in either order.
	if n, _ := r.rows(goes.Event.ClientMsgID); n == 0 {
		wantCode(t, r.wait(goes), chat.Forbidden)
		wantCode(t, r.wait(goesAgain), chat.Forbidden)
	}

	known := r.message(r.members[0], chat.ID{}, "of version 2")
	known.MembersVersion = 2
	stale := r.message(r.members[1], chat.ID{}, "of version 1")
	gone := r.message(r.members[2], chat.ID{}, "gone")
	nowhere := r.message(r.members[0], chat.ID{}, "nowhere")
	nowhere.Event.ConversationID = chat.NewID()
	release = r.hold()
	r.append(stale, known, gone, nowhere)
	release()
	r.stored(known, stale)
	wantCode(t, r.wait(gone), chat.Forbidden)
	wantCode(t, r.wait(nowhere), chat.Forbidden)
	if n, _ := r.rows(gone.Event.ClientMsgID); n != 0 {
		t.Error("a message of somebody who is no member is stored")
	}
	if stale.MembersVersion != 2 {
		t.Errorf("the message of version 1 was stored under version %d", stale.MembersVersion)
	}
	r.finish()
}

// Backends are killed in mid-flight, again and again. Whatever was said to be
// stored is there once; nobody waits for ever.
func TestWriterBackendsAreKilled(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{})
	convs := make([]chat.ID, 6)
	for i := range convs {
		convs[i] = group(t, r.s, now, r.members...).ID
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var killer, wg sync.WaitGroup
	kills, random := 0, seedtest.New(seedtest.Seed(t), 0)
	killer.Go(func() {
		for ctx.Err() == nil {
			var n int
			_ = r.s.Pool().QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'writer' AND datname = current_database()`).Scan(&n)
			kills += n
			time.Sleep(time.Duration(1+random.IntN(30)) * time.Millisecond)
		}
	})
	var all [12][]*outcome
	for a := range all {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				var batch []*outcome
				for j := range 10 {
					o := r.message(r.members[a%3], chat.ID{}, fmt.Sprint(a, i, j))
					o.Event.ConversationID = convs[(a+j)%len(convs)]
					if err := r.w.Append(t.Context(), &o.Append); err != nil {
						t.Error(err)
						return
					}
					batch = append(batch, o)
				}
				for _, o := range batch {
					if err := <-o.err; err != nil {
						t.Errorf("message %q: %v", o.Event.Content, err)
					}
				}
				all[a] = append(all[a], batch...)
			}
		})
	}
	wg.Wait()
	killer.Wait()
	r.finish()
	want := map[chat.ID]int64{}
	for _, os := range all {
		for _, o := range os {
			want[o.Event.ID] = o.Event.Seq
			if n := o.told.Load(); n != 1 {
				t.Errorf("an outcome was told %d times", n)
			}
			if o.Repeat {
				t.Error("a message that was sent once is called a repeat")
			}
		}
	}
	r.compare(want)
	t.Logf("%d messages, %d backends killed", len(want), kills)
	if kills == 0 {
		t.Error("nothing was killed")
	}
}

// compare checks that exactly these messages are stored and were published.
func (r *writerRig) compare(want map[chat.ID]int64) {
	r.t.Helper()
	rows, err := r.s.Pool().Query(r.t.Context(), `SELECT id, seq FROM events WHERE type = 'message'`)
	if err != nil {
		r.t.Fatal(err)
	}
	var id chat.ID
	var seq int64
	n := 0
	if _, err := pgx.ForEachRow(rows, []any{&id, &seq}, func() error {
		if n++; want[id] != seq {
			r.t.Errorf("message %s is stored as %d, and was answered with %d", id, seq, want[id])
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	if n != len(want) {
		r.t.Errorf("%d messages are stored, %d were answered", n, len(want))
	}
	published := 0
	for _, events := range r.published {
		for _, e := range events {
			if published++; want[e.ID] != e.Seq {
				r.t.Errorf("event %d was published, and answered with %d", e.Seq, want[e.ID])
			}
		}
	}
	if published != n {
		r.t.Errorf("%d messages were published, %d are stored", published, n)
	}
}

// The answer of the server is lost after each of its steps in turn, when it may
// have committed or not. One batch has every kind of event in it. Each is told its
// outcome once: the packets sent again were told twice when the look-up of the
// second one failed.
func TestWriterAnswerIsLost(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1})
	for step := 1; step <= 12; step++ {
		session := uint64(step)
		key := chat.NewID()
		stored := []*outcome{r.message(r.members[0], key, "stored before"), r.resent(session, 1, 1, false, "one"), r.resent(session, 2, 2, false, "two")}
		r.append(stored...)
		r.stored(stored...)
		release := r.hold()
		fresh, fresh2 := r.message(r.members[1], chat.ID{}, "fresh"), r.message(r.members[2], chat.ID{}, "fresh too")
		again, conflict := r.message(r.members[0], key, "stored before"), r.message(r.members[0], key, "something else")
		one, two, three := r.resent(session, 1, 3, true, "one"), r.resent(session, 2, 4, true, "two"), r.resent(session, 3, 5, true, "three")
		follower := r.message(r.members[1], fresh.Event.ClientMsgID, "fresh")
		batch := []*outcome{fresh, one, again, conflict, two, fresh2, three, follower}
		r.append(batch...)
		r.line.loseAnswer(step)
		release()
		r.stored(fresh, one, again, two, fresh2, three, follower)
		wantCode(t, r.wait(conflict), chat.Conflict)
		for _, o := range batch {
			if n := o.told.Load(); n != 1 {
				t.Errorf("answer %d lost: the outcome of %q was told %d times", step, o.Event.Content, n)
			}
		}
		for o, first := range map[*outcome]*outcome{one: stored[1], two: stored[2], again: stored[0], follower: fresh} {
			if !o.Repeat || o.Event.ID != first.Event.ID || o.Event.Seq != first.Event.Seq {
				t.Errorf("answer %d lost: %q was answered with %d (%v), want a repeat of %d", step, o.Event.Content, o.Event.Seq, o.Repeat, first.Event.Seq)
			}
		}
		for _, o := range []*outcome{fresh, fresh2, three} {
			if n, seq := r.rows(o.Event.ClientMsgID); o.Repeat || n != 1 || seq != o.Event.Seq {
				t.Errorf("answer %d lost: %q is stored %d times, as %d, and was answered with %d (%v)", step, o.Event.Content, n, seq, o.Event.Seq, o.Repeat)
			}
		}
		if !(fresh.Event.Seq < fresh2.Event.Seq && fresh2.Event.Seq < three.Event.Seq) {
			t.Errorf("answer %d lost: stored as %d, %d, %d", step, fresh.Event.Seq, fresh2.Event.Seq, three.Event.Seq)
		}
	}
	r.finish()
}

func TestWriterDatabaseIsAway(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Patience: 300 * time.Millisecond})
	first := r.message(r.members[0], chat.ID{}, "before")
	r.append(first)
	r.stored(first)
	for range 2 {
		r.line.set(true)
		start := time.Now()
		lost := r.message(r.members[0], chat.ID{}, "during")
		r.append(lost)
		wantCode(t, r.wait(lost), chat.Unavailable)
		if d := time.Since(start); d < 200*time.Millisecond {
			t.Errorf("given up after %v, want about 300 ms", d)
		}
		r.line.set(false)
		again := r.message(r.members[0], lost.Event.ClientMsgID, "during") // as the client does
		r.append(again)
		r.stored(again)
		if again.Repeat {
			t.Error("what was given up before it reached the database is called a repeat")
		}
	}
	brief := r.message(r.members[0], chat.ID{}, "over a short break")
	r.line.set(true)
	r.append(brief)
	time.AfterFunc(50*time.Millisecond, func() { r.line.set(false) })
	r.stored(brief)
	r.finish()
}

// A message was stored and the database's answer lost, for longer than the writer
// is patient. Its sender sent it again, and was answered; but the members who were
// connected were not notified of it, until the next event of their conversation. The
// campaign found it. Now their sessions read the log.
func TestWriterTellsWhatItGaveUp(t *testing.T) {
	t.Parallel()
	for _, again := range []bool{false, true} {
		r := newWriterRig(t, store.WriterOptions{Shards: 1, Patience: 300 * time.Millisecond})
		ctx, cancel := context.WithCancel(t.Context())
		rules := make(chan error, 1)
		go func() { rules <- r.rules.Run(ctx) }()
		first := r.message(r.members[0], chat.ID{}, "before")
		r.append(first)
		r.stored(first)
		r.line.silence(true)
		lost := r.message(r.members[0], chat.ID{}, "during")
		r.append(lost)
		wantCode(t, r.wait(lost), chat.Unavailable)
		r.line.silence(false)
		if again {
			repeat := r.message(r.members[0], lost.Event.ClientMsgID, "during")
			r.append(repeat)
			r.stored(repeat)
			if !repeat.Repeat {
				t.Error("it was not stored the first time: the test shows nothing")
			}
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			r.mu.Lock()
			hinted := r.hinted[r.conv]
			r.mu.Unlock()
			if n, seq := r.rows(lost.Event.ClientMsgID); n == 1 && hinted >= seq {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("sent again %v: nobody was notified of the message that was given up and stored", again)
			}
		}
		cancel()
		if err := <-rules; err != nil {
			t.Error(err)
		}
		r.finish()
	}
}

// One event that the database refuses does not take the others with it, nor does
// a broken line while it is looked for.
func TestWriterPoison(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1})
	for lost := range 8 {
		release := r.hold()
		var good []*outcome
		poison := r.message(r.members[0], chat.ID{}, "NUL: \x00")
		large := r.message(r.members[0], chat.ID{}, strings.Repeat("x", chat.MaxContentBytes+1))
		for i := range 9 {
			o := r.message(r.members[1], chat.ID{}, fmt.Sprint("good ", i))
			r.append(o)
			good = append(good, o)
			if i == 4 {
				r.append(poison, large)
			}
		}
		if lost > 0 {
			r.line.loseAnswer(lost)
		}
		release()
		wantCode(t, r.wait(poison), chat.Invalid)
		wantCode(t, r.wait(large), chat.TooLarge)
		r.stored(good...)
		for i, o := range good[1:] {
			if o.Event.Seq != good[i].Event.Seq+1 {
				t.Errorf("%q is %d, after %d", o.Event.Content, o.Event.Seq, good[i].Event.Seq)
			}
		}
	}
	r.finish()
}

func TestWriterStops(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1, MaxBatch: 10})
	release := r.hold()
	var os []*outcome
	for i := range 100 {
		o := r.message(r.members[0], chat.ID{}, fmt.Sprint(i))
		r.append(o)
		os = append(os, o)
	}
	time.AfterFunc(20*time.Millisecond, release)
	r.stop()
	for _, o := range os {
		select {
		case err := <-o.err:
			if err != nil {
				t.Errorf("message %q, queued before the stop: %v", o.Event.Content, err)
			}
		default:
			t.Fatalf("Run returned before message %q had its outcome", o.Event.Content)
		}
	}
	if n := len(r.published[r.conv]); n != 101 {
		t.Errorf("%d events were published, want 101", n)
	}
	late := r.message(r.members[0], chat.ID{}, "late")
	err := r.w.Append(t.Context(), &late.Append)
	wantCode(t, err, chat.Unavailable)
	if late.told.Load() != 0 {
		t.Error("an event that was not taken was told an outcome")
	}
	r.finish()
}

func TestWriterQueueIsFull(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1, QueueLen: 3})
	release := r.hold()
	a, b, c := r.message(r.members[0], chat.ID{}, "a"), r.message(r.members[0], chat.ID{}, "b"), r.message(r.members[0], chat.ID{}, "c")
	r.append(a, b, c)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	d := r.message(r.members[0], chat.ID{}, "d")
	err := r.w.Append(ctx, &d.Append)
	wantCode(t, err, chat.Unavailable)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Append into a full queue: %v", err)
	}
	taken := make(chan error)
	e := r.message(r.members[0], chat.ID{}, "e")
	go func() { taken <- r.w.Append(t.Context(), &e.Append) }()
	release()
	if err := <-taken; err != nil {
		t.Error(err)
	}
	r.stored(a, b, c, e)
	r.finish()
	if d.told.Load() != 0 {
		t.Error("an event that was not taken was told an outcome")
	}
}

// Times never go back within a conversation, though the clock does.
func TestWriterClockJumpsBack(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{})
	future := chat.Timestamp(time.Now().Add(time.Hour))
	exec(t, r.s, `UPDATE conversations SET last_event_at = $2 WHERE id = $1`, r.conv, future)
	a, b := r.message(r.members[0], chat.ID{}, "a"), r.message(r.members[0], chat.ID{}, "b")
	r.append(a, b)
	r.stored(a, b)
	if !a.Event.CreatedAt.Equal(future) || !b.Event.CreatedAt.Equal(future) {
		t.Errorf("created at %v and %v, want %v", a.Event.CreatedAt, b.Event.CreatedAt, future)
	}
	events := log(t, r.s, r.members[0], r.conv)
	if last := events[len(events)-1]; !last.CreatedAt.Equal(b.Event.CreatedAt) {
		t.Errorf("stored as created at %v, answered with %v", last.CreatedAt, b.Event.CreatedAt)
	}
	r.finish()
}

// Signal implements chat.Publisher.
func (r *writerRig) Signal(chat.Topic, []byte, []chat.ID, func(chat.ID) bool) {}

// Hint implements chat.Publisher.
func (r *writerRig) Hint(conversation chat.ID, seq int64, _ *chat.Roster) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hinted[conversation] = max(r.hinted[conversation], seq)
}
