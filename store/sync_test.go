package store_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// syncer asks for what has changed, as a client does.
type syncer struct {
	s      *store.Store
	user   chat.ID
	cursor []byte
}

// page asks once.
func (c *syncer) page(ctx context.Context, limit int) (*chat.SyncPage, error) {
	p, err := c.s.Sync(ctx, chat.SyncQuery{UserID: c.user, Cursor: c.cursor, Limit: limit})
	if err != nil {
		return nil, err
	}
	if len(p.Items) > limit {
		return nil, fmt.Errorf("%d items, limit %d", len(p.Items), limit)
	}
	c.cursor = p.Next
	return p, nil
}

// run asks until there is no more.
func (c *syncer) run(t testing.TB, limit int) []chat.SyncItem {
	t.Helper()
	var all []chat.SyncItem
	for {
		p, err := c.page(t.Context(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, p.Items...); !p.More {
			return all
		}
	}
}

// brief tells of items in few words, with the names of ids.
func brief(items []chat.SyncItem, names map[chat.ID]string) string {
	out := make([]string, 0, len(items))
	for _, i := range items {
		c := names[i.ConversationID]
		switch i.Type {
		case chat.SyncProfile:
			out = append(out, fmt.Sprintf("profile %s %s", names[i.User.ID], i.User.DisplayName))
		case chat.SyncLeft:
			out = append(out, "left "+c)
		case chat.SyncConversation:
			out = append(out, fmt.Sprintf("conversation %s from %d", names[i.Conversation.ID], i.JoinedSeq))
		case chat.SyncEvent:
			out = append(out, fmt.Sprintf("event %s %d", names[i.Event.ConversationID], i.Event.Seq))
		case chat.SyncRead:
			out = append(out, fmt.Sprintf("read %s %s %d", c, names[i.UserID], i.UpTo))
		}
	}
	return strings.Join(out, ", ")
}

const (
	leaveSQL = `
WITH gone AS (DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2 RETURNING user_id)
INSERT INTO departures (user_id, conversation_id, left_at) SELECT user_id, $1, now() FROM gone`
	joinSQL = `
WITH back AS (
  DELETE FROM departures WHERE conversation_id = $1 AND user_id = $2
), moved AS (
  UPDATE conversations SET last_seq = last_seq + 1, last_xid = pg_current_xact_id() WHERE id = $1 RETURNING *
), said AS (
  INSERT INTO events (conversation_id, seq, id, sender_id, created_at, type, detail)
  SELECT id, last_seq, gen_random_uuid(), $2, last_event_at, 'conversation', jsonb_build_object('op', 'joined', 'userIds', jsonb_build_array($2)) FROM moved
)
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq, read_seq)
SELECT m.id, $2, 'member', now(), m.last_seq, coalesce((SELECT max(seq) FROM reads WHERE conversation_id = m.id AND user_id = $2), 0) FROM moved m`
	readSQL = `
WITH moved AS (
  UPDATE participants SET read_seq = $3, read_at = now(), read_xid = pg_current_xact_id()
  WHERE conversation_id = $1 AND user_id = $2 AND read_seq < $3 RETURNING *
)
INSERT INTO reads (conversation_id, user_id, seq, at) SELECT conversation_id, user_id, read_seq, read_at FROM moved`
	roleSQL = `UPDATE participants SET role = 'admin', xid = pg_current_xact_id() WHERE conversation_id = $1 AND user_id = $2`
)

// The story of one user, with every kind of change, in pages of any size.
func TestSync(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 3)
	names := map[chat.ID]string{u[0]: "ann", u[1]: "bob", u[2]: "cid"}
	a := group(t, s, now, u[1], u[0], u[2])
	b := group(t, s, now, u[:2]...)
	names[a.ID], names[b.ID] = "a", "b"
	post(t, s, a.ID, u[1], 2)

	clients := []*syncer{}
	for range 4 {
		clients = append(clients, &syncer{s: s, user: u[0]})
	}
	want := func(what, items string) {
		t.Helper()
		for n, c := range clients {
			if got := brief(c.run(t, []int{1, 2, 3, 500}[n]), names); got != items {
				t.Errorf("%s, client %d: got\n%s, want\n%s", what, n, got, items)
			}
		}
	}
	rename := func(user chat.ID, name string) {
		t.Helper()
		if _, err := s.UpdateUser(t.Context(), user, identity.UserUpdate{DisplayName: &name}); err != nil {
			t.Fatal(err)
		}
	}
	want("from the beginning", "profile ann USER0, profile bob USER1, profile cid USER2, conversation a from 1, conversation b from 1, "+
		"event a 1, event a 2, event a 3, event b 1")
	want("nothing new", "")
	post(t, s, b.ID, u[1], 2)
	post(t, s, a.ID, u[2], 1)
	exec(t, s, readSQL, a.ID, u[2], 3)
	exec(t, s, readSQL, a.ID, u[0], 2)
	rename(u[1], "Robert")
	want("some of each", "profile bob Robert, event a 4, event b 2, event b 3, read a ann 2, read a cid 3")
	rename(u[1], "Robert")
	want("the same name", "")
	exec(t, s, roleSQL, a.ID, u[0])
	exec(t, s, roleSQL, b.ID, u[1])
	want("another role", "conversation a from 0")
	exec(t, s, leaveSQL, a.ID, u[0])
	post(t, s, a.ID, u[1], 2)
	exec(t, s, readSQL, a.ID, u[1], 4)
	rename(u[2], "Cid")
	want("left, and sees nothing of it any more", "left a")
	exec(t, s, joinSQL, a.ID, u[0])
	want("back: those in it and how far they are", "profile bob Robert, profile cid Cid, conversation a from 7, event a 7, read a ann 2, read a bob 4, read a cid 3")
	exec(t, s, leaveSQL, a.ID, u[0])
	post(t, s, a.ID, u[1], 3)
	exec(t, s, joinSQL, a.ID, u[0])
	post(t, s, a.ID, u[1], 1)
	want("gone and back", "profile bob Robert, profile cid Cid, conversation a from 11, event a 11, event a 12, read a ann 2, read a bob 4, read a cid 3")
	exec(t, s, joinSQL, b.ID, u[2])
	want("another one comes", "profile cid Cid, event b 4")
	c, _, err := s.CreateConversation(t.Context(), chat.NewConversation{Kind: chat.Direct, Creator: u[2], Users: u[:1]}, now)
	if err != nil {
		t.Fatal(err)
	}
	names[c.ID] = "c"
	want("a new conversation", "profile cid Cid, conversation c from 1, event c 1")
	exec(t, s, `UPDATE participants SET joined_seq = 1 WHERE conversation_id = $1 AND user_id = $2`, a.ID, u[0])
	clients = append(clients[:0], &syncer{s: s, user: u[0]})
	want("from the beginning", "profile ann USER0, profile bob Robert, profile cid Cid, conversation a from 1, conversation b from 1, conversation c from 1, "+
		"event a 1, event a 2, event a 3, event a 4, event a 5, event a 6, event a 7, event a 8, event a 9, event a 10, event a 11, event a 12, event b 1, event b 2, event b 3, event b 4, event c 1, "+
		"read a ann 2, read a bob 4, read a cid 3")
	storetest.Check(t, s)
}

// From now on: only what comes after.
func TestSyncFromNow(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	c := group(t, s, now, u...)
	p, err := s.Sync(t.Context(), chat.SyncQuery{UserID: u[0], Now: true, Limit: 1})
	if err != nil || len(p.Items) != 0 || p.More {
		t.Fatalf("Sync from now = %+v, %v", p, err)
	}
	post(t, s, c.ID, u[1], 1)
	names := map[chat.ID]string{c.ID: "c"}
	if got := brief((&syncer{s: s, user: u[0], cursor: p.Next}).run(t, 10), names); got != "event c 2" {
		t.Error(got)
	}
}

// What an earlier snapshot does not see is told although it was begun before, and
// committed after, what has been told: the case that a cursor of numbers gets wrong.
func TestSyncLateCommit(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	early, late := group(t, s, now, u...), group(t, s, now, u...)
	names := map[chat.ID]string{early.ID: "early", late.ID: "late", u[0]: "ann", u[1]: "bob"}
	c := &syncer{s: s, user: u[0]}
	c.run(t, 100)
	tx, err := s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context()) // it may have been committed
	appendIn(t, tx, late.ID, u[1])
	post(t, s, early.ID, u[1], 1)
	if got := brief(c.run(t, 100), names); got != "event early 2" {
		t.Error(got)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := brief(c.run(t, 100), names); got != "event late 2" {
		t.Error(got)
	}
}

// appendIn appends an event within a transaction, as the writer does.
func appendIn(t testing.TB, tx pgx.Tx, conversation, sender chat.ID) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), appendOneSQL, conversation, sender); err != nil {
		t.Error(err)
	}
}

const appendOneSQL = `
WITH locked AS MATERIALIZED (
  SELECT id FROM conversations WHERE id = $1 FOR UPDATE
), moved AS (
  UPDATE conversations c SET last_seq = last_seq + 1, last_xid = pg_current_xact_id() FROM locked WHERE c.id = locked.id
  RETURNING c.id, c.last_seq, c.last_event_at
)
INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content)
SELECT id, last_seq, gen_random_uuid(), $2, gen_random_uuid(), last_event_at, 'message', 'late' FROM moved`

// Contents that are large make pages shorter, not longer.
func TestSyncLargeContents(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	c := group(t, s, now, u...)
	last := post(t, s, c.ID, u[1], 300)
	exec(t, s, `UPDATE events SET content = repeat('x', $2) WHERE conversation_id = $1 AND type = 'message'`, c.ID, chat.MaxContentBytes)
	cl, next := &syncer{s: s, user: u[0]}, int64(1)
	for more := true; more; {
		p, err := cl.page(t.Context(), chat.MaxSyncPage)
		if err != nil {
			t.Fatal(err)
		}
		more = p.More
		size := 0
		for _, i := range p.Items {
			if i.Event != nil {
				if size += len(i.Event.Content); i.Event.Seq != next {
					t.Fatalf("event %d, want %d", i.Event.Seq, next)
				}
				next++
			}
		}
		if size > 101*chat.MaxContentBytes {
			t.Errorf("a page of %d bytes", size)
		}
	}
	if next != last+1 {
		t.Errorf("ended at %d, want %d", next-1, last)
	}
}

// Cursors that are not ours are refused.
func TestSyncBadCursor(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	p, err := s.Sync(t.Context(), chat.SyncQuery{UserID: u[0], Limit: 1})
	if err != nil || !p.More {
		t.Fatalf("Sync = %+v, %v", p, err)
	}
	done, err := s.Sync(t.Context(), chat.SyncQuery{UserID: u[0], Limit: 1, Cursor: p.Next})
	if err != nil || done.More {
		t.Fatalf("Sync = %+v, %v", done, err)
	}
	future := slices.Clone(done.Next[:16])
	future = append(future, 1, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0)
	other := slices.Clone(done.Next)
	other[3] ^= 1
	for name, cursor := range map[string][]byte{
		"text": []byte("no cursor"), "cut": done.Next[:len(done.Next)-1], "longer": append(slices.Clone(done.Next), 0), "of the future": future,
		"of another database": other, "a page's, cut": p.Next[:len(p.Next)-1], "a page's, longer": append(slices.Clone(p.Next), 0),
		"huge": make([]byte, 1<<20),
	} {
		_, err := s.Sync(t.Context(), chat.SyncQuery{UserID: u[0], Limit: 1, Cursor: cursor})
		t.Run(name, func(t *testing.T) { wantError(t, err, chat.Invalid, "cursor") })
	}
}

// A dump that is restored into another cluster brings stamps of the future along.
// The next start makes them good, and clients begin anew.
func TestSyncAfterRestore(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	s := storetest.Open(t, dsn)
	u := users(t, s, 2)
	g := group(t, s, now, u...)
	post(t, s, g.ID, u[1], 2)
	exec(t, s, leaveSQL, group(t, s, now, u[1], u[0]).ID, u[0])
	exec(t, s, readSQL, g.ID, u[1], 2)
	names := map[chat.ID]string{u[0]: "ann", u[1]: "bob", g.ID: "g"}
	old := &syncer{s: s, user: u[0]}
	all := brief(old.run(t, 100), names)

	stamps := listStamps(t, s)
	for _, c := range stamps {
		if c[0] == "pg_indexes" {
			continue
		}
		exec(t, s, fmt.Sprintf(`UPDATE %s SET %s = '900000000000' WHERE %[2]s IS NOT NULL`, c[0], c[1]))
	}
	exec(t, s, `UPDATE sync_origin SET system_identifier = system_identifier + 1`)
	if _, _, err := store.Migrate(t.Context(), dsn, nil); err != nil {
		t.Fatal(err)
	}
	storetest.Check(t, s)
	if got := listStamps(t, s); fmt.Sprint(got) != fmt.Sprint(stamps) {
		t.Errorf("the columns are %v now, want %v", got, stamps)
	}
	s = storetest.Open(t, dsn)
	_, err := s.Sync(t.Context(), chat.SyncQuery{UserID: u[0], Cursor: old.cursor, Limit: 1})
	wantError(t, err, chat.Invalid, "cursor")
	c := &syncer{s: s, user: u[0]}
	if got := brief(c.run(t, 100), names); got != all {
		t.Errorf("after the restore: %s, want %s", got, all)
	}
	post(t, s, g.ID, u[1], 1)
	if got := brief(c.run(t, 100), names); got != "event g 4" {
		t.Errorf("what came after: %s", got)
	}
	before := getOrigin(t, s)
	if _, _, err := store.Migrate(t.Context(), dsn, nil); err != nil || getOrigin(t, s) != before {
		t.Errorf("a start in the same cluster: %v, origin %v, want %v", err, getOrigin(t, s), before)
	}
	exec(t, s, `DELETE FROM sync_origin`) // what an operator does after a restore within the cluster
	if _, _, err := store.Migrate(t.Context(), dsn, nil); err != nil || getOrigin(t, s) == before {
		t.Errorf("after an operator's reset: %v, origin %v", err, getOrigin(t, s))
	}
	if got := listStamps(t, s); fmt.Sprint(got) != fmt.Sprint(stamps) {
		t.Errorf("the columns are %v now, want %v", got, stamps)
	}
}

func getOrigin(t testing.TB, s *store.Store) (id chat.ID) {
	t.Helper()
	if err := s.Pool().QueryRow(t.Context(), `SELECT id FROM sync_origin`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	return id
}

// listStamps returns every column that holds the number of a transaction, and its indexes.
func listStamps(t testing.TB, s *store.Store) [][4]string {
	t.Helper()
	rows, err := s.Pool().Query(t.Context(), `
SELECT ARRAY[table_name, column_name, is_nullable, coalesce(column_default, '')]::text[] FROM information_schema.columns
WHERE table_schema = 'public' AND data_type = 'xid8'
UNION ALL SELECT ARRAY['pg_indexes', indexname, indexdef]::text[] FROM pg_indexes WHERE schemaname = 'public' AND indexdef LIKE '%xid%'
ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s [4]string, err error) {
		var one []string
		err = row.Scan(&one)
		copy(s[:], one)
		return s, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
