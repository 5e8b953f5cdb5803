package chat_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/seedtest"
)

// readStore keeps what was read in memory, by the rules of chat.ReadStore.
type readStore struct {
	*fakeStore

	mu    sync.Mutex
	last  map[chat.ID]int64    // mu guards: ends of logs
	read  map[[2]chat.ID]int64 // mu guards: by conversation and user
	calls []time.Time          // mu guards: when MoveReads was called
	rows  int                  // mu guards: participants named in all calls
	away  bool                 // mu guards: the database is
	slow  time.Duration        // what a transaction takes
}

func (s *readStore) MoveReads(_ context.Context, moves []chat.ReadMove, now time.Time) ([]chat.ReadPlace, error) {
	time.Sleep(s.slow)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, time.Now())
	if s.away {
		return nil, &chat.Error{Code: chat.Unavailable, Op: "fake"}
	}
	var places []chat.ReadPlace
	seen := map[[2]chat.ID]bool{}
	for _, m := range moves {
		key := [2]chat.ID{m.ConversationID, m.UserID}
		if seen[key] {
			return nil, &chat.Error{Code: chat.Internal, Op: "fake", Msg: "a participant is named twice"}
		}
		seen[key] = true
		s.rows++
		s.fakeStore.mu.Lock()
		r := s.rosters[m.ConversationID]
		s.fakeStore.mu.Unlock()
		if !slices.Contains(r.Members, m.UserID) {
			continue
		}
		p := chat.ReadPlace{ConversationID: m.ConversationID, UserID: m.UserID, LastSeq: s.last[m.ConversationID], MembersVersion: r.Version}
		for _, seq := range m.Places {
			if seq <= p.LastSeq && seq > s.read[key] {
				s.read[key] = seq
				p.ReadSeq, p.At = seq, now
			}
		}
		places = append(places, p)
	}
	return places, nil
}

func (s *readStore) LocateMessages(_ context.Context, user chat.ID, messages []chat.ID) ([]chat.Event, error) {
	s.fakeStore.mu.Lock()
	defer s.fakeStore.mu.Unlock()
	var found []chat.Event
	for _, id := range messages {
		if e, ok := s.messages[id]; ok && slices.Contains(s.rosters[e.ConversationID].Members, user) {
			found = append(found, e)
		}
	}
	return found, nil
}

func (s *readStore) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// readSignals records who hears what was read.
type readSignals struct {
	fakePublisher
	mu    sync.Mutex
	heard []string // mu guards
	users [][]chat.ID
}

func (p *readSignals) Signal(t chat.Topic, payload []byte, users []chat.ID, except func(chat.ID) bool) {
	var in struct {
		ConversationID, UserID chat.ID
		UpTo                   int64
		At                     time.Time
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := json.Unmarshal(payload, &in); err != nil || t.ID != in.ConversationID || in.At.IsZero() || except != nil {
		p.heard = append(p.heard, "malformed: "+string(payload))
	}
	p.heard = append(p.heard, fmt.Sprintf("%x to %d", in.UserID[0], in.UpTo))
	p.users = append(p.users, users)
}

func (p *readSignals) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.heard)
}

// settled collects outcomes, in their order.
type settled struct {
	mu  sync.Mutex
	got []string // mu guards
}

type settler struct {
	*settled
	name string
}

func (s settler) Settle(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, strings.TrimSuffix(s.name+" "+string(chat.CodeOf(err)), " "))
}

func (s *settled) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// readers is a service that stores what ann and ben read in a room of 10 events.
type readers struct {
	*testing.T
	s    *chat.Service
	st   *readStore
	p    *readSignals
	out  *settled
	stop func()
}

func withReaders(t *testing.T, f func(w *readers)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &readers{T: t, st: &readStore{fakeStore: newFakeStore(), last: map[chat.ID]int64{room: 10}, read: map[[2]chat.ID]int64{}}, p: &readSignals{}, out: &settled{}}
		w.st.put(room, ann, ben)
		w.s = chat.NewService(w.st, chat.SystemClock{}, nil)
		w.s.Use(&fakeLog{}, w.p)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.s.RunReads(ctx) }() // ends with ctx
		w.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		f(w)
		w.stop()
		if n := w.s.ReadsWaiting(); n != 0 {
			t.Errorf("%d moves wait for ever", n)
		}
	})
}

func (w *readers) submit(name string, user chat.ID, upTo int64, quiet bool) {
	w.Helper()
	if err := w.s.SubmitRead(w.Context(), user, room, &chat.Read{UpTo: upTo}, quiet, settler{w.out, name}); err != nil {
		w.Fatal(err)
	}
}

func (w *readers) want(outcomes, heard []string, calls int) {
	w.Helper()
	synctest.Wait()
	got := w.out.list()
	slices.Sort(got)
	w.st.mu.Lock()
	n := len(w.st.calls)
	w.st.mu.Unlock()
	if h := w.p.list(); !slices.Equal(got, outcomes) || !slices.Equal(h, heard) || n != calls {
		w.Errorf("outcomes %q, want %q; heard %q, want %q; %d transactions, want %d", got, outcomes, h, heard, n, calls)
	}
}

// The first is stored at once; those that come meanwhile go together, and each is
// judged by itself.
func TestReadsAreGathered(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		w.submit("a", ann, 1, false)
		w.want([]string{"a"}, []string{"a to 1"}, 1)
		for i, upTo := range []int64{3, 11, 2, 1 << 62} {
			w.submit(fmt.Sprint("b", i), ann, upTo, false)
		}
		w.submit("c", ben, 7, false)
		w.want([]string{"a"}, []string{"a to 1"}, 1)
		time.Sleep(30 * time.Millisecond)
		synctest.Wait()
		w.p.mu.Lock()
		slices.Sort(w.p.heard)
		w.p.mu.Unlock()
		w.want([]string{"a", "b0", "b1 invalid", "b2", "b3 invalid", "c"}, []string{"a to 1", "a to 3", "b to 7"}, 2)
		w.submit("d", ann, 2, false) // not back
		time.Sleep(30 * time.Millisecond)
		w.want([]string{"a", "b0", "b1 invalid", "b2", "b3 invalid", "c", "d"}, []string{"a to 1", "a to 3", "b to 7"}, 3)
	})
}

// Nobody waits for moves at QoS 0: a user has one a second stored, the last of them
// at the latest after one.
func TestQuietReads(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		for i := range int64(100) { // 2 s
			w.submit("q", ann, 1+i%10, true)
			time.Sleep(20 * time.Millisecond)
		}
		w.submit("x", ann, 11, true)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(w.st.calls); n > 5 {
			w.Errorf("%d transactions", n)
		}
		if w.st.read[[2]chat.ID{room, ann}] != 10 || !slices.Contains(w.out.list(), "x invalid") || w.s.ReadsWaiting() > 0 {
			w.Errorf("read to %d; outcomes %q; %d wait", w.st.read[[2]chat.ID{room, ann}], w.out.list(), w.s.ReadsWaiting())
		}
		// Somebody who waits takes with them what was held.
		w.st.set(func() { w.st.last[room] = 20 })
		w.submit("q", ann, 11, true)
		w.submit("q", ann, 12, true)
		w.submit("q", ann, 13, true)
		time.Sleep(30 * time.Millisecond)
		w.submit("q", ann, 15, true)
		w.submit("loud", ann, 14, false)
		time.Sleep(30 * time.Millisecond)
		synctest.Wait()
		if got := w.st.read[[2]chat.ID{room, ann}]; got != 15 {
			w.Errorf("read to %d, want 15", got)
		}
	})
}

// A user sends what the log reaches, and then much that it does not: the lowest once
// gave way to the others, which were refused, and was not stored.
func TestQuietReadsBeyondTheEnd(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		w.submit("first", ann, 1, true)
		time.Sleep(30 * time.Millisecond)
		w.submit("good", ann, 7, true)
		for i := range int64(20) {
			w.submit("far", ann, 11+i, true)
		}
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if got := w.st.read[[2]chat.ID{room, ann}]; got != 7 {
			w.Errorf("read to %d, want 7", got)
		}
		list := w.out.list()
		if n := len(w.st.calls); len(list) != 22 || w.s.ReadsWaiting() > 0 || n > 4 {
			w.Errorf("%d settled (%q), %d wait, %d transactions", len(list), list, w.s.ReadsWaiting(), n)
		}
	})
}

// While the database is away, moves wait; then they are stored, or given up.
func TestReadsWhileTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		w.st.setAway(true)
		w.submit("a", ann, 1, false)
		time.Sleep(3 * time.Second)
		w.submit("b", ben, 2, false)
		synctest.Wait()
		if got := w.out.list(); len(got) > 0 {
			w.Errorf("settled: %q", got)
		}
		w.st.setAway(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := w.out.list(); !slices.Equal(got, []string{"a", "b"}) {
			w.Errorf("settled: %q", got)
		}
		w.st.setAway(true)
		w.submit("c", ann, 3, false)
		time.Sleep(12 * time.Second)
		synctest.Wait()
		if got := w.out.list(); !slices.Equal(got[2:], []string{"c unavailable"}) {
			w.Errorf("settled: %q", got)
		}
		// Stopping does not take longer than it must.
		w.submit("d", ann, 4, false)
		time.Sleep(30 * time.Millisecond)
		start := time.Now()
		w.stop()
		if d := time.Since(start); d > 5*time.Second {
			w.Errorf("stopping took %v", d)
		}
		if got := w.out.list(); !slices.Equal(got[3:], []string{"d unavailable"}) {
			w.Errorf("settled: %q", got)
		}
	})
}

// What waits when the process stops is stored, also at QoS 0; what comes later is
// refused.
func TestReadsAtTheEnd(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		w.submit("a", ann, 1, true)
		synctest.Wait()
		w.submit("b", ann, 2, true)
		w.submit("c", ben, 2, false)
		w.stop()
		if w.st.read[[2]chat.ID{room, ann}] != 2 || w.st.read[[2]chat.ID{room, ben}] != 2 {
			w.Errorf("read %v", w.st.read)
		}
		err := w.s.SubmitRead(w.Context(), ann, room, &chat.Read{UpTo: 3}, false, settler{w.out, "late"})
		if chat.CodeOf(err) != chat.Unavailable {
			w.Errorf("after the end: %v", err)
		}
	})
}

// Who hears of it: everybody in a conversation of contacts, and in a larger one the
// reader's own devices. Nobody who has left, however old the roster in memory.
func TestWhoHearsOfReads(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		read := func(upTo int64, want ...chat.ID) {
			w.Helper()
			if err := w.s.MarkRead(w.Context(), ann, room, upTo); err != nil {
				w.Fatal(err)
			}
			synctest.Wait()
			w.p.mu.Lock()
			defer w.p.mu.Unlock()
			if got := w.p.users[len(w.p.users)-1]; !slices.Equal(got, want) {
				w.Errorf("%d users hear of it, want %d", len(got), len(want))
			}
		}
		many := []chat.ID{ann, ben}
		for len(many) < chat.MaxContactMembers {
			many = append(many, chat.NewID())
		}
		read(1, ann, ben)
		w.st.put(room, ann)
		read(2, ann)
		slices.SortFunc(many, chat.ID.Compare)
		w.st.put(room, slices.Clone(many)...)
		read(3, many...)
		w.st.put(room, append(slices.Clone(many), chat.NewID())...)
		read(4, ann)
		w.st.put(room, ann, ben)
		w.st.set(func() {
			r := w.st.rosters[room]
			r.Kind, r.Blocked = chat.Direct, true
			w.st.rosters[room] = r
		})
		read(5, ann)
	})
}

func TestMarkMessagesRead(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		other, theirs := chat.ID{0xc1}, chat.ID{0xc2}
		w.st.put(other, ann)
		w.st.put(theirs, ben)
		w.st.last[other], w.st.last[theirs] = 10, 10
		id := func(n byte) chat.ID { return chat.ID{0x11, n} }
		for n, c := range []chat.ID{room, room, other, theirs} {
			w.st.messages[id(byte(n))] = chat.Event{ID: id(byte(n)), ConversationID: c, Seq: int64(2 + n)}
		}
		for _, tt := range []struct {
			ids   []chat.ID
			code  chat.Code
			names string
		}{
			{nil, chat.Invalid, "0 ids, limit 1 to 1000"},
			{make([]chat.ID, chat.MaxReadIDs+1), chat.Invalid, "1001 ids, limit 1 to 1000"},
			{[]chat.ID{id(1), id(9), id(3)}, chat.NotFound, id(9).String()},
			{[]chat.ID{id(1), id(3)}, chat.NotFound, id(3).String()},
		} {
			err := w.s.MarkMessagesRead(w.Context(), ann, tt.ids)
			if msg := chat.PublicMessage(err); chat.CodeOf(err) != tt.code || !strings.HasPrefix(msg, "messageIds: ") || !strings.Contains(msg, tt.names) {
				w.Errorf("%d ids: %v, want %s with %q", len(tt.ids), err, tt.code, tt.names)
			}
		}
		if len(w.st.read) > 0 {
			w.Errorf("half done: %v", w.st.read)
		}
		if err := w.s.MarkMessagesRead(w.Context(), ann, []chat.ID{id(1), id(0), id(2), id(1)}); err != nil || w.st.read[[2]chat.ID{room, ann}] != 3 || w.st.read[[2]chat.ID{other, ann}] != 4 {
			w.Errorf("read %v, %v", w.st.read, err)
		}
		err := w.s.SubmitRead(w.Context(), ann, room, &chat.Read{MessageIDs: []chat.ID{id(0), id(2)}}, false, settler{w.out, "x"})
		if chat.CodeOf(err) != chat.Invalid || !strings.Contains(err.Error(), id(2).String()) {
			w.Errorf("of another conversation: %v", err)
		}
		if err := w.s.MarkRead(w.Context(), ben, other, 1); chat.CodeOf(err) != chat.Forbidden {
			w.Errorf("of a stranger: %v", err)
		}
		if err := w.s.MarkRead(w.Context(), ann, room, 0); chat.CodeOf(err) != chat.Invalid {
			w.Errorf("to 0: %v", err)
		}
		w.st.slow = time.Minute
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if err := w.s.MarkRead(ctx, ann, room, 9); chat.CodeOf(err) != chat.Unavailable {
			w.Errorf("not in time: %v", err)
		}
		time.Sleep(time.Minute)
	})
}

// Whatever comes at once, each is settled once, each participant is where the highest
// of their moves leads that the log reaches, and the transactions are few.
func TestReadsRaces(t *testing.T) {
	t.Parallel()
	withReaders(t, func(w *readers) {
		var rooms []chat.ID
		for range 300 { // with ten users each more than one transaction takes
			rooms = append(rooms, chat.NewID())
		}
		users := make([]chat.ID, 10)
		for i := range users {
			users[i] = chat.NewID()
		}
		for _, c := range rooms {
			w.st.put(c, slices.Clone(users)...)
			w.st.last[c] = 50
		}
		w.st.slow = 5 * time.Millisecond
		var mu sync.Mutex
		want, n := map[[2]chat.ID]int64{}, 0
		var wg sync.WaitGroup
		seed := seedtest.Seed(t)
		for i := range 100 {
			wg.Go(func() {
				r := seedtest.New(seed, i)
				for range 200 {
					key, upTo := [2]chat.ID{rooms[r.IntN(len(rooms))], users[r.IntN(len(users))]}, 1+r.Int64N(60)
					mu.Lock()
					n++
					if upTo <= 50 {
						want[key] = max(want[key], upTo)
					}
					mu.Unlock()
					if err := w.s.SubmitRead(w.Context(), key[1], key[0], &chat.Read{UpTo: upTo}, r.IntN(2) == 0, settler{w.out, ""}); err != nil {
						w.Error(err)
					}
					time.Sleep(time.Duration(r.Int64N(int64(10 * time.Millisecond))))
				}
			})
		}
		wg.Wait()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := len(w.out.list()); got != n {
			w.Errorf("%d of %d settled", got, n)
		}
		for key, upTo := range want {
			if got := w.st.read[key]; got != upTo {
				w.Errorf("read to %d, want %d", got, upTo)
			}
		}
		if len(w.st.calls) > 300 {
			w.Errorf("%d transactions", len(w.st.calls))
		}
	})
}

func FuzzParseRead(f *testing.F) {
	for _, s := range []string{
		``, `{}`, `{"upTo":1}`, `{"upTo":0}`, `{"upTo":1e3}`, `{"upTo":"1"}`, `{"messageIds":[]}`, `{"messageIds":["` + anID + `"]}`, `{"messageIds":["` + anID + `",null]}`,
		`{"upTo":1,"messageIds":["` + anID + `"]}`, `{"messageIds":null,"upTo":5}`, `[]`, `5`, "{\"upTo\":1,\"x\":\"\xff\"}", `{"upTo":9223372036854775808}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, err := chat.ParseRead(payload)
		if err != nil {
			if chat.CodeOf(err) != chat.Invalid || r.UpTo != 0 || r.MessageIDs != nil || !strings.Contains(chat.PublicMessage(err), ": ") {
				t.Fatalf("ParseRead(%q) = %v, %v", payload, r, err)
			}
			return
		}
		if (r.UpTo > 0) == (len(r.MessageIDs) > 0) || r.UpTo < 0 || len(r.MessageIDs) > chat.MaxReadIDs {
			t.Fatalf("ParseRead(%q) = %v", payload, r)
		}
	})
}
