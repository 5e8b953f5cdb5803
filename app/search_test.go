package app_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/storetest"
)

// found is the answer of a search.
type found struct {
	Data []struct {
		Message struct {
			ID, Content string
			Seq         int64
		}
		Excerpt []struct {
			Text  string
			Match bool
		}
		Rank float32
	}
	NextCursor *string
}

// contents are what the messages found say, with what was looked for in brackets.
func (f *found) contents() string {
	var all []string
	for _, h := range f.Data {
		var b strings.Builder
		for _, p := range h.Excerpt {
			if p.Match {
				b.WriteString("[" + p.Text + "]")
			} else {
				b.WriteString(p.Text)
			}
		}
		all = append(all, b.String())
	}
	return strings.Join(all, " | ")
}

func search(t *testing.T, a *apptest.App, u apptest.User, params ...string) (*found, *apptest.Response) {
	t.Helper()
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Set(params[i], params[i+1])
	}
	var f found
	r := a.REST(t, u, http.MethodGet, "/api/messages/search?"+q.Encode(), nil).Into(&f)
	return &f, r
}

// wantFound searches and finds what is wanted, at once.
func wantFound(t *testing.T, a *apptest.App, u apptest.User, want string, params ...string) {
	t.Helper()
	f, r := search(t, a, u, params...)
	if got := f.contents(); r.Status != http.StatusOK || got != want {
		t.Errorf("search %q was answered %d and found %q, want %q", params, r.Status, got, want)
	}
}

// What was sent is found by those who may read it as soon as it is acknowledged, whichever way
// it came.
func TestSearch(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob, eve := a.User(t, "ann"), a.User(t, "bob"), a.User(t, "eve")
	conv, other := a.Direct(t, ann, bob), a.Group(t, ann, eve)
	phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	old := a.Device(t, bob, brokertest.Connect{ClientID: "old", Version: 4})
	phone.Send(conv, "Crème brûlée for dessert?")
	old.Send(conv, "only cremes and 🎂")
	a.REST(t, eve, http.MethodPost, "/api/messages", map[string]any{"conversationId": other, "content": "CREMES, all of them"})

	wantFound(t, a, ann, "[CREMES], all of them | only [cremes] and 🎂 | [Crème] brûlée for dessert?", "q", "creme")
	wantFound(t, a, bob, "only [cremes] and 🎂 | [Crème] brûlée for dessert?", "q", "crè")
	wantFound(t, a, eve, "[CREMES], all of them", "q", "creme")
	wantFound(t, a, ann, "only cremes and [🎂]", "q", "🎂")
	wantFound(t, a, ann, "[Crème] [brûlée] for dessert?", "q", `"creme brulee"`)
	wantFound(t, a, ann, "only [cremes] and 🎂", "q", "creme", "from", bob.ID.String())
	wantFound(t, a, ann, "[CREMES], all of them", "q", "creme", "conversationId", string(other))
	wantFound(t, a, ann, "", "q", "creme", "before", "2020-01-01T00:00:00Z")
	wantFound(t, a, ann, "", "q", "meringue")

	first, _ := search(t, a, ann, "q", "creme", "limit", "2", "sort", "rank")
	if len(first.Data) != 2 || first.NextCursor == nil || first.Data[0].Rank <= 0 || first.Data[0].Rank < first.Data[1].Rank {
		t.Fatalf("by rank: %+v", first)
	}
	rest, _ := search(t, a, ann, "q", "creme", "limit", "2", "sort", "rank", "cursor", *first.NextCursor)
	if len(rest.Data) != 1 || rest.NextCursor != nil || rest.Data[0].Message.ID == first.Data[0].Message.ID || rest.Data[0].Message.ID == first.Data[1].Message.ID {
		t.Errorf("the next page by rank: %+v", rest)
	}

	for _, tt := range []struct {
		user   apptest.User
		params []string
		status int
		field  string
		says   string
	}{
		{ann, []string{}, 400, "q", "is required"},
		{ann, []string{"q", " "}, 400, "q", "must not be empty"},
		{ann, []string{"q", "..."}, 400, "q", "has no word in it"},
		{ann, []string{"q", strings.Repeat("x", 257)}, 400, "q", "limit 256"},
		{ann, []string{"q", "a b c d e f g h i j k l m n o p q"}, 400, "q", "limit 16"},
		{ann, []string{"q", "a\xff"}, 400, "q", "UTF-8"},
		{ann, []string{"q", "a\x00"}, 400, "q", "NUL"},
		{ann, []string{"q", "x", "before", "yesterday"}, 400, "before", ""},
		{ann, []string{"q", "x", "before", "0001-01-01T00:00:00Z"}, 400, "before", "1970"},
		{ann, []string{"q", "x", "sort", "oldest"}, 400, "sort", ""},
		{ann, []string{"q", "x", "from", "ann"}, 400, "from", ""},
		{ann, []string{"q", "x", "limit", "101"}, 400, "limit", ""},
		{ann, []string{"q", "x", "cursor", "AXUx"}, 400, "cursor", ""},
		{ann, []string{"q", "other", "sort", "rank", "limit", "2", "cursor", *first.NextCursor}, 400, "cursor", ""},
		{ann, []string{"q", "creme", "limit", "2", "cursor", *first.NextCursor}, 400, "cursor", ""},
		{eve, []string{"q", "creme", "sort", "rank", "limit", "2", "cursor", *first.NextCursor}, 400, "cursor", ""},
		{eve, []string{"q", "creme", "conversationId", string(conv)}, 404, "conversationId", "there is no conversation"},
		{eve, []string{"q", "creme", "conversationId", uuid(1)}, 404, "conversationId", "there is no conversation"},
		{apptest.User{}, []string{"q", "creme"}, 401, "", ""},
	} {
		_, r := search(t, a, tt.user, tt.params...)
		if r.Status != tt.status || tt.field != "" && !strings.Contains(string(r.Body), `"field":"`+tt.field+`"`) || !strings.Contains(string(r.Body), tt.says) {
			t.Errorf("search %q was answered %s, want %d about %s: %s", tt.params, r, tt.status, tt.field, tt.says)
		}
	}
}

// A message is found by what it says now, with the reactions to it, and not at all once
// it is deleted. What was stored while nobody indexed it is found after a restart.
func TestSearchChanges(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	for _, version := range versions {
		phone := a.Device(t, ann, brokertest.Connect{ClientID: versionName(version), Version: version})
		phone.MustSubscribe(1, conv.Topic("messages"))
		phone.Send(conv, "first words")
		m := phone.Event()
		wantFound(t, a, bob, "first [words]", "q", "word")
		phone.Send(conv, `{"type":"edit","messageId":"`+m.ID+`","content":"second thoughts"}`)
		phone.Send(conv, `{"type":"reaction","messageId":"`+m.ID+`","emoji":"👍","op":"add"}`)
		if f, _ := search(t, a, bob, "q", "first"); len(f.Data) > 0 {
			t.Errorf("a text that was edited away is found: %+v", f)
		}
		wantFound(t, a, bob, "second [thoughts]", "q", "thought")
		if _, r := search(t, a, ann, "q", "thought"); !strings.Contains(string(r.Body), `"reactions":[{"emoji":"👍","count":1,"mine":true}]`) {
			t.Errorf("the reaction is missing: %s", r)
		}
		phone.Send(conv, `{"type":"delete","messageId":"`+m.ID+`"}`)
		if f, _ := search(t, a, bob, "q", "thought"); len(f.Data) > 0 {
			t.Errorf("a deleted message is found: %+v", f)
		}
	}
	if err := a.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	if _, err := db.Exec(t.Context(), `
WITH c AS (UPDATE conversations SET last_seq = last_seq + 1, last_xid = pg_current_xact_id() WHERE id = $1 RETURNING *)
INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content)
SELECT id, last_seq, $2, $3, $2, last_event_at, 'message', 'from before a crash' FROM c`, conv.ID(), chat.NewID(), ann.ID); err != nil {
		t.Fatal(err)
	}
	a = apptest.StartOn(t, dsn)
	wantFound(t, a, bob, "from before a [crash]", "q", "crash")
}

// While the database is away, a search says so; what was sent after it has come back
// is found without a restart.
func TestSearchDatabaseAway(t *testing.T) {
	t.Parallel()
	config, err := pgx.ParseConfig(storetest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(t, filepath.Join(config.Host, fmt.Sprintf(".s.PGSQL.%d", config.Port)))
	_, port, _ := net.SplitHostPort(l.Addr().String())
	a := apptest.StartOn(t, fmt.Sprintf("host=127.0.0.1 port=%s user=%s dbname=%s sslmode=disable", port, config.User, config.Database))
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := a.Direct(t, ann, bob)
	phone := a.Device(t, ann, brokertest.Connect{ClientID: "phone"})
	phone.Send(conv, "one apple")
	wantFound(t, a, bob, "one [apple]", "q", "apple")
	l.set(true, false)
	if _, r := search(t, a, bob, "q", "apple"); r.Status != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("a search without a database was answered %s", r)
	}
	phone.PublishAsync(1, conv.Topic("messages"), "two apples") // waits for its commit
	l.set(false, false)
	apptest.Eventually(t, "what was sent meanwhile is found", func() bool {
		f, r := search(t, a, bob, "q", "apple") // over lines that are found to be cut, one after the other
		return r.Status == http.StatusOK && f.contents() == "two [apples] | one [apple]"
	})
	apptest.Eventually(t, "the oracle's line is mended", func() bool { return a.DB.Ping(t.Context()) == nil })
}
