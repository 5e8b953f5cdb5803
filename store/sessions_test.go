package store_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// take takes the session of a user's device, kept for an hour.
func take(t testing.TB, s *store.Store, user chat.ID, clientID string, change ...func(*chat.SessionTake)) *chat.SessionState {
	t.Helper()
	o := chat.SessionTake{UserID: user, ClientID: clientID, Expiry: time.Hour, Node: "n", Now: now}
	for _, c := range change {
		c(&o)
	}
	st, err := s.TakeSession(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func part(t testing.TB, s *store.Store, st *chat.SessionState, change ...func(*chat.SessionPart)) {
	t.Helper()
	p := chat.SessionPart{ID: st.ID, Epoch: st.Epoch, Expiry: time.Hour, Now: now, NextPacketID: st.NextPacketID}
	for _, c := range change {
		c(&p)
	}
	if err := s.PartSession(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// everything subscribes a session to all conversations of its user.
func everything(st *chat.SessionState, user chat.ID) chat.SubscriptionChange {
	return chat.SubscriptionChange{
		SessionID: st.ID, Epoch: st.Epoch, UserID: user, All: true,
		Subscriptions: []chat.SubscriptionState{{Filter: "conv/+/messages", QoS: 1}},
	}
}

func change(t testing.TB, s *store.Store, c chat.SubscriptionChange) []chat.Position {
	t.Helper()
	ends, err := s.ChangeSubscriptions(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return ends
}

// cursors returns what is stored for a session, behind its back.
func cursors(t testing.TB, s *store.Store, session chat.ID) map[chat.ID]int64 {
	t.Helper()
	rows, err := s.Pool().Query(t.Context(), `SELECT conversation_id, seq FROM session_cursors WHERE session_id = $1`, session)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	got := map[chat.ID]int64{}
	for rows.Next() {
		var id chat.ID
		var seq int64
		if err := rows.Scan(&id, &seq); err != nil {
			t.Fatal(err)
		}
		got[id] = seq
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	return got
}

func wantCursors(t testing.TB, s *store.Store, session chat.ID, want map[chat.ID]int64) {
	t.Helper()
	if got := cursors(t, s, session); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("cursors are %v, want %v", got, want)
	}
}

func count(t testing.TB, s *store.Store, sql string, args ...any) (n int) {
	t.Helper()
	if err := s.Pool().QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// When a session is there, and when it is not.
func TestTakeSession(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	clean := func(o *chat.SessionTake) { o.CleanStart = true }
	none := func(o *chat.SessionTake) { o.Expiry = 0 }
	later := func(d time.Duration) func(*chat.SessionTake) { return func(o *chat.SessionTake) { o.Now = now.Add(d) } }

	if st := take(t, s, u[0], "phone", none); !st.ID.IsZero() || st.Present || st.NextPacketID != 1 {
		t.Errorf("without expiry: %+v", st)
	}
	first := take(t, s, u[0], "phone")
	if first.Present || first.ID.IsZero() || first.Epoch < 1 || first.NextPacketID != 1 || len(first.Subscriptions)+len(first.Cursors)+len(first.Inflight) > 0 {
		t.Errorf("the first: %+v", first)
	}
	for _, other := range []*chat.SessionState{take(t, s, u[1], "phone"), take(t, s, u[0], "Phone")} {
		if other.Present || other.ID == first.ID {
			t.Errorf("somebody else's: %+v", other)
		}
	}
	part(t, s, first, func(p *chat.SessionPart) { p.NextPacketID = 65535 })
	second := take(t, s, u[0], "phone", later(time.Hour-time.Millisecond))
	if !second.Present || second.ID != first.ID || second.Epoch <= first.Epoch || second.NextPacketID != 65535 {
		t.Errorf("an hour less a moment later: %+v", second)
	}
	part(t, s, second, func(p *chat.SessionPart) { p.NextPacketID = 0 }) // as after 65,535
	third := take(t, s, u[0], "phone", later(time.Hour))
	if third.Present || third.ID == first.ID || third.Epoch <= second.Epoch {
		t.Errorf("in the instant of its expiry: %+v", third)
	}
	part(t, s, third)
	fourth := take(t, s, u[0], "phone", clean)
	if fourth.Present || fourth.ID == third.ID {
		t.Errorf("after a clean start: %+v", fourth)
	}
	if st := take(t, s, u[0], "phone", none); !st.Present || st.ID != fourth.ID || st.Epoch <= fourth.Epoch {
		t.Errorf("resumed without expiry: %+v", st)
	}
	if st := take(t, s, u[0], "phone", none, clean); st.Present || !st.ID.IsZero() {
		t.Errorf("clean start without expiry: %+v", st)
	}
	if n := count(t, s, `SELECT count(*) FROM sessions WHERE user_id = $1 AND client_id = 'phone'`, u[0]); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	_, err := s.TakeSession(t.Context(), chat.SessionTake{UserID: u[0], ClientID: strings.Repeat("x", 257), Expiry: time.Hour, Now: now})
	wantError(t, err, chat.Invalid, "")
	storetest.Check(t, s)
}

// Everything that is stored of a session comes back, and on the next connection
// after that only what is stored again.
func TestSessionState(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	a, b := group(t, s, now, u...), group(t, s, now, u...)
	post(t, s, a.ID, u[1], 9)
	st := take(t, s, u[0], "phone")
	c := everything(st, u[0])
	c.Subscriptions = []chat.SubscriptionState{{Filter: "conv/+/messages", QoS: 2, Identifier: 268_435_455}, {Filter: "user/+/presence"}}
	if ends := change(t, s, c); !slices.Equal(ends, []chat.Position{{ConversationID: a.ID, LastSeq: 10}, {ConversationID: b.ID, LastSeq: 1}}) {
		t.Errorf("the ends are %v", ends)
	}
	post(t, s, a.ID, u[1], 5)
	inflight := []chat.InflightState{
		{PacketID: 65534, ConversationID: a.ID, Seq: 12, QoS: 2, Received: true},
		{PacketID: 65535, ConversationID: a.ID, Seq: 13, QoS: 1, Settled: true},
		{PacketID: 1, ConversationID: a.ID, Seq: 14, QoS: 1},
	}
	part(t, s, st, func(p *chat.SessionPart) {
		p.Cursors, p.Inflight, p.NextPacketID = []chat.CursorState{{ConversationID: a.ID, Acked: 11}}, inflight, 2
	})
	storetest.Check(t, s)
	later := group(t, s, now, u...) // joined while away
	post(t, s, later.ID, u[1], 1)

	got := take(t, s, u[0], "phone")
	slices.SortFunc(got.Cursors, func(x, y chat.CursorState) int { return x.ConversationID.Compare(y.ConversationID) })
	want := []chat.CursorState{{ConversationID: a.ID, Acked: 11, LastSeq: 15}, {ConversationID: b.ID, Acked: 1, LastSeq: 1}, {ConversationID: later.ID, Acked: 0, LastSeq: 2}}
	if !slices.Equal(got.Cursors, want) || !slices.Equal(got.Subscriptions, c.Subscriptions) || !slices.Equal(got.Inflight, inflight) || got.NextPacketID != 2 {
		t.Errorf("got %+v", got)
	}
	exec(t, s, `DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2`, a.ID, u[0])
	// No orderly end: what was on its way is not known, and no packet identifier
	// that may be in use comes soon.
	crashed := take(t, s, u[0], "phone")
	if len(crashed.Inflight) != 0 || crashed.NextPacketID != 2+40_502 || len(crashed.Cursors) != 2 || !crashed.Present {
		t.Errorf("after a crash: %+v", crashed)
	}
}

// Nothing that an earlier connection of the device writes has any effect.
func TestEpochs(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	g := group(t, s, now, u...)
	post(t, s, g.ID, u[1], 9)
	old := take(t, s, u[0], "phone")
	change(t, s, everything(old, u[0]))
	st := take(t, s, u[0], "phone")
	gone := &chat.SessionState{ID: chat.NewID(), Epoch: 1}
	for _, past := range []*chat.SessionState{old, gone} {
		c := everything(past, u[0])
		c.Subscriptions, c.EndAll = nil, true
		_, err := s.ChangeSubscriptions(t.Context(), c)
		wantError(t, err, chat.Conflict, "")
		for _, expiry := range []time.Duration{time.Hour, 0} {
			err := s.PartSession(t.Context(), chat.SessionPart{ID: past.ID, Epoch: past.Epoch, Expiry: expiry, Now: now, Cursors: []chat.CursorState{{ConversationID: g.ID, Acked: 10}}})
			wantError(t, err, chat.Conflict, "")
		}
		err = s.SaveCursors(t.Context(), []chat.CursorUpdate{{SessionID: past.ID, Epoch: past.Epoch, ConversationID: g.ID, Acked: 10}},
			[]chat.PacketIDUpdate{{SessionID: past.ID, Epoch: past.Epoch, Next: 77}})
		if err != nil {
			t.Error(err)
		}
	}
	post(t, s, g.ID, u[1], 1)
	part(t, s, st)
	if again := take(t, s, u[0], "phone"); again.Epoch <= st.Epoch || len(again.Subscriptions) != 1 || again.Cursors[0].Acked != 10 || again.NextPacketID == 77 {
		t.Errorf("got %+v", again)
	}
}

// Cursors move forward only, also within one statement, and those of sessions
// that are gone keep nobody else's from being saved.
func TestSaveCursors(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	g := group(t, s, now, u...)
	post(t, s, g.ID, u[1], 20)
	a, b := take(t, s, u[0], "a"), take(t, s, u[1], "b")
	save := func(updates ...chat.CursorUpdate) {
		t.Helper()
		if err := s.SaveCursors(t.Context(), updates, nil); err != nil {
			t.Fatal(err)
		}
	}
	at := func(st *chat.SessionState, seq int64) chat.CursorUpdate {
		return chat.CursorUpdate{SessionID: st.ID, Epoch: st.Epoch, ConversationID: g.ID, Acked: seq}
	}
	save()
	save(at(a, 5), at(&chat.SessionState{ID: chat.NewID()}, 1), at(b, 7))
	save(at(a, 4), at(b, 8))
	wantCursors(t, s, a.ID, map[chat.ID]int64{g.ID: 5})
	wantCursors(t, s, b.ID, map[chat.ID]int64{g.ID: 8})
	// A session that unsubscribes and subscribes again within one interval had one
	// conversation twice in a batch; PostgreSQL refused the statement (21000), again
	// and again, and with it the cursors of everybody in the batch.
	save(at(a, 9), at(a, 3), at(b, 9), at(a, 11))
	wantCursors(t, s, a.ID, map[chat.ID]int64{g.ID: 11})
	wantCursors(t, s, b.ID, map[chat.ID]int64{g.ID: 9})

	if err := s.SaveCursors(t.Context(), nil, []chat.PacketIDUpdate{{SessionID: a.ID, Epoch: a.Epoch, Next: 40_000}}); err != nil {
		t.Fatal(err)
	}
	if st := take(t, s, u[0], "a"); st.NextPacketID != 1+(40_000+40_501)%65_535 {
		t.Errorf("after a crash: next is %d", st.NextPacketID)
	}
}

// Many savers of the same cursors in different orders: no deadlock, and the
// highest place of each stays.
func TestSaveCursorsTogether(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	var updates []chat.CursorUpdate
	var convs []chat.ID
	for range 5 {
		g := group(t, s, now, u...)
		post(t, s, g.ID, u[0], 200)
		convs = append(convs, g.ID)
	}
	for i := range 6 {
		st := take(t, s, u[0], fmt.Sprint(i))
		for _, c := range convs {
			updates = append(updates, chat.CursorUpdate{SessionID: st.ID, Epoch: st.Epoch, ConversationID: c})
		}
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			for n := range 30 {
				mine := slices.Clone(updates)
				random.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
				for k := range mine {
					mine[k].Acked = int64((n*6+i)%180 + 1)
				}
				if err := s.SaveCursors(t.Context(), mine, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := count(t, s, `SELECT count(*) FROM session_cursors WHERE seq = 180`); n != len(updates) {
		t.Errorf("%d of %d cursors are at 180", n, len(updates))
	}
}

// What SUBSCRIBE and UNSUBSCRIBE do to the cursors, in each combination that
// delivery uses.
func TestChangeSubscriptions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	a, b := group(t, s, now, u...), group(t, s, now, u...)
	foreign := group(t, s, now, u[1:]...)
	for _, g := range []*chat.Conversation{a, b, foreign} {
		post(t, s, g.ID, u[1], 9)
	}
	st := take(t, s, u[0], "phone")
	c := everything(st, u[0])
	c.All, c.Begin = false, []chat.ID{a.ID, foreign.ID}
	change(t, s, c)
	wantCursors(t, s, st.ID, map[chat.ID]int64{a.ID: 10})
	post(t, s, a.ID, u[1], 5)
	if ends := change(t, s, everything(st, u[0])); len(ends) != 2 {
		t.Errorf("the ends are %v", ends)
	}
	wantCursors(t, s, st.ID, map[chat.ID]int64{a.ID: 10, b.ID: 10}) // a had one
	c = everything(st, u[0])
	c.End, c.Begin, c.All = []chat.ID{a.ID}, []chat.ID{a.ID}, false
	change(t, s, c)
	wantCursors(t, s, st.ID, map[chat.ID]int64{a.ID: 15, b.ID: 10}) // anew
	post(t, s, b.ID, u[1], 5)
	c = everything(st, u[0])
	c.EndAll, c.Keep = true, []chat.CursorState{{ConversationID: b.ID, Acked: 12}}
	change(t, s, c)
	wantCursors(t, s, st.ID, map[chat.ID]int64{a.ID: 15, b.ID: 12})
	c = chat.SubscriptionChange{SessionID: st.ID, Epoch: st.Epoch, UserID: u[0], EndAll: true, Keep: c.Keep}
	if ends := change(t, s, c); len(ends) != 0 {
		t.Errorf("the ends are %v", ends)
	}
	wantCursors(t, s, st.ID, map[chat.ID]int64{b.ID: 12})
	part(t, s, st)
	if st := take(t, s, u[0], "phone"); len(st.Subscriptions) != 0 || !st.Present {
		t.Errorf("after UNSUBSCRIBE of everything: %+v", st)
	}

	// All or nothing.
	bad := everything(st, u[0])
	bad.Epoch, bad.EndAll, bad.Keep = st.Epoch+1, true, []chat.CursorState{{ConversationID: a.ID, Acked: -1}}
	if _, err := s.ChangeSubscriptions(t.Context(), bad); chat.CodeOf(err) != chat.Invalid {
		t.Errorf("error = %v", err)
	}
	wantCursors(t, s, st.ID, map[chat.ID]int64{b.ID: 12})
	if n := count(t, s, `SELECT jsonb_array_length(subscriptions) FROM sessions WHERE id = $1`, st.ID); n != 0 {
		t.Errorf("%d subscriptions are stored", n)
	}
}

// A SUBSCRIBE met the periodic saving of the same session's cursors: its snapshot
// could not change what had been saved after it (40001), and the client was told
// that the server was away.
func TestChangeSubscriptionsWhileSaving(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	var keep []chat.CursorState
	st := take(t, s, u[0], "phone")
	for range 10 {
		g := group(t, s, now, u...)
		post(t, s, g.ID, u[0], 1000)
		keep = append(keep, chat.CursorState{ConversationID: g.ID})
	}
	ctx, cancel := context.WithCancel(t.Context())
	all := slices.Clone(keep)
	var wg sync.WaitGroup
	wg.Go(func() {
		for seq := int64(1); seq <= 1000 && ctx.Err() == nil; seq++ {
			var updates []chat.CursorUpdate
			for _, k := range all {
				updates = append(updates, chat.CursorUpdate{SessionID: st.ID, Epoch: st.Epoch, ConversationID: k.ConversationID, Acked: seq})
			}
			if err := s.SaveCursors(ctx, updates, nil); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for seq := range int64(60) {
		for i := range keep {
			keep[i].Acked = seq*7 + 1
		}
		c := everything(st, u[0])
		c.Keep, c.EndAll = keep, seq%3 == 0
		if _, err := s.ChangeSubscriptions(t.Context(), c); err != nil {
			t.Errorf("change %d: %v", seq, err)
		}
	}
	cancel()
	wg.Wait()
	storetest.Check(t, s)
}

// Twenty connections of one device at once: one after the other has it.
func TestTakeSessionTogether(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	for round := range 3 {
		var mu sync.Mutex
		var epochs []int64
		ids := map[chat.ID]bool{}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				st, err := s.TakeSession(t.Context(), chat.SessionTake{
					UserID: u[0], ClientID: fmt.Sprint("phone", round), Expiry: time.Hour, Now: now, CleanStart: round == 2 && i%2 == 0,
				})
				if err != nil {
					if round < 2 || chat.CodeOf(err) != chat.Unavailable { // clean starts may miss one another three times
						t.Error(err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				epochs, ids[st.ID] = append(epochs, st.Epoch), true
			})
		}
		wg.Wait()
		slices.Sort(epochs)
		if unique := slices.Compact(slices.Clone(epochs)); round < 2 && (len(unique) != 20 || len(ids) != 1) {
			t.Errorf("epochs %v of %d sessions", epochs, len(ids))
		}
		if n := count(t, s, `SELECT count(*) FROM sessions WHERE client_id = $1`, fmt.Sprint("phone", round)); n != 1 {
			t.Errorf("%d sessions are stored", n)
		}
	}
}

// A session's end: with an expiry its rows stay until then, without they go.
// Devices that connect at the same time share a statement, and each gets what is its own.
func TestResumeSessionsTogether(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 10)
	c := group(t, s, now, u...)
	post(t, s, c.ID, u[0], 5)
	type device struct {
		user   chat.ID
		client string
		state  *chat.SessionState
	}
	var devices []device
	for i := range 60 {
		d := device{user: u[i%len(u)], client: fmt.Sprint("d", i)}
		d.state = take(t, s, d.user, d.client)
		change(t, s, everything(d.state, d.user))
		devices = append(devices, d)
		if i%3 == 0 { // no other device has these
			part(t, s, d.state, func(p *chat.SessionPart) { p.NextPacketID = uint16(1000 + i) })
		}
	}
	var wg sync.WaitGroup
	for i, d := range devices {
		wg.Go(func() {
			st, err := s.TakeSession(t.Context(), chat.SessionTake{UserID: d.user, ClientID: d.client, Expiry: time.Hour, Node: "n", Now: now})
			switch {
			case err != nil:
				t.Error(err)
			case !st.Present || st.ID != d.state.ID || st.Epoch <= d.state.Epoch || len(st.Cursors) != 1 || st.Cursors[0].LastSeq != 6 || i%3 == 0 && st.NextPacketID != uint16(1000+i):
				t.Errorf("device %d resumed %+v, want session %v", i, st, d.state.ID)
			}
		})
		wg.Go(func() { // there is none
			if st, err := s.TakeSession(t.Context(), chat.SessionTake{UserID: d.user, ClientID: d.client + "new", Node: "n", Now: now}); err != nil || st.Present {
				t.Errorf("a new device got %+v, %v", st, err)
			}
		})
	}
	wg.Wait()
	storetest.Check(t, s)
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	g := group(t, s, now, u...)
	for i, expiry := range []time.Duration{0, time.Second, time.Hour, 90 * 24 * time.Hour, math.MaxInt64} {
		st := take(t, s, u[0], fmt.Sprint(i), func(o *chat.SessionTake) { o.Expiry = max(expiry, time.Hour) })
		change(t, s, everything(st, u[0]))
		part(t, s, st, func(p *chat.SessionPart) {
			p.Expiry, p.Cursors = expiry, []chat.CursorState{{ConversationID: g.ID, Acked: 1}}
		})
	}
	connected := take(t, s, u[0], "connected", func(o *chat.SessionTake) { o.Expiry = time.Second })
	change(t, s, everything(connected, u[0]))
	left := func(want int) {
		t.Helper()
		sessions, rows := count(t, s, `SELECT count(*) FROM sessions`), count(t, s, `SELECT count(*) FROM session_cursors`)
		if sessions != want || rows != want {
			t.Errorf("%d sessions with %d cursors are left, want %d", sessions, rows, want)
		}
	}
	left(5)
	for _, step := range []struct {
		at      time.Duration
		limit   int
		removed int64
		left    int
	}{
		{time.Second - time.Millisecond, 100, 0, 5},
		{time.Second, 100, 1, 4},
		{91 * 24 * time.Hour, 1, 1, 3},
		{91 * 24 * time.Hour, 1, 1, 2},
		{100 * 365 * 24 * time.Hour, 100, 0, 2},
	} {
		n, err := s.DeleteExpiredSessions(t.Context(), now.Add(step.at), step.limit)
		if err != nil || n != step.removed {
			t.Errorf("after %v: removed %d, %v; want %d", step.at, n, err, step.removed)
		}
		left(step.left)
	}
	if st := take(t, s, u[0], "4", func(o *chat.SessionTake) { o.Now = now.AddDate(200, 0, 0) }); !st.Present {
		t.Error("200 years are less than 292")
	}
}

// After a crash the expiry of those that were connected begins anew, for the
// node's sessions alone, or for all.
func TestReleaseSessions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	at := func(node string) func(*chat.SessionTake) { return func(o *chat.SessionTake) { o.Node = node } }
	take(t, s, u[0], "a1", at("a"))
	take(t, s, u[0], "a2", at("a"), func(o *chat.SessionTake) { o.Expiry = math.MaxInt64 })
	take(t, s, u[0], "b", at("b"))
	part(t, s, take(t, s, u[0], "away", at("a")), func(p *chat.SessionPart) { p.NextPacketID = 9 })
	later := now.Add(24 * time.Hour)
	for _, step := range []struct {
		node string
		want int64
	}{{"a", 2}, {"a", 0}, {"c", 0}, {"", 1}, {"", 0}} {
		if n, err := s.ReleaseSessions(t.Context(), step.node, later); err != nil || n != step.want {
			t.Errorf("released %d of node %q, %v; want %d", n, step.node, err, step.want)
		}
	}
	for id, want := range map[string]uint16{"a1": 40_503, "b": 40_503, "away": 9} {
		if st := take(t, s, u[0], id, func(o *chat.SessionTake) { o.Now = later }); st.Present != (id != "away") || id != "away" && st.NextPacketID != want {
			t.Errorf("%s: %+v", id, st)
		}
	}
}

// Places were being saved while the connection ended, and the packet identifier
// from then came into the database after that from the end: the next connection
// gave new messages the identifiers of those that were on their way, and a client at
// QoS 2 dropped them as repeats. The campaign found it.
func TestSavePacketIDsAfterTheEnd(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	st := take(t, s, u[0], "phone")
	part(t, s, st, func(p *chat.SessionPart) { p.NextPacketID = 100 })
	late := []chat.PacketIDUpdate{{SessionID: st.ID, Epoch: st.Epoch, Next: 86}}
	if err := s.SaveCursors(t.Context(), nil, late); err != nil {
		t.Fatal(err)
	}
	if next := take(t, s, u[0], "phone").NextPacketID; next != 100 {
		t.Errorf("next is %d, want 100: what was saved at the end", next)
	}
}

// A server that was killed twice in a row was back at the packet identifiers of
// before the first time, since each kill moved them by half the circle. A client at
// QoS 2 that still held some of those, because it had not been told PUBREL for them,
// took new messages for repeats and dropped them. The campaign found it.
func TestPacketIDsAfterCrashes(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	used := []int{int(take(t, s, u[0], "phone").NextPacketID)}
	for crash := range 12 {
		if crash%2 == 0 { // told of by the next server, or found by the next connection
			if _, err := s.ReleaseSessions(t.Context(), "", now); err != nil {
				t.Fatal(err)
			}
		}
		next := int(take(t, s, u[0], "phone").NextPacketID)
		for _, id := range used {
			away := (next - id + 65535) % 65535
			if away = min(away, 65535-away); away < 2000 {
				t.Errorf("after crash %d: next is %d, and %d has been in use", crash+1, next, id)
			}
		}
		used = append(used, next)
	}
}

// Where a client may hold identifiers that it was not told PUBREL for is known
// from a crash until it has answered.
func TestHeldPacketIDs(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	st := take(t, s, u[0], "phone")
	if len(st.HeldPacketIDs) > 0 {
		t.Errorf("a new session holds %d", st.HeldPacketIDs)
	}
	next := func(id uint16, released bool) {
		t.Helper()
		if err := s.SaveCursors(t.Context(), nil, []chat.PacketIDUpdate{{SessionID: st.ID, Epoch: st.Epoch, Next: id, Released: released}}); err != nil {
			t.Fatal(err)
		}
	}
	var want []uint16
	crash := func(id uint16) {
		t.Helper()
		if len(want)%2 == 0 {
			if _, err := s.ReleaseSessions(t.Context(), "", now); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, id)
		want = want[max(0, len(want)-chat.MaxHeldPacketIDs):]
		if st = take(t, s, u[0], "phone"); !slices.Equal(st.HeldPacketIDs, want) {
			t.Errorf("the client may hold %d, want %d", st.HeldPacketIDs, want)
		}
	}
	for i := range uint16(10) {
		next(1000*(i+1), false)
		crash(1000 * (i + 1))
	}
	part(t, s, st, func(p *chat.SessionPart) { p.HeldPacketIDs = want })
	if st = take(t, s, u[0], "phone"); !slices.Equal(st.HeldPacketIDs, want) {
		t.Errorf("after an orderly end without an answer the client may hold %d, want %d", st.HeldPacketIDs, want)
	}
	next(77, true)
	want = nil
	crash(77)
	part(t, s, st)
	if st = take(t, s, u[0], "phone"); len(st.HeldPacketIDs) > 0 {
		t.Errorf("after an orderly end the client may hold %d", st.HeldPacketIDs)
	}
}

// Beyond the limit, the session that has been away for longest is forgotten: not
// the one whose connection was made first, which may have ended just now.
func TestMaxUserSessions(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	faithful := take(t, s, u[0], "faithful", func(o *chat.SessionTake) { o.Now = now.AddDate(-1, 0, 0) })
	take(t, s, u[0], "connected", func(o *chat.SessionTake) { o.Now = now.AddDate(-1, 0, 0) })
	for i := range chat.MaxUserSessions - 1 {
		at := now.Add(time.Duration(i) * time.Minute)
		st := take(t, s, u[0], fmt.Sprint(i), func(o *chat.SessionTake) { o.Now = at })
		part(t, s, st, func(p *chat.SessionPart) { p.Now, p.Expiry = at, time.Duration(100-i)*24*time.Hour })
	}
	part(t, s, faithful, func(p *chat.SessionPart) { p.Now = now.Add(2 * time.Hour) })
	for i := range 5 {
		at := now.Add(2*time.Hour + time.Duration(i)*time.Minute)
		st := take(t, s, u[0], fmt.Sprint("new", i), func(o *chat.SessionTake) { o.Now = at })
		for j, want := range []bool{true, true, false, i < 1} {
			id := []string{"faithful", "connected", "0", "1"}[j]
			if n := count(t, s, `SELECT count(*) FROM sessions WHERE client_id = $1`, id); (n == 1) != want {
				t.Errorf("after %d more: session %q is there: %v, want %v", i+1, id, n == 1, want)
			}
		}
		part(t, s, st, func(p *chat.SessionPart) { p.Now = at })
	}
	if n := count(t, s, `SELECT count(*) FROM sessions WHERE expires_at IS NOT NULL`); n != chat.MaxUserSessions {
		t.Errorf("%d sessions are away", n)
	}
}

// A session that is being taken while others of its user push it out stays.
func TestMaxUserSessionsWhileTaken(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	for i := range chat.MaxUserSessions {
		at := now.Add(time.Duration(i) * time.Minute)
		part(t, s, take(t, s, u[0], fmt.Sprint(i)), func(p *chat.SessionPart) { p.Now = at })
	}
	oldest := "0"
	if count(t, s, `SELECT count(*) FROM sessions WHERE client_id = '0'`) == 0 {
		oldest = "1"
	}
	tx, err := s.Pool().Begin(t.Context()) // plays the one that takes it
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `UPDATE sessions SET epoch = epoch + 1, expires_at = NULL WHERE client_id = $1`, oldest); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.TakeSession(t.Context(), chat.SessionTake{UserID: u[0], ClientID: "new", Expiry: time.Hour, Now: now})
		done <- err
	}()
	deadline := time.Now().Add(20 * time.Second)
	for count(t, s, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0 && time.Now().Before(deadline) {
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := errors.Join(tx.Commit(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	if count(t, s, `SELECT count(*) FROM sessions WHERE client_id = $1`, oldest) != 1 {
		t.Error("a session that had just been taken was removed")
	}
}

func TestReadEvents(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	a, foreign := group(t, s, now, u[:2]...), group(t, s, now, u[1:]...)
	for _, g := range []*chat.Conversation{a, foreign} {
		post(t, s, g.ID, u[1], 9)
	}
	exec(t, s, `UPDATE participants SET joined_seq = 4 WHERE conversation_id = $1 AND user_id = $2`, a.ID, u[0])
	var refs []chat.EventRef
	for seq := range int64(12) {
		refs = append(refs, chat.EventRef{ConversationID: a.ID, Seq: seq}, chat.EventRef{ConversationID: foreign.ID, Seq: seq})
	}
	events, err := s.ReadEvents(t.Context(), u[0], append(refs, refs...))
	if err != nil {
		t.Fatal(err)
	}
	var seqs []int64
	for _, e := range events {
		if e.ConversationID != a.ID || e.SenderID != u[1] || e.Content == "" {
			t.Errorf("got %+v", e)
		}
		seqs = append(seqs, e.Seq)
	}
	slices.Sort(seqs)
	if !slices.Equal(seqs, []int64{4, 5, 6, 7, 8, 9, 10}) {
		t.Errorf("got events %d", seqs)
	}
	if events, err := s.ReadEvents(t.Context(), u[0], nil); err != nil || len(events) != 0 {
		t.Errorf("none: %v, %v", events, err)
	}
}

func TestSessionsUnavailable(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	id := chat.NewID()
	s.Close()
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"take": func() error {
			_, err := s.TakeSession(ctx, chat.SessionTake{UserID: id, Expiry: 1e9, Now: now})
			return err
		},
		"change": func() error { _, err := s.ChangeSubscriptions(ctx, chat.SubscriptionChange{SessionID: id}); return err },
		"save":   func() error { return s.SaveCursors(ctx, make([]chat.CursorUpdate, 1), nil) },
		"next":   func() error { return s.SaveCursors(ctx, nil, make([]chat.PacketIDUpdate, 1)) },
		"part":   func() error { return s.PartSession(ctx, chat.SessionPart{ID: id, Expiry: time.Hour}) },
		"end":    func() error { return s.PartSession(ctx, chat.SessionPart{ID: id}) },
		"free":   func() error { _, err := s.ReleaseSessions(ctx, "", now); return err },
		"expire": func() error { _, err := s.DeleteExpiredSessions(ctx, now, 1); return err },
		"events": func() error { _, err := s.ReadEvents(ctx, id, make([]chat.EventRef, 1)); return err },
	} {
		t.Run(name, func(t *testing.T) { wantError(t, call(), chat.Unavailable, "") })
	}
}

// Each rule of the oracle about sessions finds what breaks it, alone.
func TestVerifySessions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		rule, sql string
		inConv    bool
	}{
		{"session-user", `UPDATE sessions SET user_id = gen_random_uuid()`, false},
		{"cursor", `UPDATE session_cursors SET seq = 5`, true},
		{"cursor", `UPDATE session_cursors SET conversation_id = gen_random_uuid()`, false},
		{"cursor-session", `ALTER TABLE session_cursors DROP CONSTRAINT session_cursors_session; UPDATE session_cursors SET session_id = gen_random_uuid()`, true},
		{"inflight", `UPDATE sessions SET inflight = jsonb_set(inflight, '{1,seq}', '5')`, true},
		{"inflight", `UPDATE sessions SET inflight = jsonb_set(inflight, '{1,seq}', '0')`, true},
		{"packet-id", `UPDATE sessions SET inflight = jsonb_set(inflight, '{1,packetId}', '2')`, false},
		{"packet-id", `UPDATE sessions SET next_packet_id = 3`, false},
	} {
		t.Run(tt.sql, func(t *testing.T) {
			t.Parallel()
			s := storetest.New(t)
			u := users(t, s, 2)
			g := group(t, s, now, u...)
			post(t, s, g.ID, u[1], 3)
			st := take(t, s, u[0], "phone")
			change(t, s, everything(st, u[0]))
			part(t, s, st, func(p *chat.SessionPart) {
				p.Inflight = []chat.InflightState{
					{PacketID: 65534, ConversationID: g.ID, Seq: 2, QoS: 1}, {PacketID: 65535, ConversationID: g.ID, Seq: 3, QoS: 1}, {PacketID: 1, ConversationID: g.ID, Seq: 4, QoS: 1},
				}
				p.NextPacketID = 2
			})
			storetest.Check(t, s)
			exec(t, s, "DO $$ BEGIN "+tt.sql+"; END $$")
			found, err := s.Verify(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 || found[0].Rule != tt.rule || tt.inConv && found[0].Conversation != g.ID {
				t.Errorf("found %v, want %s", found, tt.rule)
			}
		})
	}
}
