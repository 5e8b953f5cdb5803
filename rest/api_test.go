package rest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/storetest"
)

func TestUsers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	u := s.want(201, "POST", "/api/users", "", `{"username":"alice","email":"Alice@Example.org","password":"correct horse battery","displayName":"Alice ☺"}`)
	if u.text("username") != "alice" || u.text("displayName") != "Alice ☺" || !isTime(u.at("createdAt")) || len(u.json) != 4 {
		t.Errorf("POST /api/users: %s", u.raw)
	}
	alice := s.logIn("alice")
	me := s.want(200, "GET", "/api/users/me", alice.token, nil)
	if me.text("id") != alice.id || me.text("email") != "alice@example.org" || me.text("displayName") != "Alice ☺" {
		t.Errorf("GET /api/users/me: %s", me.raw)
	}
	me = s.want(200, "PATCH", "/api/users/me", alice.token, `{"displayName":"A."}`)
	if me.text("displayName") != "A." {
		t.Errorf("PATCH /api/users/me: %s", me.raw)
	}
	s.want(200, "PATCH", "/api/users/me", alice.token, `{}`)
	s.problem(403, chat.Forbidden, "currentPassword", "PATCH", "/api/users/me", alice.token, `{"email":"a@example.org"}`)
	s.problem(400, chat.Invalid, "displayName", "PATCH", "/api/users/me", alice.token, `{"displayName":""}`)
	s.problem(400, chat.Invalid, "admin", "PATCH", "/api/users/me", alice.token, `{"admin":true}`)
	me = s.want(200, "PATCH", "/api/users/me", alice.token, `{"email":"a@example.org","currentPassword":"correct horse battery"}`)
	if me.text("email") != "a@example.org" {
		t.Errorf("PATCH /api/users/me: %s", me.raw)
	}

	for _, name := range []string{"al", "alan", "albert", "bob"} {
		s.person(name)
	}
	var found []string
	path := "/api/users?q=AL&limit=2"
	for next := path; next != ""; {
		r := s.want(200, "GET", next, alice.token, nil)
		for _, u := range r.list() {
			if u := u.(map[string]any); u["email"] != nil {
				t.Errorf("somebody's address is shown: %v", u)
			} else {
				found = append(found, u["username"].(string))
			}
		}
		next = ""
		if c := r.text("nextCursor"); c != "" {
			next = path + "&cursor=" + c
		}
	}
	if want := []string{"al", "alan", "albert", "alice"}; !slices.Equal(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
	if r := s.want(200, "GET", "/api/users?q=a%25", alice.token, nil); string(r.raw) != `{"data":[],"nextCursor":null}`+"\n" {
		t.Errorf("nothing found: %s", r.raw)
	}
}

func TestSessions(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	phone := s.person("alice")
	tablet := s.want(201, "POST", "/api/sessions", "", `{"email":"alice@example.org","password":"correct horse battery"}`)
	if tablet.at("expiresIn") != float64(900) || tablet.text("user.email") != "alice@example.org" {
		t.Errorf("POST /api/sessions: %s", tablet.raw)
	}
	list := s.want(200, "GET", "/api/sessions", phone.token, nil)
	if len(list.list()) != 2 || list.text("data.1.id") != phone.session || list.at("data.1.current") != true || list.at("data.0.current") != false ||
		list.text("data.1.device") != "phone" || !isTime(list.at("data.0.expiresAt")) {
		t.Errorf("GET /api/sessions: %s", list.raw)
	}
	first := s.want(200, "GET", "/api/sessions?limit=1", phone.token, nil)
	second := s.want(200, "GET", "/api/sessions?limit=1&cursor="+first.text("nextCursor"), phone.token, nil)
	if first.text("data.0.id") != tablet.text("sessionId") || second.text("data.0.id") != phone.session || second.at("nextCursor") != nil {
		t.Errorf("pages of sessions: %s %s", first.raw, second.raw)
	}

	fresh := s.want(200, "POST", "/api/sessions/refresh", "", map[string]string{"refreshToken": phone.refresh})
	if fresh.text("refreshToken") == phone.refresh || fresh.text("sessionId") != phone.session {
		t.Errorf("refresh: %s", fresh.raw)
	}
	s.want(200, "GET", "/api/users/me", fresh.text("accessToken"), nil)
	// Its answer may have been lost.
	again := s.want(200, "POST", "/api/sessions/refresh", "", map[string]string{"refreshToken": phone.refresh})
	if again.text("refreshToken") != fresh.text("refreshToken") {
		t.Errorf("refresh again: %s, want the refresh token of %s", again.raw, fresh.raw)
	}
	storetest.Exec(t, s.dsn, `UPDATE refresh_tokens SET used_at = used_at - interval '1 minute'`)
	s.problem(401, chat.Unauthenticated, "", "POST", "/api/sessions/refresh", "", map[string]string{"refreshToken": phone.refresh})
	r := s.problem(401, chat.Unauthenticated, "", "GET", "/api/users/me", fresh.text("accessToken"), nil) // the reuse ended it
	if got := r.header.Get("WWW-Authenticate"); got != `Bearer realm="parley", error="invalid_token"` {
		t.Errorf("WWW-Authenticate: %q", got)
	}

	other, bob := s.logIn("alice"), s.person("bob")
	s.problem(404, chat.NotFound, "sessionId", "DELETE", "/api/sessions/"+other.session, bob.token, nil)
	s.want(200, "GET", "/api/users/me", other.token, nil)
	for range 2 {
		if r := s.want(204, "DELETE", "/api/sessions/"+other.session, tablet.text("accessToken"), nil); len(r.raw) != 0 {
			t.Errorf("204 with a body: %s", r.raw)
		}
	}
	s.problem(401, chat.Unauthenticated, "", "GET", "/api/users/me", other.token, nil)

	for _, body := range []string{
		`{"username":"alice","password":"wrong horse battery"}`, `{"username":"nobody","password":"correct horse battery"}`,
		`{"email":"nobody@example.org","password":"correct horse battery"}`, `{"username":"ali\u0000ce","password":"correct horse battery"}`,
		`{"username":"alice","password":""}`,
	} {
		r := s.problem(401, chat.Unauthenticated, "", "POST", "/api/sessions", "", body)
		if got := r.header.Get("WWW-Authenticate"); got != `Bearer realm="parley"` || r.text("detail") != "user name or password is wrong" {
			t.Errorf("%s: %q %s", body, got, r.raw)
		}
	}
}

func TestConversations(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	alice, bob, eve := s.person("alice"), s.person("bob"), s.person("eve")
	c := s.want(201, "POST", "/api/conversations", alice.token, map[string]string{"otherUserId": bob.id})
	id := c.text("id")
	if c.header.Get("Location") != "/api/conversations/"+id || c.text("kind") != "direct" || c.at("participantCount") != float64(2) ||
		c.at("lastMessage") != nil || c.at("unreadCount") != float64(0) || c.at("hasUnread") != false || c.at("lastReadAt") != nil {
		t.Errorf("POST /api/conversations: %s", c.raw)
	}
	for _, key := range []string{"lastMessage", "lastReadAt", "nextCursor"} {
		if _, ok := c.json[key]; !ok && key != "nextCursor" {
			t.Errorf("%s is missing, want null", key)
		}
	}
	for _, p := range []struct{ who, whom person }{{alice, bob}, {bob, alice}} {
		r := s.problem(409, chat.Conflict, "otherUserId", "POST", "/api/conversations", p.who.token, map[string]string{"otherUserId": p.whom.id})
		if r.text("conversationId") != id {
			t.Errorf("409 without the conversation there is: %s", r.raw)
		}
	}
	group := s.want(201, "POST", "/api/conversations", alice.token, map[string]any{"userIds": []string{bob.id, eve.id, bob.id}, "title": "Rowing"})
	if group.text("kind") != "group" || group.text("title") != "Rowing" || group.at("participantCount") != float64(3) {
		t.Errorf("a group: %s", group.raw)
	}
	alone := s.want(201, "POST", "/api/conversations", alice.token, `{"userIds":[]}`)

	s.say(bob, id, "hello")
	got := s.want(200, "GET", "/api/conversations/"+id, alice.token, nil)
	if got.text("lastMessage.content") != "hello" || got.at("unreadCount") != float64(1) || got.at("hasUnread") != true {
		t.Errorf("after a message: %s", got.raw)
	}
	roles := map[any]any{}
	for _, p := range got.at("participants").([]any) {
		roles[p.(map[string]any)["username"]] = p.(map[string]any)["role"]
	}
	if len(roles) != 2 || roles["alice"] != "member" || roles["bob"] != "member" {
		t.Errorf("participants: %v", roles)
	}

	var order []string
	for next := "/api/conversations?limit=1"; next != ""; {
		r := s.want(200, "GET", next, alice.token, nil)
		order = append(order, r.text("data.0.id"))
		next = ""
		if c := r.text("nextCursor"); c != "" {
			next = "/api/conversations?limit=1&cursor=" + c
		}
	}
	if want := []string{id, alone.text("id"), group.text("id")}; !slices.Equal(order, want) {
		t.Errorf("conversations %v, want %v: latest activity first", order, want)
	}
	if r := s.want(200, "GET", "/api/conversations", eve.token, nil); len(r.list()) != 1 {
		t.Errorf("eve's conversations: %s", r.raw)
	}
	r1 := s.problem(404, chat.NotFound, "conversationId", "GET", "/api/conversations/"+id, eve.token, nil)
	r2 := s.problem(404, chat.NotFound, "conversationId", "GET", "/api/conversations/"+nothing, eve.token, nil)
	if strings.ReplaceAll(string(r1.raw), id, nothing) != string(r2.raw) {
		t.Errorf("somebody else's conversation shows:\n%s%s", r1.raw, r2.raw)
	}

	for _, tt := range []struct {
		body   string
		status int
		code   chat.Code
		field  string
	}{
		{`{}`, 400, chat.Invalid, "otherUserId"},
		{`{"otherUserId":"` + bob.id + `","userIds":[]}`, 400, chat.Invalid, "otherUserId"},
		{`{"otherUserId":"` + alice.id + `"}`, 400, chat.Invalid, "otherUserId"},
		{`{"otherUserId":"` + bob.id + `","title":"x"}`, 400, chat.Invalid, "title"},
		{`{"otherUserId":"` + nothing + `"}`, 404, chat.NotFound, "otherUserId"},
		{`{"otherUserId":"bob"}`, 400, chat.Invalid, "otherUserId"},
		{`{"userIds":["` + nothing + `"]}`, 404, chat.NotFound, "userIds"},
		{`{"userIds":["` + bob.id + `","x"]}`, 400, chat.Invalid, "userIds[1]"},
		{`{"userIds":"` + bob.id + `"}`, 400, chat.Invalid, "userIds"},
		{`{"userIds":[],"title":"` + strings.Repeat("x", 201) + `"}`, 400, chat.Invalid, "title"},
		{`{"userIds":[],"title":"a\u0000b"}`, 400, chat.Invalid, "title"},
		{`{"userIds":[` + strings.Repeat(`"`+nothing+`",`, 9999) + `"` + nothing + `"]}`, 400, chat.Invalid, "userIds"},
	} {
		s.problem(tt.status, tt.code, tt.field, "POST", "/api/conversations", alice.token, tt.body)
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	alice, bob, eve := s.person("alice"), s.person("bob"), s.person("eve")
	c := s.direct(alice, bob)
	key := "0198c0de-1111-7000-8000-00000000000a"
	body := map[string]any{"conversationId": c, "content": "hello\n<b> & \"☺\" \u007f", "clientMsgId": key}
	m := s.want(201, "POST", "/api/messages", alice.token, body)
	if m.text("content") != body["content"] || m.text("clientMsgId") != key || m.text("senderId") != alice.id || m.text("conversationId") != c ||
		m.at("seq") != float64(2) || !isTime(m.at("createdAt")) || m.header.Get("Location") != "/api/messages/"+m.text("id") || len(m.json) != 7 {
		t.Errorf("POST /api/messages: %s", m.raw)
	}
	if r := s.want(200, "POST", "/api/messages", alice.token, body); string(r.raw) != string(m.raw) {
		t.Errorf("a repeat: %s, want %s", r.raw, m.raw)
	}
	body["content"] = "other"
	if r := s.problem(409, chat.Conflict, "clientMsgId", "POST", "/api/messages", alice.token, body); r.at("conversationId") != nil {
		t.Errorf("a conflict of messages names a conversation: %s", r.raw)
	}

	reply := s.want(201, "POST", "/api/messages", bob.token, map[string]any{"conversationId": c, "content": "hi", "replyTo": m.text("id")})
	if reply.text("replyTo") != m.text("id") || reply.text("clientMsgId") == "" {
		t.Errorf("a reply: %s", reply.raw)
	}
	r := s.want(200, "GET", "/api/messages/"+m.text("id"), bob.token, nil)
	for field, want := range m.json {
		if got := r.json[field]; got != want {
			t.Errorf("GET /api/messages/{id}: %s %v, want %v", field, got, want)
		}
	}
	if len(r.json) != len(m.json)+4 || !strings.Contains(string(r.raw), `"readBy":[],"readCount":0,"deliveredTo":[],"deliveredCount":0`) {
		t.Errorf("GET /api/messages/{id}: %s", r.raw)
	}
	for i := range 5 {
		s.say(alice, c, fmt.Sprint(i))
	}

	pages := func(who person, query string) string {
		t.Helper()
		var all []string
		base := "/api/messages?limit=3&conversationId=" + c
		for next := base + query; next != ""; {
			r := s.want(200, "GET", next, who.token, nil)
			var page []string
			for _, m := range r.list() {
				page = append(page, fmt.Sprint(m.(map[string]any)["seq"]))
			}
			all = append(all, strings.Join(page, " "))
			next = ""
			if cursor := r.text("nextCursor"); cursor != "" {
				next = base + "&cursor=" + cursor
			}
		}
		return strings.Join(all, " | ")
	}
	for _, tt := range []struct{ query, want string }{
		{"", "8 7 6 | 5 4 3 | 2"},
		{"&after=0", "2 3 4 | 5 6 7 | 8"},
		{"&after=6", "7 8"},
		{"&after=8", ""},
		{"&around=" + m.text("id"), "4 3 2"},
		{"&around=" + reply.text("id"), "4 3 2"},
	} {
		if got := pages(bob, tt.query); got != tt.want {
			t.Errorf("messages %q: seqs %q, want %q", tt.query, got, tt.want)
		}
	}

	older := s.want(200, "GET", "/api/messages?limit=1&conversationId="+c, alice.token, nil).text("nextCursor")
	second := s.direct(alice, eve)
	for _, tt := range []struct {
		who    person
		query  string
		status int
		code   chat.Code
		field  string
	}{
		{eve, "?conversationId=" + c, 404, chat.NotFound, "conversationId"},
		{eve, "?conversationId=" + nothing, 404, chat.NotFound, "conversationId"},
		{eve, "?conversationId=" + c + "&after=0", 404, chat.NotFound, "conversationId"},
		{eve, "?conversationId=" + c + "&around=" + m.text("id"), 404, chat.NotFound, "conversationId"},
		{alice, "?conversationId=" + c + "&around=" + nothing, 404, chat.NotFound, "around"},
		{alice, "?conversationId=" + second + "&around=" + m.text("id"), 404, chat.NotFound, "around"},
		{alice, "", 400, chat.Invalid, "conversationId"},
		{alice, "?conversationId=", 400, chat.Invalid, "conversationId"},
		{alice, "?conversationId=x", 400, chat.Invalid, "conversationId"},
		{alice, "?conversationId=" + c + "&limit=0", 400, chat.Invalid, "limit"},
		{alice, "?conversationId=" + c + "&limit=101", 400, chat.Invalid, "limit"},
		{alice, "?conversationId=" + c + "&limit=-1", 400, chat.Invalid, "limit"},
		{alice, "?conversationId=" + c + "&limit=ten", 400, chat.Invalid, "limit"},
		{alice, "?conversationId=" + c + "&limit=99999999999999999999", 400, chat.Invalid, "limit"},
		{alice, "?conversationId=" + c + "&after=-1", 400, chat.Invalid, "after"},
		{alice, "?conversationId=" + c + "&after=x", 400, chat.Invalid, "after"},
		{alice, "?conversationId=" + c + "&around=x", 400, chat.Invalid, "around"},
		{alice, "?conversationId=" + c + "&after=1&around=" + m.text("id"), 400, chat.Invalid, "around"},
		{alice, "?conversationId=" + c + "&after=1&cursor=" + older, 400, chat.Invalid, "cursor"},
		{alice, "?conversationId=" + c + "&before=7", 400, chat.Invalid, "before"},
		{alice, "?conversationId=" + c + "&cursor=x", 400, chat.Invalid, "cursor"},
		{alice, "?conversationId=" + c + "&cursor=" + older + "A", 400, chat.Invalid, "cursor"},
		{alice, "?conversationId=" + c + "&cursor=" + strings.Repeat("A", 4096), 400, chat.Invalid, "cursor"},
		{alice, "?conversationId=" + c + "&cursor=%00%ff", 400, chat.Invalid, "cursor"},
		{bob, "?conversationId=" + c + "&cursor=" + older, 400, chat.Invalid, "cursor"},
		{alice, "?conversationId=" + second + "&cursor=" + older, 400, chat.Invalid, "cursor"},
	} {
		s.problem(tt.status, tt.code, tt.field, "GET", "/api/messages"+tt.query, tt.who.token, nil)
	}
	s.problem(400, chat.Invalid, "cursor", "GET", "/api/conversations?cursor="+older, alice.token, nil)
	s.problem(400, chat.Invalid, "cursor", "GET", "/api/sessions?cursor="+older, alice.token, nil)
	s.problem(400, chat.Invalid, "cursor", "GET", "/api/users?q=a&cursor="+older, alice.token, nil)
	s.problem(404, chat.NotFound, "messageId", "GET", "/api/messages/"+m.text("id"), eve.token, nil)
	s.problem(404, chat.NotFound, "messageId", "GET", "/api/messages/"+nothing, alice.token, nil)
	s.problem(400, chat.Invalid, "id", "GET", "/api/messages/x", alice.token, nil)

	// Whether a conversation exists must not show to who is not in it.
	r1 := s.problem(403, chat.Forbidden, "conversationId", "POST", "/api/messages", eve.token, map[string]string{"conversationId": c, "content": "x"})
	r2 := s.problem(403, chat.Forbidden, "conversationId", "POST", "/api/messages", eve.token, map[string]string{"conversationId": nothing, "content": "x"})
	if strings.ReplaceAll(string(r1.raw), c, nothing) != string(r2.raw) {
		t.Errorf("somebody else's conversation shows:\n%s%s", r1.raw, r2.raw)
	}
	with := func(more string) string { return `{"conversationId":"` + c + `",` + more + `}` }
	for _, tt := range []struct {
		body   string
		status int
		code   chat.Code
		field  string
	}{
		{with(`"content":""`), 400, chat.Invalid, "content"},
		{with(`"content":"a\u0000b"`), 400, chat.Invalid, "content"},
		{with(`"content":7`), 400, chat.Invalid, "content"},
		{with(`"content":"` + strings.Repeat("x", chat.MaxContentBytes+1) + `"`), 413, chat.TooLarge, "content"},
		{with(`"content":"x","clientMsgId":"1"`), 400, chat.Invalid, "clientMsgId"},
		{with(`"content":"x","clientMsgId":"0198c0de-0000-8000-8000-000000000000"`), 400, chat.Invalid, "clientMsgId"},
		{with(`"content":"x","replyTo":"` + nothing + `"`), 400, chat.Invalid, "replyTo"},
		{with(`"content":"x","attachments":["` + nothing + `"]`), 400, chat.Invalid, "attachments"},
		{with(`"content":"x","attachments":[` + strings.Repeat(`"`+nothing+`",`, 20) + `"` + nothing + `"]`), 400, chat.Invalid, "attachments"},
		{with(`"content":"x","clientMsgid":"` + nothing + `"`), 400, chat.Invalid, "clientMsgid"},
		{`{"content":"x"}`, 400, chat.Invalid, "conversationId"},
	} {
		s.problem(tt.status, tt.code, tt.field, "POST", "/api/messages", alice.token, tt.body)
	}
	s.say(alice, c, strings.Repeat("é", chat.MaxContentBytes/2)) // the largest there is
}

// What any operation with a body must refuse, on each of them.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	alice := s.person("alice")
	for _, op := range []struct{ method, path, required string }{
		{"POST", "/api/users", "email"},
		{"PATCH", "/api/users/me", ""},
		{"POST", "/api/sessions", "password"},
		{"POST", "/api/sessions/refresh", "refreshToken"},
		{"POST", "/api/conversations", ""},
		{"POST", "/api/messages", "conversationId"},
	} {
		bad := func(status int, code chat.Code, field string, body any) reply {
			t.Helper()
			return s.problem(status, code, field, op.method, op.path, alice.token, body)
		}
		bad(400, chat.Invalid, "body", nil)
		bad(400, chat.Invalid, "body", "{")
		bad(400, chat.Invalid, "body", `"hello"`)
		bad(400, chat.Invalid, "body", "null")
		bad(400, chat.Invalid, "body", "[]")
		bad(400, chat.Invalid, "body", "{} {}")
		bad(400, chat.Invalid, "body", `{"content":"`+"\xff\xfe"+`"}`)
		bad(400, chat.Invalid, "body", strings.Repeat("[", 20000))
		if op.required != "" {
			r := bad(400, chat.Invalid, op.required, "{}")
			if r.text("errors.0.message") != "is required" {
				t.Errorf("%s: %s", op.path, r.raw)
			}
		}
		r := bad(400, chat.Invalid, "A", `{"A":7,"password":7,"nonsense":1,"`+strings.Repeat("n", 200)+`":1}`)
		for _, field := range []string{`"nonsense"`, `"password"`, `"nnnnnnn`} {
			if !strings.Contains(string(r.raw), field) || len(r.raw) > 1000 {
				t.Errorf("%s: %s is not named, or at too great length: %s", op.path, field, r.raw)
			}
		}
		r = bad(413, chat.TooLarge, "body", `{"content":"`+strings.Repeat("x", 1<<20)+`"}`)
		if !strings.Contains(r.text("detail"), map[bool]string{true: "524288", false: "262144"}[op.path == "/api/conversations" || op.path == "/api/messages"]) {
			t.Errorf("%s: 413 does not name the limit: %s", op.path, r.raw)
		}
		for _, contentType := range []string{"text/plain", "application/x-www-form-urlencoded", "application/xml"} {
			req, err := http.NewRequestWithContext(t.Context(), op.method, s.url+op.path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", contentType)
			req.Header.Set("Authorization", "Bearer "+alice.token)
			r := s.send(req)
			if r.status != 415 || r.text("code") != "unsupported_media_type" || r.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s as %s: %v", op.path, contentType, r)
			}
		}
	}
	for _, tt := range []struct{ body, field string }{
		{`{"username":"bob","email":"bob@example.org"}`, "password"},
		{`{"username":"bob","password":"correct horse"}`, "email"},
		{`{"username":"bob","email":"","password":"correct horse"}`, "email"},
		{`{"username":"bob","email":"bob@example.org","password":"short"}`, "password"},
		{`{"username":"Bob","email":"bob@example.org","password":"correct horse"}`, "username"},
		{`{"username":"b\u0000b","email":"bob@example.org","password":"correct horse"}`, "username"},
		{`{"username":"bob","email":"bob@example.org","password":"correct horse","displayName":"` + strings.Repeat("x", 101) + `"}`, "displayName"},
		{`{"username":"bob","email":"bob@example.org","password":"correct horse","admin":true}`, "admin"},
		{`{"username":["bob"],"email":"bob@example.org","password":"correct horse"}`, "username"},
		{`{"Username":"bob","email":"bob@example.org","password":"correct horse"}`, "Username"},
		{`{"username":"bob","username":null,"email":"bob@example.org","password":"correct horse"}`, "body"},
	} {
		s.problem(400, chat.Invalid, tt.field, "POST", "/api/users", "", tt.body)
	}
	s.problem(409, chat.Conflict, "username", "POST", "/api/users", "", `{"username":"alice","email":"b@example.org","password":"correct horse"}`)
	s.problem(409, chat.Conflict, "email", "POST", "/api/users", "", `{"username":"bob","email":"ALICE@example.org","password":"correct horse"}`)
	s.problem(400, chat.Invalid, "username", "POST", "/api/sessions", "", `{"password":"correct horse"}`)
	s.problem(400, chat.Invalid, "username", "POST", "/api/sessions", "", `{"username":"alice","email":"alice@example.org","password":"correct horse"}`)
	s.problem(400, chat.Invalid, "device", "POST", "/api/sessions", "", `{"username":"alice","password":"correct horse","device":"`+strings.Repeat("x", 101)+`"}`)
	for _, q := range []string{"", "?q=", "?q=" + strings.Repeat("a", 33), "?q=a%00", "?q=%ff"} {
		s.problem(400, chat.Invalid, "q", "GET", "/api/users"+q, alice.token, nil)
	}
}

// Every operation that the document says needs a token refuses whoever has none.
func TestEveryOperationIsGuarded(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	alice := s.person("alice")
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID, Summary string
			Tags                 []string
			Security             []map[string][]string
			Responses            map[string]any
		}
	}
	r := s.want(200, "GET", "/openapi.json", "", nil)
	if err := json.Unmarshal(r.raw, &doc); err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{"createUser": true, "logIn": true, "refresh": true, "health": true, "ready": true, "jwks": true}
	seen := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			seen++
			if op.Summary == "" || len(op.Tags) != 1 || op.OperationID == "" {
				t.Errorf("%s %s has no summary, tag or id", method, path)
			}
			if open[op.OperationID] {
				if op.Security != nil {
					t.Errorf("%s needs no token, and the document says it does", op.OperationID)
				}
				continue
			}
			if op.Security == nil || op.Responses["401"] == nil {
				t.Errorf("%s is open in the document", op.OperationID)
			}
			for _, token := range []string{"", "x", "x.y.z", alice.refresh, alice.token + "x", "Bearer " + alice.token} {
				r := s.problem(401, chat.Unauthenticated, "", strings.ToUpper(method), strings.ReplaceAll(path, "{id}", nothing), token, "{}")
				if !strings.HasPrefix(r.header.Get("WWW-Authenticate"), "Bearer") {
					t.Errorf("%s: WWW-Authenticate %q", op.OperationID, r.header.Get("WWW-Authenticate"))
				}
			}
		}
	}
	if seen != 36 {
		t.Errorf("%d operations in the document, want 36", seen)
	}
}
