package store_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

const lease = time.Second

func acquire(ctx context.Context, s *store.Store, node, id string, wait time.Duration) (*store.NodeLease, error) {
	return s.AcquireNodeLease(ctx, store.NodeLeaseOptions{Node: node, ID: id, Duration: lease}, wait)
}

func acquireAlone(ctx context.Context, s *store.Store, wait time.Duration) (*store.NodeLease, error) {
	return s.AcquireNodeLease(ctx, store.NodeLeaseOptions{Node: "alone", ID: chat.NewID().String(), Exclusive: true, Duration: lease}, wait)
}

func mustAcquire(t *testing.T, s *store.Store, node, id string) *store.NodeLease {
	t.Helper()
	l, err := acquire(t.Context(), s, node, id, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.WithoutCancel(t.Context())) })
	return l
}

func heartbeat(t *testing.T, l *store.NodeLease) chat.Heartbeat {
	t.Helper()
	found, err := l.Heartbeat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range [][]chat.NodeState{found.Others, found.Unreleased} {
		for i, n := range list {
			if age := time.Since(n.SeenAt); age < 0 || age > time.Minute {
				t.Errorf("%s was seen %v ago", n.Name, age)
			}
			list[i].SeenAt = time.Time{}
		}
	}
	return found
}

// Nodes that know of each other share a database; a name is one node's, and a node
// alone is alone.
func TestAcquireNodeLease(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	s, other := storetest.Open(t, dsn), storetest.Open(t, dsn)
	a := mustAcquire(t, s, "a", "a1")
	if at := a.Formerly(); !at.IsZero() {
		t.Errorf("a node that never ran was last seen at %v", at)
	}
	mustAcquire(t, other, "b", "b1")
	_, err := acquire(t.Context(), other, "a", "a2", 0)
	wantError(t, err, chat.Conflict, "database")
	_, err = acquireAlone(t.Context(), other, 0)
	wantError(t, err, chat.Conflict, "database")
	if found := heartbeat(t, a); found.Evicted || len(found.Unreleased) > 0 || !slices.Equal(found.Others, []chat.NodeState{{Name: "b", ID: "b1", Alive: true}}) {
		t.Errorf("a found %+v", found)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// The columns of both heartbeats say the same, and until when the former process ran.
	var seen, beat time.Time
	if err := s.Pool().QueryRow(t.Context(), `SELECT seen_at, beat_at FROM nodes WHERE name = 'a'`).Scan(&seen, &beat); err != nil || beat.Sub(seen).Abs() > time.Millisecond {
		t.Errorf("seen at %v, and at %v: %v", seen, beat, err)
	}
	if at := mustAcquire(t, other, "a", "a2").Formerly(); !at.Equal(beat) && !at.Equal(seen) {
		t.Errorf("a was last seen at %v, want %v", at, beat)
	}
	alone, err := acquireAlone(t.Context(), storetest.New(t), 0) // on another database
	if err != nil {
		t.Fatal(err)
	}
	if err := alone.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A node whose heartbeats have stopped is evicted by one of the others, and finds out.
func TestEvict(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := mustAcquire(t, storetest.Open(t, dsn), "a", "a1")
	b := mustAcquire(t, storetest.Open(t, dsn), "b", "b1")
	c := mustAcquire(t, storetest.Open(t, dsn), "c", "c1")
	dead := chat.NodeState{Name: "a", ID: "a1"}
	if won, err := b.Evict(t.Context(), dead); err != nil || won {
		t.Fatalf("a node that lives was evicted: %v", err)
	}
	for !slices.Contains(heartbeat(t, b).Others, dead) { // until its lease is over; the test's own timeout says if it never is
		heartbeat(t, c)
		time.Sleep(50 * time.Millisecond)
	}
	first, err1 := b.Evict(t.Context(), dead)
	second, err2 := c.Evict(t.Context(), dead)
	if err1 != nil || err2 != nil || !first || second {
		t.Errorf("evicted by b: %v %v, by c: %v %v", first, err1, second, err2)
	}
	if found := heartbeat(t, c); !slices.Equal(found.Unreleased, []chat.NodeState{{Name: "a"}}) {
		t.Errorf("c found %+v", found)
	}
	if err := b.Released(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if found := heartbeat(t, c); len(found.Unreleased) > 0 || len(found.Others) != 1 {
		t.Errorf("c found %+v", found)
	}
	if found := heartbeat(t, a); !found.Evicted {
		t.Errorf("a does not know that it was evicted: %+v", found)
	}
	if err := a.Rejoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := heartbeat(t, a); found.Evicted {
		t.Error("a was evicted again")
	}
	if found := heartbeat(t, c); !slices.Contains(found.Others, chat.NodeState{Name: "a", ID: "a1", Alive: true}) {
		t.Errorf("c found %+v", found)
	}
}

// A node alone keeps any other one out. One whose connection was cut, and whose database
// another one has taken meanwhile, finds out with its next heartbeat.
func TestExclusiveNodeLease(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	first, second := storetest.Open(t, dsn), storetest.Open(t, dsn)
	a, err := acquireAlone(t.Context(), first, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := acquireAlone(t.Context(), second, time.Second); chat.CodeOf(err) != chat.Conflict {
		t.Errorf("a second node alone: %v", err)
	}
	if _, err := acquire(t.Context(), second, "b", "b1", 0); chat.CodeOf(err) != chat.Conflict {
		t.Errorf("a node of several, beside a node alone: %v", err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
	b, err := acquireAlone(t.Context(), second, time.Second)
	if err != nil {
		t.Fatalf("the lease was not given up: %v", err)
	}
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'parley node %' AND datname = current_database()"); err != nil {
		t.Fatal(err)
	}
	c, err := acquireAlone(t.Context(), first, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Heartbeat(t.Context()) // finds that the connection is broken
	for chat.CodeOf(err) == chat.Unavailable {
		_, err = b.Heartbeat(t.Context())
	}
	if chat.CodeOf(err) != chat.Conflict {
		t.Errorf("the node that lost its lease goes on: %v", err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A line to the database went silent for a moment: the node connected anew, found
// its own former connection with the lock, took it for another node and ended. The
// campaign found it.
func TestNodeLeaseAfterSilence(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	a, err := acquireAlone(t.Context(), s, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lost := store.LoseConnection(a) // the database does not know yet
	defer func() { _ = lost.Close(context.WithoutCancel(t.Context())) }()
	_, err = a.Heartbeat(t.Context())
	for chat.CodeOf(err) == chat.Unavailable { // until the former connection is gone
		_, err = a.Heartbeat(t.Context())
	}
	if err != nil {
		t.Fatal("the node did not get its own lock back:", err)
	}
	if err := a.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever moves a log, changes who is a member of it, or takes a session from another
// node is in the outbox of the others, once, however late its transaction ends.
func TestOutbox(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Node: func() string { return "a1" }})
	defer r.finish()
	u := r.members
	a, b := mustAcquire(t, r.s, "a", "a1"), mustAcquire(t, r.s, "b", "b1")
	read := func(p *store.NodeLease) []chat.OutboxEntry {
		t.Helper()
		list, whole, err := p.ReadOutbox(t.Context())
		if err != nil || !whole {
			t.Fatalf("the outbox is whole: %v, %v", whole, err)
		}
		return list
	}
	for _, p := range []*store.NodeLease{a, b} {
		if _, whole, err := p.ReadOutbox(t.Context()); err != nil || whole {
			t.Fatalf("the first reading is whole: %v, %v", whole, err)
		}
	}
	r.s.UseOutbox("a1")
	g := group(t, r.s, now, u[0], u[1])
	if got := read(b); len(got) != 1 || got[0] != (chat.OutboxEntry{ConversationID: g.ID, Seq: 1, MembersVersion: 1, Members: true}) {
		t.Errorf("after it was made: %+v", got)
	}
	late, err := r.s.Pool().Begin(t.Context()) // older than the readings, and ends after them
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.Exec(t.Context(), `INSERT INTO journal (node, conversations, seqs, versions) VALUES ('c1', ARRAY[$1::uuid], ARRAY[70::int8], ARRAY[1::int8])`, g.ID); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		m := r.message(u[0], chat.ID{}, "hello")
		r.append(m)
		r.stored(m)
		if got := read(b); len(got) != 1 || got[0] != (chat.OutboxEntry{ConversationID: r.conv, Seq: int64(i + 2), MembersVersion: 1}) {
			t.Errorf("after message %d: %+v", i, got)
		}
	}
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := read(b); len(got) != 1 || got[0].Seq != 70 {
		t.Errorf("what was committed late: %+v", got)
	}
	if _, err := r.s.AddParticipants(t.Context(), chat.NewParticipants{Actor: u[0], ConversationID: g.ID, Users: u[2:3], Role: chat.GroupMember}, now); err != nil {
		t.Fatal(err)
	}
	if got := read(b); len(got) != 1 || got[0] != (chat.OutboxEntry{ConversationID: g.ID, Seq: 2, MembersVersion: 2, Members: true}) {
		t.Errorf("after somebody was added: %+v", got)
	}
	for _, clean := range []bool{false, true} {
		there := take(t, r.s, u[0], "phone", func(o *chat.SessionTake) { o.Node = "b" })
		here := take(t, r.s, u[0], "phone", func(o *chat.SessionTake) { o.Node, o.CleanStart = "a", clean })
		if here.From != "b" || here.Epoch <= there.Epoch {
			t.Errorf("clean %v: taken from b: %+v", clean, here)
		}
		got := read(b)
		if i := len(got) - 1; i < 0 || got[i].Superseded == nil || *got[i].Superseded != (chat.SupersededNotice{UserID: u[0], ClientID: "phone", Epoch: here.Epoch, Resumed: !clean}) {
			t.Errorf("clean %v: after the session was taken: %+v", clean, got)
		}
	}
	if got := read(a); len(got) != 1 || got[0].Seq != 70 {
		t.Errorf("a node reads its own rows: %+v", got)
	}
	exec(t, r.s, `UPDATE journal SET at = at - interval '2 minutes' WHERE node = 'a1'`)
	if err := a.PruneOutbox(t.Context()); err != nil {
		t.Error(err)
	}
	if n := count(t, r.s, `SELECT count(*) FROM journal`); n != 1 {
		t.Errorf("%d rows are left", n)
	}
}

// What came over a connection that is not its device's newest any more is not stored,
// and nothing else suffers from it.
func TestPassedConnections(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Node: func() string { return "a1" }})
	defer r.finish()
	u := r.members
	old := take(t, r.s, u[0], "phone")
	other := take(t, r.s, u[1], "phone", func(o *chat.SessionTake) { o.Expiry, o.Note = 0, true })
	from := func(sender chat.ID, device string, epoch int64) *outcome {
		o := r.message(sender, chat.ID{}, device)
		o.Device, o.Epoch = device, epoch
		return o
	}
	first := from(u[0], "phone", old.Epoch)
	r.append(first)
	r.stored(first)
	newer := take(t, r.s, u[0], "phone", func(o *chat.SessionTake) { o.CleanStart = true })
	passed := from(u[0], "phone", old.Epoch)
	good := []*outcome{from(u[0], "phone", newer.Epoch), from(u[1], "phone", other.Epoch), from(u[2], "gone", 1), r.message(u[0], chat.NewID(), "by key")}
	release := r.hold()
	r.append(good[0], passed)
	r.append(good[1:]...)
	release()
	wantCode(t, r.wait(passed), chat.Unavailable)
	r.stored(good...)
	if n := count(t, r.s, `SELECT count(*) FROM events WHERE conversation_id = $1 AND type = 'message'`, r.conv); n != 6 {
		t.Errorf("%d messages are stored", n)
	}

	// Sent again over the new connection, to the same batch: it is stored once.
	release = r.hold()
	blocker := r.message(u[1], chat.ID{}, "first")
	r.append(blocker)
	before, again := r.resent(7, 1, 1, false, "lost?"), r.resent(7, 1, 2, true, "lost?")
	before.Device, before.Epoch, again.Device, again.Epoch = "phone", old.Epoch, "phone", newer.Epoch
	before.Event.SenderID, again.Event.SenderID = u[0], u[0]
	r.append(before, again)
	release()
	wantCode(t, r.wait(before), chat.Unavailable)
	r.stored(blocker, again)
	if n := count(t, r.s, `SELECT count(*) FROM events WHERE conversation_id = $1 AND content = 'lost?'`, r.conv); n != 1 {
		t.Errorf("it is stored %d times", n)
	}
}

// What waits for a row at one node, while its device connects at another one and sends it
// again there, is stored once: the campaign over several nodes found both. The statement
// had looked for newer connections with the snapshot of before it waited.
func TestPassedWhileWaiting(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newWriterRig(t, store.WriterOptions{Shards: 1, Node: func() string { return "a1" }})
	defer r.finish()
	held := group(t, r.s, now, r.members...).ID // locked before target: ids are in the order of their making
	target := group(t, r.s, now, r.members...).ID
	lock := func(conversation chat.ID) (release func()) {
		tx, err := r.s.Pool().Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(ctx, `SELECT FROM conversations WHERE id = $1 FOR UPDATE`, conversation); err != nil {
			t.Fatal(err)
		}
		return func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }
	}
	old := take(t, r.s, r.members[0], "phone")
	release := r.hold()
	releaseHeld := lock(held)
	beside, before := r.message(r.members[1], chat.ID{}, "beside"), r.resent(7, 1, 1, false, "sent again")
	beside.Event.ConversationID, before.Event.ConversationID = held, target
	before.Device, before.Epoch = "phone", old.Epoch
	r.append(beside, before) // in one batch
	release()
	for count(t, r.s, `SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN conversations c ON c.id = $1
		WHERE NOT l.granted AND a.application_name = 'writer' AND a.datname = current_database() AND c.last_seq > 1`, r.conv) == 0 {
		time.Sleep(time.Millisecond) // until it waits for the next lock
	}

	newer := take(t, r.s, r.members[0], "phone", func(o *chat.SessionTake) { o.Node = "b" })
	other := store.NewWriter(r.s.WriterConfig(), store.WriterOptions{
		Node: func() string { return "b1" }, Recheck: r.rules.Recheck, Committed: func(context.Context, *chat.Event, int64) {},
	})
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- other.Run(running) }()
	defer func() { stop(); <-ended }()
	again := r.resent(7, 1, 2, true, "sent again")
	again.Event.ConversationID, again.Device, again.Epoch = target, "phone", newer.Epoch
	if err := other.Append(ctx, &again.Append); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(again); err != nil {
		t.Fatal(err)
	}
	releaseHeld()
	wantCode(t, r.wait(before), chat.Unavailable)
	r.stored(beside)
	if n := count(t, r.s, `SELECT count(*) FROM events WHERE conversation_id = $1 AND content = 'sent again'`, target); n != 1 {
		t.Errorf("it is stored %d times", n)
	}
}

// A session that is connected at another node waits for that node, if it is asked to,
// and is taken when it has parted from it, with what was stored then; or by force.
func TestAwaitSession(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	s.UseOutbox("a1")
	u := users(t, s, 1)
	at := func(node string, await, clean bool) func(*chat.SessionTake) {
		return func(o *chat.SessionTake) { o.Node, o.Await, o.CleanStart, o.Note = node, await, clean, true }
	}
	first := take(t, s, u[0], "phone", at("a", true, false))
	if st := take(t, s, u[0], "phone", at("b", true, false)); !st.Elsewhere || st.From != "a" || st.Epoch != first.Epoch || !st.ID.IsZero() {
		t.Errorf("connected at a: %+v", st)
	}
	if st := take(t, s, u[0], "phone", at("a", true, false)); st.Elsewhere || st.Epoch <= first.Epoch {
		t.Errorf("at a itself: %+v", st)
	} else {
		first = st
	}
	part(t, s, first, func(p *chat.SessionPart) { p.NextPacketID = 77 })
	if st := take(t, s, u[0], "phone", at("b", true, false)); st.Elsewhere || !st.Present || st.NextPacketID != 77 || st.From != "a" {
		t.Errorf("parted from a: %+v", st)
	}
	if st := take(t, s, u[0], "phone", at("a", false, false)); st.Elsewhere || !st.Present || st.From != "b" {
		t.Errorf("by force: %+v", st)
	}
	if st := take(t, s, u[0], "phone", at("b", true, true)); st.Elsewhere || st.Present || st.From != "a" {
		t.Errorf("with a clean start: %+v", st)
	}
}
