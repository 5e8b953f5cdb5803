package app_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/chat"
)

// answer is how a request is answered.
type answer struct {
	status int
	code   chat.Code
	field  string // at fault: the first that the answer names
}

func (a answer) String() string { return fmt.Sprintf("%d %s %q", a.status, a.code, a.field) }

func invalidField(name string) answer { return answer{400, chat.Invalid, name} }

func answerOf(r *apptest.Response) answer {
	var p struct {
		Code   chat.Code
		Errors []struct{ Field string }
	}
	_ = json.Unmarshal(r.Body, &p)
	got := answer{status: r.Status, code: p.Code}
	if len(p.Errors) > 0 {
		got.field = p.Errors[0].Field
	}
	return got
}

var malformedIDs = []string{
	"x", "1", "me", "0198c0de-0000-7000-8000-00000000000", "0198c0de-0000-7000-8000-0000000000000", "0198c0de00007000800000000000000000",
	"{0198c0de-0000-7000-8000-000000000000}", "urn:uuid:0198c0de-0000-7000-8000-000000000000",
	" 0198c0de-0000-7000-8000-000000000000", "0198c0de-0000-7000-8000-000000000000\n", "0198c0de-0000-7000-8000-00000000000g", "０198c0de-0000-7000-8000-000000000000",
	"null", "' OR 1=1 --", "../../users/me", "a\x00b", strings.Repeat("0", 1000), "a\xff\xfeb",
}

var notEmoji = []string{
	"a", "1", "#", "ok", ":+1:", "👍👍", "👍 ", " 👍", "👍a", "🇩", "\u200d", "\ufe0f", "\u20e3", "a\x00", "\x00", "é", "中", "\u202e", "<b>",
	strings.Repeat("👍", 17), strings.Repeat("a", 1000), "👍\xff",
}

// texts says how long the texts of requests may be, and who judges them: an input that
// is not here fails the test.
var texts = map[string]struct {
	bytes, runes int    // over this it is refused; 0: no bound but that of the body
	or           answer // how it is refused otherwise; zero: Invalid, naming the field
	tooLong      answer // zero: as or
	emptyIsNone  bool   // an empty one is as none, and taken
	empty        answer // zero: as or
}{
	"createUser username":      {bytes: 32},
	"createUser email":         {bytes: 254},
	"createUser password":      {bytes: 1024},
	"createUser displayName":   {runes: 100, emptyIsNone: true},
	"updateMe displayName":     {runes: 100},
	"updateMe email":           {bytes: 254},
	"updateMe password":        {bytes: 1024},
	"updateMe currentPassword": {bytes: 1024, or: answer{403, chat.Forbidden, "currentPassword"}},
	"logIn username":           {bytes: 32, empty: invalidField("username"), or: answer{401, chat.Unauthenticated, ""}},
	"logIn email":              {bytes: 254, empty: invalidField("username"), or: answer{401, chat.Unauthenticated, ""}},
	"logIn password":           {bytes: 1024, or: answer{401, chat.Unauthenticated, ""}},
	"logIn device":             {runes: 100, emptyIsNone: true},
	"refresh refreshToken":     {bytes: 1000, or: answer{401, chat.Unauthenticated, ""}},
	"createConversation title": {runes: 200, emptyIsNone: true},
	"updateConversation title": {runes: 200, emptyIsNone: true},
	"sendMessage content":      {bytes: 64 << 10, tooLong: answer{413, chat.TooLarge, "content"}},
	"editMessage content":      {bytes: 64 << 10, tooLong: answer{413, chat.TooLarge, "content"}},
	"searchUsers q":            {bytes: 32},
	"searchMessages q":         {bytes: 256},
	"addReaction emoji":        {bytes: 64},
	"removeReaction emoji":     {bytes: 64},
	"listBlocks cursor":        {bytes: 200, emptyIsNone: true},
	"listConversations cursor": {bytes: 200, emptyIsNone: true},
	"listEdits cursor":         {bytes: 200, emptyIsNone: true},
	"listMessages cursor":      {bytes: 200, emptyIsNone: true},
	"listParticipants cursor":  {bytes: 200, emptyIsNone: true},
	"listReactions cursor":     {bytes: 200, emptyIsNone: true},
	"listSessions cursor":      {bytes: 200, emptyIsNone: true},
	"searchMessages cursor":    {bytes: 200, emptyIsNone: true},
	"searchUsers cursor":       {bytes: 200, emptyIsNone: true},
	"sync cursor":              {bytes: 20_000, emptyIsNone: true},
}

// absent says how a request is answered that names what is not there, or is none of the
// asker's business, and which input names it: the same in both cases. A path's id that
// is not here is answered with NotFound.
var absent = map[string]answer{
	"endSession id":                  {404, chat.NotFound, "sessionId"},
	"blockUser userId":               {404, chat.NotFound, "userId"},
	"unblockUser userId":             {status: 204}, // it may be repeated
	"removeParticipant userId":       {status: 204},
	"updateParticipant userId":       {404, chat.NotFound, "userId"},
	"readConversation id":            {403, chat.Forbidden, "conversationId"},
	"sendMessage conversationId":     {403, chat.Forbidden, "conversationId"},
	"sendMessage replyTo":            {400, chat.Invalid, "replyTo"},
	"sendMessage attachments":        {400, chat.Invalid, "attachments"},
	"readMessages messageIds":        {404, chat.NotFound, "messageIds"},
	"createConversation otherUserId": {404, chat.NotFound, "otherUserId"},
	"createConversation userIds":     {404, chat.NotFound, "userIds"},
	"addParticipants userIds":        {404, chat.NotFound, "userIds"},
	"listMessages conversationId":    {404, chat.NotFound, "conversationId"},
	"listMessages around":            {404, chat.NotFound, "around"},
	"searchMessages conversationId":  {404, chat.NotFound, "conversationId"},
	"searchMessages from":            {status: 200}, // nothing is found
	"listPresence userIds":           {status: 200}, // they are left out
}

// strangers returns ids that are there, and none of eve's business where the input is
// asked for.
func (w *world) strangers(op *apiOperation, name string) []string {
	switch name {
	case "messageIds":
		return []string{w.other.message}
	case "replyTo", "around":
		return []string{w.other.message, w.aside}
	case "conversationId":
		return []string{w.other.group}
	case "id":
		switch {
		case op.OperationID == "endSession":
			return []string{w.other.session}
		case strings.HasPrefix(op.path, "/api/messages/"):
			return []string{w.other.message}
		default:
			return []string{w.other.group}
		}
	}
	return nil // users are nobody's secret
}

// A probe is a bad request and its answer.
type probe struct {
	what string
	*apiRequest
	want answer
	id   string // what it names that is not there, or nobody may know of
	of   string // the input that does
}

// Every operation of /openapi.json, with every kind of nonsense in every place. What is
// wrong is named, nothing is stored, and nobody else notices. An operation, parameter or
// field that comes to the document is tried without being added here, or fails the test
// until somebody says what a good one is.
func TestBadRequest(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	operations := readOperations(t, a)
	shared := newWorld(t, a)
	t.Run("good", func(t *testing.T) {
		for _, op := range operations {
			t.Run(op.OperationID, func(t *testing.T) {
				t.Parallel()
				w := shared
				if op.method != http.MethodGet {
					w = newWorld(t, a)
				}
				if r := w.good(t, op).send(t, a, w.eve); r.Status/100 != 2 {
					t.Errorf("the good request is answered with %s", r)
				}
			})
		}
	})
	w := newWorld(t, a)
	w.watch(t)
	w.settle(t)
	before := fingerprint(t, a)
	t.Run("bad", func(t *testing.T) {
		for _, op := range operations {
			t.Run(op.OperationID, func(t *testing.T) {
				t.Parallel()
				of := map[string]string{}
				for _, p := range w.probes(t, op) {
					r := p.send(t, a, w.eve)
					if p.of != "" {
						text := strings.ReplaceAll(r.String(), p.id, "ID")
						if first := cmp.Or(of[p.of], text); first != text {
							t.Errorf("%s: answered with %s\nof others with %s", p.what, text, first)
						}
						of[p.of] = text
					}
					if got := answerOf(r); got != p.want && (p.want.status/100 != 2 || got.status != p.want.status) {
						t.Errorf("%s: answered with %s, want %s\n%.200s", p.what, got, p.want, r)
					}
				}
			})
		}
	})
	if after := fingerprint(t, a); !maps.Equal(before, after) {
		for table := range after {
			if before[table] != after[table] {
				t.Errorf("something was stored in %s", table)
			}
		}
	}
	w.undisturbed(t)
}

// fingerprint sums up every table but those that change by themselves.
func fingerprint(t *testing.T, a *apptest.App) map[string]string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), a.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, _ := conn.Query(t.Context(), `SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1`)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, table := range tables {
		row := "to_jsonb(r) - 'delivered_seq'" // which follows what devices acknowledge
		switch table {
		case "nodes", "presences", "session_cursors", "sessions", "search_segments":
			continue
		}
		var n int
		var sum string
		if err := conn.QueryRow(t.Context(), `SELECT count(*), coalesce(md5(string_agg(t, '' ORDER BY t)), '') FROM (SELECT (`+row+`)::text AS t FROM `+table+` r) s`).Scan(&n, &sum); err != nil {
			t.Fatal(err)
		}
		sums[table] = fmt.Sprint(n, " ", sum)
	}
	return sums
}

// probes returns the bad requests to an operation.
func (w *world) probes(t *testing.T, op *apiOperation) []probe {
	t.Helper()
	var out []probe
	good := w.good(t, op)
	add := func(what string, want answer, change func(*apiRequest)) {
		r := good.clone()
		change(r)
		out = append(out, probe{what: what, apiRequest: r, want: want})
	}
	add("unknown parameter", invalidField("nope"), func(r *apiRequest) { r.query.Set("nope", "1") })
	add("unknown parameter without a value", invalidField("nope"), func(r *apiRequest) { r.rawQuery = "nope" })
	add("badly encoded parameter", invalidField("query"), func(r *apiRequest) { r.rawQuery = "limit=%zz" })
	add("semicolon between parameters", invalidField("query"), func(r *apiRequest) { r.rawQuery = "a=1;b=2" })
	absentIDs := func(name, place string, set func(*apiRequest, string)) {
		want, ok := absent[op.OperationID+" "+name]
		switch {
		case !ok && place != "path":
			t.Fatalf("%s: what is answered to a %s that is not there? Say it in absent", op.OperationID, name)
		case !ok:
			want = answer{404, chat.NotFound, "conversationId"}
			if strings.HasPrefix(op.path, "/api/messages/") {
				want.field = "messageId"
			}
		}
		for i, id := range append([]string{chat.NewID().String(), uuid(99)}, w.strangers(op, name)...) {
			add(fmt.Sprintf("%s that is not there (%d)", name, i), want, func(r *apiRequest) { set(r, id) })
			out[len(out)-1].id, out[len(out)-1].of = id, name
		}
		if name == "userIds" && place == "body" || name == "messageIds" || name == "attachments" {
			name += "[0]"
		}
		if op.OperationID == "listPresence" {
			return // the list is text
		}
		add("zero "+name, invalidField(name), func(r *apiRequest) { set(r, chat.ID{}.String()) })
	}
	for _, p := range op.Parameters {
		set := func(r *apiRequest, value string) {
			if p.In == "path" {
				r.path[p.Name] = url.PathEscape(value)
			} else {
				r.query.Set(p.Name, value)
			}
		}
		if p.In == "query" {
			if p.Required {
				add("no "+p.Name, invalidField(p.Name), func(r *apiRequest) { r.query.Del(p.Name) })
				add("empty "+p.Name, invalidField(p.Name), func(r *apiRequest) { set(r, "") })
			}
			if p.Name != "userIds" { // which may be repeated
				add(p.Name+" twice", invalidField(p.Name), func(r *apiRequest) { r.rawQuery = p.Name + "=1&" + p.Name + "=1" })
			}
			if upper := strings.ToUpper(p.Name[:1]) + p.Name[1:]; true {
				add("parameter in capitals", invalidField(upper), func(r *apiRequest) { r.query.Set(upper, "1") })
			}
		}
		if p.Schema.isID() || p.Name == "userIds" {
			absentIDs(p.Name, p.In, set)
		}
		for _, v := range w.parameterValues(t, op, p) {
			add(fmt.Sprintf("%s=%.60q", p.Name, v.value), v.want, func(r *apiRequest) { set(r, v.value) })
		}
	}
	w.sensible(op, add)
	if op.Security != nil {
		w.unauthenticated(t, good)
	}
	if op.body == nil {
		return out
	}
	for _, coding := range []string{"gzip", "br", "identity, gzip", "x"} {
		add("a body in "+coding, answer{415, "unsupported_media_type", ""}, func(r *apiRequest) { r.header = http.Header{"Content-Encoding": {coding}} })
	}
	add("two media types", invalidField("Content-Type"), func(r *apiRequest) { r.header = http.Header{"Content-Type": {"text/plain"}} })
	raw := func(what string, want answer, text string) {
		add(what, want, func(r *apiRequest) { r.raw = &text })
	}
	for _, text := range []string{"null", "true", "1", `"x"`, "[]", "[{}]"} {
		raw("body "+text, invalidField("body"), text)
	}
	for _, text := range []string{"", "{", `{"a"`, `{"a":}`, "{}}", "{} {}", "x", "\x00", "\xff", strings.Repeat("[", 100_000), strings.Repeat(`{"a":`, 20_000)} {
		raw(fmt.Sprintf("body %.20q", text), invalidField("body"), text)
	}
	limit := 256 << 10
	switch op.OperationID {
	case "createConversation", "addParticipants", "sendMessage", "readMessages":
		limit = 512 << 10 // 10,000 ids come so far that they can be named
	}
	raw("a number that is none", invalidField("body"), `{"a":1e400}`)
	raw("large body", answer{413, chat.TooLarge, "body"}, `{"a":"`+strings.Repeat("a", limit)+`"}`)
	for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/cbor", "nonsense"} {
		add("body as "+media, answer{415, "unsupported_media_type", ""}, func(r *apiRequest) { r.media = media })
	}
	add("unknown field", invalidField("nope"), func(r *apiRequest) { r.body["nope"] = 1 })
	for name, s := range op.body.Properties {
		upper := strings.ToUpper(name[:1]) + name[1:]
		add(name+" in capitals", invalidField(upper), func(r *apiRequest) { r.body[upper] = r.body[name] })
		if slices.Contains(op.body.Required, name) {
			add("no "+name, invalidField(name), func(r *apiRequest) { delete(r.body, name) })
			add("null as "+name, invalidField(name), func(r *apiRequest) { r.body[name] = nil })
		}
		if name == "clientMsgId" {
			add("zero "+name, invalidField(name), func(r *apiRequest) { r.body[name] = chat.ID{} })
		} else if s.isID() || s.Items != nil && s.Items.isID() {
			absentIDs(name, "body", func(r *apiRequest, id string) {
				r.body = w.with(t, op, name)
				if r.body[name] = id; !s.isID() {
					r.body[name] = []any{id}
				}
			})
		}
		for _, v := range w.fieldValues(t, op, name, s) {
			text, _ := json.Marshal(v.value)
			add(fmt.Sprintf("%.60s as %s", text, name), v.want, func(r *apiRequest) {
				if v.body != nil {
					r.body = maps.Clone(v.body)
				}
				r.body[name] = v.value
			})
		}
	}
	return out
}

// sensible adds requests in which each input is well-formed, and that are refused for
// what they are about, or because two inputs don't go together.
func (w *world) sensible(op *apiOperation, add func(string, answer, func(*apiRequest))) {
	deleted := answer{409, chat.Conflict, "messageId"}
	query := func(r *apiRequest, pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			r.query.Set(pairs[i], pairs[i+1])
		}
	}
	switch op.OperationID {
	case "editMessage", "addReaction":
		add("a deleted message", deleted, func(r *apiRequest) { r.path["id"] = w.gone })
	case "readConversation":
		add("beyond the end", invalidField("upTo"), func(r *apiRequest) { r.body["upTo"] = 1000 })
		add("as far as it goes", invalidField("upTo"), func(r *apiRequest) { r.body["upTo"] = 1<<53 - 1 })
	case "readMessages":
		add("one of them not there", absent["readMessages messageIds"], func(r *apiRequest) { r.body["messageIds"] = []any{w.message, w.other.message} })
	case "createConversation":
		add("with oneself", invalidField("otherUserId"), func(r *apiRequest) { r.body["otherUserId"] = w.eve.ID })
		add("which there is", answer{409, chat.Conflict, "otherUserId"}, func(r *apiRequest) { r.body["otherUserId"] = w.nan.ID })
		add("of both kinds", invalidField("otherUserId"), func(r *apiRequest) { r.body["userIds"] = []any{w.nan.ID} })
		add("of neither kind", invalidField("otherUserId"), func(r *apiRequest) { r.body = map[string]any{"title": "x"} })
		add("direct, with a title", invalidField("title"), func(r *apiRequest) { r.body["title"] = "x" })
		add("with one who is not there among others", absent["createConversation userIds"], func(r *apiRequest) {
			r.body = map[string]any{"userIds": []any{w.nan.ID, uuid(99)}}
		})
	case "sendMessage":
		add("in reply to what is no message", invalidField("replyTo"), func(r *apiRequest) { r.body["replyTo"] = w.group })
		add("key as the server makes them", invalidField("clientMsgId"), func(r *apiRequest) { r.body["clientMsgId"] = "0198c0de-0000-8000-8000-000000000001" })
	case "listMessages":
		add("after and around", invalidField("around"), func(r *apiRequest) { query(r, "after", "1", "around", w.message) })
		add("after and cursor", invalidField("cursor"), func(r *apiRequest) { query(r, "after", "1", "cursor", "x") })
	case "sync":
		add("from and cursor", invalidField("cursor"), func(r *apiRequest) { query(r, "from", "now", "cursor", "x") })
	case "logIn":
		add("both names", invalidField("username"), func(r *apiRequest) { r.body["email"] = "eve@example.org" })
		add("a wrong password", answer{401, chat.Unauthenticated, ""}, func(r *apiRequest) { r.body["password"] = "wrong horse battery" })
	case "createUser":
		add("a name that is taken", answer{409, chat.Conflict, "username"}, func(r *apiRequest) { r.body["username"] = w.eve.Username })
	case "updateMe":
		add("a new password without the old one", answer{403, chat.Forbidden, "currentPassword"}, func(r *apiRequest) { delete(r.body, "currentPassword") })
	case "updateParticipant":
		add("the owner, who hands over to nobody", invalidField("role"), func(r *apiRequest) { r.path["userId"] = w.eve.ID.String() })
	case "updateConversation", "addParticipants":
		add("a direct conversation", invalidField("conversationId"), func(r *apiRequest) { r.path["id"] = string(w.conv) })
	}
}

type badParameter struct {
	value string
	want  answer
}

func (w *world) parameterValues(t *testing.T, op *apiOperation, p *apiParameter) []badParameter {
	t.Helper()
	var out []badParameter
	bad := func(values ...string) {
		for _, v := range values {
			out = append(out, badParameter{v, invalidField(p.Name)})
		}
	}
	switch {
	case p.Name == "emoji":
		bad(notEmoji...)
	case p.Schema.isID() || p.Name == "userIds":
		bad(malformedIDs...)
		if p.Name == "userIds" {
			bad(",", uuid(1)+",", strings.TrimSuffix(strings.Repeat(uuid(1)+",", chat.MaxPresences+1), ","))
		}
	case p.Schema.kind() == "integer":
		bad("x", "1.5", "1e2", "0x10", " 1", "1 ", "+-1", "9223372036854775808", "-9223372036854775809", strings.Repeat("1", 1000), "1\x00", "\xff", "null", "１")
		if m := p.Schema.Minimum; m != nil {
			bad(fmt.Sprint(int64(*m) - 1))
		}
		if m := p.Schema.Maximum; m != nil {
			bad(fmt.Sprint(int64(*m) + 1))
		}
	case p.Schema.Enum != nil:
		bad("nope", strings.ToUpper(fmt.Sprint(p.Schema.Enum[0])), "\x00", "\xff")
	case p.Schema.Format == "date-time":
		bad("x", "yesterday", "2026-02-03", "2026-02-30T00:00:00Z", "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "1700000000", "\x00", "\xff")
	default:
		limit, ok := texts[op.OperationID+" "+p.Name]
		if !ok {
			t.Fatalf("%s: how long may %s be? Say it in texts", op.OperationID, p.Name)
		}
		bad("a\x00b", "a\xff\xfeb", strings.Repeat("a", limit.bytes+1))
	}
	return out
}

type badField struct {
	value any
	want  answer
	body  map[string]any // with which it is sent; nil: the example
}

func (w *world) fieldValues(t *testing.T, op *apiOperation, name string, s *apiSchema) []badField {
	t.Helper()
	var out []badField
	bad := func(values ...any) {
		for _, v := range values {
			out = append(out, badField{value: v, want: invalidField(name)})
		}
	}
	bad(true, map[string]any{}, map[string]any{name: 1})
	if s.kind() != "array" {
		bad([]any{}, []any{nil}, []any{"x"})
	}
	if s.kind() != "string" {
		bad("x", "", "1")
	} else {
		bad(1, 1.5, json.Number("1e30"))
	}
	switch {
	case s.kind() == "array":
		bad(1)
		in := func(field string, values ...any) {
			for _, v := range values {
				out = append(out, badField{value: v, want: invalidField(field)})
			}
		}
		in(name+"[0]", []any{nil}, []any{1}, []any{[]any{}}, []any{map[string]any{}})
		if !s.Items.isID() || s.MaxItems == nil {
			t.Fatalf("%s: what is wrong in %s, and when is it too long?", op.OperationID, name)
		}
		for _, id := range malformedIDs {
			if id == "a\xff\xfeb" {
				continue
			}
			in(name+"[0]", []any{id})
		}
		ids := make([]any, max(10_000, *s.MaxItems+1))
		for i := range ids {
			ids[i] = uuid(i + 1)
		}
		bad(ids[:*s.MaxItems+1], ids)
		if s.MinItems != nil {
			bad([]any{})
		}
	case s.isID():
		for _, id := range malformedIDs {
			if id == "a\xff\xfeb" {
				continue
			}
			bad(id)
		}
		bad("")
	case s.kind() == "integer":
		bad(1.5, json.Number("9223372036854775808"), json.Number("1e30"), json.Number("-1e30"))
		if s.Minimum != nil {
			bad(int64(*s.Minimum) - 1)
		}
	case s.Enum != nil:
		bad("nope", "", strings.ToUpper(fmt.Sprint(s.Enum[0])))
	case s.kind() == "string":
		limit, ok := texts[op.OperationID+" "+name]
		if !ok {
			t.Fatalf("%s: how long may %s be? Say it in texts", op.OperationID, name)
		}
		body := w.with(t, op, name)
		text := func(v string, want answer) {
			if want == (answer{}) {
				want = invalidField(name)
			}
			out = append(out, badField{v, want, body})
		}
		text("a\x00b", limit.or)
		long := strings.Repeat("é", limit.runes+1)
		if limit.bytes > 0 {
			long = strings.Repeat("a", limit.bytes+1)
		}
		if limit.tooLong == (answer{}) {
			limit.tooLong = limit.or
		}
		text(long, limit.tooLong)
		if limit.empty == (answer{}) {
			limit.empty = limit.or
		}
		if !limit.emptyIsNone {
			text("", limit.empty)
		}
		out = append(out, badField{notUTF8, invalidField("body"), body})
	default:
		t.Fatalf("%s: what is wrong as %s?", op.OperationID, name)
	}
	return out
}

// with returns a good body in which a field has a place.
func (w *world) with(t *testing.T, op *apiOperation, name string) map[string]any {
	body := maps.Clone(w.good(t, op).body)
	switch op.OperationID + " " + name {
	case "createConversation title", "createConversation userIds":
		delete(body, "otherUserId")
		body["userIds"] = w.field(t, op, "userIds")
	case "logIn email":
		delete(body, "username")
	}
	return body
}

func (w *world) unauthenticated(t *testing.T, good *apiRequest) {
	t.Helper()
	for _, token := range []string{"", "x", "a.b.c", w.eve.Token + "x", w.eve.Token[:len(w.eve.Token)-10], w.refresh, strings.Repeat("a", 10_000)} {
		r := good.clone().send(t, w.App, apptest.User{Token: token})
		if got, want := answerOf(r), (answer{401, chat.Unauthenticated, ""}); got != want {
			t.Errorf("with the token %.20q: answered with %s, want %s", token, got, want)
		}
	}
}
