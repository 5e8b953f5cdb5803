package rest_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/rest"
)

// A client asks from the beginning, then for what has changed.
func TestSync(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	alice, bob := s.person("alice"), s.person("bob")
	c := s.direct(alice, bob)
	said := s.say(bob, c, "hello").text("id")

	first := s.want(200, "GET", "/api/sync", alice.token, nil)
	var kinds []string
	for _, i := range first.list() {
		kinds = append(kinds, i.(map[string]any)["type"].(string))
	}
	if got := strings.Join(kinds, " "); got != "profile profile conversation event event" || first.at("hasMore") != false {
		t.Errorf("from the beginning: %v", first)
	}
	for path, want := range map[string]string{
		"data.2.conversation.id": c, "data.2.conversation.kind": "direct", "data.2.conversation.lastMessage.content": "hello",
		"data.3.event.op": "created", "data.3.event.conversationId": c, "data.4.event.id": said, "data.4.event.content": "hello", "data.4.event.senderId": bob.id,
	} {
		if got := first.text(path); got != want {
			t.Errorf("%s = %q, want %q: %v", path, got, want, first)
		}
	}
	if first.at("data.2.joinedSeq") != float64(1) || !isTime(first.at("data.4.event.createdAt")) {
		t.Errorf("from the beginning: %v", first)
	}
	cursor := first.text("nextCursor")
	if r := s.want(200, "GET", "/api/sync?cursor="+cursor, alice.token, nil); len(r.list()) != 0 || r.at("hasMore") != false {
		t.Errorf("nothing new: %v", r)
	}
	s.say(alice, c, "one")
	s.say(bob, c, "two")
	s.want(200, "PATCH", "/api/users/me", bob.token, map[string]string{"displayName": "Robert"})
	for n, want := range []string{"profile Robert true", "event one true", "event two true"} {
		r := s.want(200, "GET", "/api/sync?limit=1&cursor="+cursor, alice.token, nil)
		if got := fmt.Sprint(r.text("data.0.type"), " ", r.text("data.0.user.displayName"), r.text("data.0.event.content"), " ", r.at("hasMore")); got != want {
			t.Errorf("page %d: %s, want %s", n, got, want)
		}
		cursor = r.text("nextCursor")
	}
	if r := s.want(200, "GET", "/api/sync?cursor="+cursor, alice.token, nil); len(r.list()) != 0 || r.at("hasMore") != false {
		t.Errorf("the end of a run: %v", r)
	}
	now := s.want(200, "GET", "/api/sync?from=now", alice.token, nil)
	if len(now.list()) != 0 || now.at("hasMore") != false {
		t.Errorf("from now: %v", now)
	}
	s.say(bob, c, "three")
	if r := s.want(200, "GET", "/api/sync?cursor="+now.text("nextCursor"), alice.token, nil); len(r.list()) != 1 || r.text("data.0.event.content") != "three" {
		t.Errorf("since from now: %v", r)
	}
}

// Whatever is wrong with a request is named; a cursor is good for its user alone.
func TestSyncBadInput(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	alice, bob := s.person("alice"), s.person("bob")
	cursor := s.want(200, "GET", "/api/sync", alice.token, nil).text("nextCursor")
	page := s.want(200, "GET", "/api/sync?limit=1", alice.token, nil).text("nextCursor")
	me := chat.MustParseID(alice.id)
	for _, tt := range []struct{ field, token, query string }{
		{"limit", alice.token, "limit=0"},
		{"limit", alice.token, "limit=501"},
		{"limit", alice.token, "limit=many"},
		{"from", alice.token, "from=then"},
		{"from", alice.token, "from=now&cursor=" + cursor},
		{"cursor", alice.token, "cursor=x"},
		{"cursor", alice.token, "cursor=" + cursor[:len(cursor)-1]},
		{"cursor", alice.token, "cursor=" + cursor + "A"},
		{"cursor", alice.token, "cursor=" + url.QueryEscape(cursor+"\n")},
		{"cursor", bob.token, "cursor=" + cursor},
		{"cursor", bob.token, "cursor=" + page},
		{"cursor", alice.token, "cursor=" + rest.EncodeCursor('y', me, "", nil)},
		{"cursor", alice.token, "cursor=" + rest.EncodeCursor('y', me, "", []byte("10:20:"))},
		{"cursor", alice.token, "cursor=" + rest.EncodeCursor('m', me, "", rest.SeqKey(1))},
		{"cursor", alice.token, "cursor=" + strings.Repeat("A", 50_000)},
		{"since", alice.token, "since=1"},
	} {
		s.problem(400, chat.Invalid, tt.field, "GET", "/api/sync?"+tt.query, tt.token, nil)
	}
	s.problem(401, chat.Unauthenticated, "", "GET", "/api/sync", "", nil)
}
