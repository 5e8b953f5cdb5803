package store_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
	"github.com/parleymq/parley/store/words"
)

// say appends a message, a second after the last event.
func say(t testing.TB, s *store.Store, conversation, sender chat.ID, content string) chat.Event {
	t.Helper()
	e := chat.Event{ConversationID: conversation, Type: chat.EventMessage, ID: chat.NewID(), SenderID: sender, Content: content}
	err := s.Pool().QueryRow(t.Context(), `
WITH moved AS (
  UPDATE conversations SET last_seq = last_seq + 1, last_xid = pg_current_xact_id(), last_event_at = last_event_at + interval '1 s' WHERE id = $1 RETURNING last_seq, last_event_at
), stored AS (
  INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content)
  SELECT $1, last_seq, $2, $3, $2, last_event_at, 'message', $4 FROM moved
)
SELECT last_seq, last_event_at FROM moved`, conversation, e.ID, sender, content).Scan(&e.Seq, &e.CreatedAt)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// edit makes a message say something else, or with "" deletes it.
func edit(t testing.TB, s *store.Store, e chat.Event, content string) {
	t.Helper()
	kind, column := "edit", "edited_at"
	if content == "" {
		kind, column = "delete", "deleted_at"
		exec(t, s, `DELETE FROM message_originals WHERE message_id = $1`, e.ID)
		exec(t, s, `UPDATE events SET content = '' WHERE conversation_id = $1 AND type = 'edit' AND detail ->> 'messageId' = $2`, e.ConversationID, e.ID.String())
	} else {
		exec(t, s, `INSERT INTO message_originals SELECT conversation_id, id, content FROM events WHERE id = $1 ON CONFLICT DO NOTHING`, e.ID)
	}
	exec(t, s, `
WITH moved AS (
  UPDATE conversations SET last_seq = last_seq + 1, last_xid = pg_current_xact_id(), last_event_at = last_event_at + interval '1 s' WHERE id = $1 RETURNING last_seq, last_event_at
), changed AS (
  UPDATE events SET content = $4, `+column+` = last_event_at FROM moved WHERE conversation_id = $1 AND seq = $5
)
INSERT INTO events (conversation_id, seq, id, sender_id, created_at, type, content, detail)
SELECT $1, last_seq, gen_random_uuid(), $3, last_event_at, '`+kind+`', $4, jsonb_build_object('messageId', $2::uuid) FROM moved`,
		e.ConversationID, e.ID, e.SenderID, content, e.Seq)
}

// index brings the index up to date.
func index(t testing.TB, s *store.Store) {
	t.Helper()
	if err := store.Index(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// searchAll returns all pages of a search.
func searchAll(t testing.TB, s *store.Store, q chat.MessageSearch) []chat.SearchHit {
	t.Helper()
	var all []chat.SearchHit
	if q.ByRank {
		q.After.Until = now.Add(1000 * time.Hour)
	}
	for {
		p, err := s.SearchMessages(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Items) > max(q.Limit, 1) {
			t.Fatalf("a page of %d has %d", q.Limit, len(p.Items))
		}
		all = append(all, p.Items...)
		if p.Next.IsZero() {
			return all
		}
		q.After = p.Next
	}
}

func texts(hits []chat.SearchHit) string {
	var all []string
	for i := range hits {
		all = append(all, hits[i].Message.Content)
	}
	return strings.Join(all, "|")
}

func wantFound(t testing.TB, s *store.Store, user chat.ID, text, want string) {
	t.Helper()
	for _, limit := range []int{1, 100} {
		if got := texts(searchAll(t, s, chat.MessageSearch{UserID: user, Text: text, Limit: limit})); got != want {
			t.Errorf("%q finds %q, want %q", text, got, want)
		}
	}
}

func TestSearchMessages(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 4)
	c := group(t, s, now, u[:3]...)
	apart := group(t, s, now, u[3])
	say(t, s, c.ID, u[0], "before you came: apples")
	exec(t, s, `UPDATE participants SET joined_seq = 3 WHERE conversation_id = $1 AND user_id = $2`, c.ID, u[1])
	first := say(t, s, c.ID, u[0], "Äpfel und Birnen")
	second := say(t, s, c.ID, u[1], "apples, pears")
	say(t, s, c.ID, u[1], "don't pair, e-mail me")
	say(t, s, apart.ID, u[3], "apples of mine")
	say(t, s, c.ID, u[1], "東京都に行く")
	say(t, s, c.ID, u[1], "...")

	wantFound(t, s, u[0], "apples", "apples, pears|before you came: apples") // nothing is indexed yet
	index(t, s)
	wantFound(t, s, u[0], "apples", "apples, pears|before you came: apples")
	wantFound(t, s, u[1], "apples", "apples, pears")
	wantFound(t, s, u[3], "apples", "apples of mine")
	wantFound(t, s, u[0], "p app", "apples, pears") // any order
	wantFound(t, s, u[0], "apfel", "Äpfel und Birnen")
	wantFound(t, s, u[0], `"pears apples"`, "")
	wantFound(t, s, u[0], `"apples pears"`, "apples, pears")
	wantFound(t, s, u[0], `"apple"`, "")
	wantFound(t, s, u[0], "don't", "don't pair, e-mail me")
	wantFound(t, s, u[0], "e-m", "don't pair, e-mail me")
	wantFound(t, s, u[0], "京都", "東京都に行く")
	wantFound(t, s, u[0], "京に", "")

	edit(t, s, first, "cherries")
	for range 2 { // whether the index knows it or not
		wantFound(t, s, u[0], "apfel", "")
		wantFound(t, s, u[0], "cherr", "cherries")
		index(t, s)
	}
	edit(t, s, second, "")
	for range 2 {
		wantFound(t, s, u[0], "pears", "")
		index(t, s)
	}
	edit(t, s, first, "?!")
	index(t, s)
	var kept int
	if err := s.Pool().QueryRow(t.Context(), `
SELECT count(*) FROM search_segments WHERE position('cherries' IN encode(data, 'escape')) + position('pears' IN encode(data, 'escape')) > 0`).Scan(&kept); err != nil || kept != 0 {
		t.Errorf("%d blocks have words of texts that are gone, %v", kept, err)
	}
	exec(t, s, `DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2`, c.ID, u[2])
	wantFound(t, s, u[2], "don", "")
	_, err := s.SearchMessages(t.Context(), chat.MessageSearch{UserID: u[2], Text: "don", ConversationID: c.ID, Limit: 10})
	wantError(t, err, chat.NotFound, "conversationId")
	storetest.Check(t, s)
}

// The longest messages there may be, of the most awkward kinds, are indexed and found.
func TestSearchLongMessages(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	c := group(t, s, now, u...)
	var distinct strings.Builder
	for i := 0; distinct.Len() < chat.MaxContentBytes-16; i++ {
		fmt.Fprintf(&distinct, "%x ", i+0xa000)
	}
	for _, text := range []string{
		distinct.String(), strings.Repeat("a ", chat.MaxContentBytes/2), strings.Repeat("a", chat.MaxContentBytes),
		strings.Repeat("あ", chat.MaxContentBytes/3), strings.Repeat("a\u0301\u0302", 13_000), strings.Repeat("ﷺ", chat.MaxContentBytes/3),
		"'\\':*&|!()<-> \\' \"' {\"a\":'1'}", strings.Repeat("😀", chat.MaxContentBytes/4), strings.Repeat("👨\u200d", 9000),
	} {
		say(t, s, c.ID, u[0], text)
	}
	say(t, s, c.ID, u[0], "the end")
	start := time.Now()
	index(t, s)
	t.Log("indexed in", time.Since(start))
	for text, n := range map[string]int{"a000": 1, "a ": 5, "あああ": 1, "😀": 1, "👨": 1, "end": 1, `"a 1"`: 1, "صلى": 1, "'": 0} {
		if n == 0 {
			continue
		}
		hits := searchAll(t, s, chat.MessageSearch{UserID: u[0], Text: text, Limit: 3})
		if len(hits) != n {
			t.Errorf("%q finds %d messages, want %d", text, len(hits), n)
		}
		for _, h := range hits {
			n := 0
			for _, p := range h.Excerpt {
				n += len(p.Text)
			}
			if n == 0 || n > words.MaxExcerptBytes {
				t.Errorf("%q: an excerpt of %d bytes", text, n)
			}
		}
	}
	storetest.Check(t, s)
}

// model is what a search must find, by reading everything.
type model struct {
	messages []chat.Event
	deleted  map[chat.ID]bool
	joined   map[[2]chat.ID]int64 // conversation and user: from which seq; none: not a member
}

func (m *model) search(q chat.MessageSearch) []chat.ID {
	query, err := words.ParseQuery(q.Text)
	if err != nil {
		panic(err)
	}
	var found []chat.Event
	for _, e := range m.messages {
		joined, member := m.joined[[2]chat.ID{e.ConversationID, q.UserID}]
		if !member || e.Seq < joined || m.deleted[e.ID] || !q.ConversationID.IsZero() && q.ConversationID != e.ConversationID ||
			!q.SenderID.IsZero() && q.SenderID != e.SenderID || !q.Before.IsZero() && !e.CreatedAt.Before(q.Before) {
			continue
		}
		if _, ok := query.Excerpt(e.Content); ok {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b chat.Event) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), b.ID.Compare(a.ID))
	})
	ids := []chat.ID{}
	for _, e := range found {
		ids = append(ids, e.ID)
	}
	return ids
}

// Searches of all kinds, page by page, find what reading everything finds: over
// conversations of several segments, with edits, deletes and late members, many messages of
// one time, and an index that ends anywhere, is merged and made anew, and is lost.
func TestSearchAgainstModel(t *testing.T) {
	t.Parallel()
	rnd := seedtest.New(seedtest.Seed(t), 0)
	s := storetest.New(t)
	u := users(t, s, 3)
	vocabulary := strings.Fields("apple apples Äpfel pear pearl peer plum 東京 京都 🍐 a an ant don't e-mail x")
	text := func() string {
		all := make([]string, 1+rnd.IntN(4))
		for i := range all {
			all[i] = vocabulary[rnd.IntN(len(vocabulary))]
		}
		return strings.Join(all, []string{" ", ", ", "  "}[rnd.IntN(3)])
	}
	m := &model{deleted: map[chat.ID]bool{}, joined: map[[2]chat.ID]int64{}}
	var conversations []chat.ID
	for i := range 6 {
		c := group(t, s, now.Add(time.Duration(rnd.IntN(100))*time.Minute), u...)
		conversations = append(conversations, c.ID)
		n := []int{0, 3, 40, 400, store.SegmentEvents, 2*store.SegmentEvents + 300}[i] // events in all: one more
		fill(t, s, rnd, m, c.ID, u, n, text)
		for k, user := range u {
			joined := int64(1)
			if k > 0 && rnd.IntN(2) == 0 {
				joined = 1 + rnd.Int64N(int64(n)+2)
				exec(t, s, `UPDATE participants SET joined_seq = $1 WHERE conversation_id = $2 AND user_id = $3`, joined, c.ID, user)
			}
			m.joined[[2]chat.ID{c.ID, user}] = joined
		}
	}
	check := func(rounds int) {
		t.Helper()
		for range rounds {
			q := chat.MessageSearch{UserID: u[rnd.IntN(3)], Text: vocabulary[rnd.IntN(len(vocabulary))], Limit: 1 + rnd.IntN(100), ByRank: rnd.IntN(3) == 0}
			if rnd.IntN(2) == 0 {
				q.Text += " " + vocabulary[rnd.IntN(len(vocabulary))]
			}
			if rnd.IntN(4) == 0 {
				q.Text = `"` + q.Text + `"`
			}
			if rnd.IntN(3) == 0 {
				q.ConversationID = conversations[rnd.IntN(len(conversations))]
			}
			if rnd.IntN(3) == 0 {
				q.SenderID = u[rnd.IntN(3)]
			}
			if rnd.IntN(3) == 0 {
				q.Before = m.messages[rnd.IntN(len(m.messages))].CreatedAt
			}
			hits := searchAll(t, s, q)
			got := []chat.ID{}
			for i, h := range hits {
				got = append(got, h.Message.ID)
				if q.ByRank && i > 0 && hits[i-1].Rank < h.Rank {
					t.Fatalf("%+v: rank %v comes before %v", q, hits[i-1].Rank, h.Rank)
				}
			}
			want := m.search(q)
			if q.ByRank {
				slices.SortFunc(got, chat.ID.Compare)
				slices.SortFunc(want, chat.ID.Compare)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%+v found %d, want %d:\n%v\n%v", q, len(got), len(want), got, want)
			}
		}
	}
	check(10) // in the logs alone
	for round := range 6 {
		x := store.NewIndexer(s, store.IndexerOptions{})
		for _, i := range rnd.Perm(len(conversations))[:1+rnd.IntN(len(conversations))] {
			if _, _, err := store.IndexStep(t.Context(), x, conversations[i]); err != nil {
				t.Fatal(err)
			}
		}
		check(12)
		for range 40 {
			m.change(t, s, rnd, text)
		}
		for range 60 {
			i := rnd.IntN(len(conversations))
			e := say(t, s, conversations[i], u[rnd.IntN(3)], text())
			m.messages = append(m.messages, e)
		}
		check(8)
		if round == 3 {
			exec(t, s, `DELETE FROM search_segments WHERE conversation_id = $1`, conversations[rnd.IntN(len(conversations))])
		}
	}
	storetest.Check(t, s)
	index(t, s)
	check(20)
	storetest.Check(t, s)
}

// change edits or deletes a message.
func (m *model) change(t testing.TB, s *store.Store, rnd *rand.Rand, text func() string) {
	t.Helper()
	e := &m.messages[rnd.IntN(len(m.messages))]
	if m.deleted[e.ID] {
		return
	}
	e.Content = ""
	if rnd.IntN(3) > 0 {
		e.Content = text()
	}
	m.deleted[e.ID] = e.Content == ""
	edit(t, s, *e, e.Content)
}

// fill appends n messages, some of them of one time.
func fill(t testing.TB, s *store.Store, rnd *rand.Rand, m *model, c chat.ID, u []chat.ID, n int, text func() string) {
	t.Helper()
	at := now.Add(2 * time.Hour)
	rows := make([][]any, n)
	for i := range rows {
		if rnd.IntN(3) == 0 {
			at = at.Add(time.Duration(rnd.IntN(2000)) * time.Millisecond)
		}
		e := chat.Event{ConversationID: c, Seq: int64(i) + 2, ID: chat.NewID(), SenderID: u[rnd.IntN(len(u))], CreatedAt: at, Content: text()}
		m.messages = append(m.messages, e)
		rows[i] = []any{c, e.Seq, e.ID, e.SenderID, chat.NewID(), at, "message", e.Content}
	}
	copyEvents(t, s, c, rows, at)
}

// copyEvents stores events of a conversation that has its first one only.
func copyEvents(t testing.TB, s *store.Store, c chat.ID, rows [][]any, at time.Time) {
	t.Helper()
	if len(rows) == 0 {
		return
	}
	columns := []string{"conversation_id", "seq", "id", "sender_id", "client_msg_id", "created_at", "type", "content"}
	if _, err := s.Pool().CopyFrom(t.Context(), pgx.Identifier{"events"}, columns, pgx.CopyFromRows(rows)); err != nil {
		t.Fatal(err)
	}
	exec(t, s, `UPDATE conversations SET last_seq = $2, last_event_at = $3, last_xid = (SELECT xid FROM events WHERE conversation_id = $1 AND seq = $2) WHERE id = $1`, c, len(rows)+1, at)
}

// Several indexers on one database index each log once, and merge segments while others are
// at work, and a search finds all at any time.
func TestIndexersTogether(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	var conversations []chat.ID
	for range 10 {
		c := group(t, s, now, u...)
		conversations = append(conversations, c.ID)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all []*store.Indexer
	done := make(chan error)
	for range 3 {
		x := store.NewIndexer(s, store.IndexerOptions{Gather: 2})
		all = append(all, x)
		go func() { done <- x.Run(ctx) }() // ends with ctx, below
	}
	const rounds = 60
	for i := range rounds {
		for _, c := range conversations {
			e := say(t, s, c, u[0], fmt.Sprintf("round%d", i))
			all[i%len(all)].Note(&e)
		}
		if hits := searchAll(t, s, chat.MessageSearch{UserID: u[1], Text: "round", Limit: 100}); len(hits) != (i+1)*len(conversations) {
			t.Fatalf("after round %d, %d are found", i, len(hits))
		}
	}
	eventually(t, "nothing waits", func() bool {
		return store.Waiting(all[0])+store.Waiting(all[1])+store.Waiting(all[2]) < 3*2*len(conversations)
	})
	cancel()
	for range all {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := number(t, s, `SELECT count(*) FROM search_segments WHERE first_term = ''`); n == 0 || n > 10*int64(len(conversations)) {
		t.Errorf("there are %d segments", n)
	}
	storetest.Check(t, s)
}

// What there was no room to count is found by looking at all conversations, and so is, after
// a start, what was deleted.
func TestIndexerScans(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	var conversations []chat.ID
	for range 30 {
		conversations = append(conversations, group(t, s, now, u...).ID)
	}
	run := func(opts store.IndexerOptions, meanwhile func(x *store.Indexer)) {
		x := store.NewIndexer(s, opts)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- x.Run(ctx) }() // ends with ctx, below
		meanwhile(x)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	var deleted chat.Event
	run(store.IndexerOptions{Gather: 3, MaxNoted: 3}, func(x *store.Indexer) {
		for _, text := range []string{"hello", "farewell"} {
			for _, c := range conversations {
				deleted = say(t, s, c, u[0], text)
				x.Note(&deleted)
			}
		}
		eventually(t, "all are indexed", func() bool {
			return number(t, s, `SELECT count(*) FROM search_segments WHERE last_seq = 3 AND first_term = ''`) == int64(len(conversations))
		})
	})
	edit(t, s, deleted, "")
	run(store.IndexerOptions{}, func(*store.Indexer) {
		eventually(t, "its words are gone", func() bool {
			return number(t, s, `SELECT count(*) FROM search_segments WHERE position('farewell' IN encode(data, 'escape')) > 0`) == int64(len(conversations))-1
		})
	})
	other := say(t, s, conversations[0], u[0], "hello")
	edit(t, s, other, "")
	run(store.IndexerOptions{ScanAt: time.Hour}, func(x *store.Indexer) {
		x.Note(&chat.Event{ConversationID: conversations[0], Type: chat.EventDelete})
		eventually(t, "the deletion is indexed", func() bool {
			return number(t, s, `SELECT max(last_seq) FROM search_segments`) == 5
		})
		large := say(t, s, conversations[1], u[0], strings.Repeat("a ", chat.MaxContentBytes/2))
		x.Note(&large) // no search is to read much that is not indexed
		eventually(t, "a large message is indexed alone", func() bool {
			return number(t, s, `SELECT count(*) FROM search_segments WHERE last_seq = 4 AND first_term = ''`) == 1
		})
	})
	storetest.Check(t, s)
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if <-tick.C; time.Now().After(deadline) {
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// A search reads of the index a few blocks, and of the log what is not indexed, by their keys,
// whether or not the planner has statistics and sees the arguments; and where it begins costs
// a look at the ends of stretches.
func TestSearchUsesTheKeys(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 2)
	rnd := rand.New(rand.NewPCG(1, 1))
	m := &model{}
	const each = 500
	var ids, ends, afters, tails []string
	for range 30 {
		c := group(t, s, now, u...)
		fill(t, s, rnd, m, c.ID, u, each, func() string { return fmt.Sprintf("w%d w%d %x", rnd.IntN(100), rnd.IntN(100), rnd.Int64()) })
		ids, ends = append(ids, c.ID.String()), append(ends, "300")
		afters, tails = append(afters, fmt.Sprint(each-9)), append(tails, fmt.Sprint(each+1))
	}
	index(t, s)
	array := func(of []string) string { return "{" + strings.Join(of, ",") + "}" }
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			exec(t, s, `ANALYZE`)
		}
		for _, generic := range []bool{false, true} {
			t.Run(fmt.Sprintf("analyzed %v, generic %v", analyzed, generic), func(t *testing.T) {
				p := explain(t, s, generic, store.SearchSegmentsSQL, pgx.NamedArgs{
					"conversation_ids": array(ids), "ends": array(ends), "firsts": `{"\\x7737","\\x773930"}`, "untils": `{"\\x773700","\\x773931"}`,
				})
				if rows, by := p.read("search_segments"); rows > 30*(1+2*4) || strings.Contains(by, "Seq Scan") || strings.Contains(by, "Bitmap") {
					t.Errorf("reads %v blocks by %s", rows, by)
				}
				p = explain(t, s, generic, store.SearchLogSQL, pgx.NamedArgs{"conversation_ids": array(ids), "afters": array(afters), "ends": array(tails)})
				if rows, by := p.read("events"); rows > 30*11 || strings.Contains(by, "Seq Scan") {
					t.Errorf("reads %v events by %s", rows, by)
				}
				p = explain(t, s, generic, store.SearchedSQL, pgx.NamedArgs{"user_id": u[0], "conversation_id": ids[0], "before": now.Add(3 * time.Hour).Format(time.RFC3339), "stretch": 1024})
				if rows, by := p.read("events"); rows > 1 {
					t.Errorf("reads %v events by %s", rows, by)
				}
				if rows, by := p.read("search_segments"); rows > 1 {
					t.Errorf("reads %v blocks by %s", rows, by)
				}
			})
		}
	}
}

// A conversation that the database refuses to index, for whatever reason, holds nobody
// else up, is searched all the same, and is indexed when it may be.
func TestIndexerRefused(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 1)
	bad, good := group(t, s, now, u...), group(t, s, now, u...)
	exec(t, s, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.conversation_id = '`+bad.ID.String()+`' THEN RAISE 'refused'; END IF; RETURN NEW;
END $$`)
	exec(t, s, `CREATE TRIGGER refuse BEFORE INSERT ON search_segments FOR EACH ROW EXECUTE FUNCTION refuse()`)
	registry := prometheus.NewRegistry()
	x := store.NewIndexer(s, store.IndexerOptions{Gather: 1, Registerer: registry})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- x.Run(ctx) }() // ends with ctx, below
	for _, c := range []chat.ID{bad.ID, good.ID} {
		e := say(t, s, c, u[0], "hello")
		x.Note(&e)
	}
	has := func(c chat.ID) func() bool {
		return func() bool {
			return number(t, s, `SELECT count(*) FROM search_segments WHERE first_term = '' AND conversation_id = '`+c.String()+`'`) == 1
		}
	}
	wantFound(t, s, u[0], "hello", "hello|hello")
	eventually(t, "the good one is indexed", has(good.ID))
	exec(t, s, `DROP TRIGGER refuse ON search_segments`)
	eventually(t, "both are indexed", has(bad.ID))
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	storetest.Check(t, s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	if got["parley_search_waiting_events"] != 0 || got["parley_search_failures_total"] == 0 || got["parley_search_followed_events_total"] != 4 {
		t.Errorf("metrics say %v", got)
	}
}
