package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
)

// The roles in which somebody may ask for something, in the order of the tables
// below. All but blocked and anonymous ask about a group; blocked asks about their
// direct conversation with somebody who has blocked them.
const (
	owner = iota
	admin
	member
	former // was a member, and was removed
	blocked
	stranger
	anonymous
	roles
)

var roleNames = [roles]string{"owner", "admin", "member", "former member", "blocked", "stranger", "anonymous"}

// scene is what an operation is tried on: made anew for each operation and role.
type scene struct {
	*apptest.App
	t      *testing.T
	me     apptest.User // who asks; zero: anonymous
	target apptest.User // a member of the group, or who has blocked me
	fresh  apptest.User // in no conversation
	conv   apptest.Conv
	mine   string // a message of mine in conv, from when I could write; or target's, if I never could
	theirs string // a message of target's
}

// cast is the people of one operation.
type cast struct {
	*apptest.App
	people [roles]apptest.User
	target apptest.User
	fresh  apptest.User
}

func (c *cast) scene(t *testing.T, role int) *scene {
	t.Helper()
	s := &scene{App: c.App, t: t, me: c.people[role], target: c.target, fresh: c.fresh}
	boss := c.people[owner]
	if role == blocked {
		s.conv = c.Direct(t, s.me, s.target)
	} else {
		s.conv = c.Group(t, boss, c.people[admin], c.people[member], c.people[former], c.target)
		s.must(boss, "PATCH", "/api/conversations/"+string(s.conv)+"/participants/"+c.people[admin].ID.String(), map[string]any{"role": "admin"})
	}
	s.theirs = s.send(s.target, "theirs")
	s.mine = s.theirs
	if role <= blocked {
		s.mine = s.send(s.me, "mine")
	}
	if role == blocked {
		s.must(s.target, "PUT", "/api/blocks/"+s.me.ID.String(), nil)
	} else {
		s.must(boss, "DELETE", "/api/conversations/"+string(s.conv)+"/participants/"+c.people[former].ID.String(), nil)
	}
	return s
}

func (s *scene) must(u apptest.User, method, path string, body any) *apptest.Response {
	s.t.Helper()
	r := s.REST(s.t, u, method, path, body)
	if r.Status/100 != 2 {
		s.t.Fatalf("%s %s: %s", method, path, r)
	}
	return r
}

func (s *scene) send(u apptest.User, content string) string {
	s.t.Helper()
	id, _ := s.must(u, "POST", "/api/messages", map[string]any{"conversationId": s.conv, "content": content}).JSON["id"].(string)
	return id
}

// restCase is one way of asking for a REST operation: what the request is, and what
// each role is answered.
type restCase struct {
	operation string // the operationId in /openapi.json
	what      string // where there are several
	request   func(s *scene) (path string, body any)
	want      [roles]int
}

// mqttCase is the same for MQTT: a publish is answered by the reason code of PUBACK, a
// subscription by that of SUBACK; anonymous does not get so far.
type mqttCase struct {
	operation string // its name in /asyncapi.json, which speaks of what the server does
	what      string
	publish   func(s *scene) (topic, payload string)
	subscribe func(s *scene) (filter string)
	want      [roles - 1]byte
}

// all is a row in which every role is answered the same.
func all(status int) (row [roles]int) {
	for i := range row {
		row[i] = status
	}
	return row
}

// known is a row in which everybody is answered the same but those whom nobody knows.
func known(status int) [roles]int {
	row := all(status)
	row[anonymous] = http.StatusUnauthorized
	return row
}

func at(format string, of func(*scene) []any) func(*scene) (string, any) {
	return func(s *scene) (string, any) { return fmt.Sprintf(format, of(s)...), nil }
}

func fixed(path string) func(*scene) (string, any) {
	return func(*scene) (string, any) { return path, nil }
}

func conv(s *scene) []any   { return []any{s.conv} }
func theirs(s *scene) []any { return []any{s.theirs} }
func mine(s *scene) []any   { return []any{s.mine} }

var restCases = []restCase{
	{"health", "", fixed("/healthz"), all(200)},
	{"ready", "", fixed("/readyz"), all(200)},
	{"jwks", "", fixed("/.well-known/jwks.json"), all(200)},
	{"createUser", "", func(s *scene) (string, any) {
		name := "new-" + chat.NewID().String()[20:]
		return "/api/users", map[string]any{"username": name, "email": name + "@example.org", "password": apptest.Password}
	}, all(201)},
	{"logIn", "", func(s *scene) (string, any) {
		return "/api/sessions", map[string]any{"username": s.target.Username, "password": apptest.Password}
	}, all(201)},
	{"refresh", "with a token that nobody gave", func(*scene) (string, any) {
		return "/api/sessions/refresh", map[string]any{"refreshToken": strings.Repeat("x", 43)}
	}, all(401)},
	{"listSessions", "", fixed("/api/sessions"), known(200)},
	{"endSession", "another's", func(s *scene) (string, any) {
		id, _ := s.must(apptest.User{}, "POST", "/api/sessions", map[string]any{"username": s.target.Username, "password": apptest.Password}).JSON["sessionId"].(string)
		return "/api/sessions/" + id, nil
	}, known(404)},
	{"searchUsers", "", fixed("/api/users?q=target"), known(200)},
	{"getMe", "", fixed("/api/users/me"), known(200)},
	{"updateMe", "", func(*scene) (string, any) { return "/api/users/me", map[string]any{"displayName": "new"} }, known(200)},

	{"listBlocks", "", fixed("/api/blocks"), known(200)},
	{"blockUser", "", at("/api/blocks/%s", func(s *scene) []any { return []any{s.fresh.ID} }), known(204)},
	{"unblockUser", "", at("/api/blocks/%s", func(s *scene) []any { return []any{s.fresh.ID} }), known(204)},

	{"createConversation", "direct, with a member or who has blocked me", func(s *scene) (string, any) {
		return "/api/conversations", map[string]any{"otherUserId": s.target.ID}
	}, [roles]int{201, 201, 201, 201, 409, 201, 401}}, // what they have stays
	{"createConversation", "group", func(s *scene) (string, any) {
		return "/api/conversations", map[string]any{"userIds": []any{s.target.ID}, "title": "new"}
	}, [roles]int{201, 201, 201, 201, 403, 201, 401}},
	{"listConversations", "", fixed("/api/conversations"), known(200)},
	{"getConversation", "", at("/api/conversations/%s", conv), [roles]int{200, 200, 200, 404, 200, 404, 401}},
	{"updateConversation", "", func(s *scene) (string, any) {
		return "/api/conversations/" + string(s.conv), map[string]any{"title": "new"}
	}, [roles]int{200, 200, 403, 404, 400, 404, 401}},
	{"listParticipants", "", at("/api/conversations/%s/participants", conv), [roles]int{200, 200, 200, 404, 200, 404, 401}},
	{"addParticipants", "", func(s *scene) (string, any) {
		return fmt.Sprintf("/api/conversations/%s/participants", s.conv), map[string]any{"userIds": []any{s.fresh.ID}}
	}, [roles]int{200, 200, 403, 404, 400, 404, 401}},
	{"addParticipants", "as admin", func(s *scene) (string, any) {
		return fmt.Sprintf("/api/conversations/%s/participants", s.conv), map[string]any{"userIds": []any{s.fresh.ID}, "role": "admin"}
	}, [roles]int{200, 403, 403, 404, 400, 404, 401}},
	{"removeParticipant", "a member", at("/api/conversations/%s/participants/%s", func(s *scene) []any { return []any{s.conv, s.target.ID} }), [roles]int{204, 204, 403, 404, 400, 404, 401}},
	{"removeParticipant", "oneself", at("/api/conversations/%s/participants/%s", func(s *scene) []any { return []any{s.conv, s.me.ID} }), [roles]int{204, 204, 204, 204, 400, 204, 401}},
	{"updateParticipant", "", func(s *scene) (string, any) {
		return fmt.Sprintf("/api/conversations/%s/participants/%s", s.conv, s.target.ID), map[string]any{"role": "admin"}
	}, [roles]int{200, 403, 403, 404, 400, 404, 401}},
	{"updateParticipant", "hand ownership to oneself", func(s *scene) (string, any) {
		return fmt.Sprintf("/api/conversations/%s/participants/%s", s.conv, s.me.ID), map[string]any{"role": "owner"}
	}, [roles]int{200, 403, 403, 404, 400, 404, 401}},

	{"listMessages", "", at("/api/messages?conversationId=%s", conv), [roles]int{200, 200, 200, 404, 200, 404, 401}},
	{"sendMessage", "", func(s *scene) (string, any) {
		return "/api/messages", map[string]any{"conversationId": s.conv, "content": "hello"}
	}, [roles]int{201, 201, 201, 403, 403, 403, 401}},
	{"getMessage", "", at("/api/messages/%s", theirs), [roles]int{200, 200, 200, 404, 200, 404, 401}},
	{"editMessage", "another's", func(s *scene) (string, any) { return "/api/messages/" + s.theirs, map[string]any{"content": "new"} }, [roles]int{403, 403, 403, 404, 403, 404, 401}},
	{"editMessage", "one's own", func(s *scene) (string, any) { return "/api/messages/" + s.mine, map[string]any{"content": "new"} }, [roles]int{200, 200, 200, 404, 403, 404, 401}},
	{"deleteMessage", "another's", at("/api/messages/%s", theirs), [roles]int{204, 204, 403, 404, 403, 404, 401}},
	{"deleteMessage", "one's own", at("/api/messages/%s", mine), [roles]int{204, 204, 204, 404, 204, 404, 401}},
	{"listEdits", "", at("/api/messages/%s/edits", theirs), [roles]int{200, 200, 200, 404, 200, 404, 401}},
	{"listReactions", "", at("/api/messages/%s/reactions", theirs), [roles]int{200, 200, 200, 404, 200, 404, 401}},
	{"addReaction", "", at("/api/messages/%s/reactions/%%F0%%9F%%91%%8D", theirs), [roles]int{204, 204, 204, 404, 403, 404, 401}},
	{"removeReaction", "", at("/api/messages/%s/reactions/%%F0%%9F%%91%%8D", theirs), [roles]int{204, 204, 204, 404, 403, 404, 401}},

	{"readConversation", "", func(s *scene) (string, any) {
		return fmt.Sprintf("/api/conversations/%s/read", s.conv), map[string]any{"upTo": 2}
	}, [roles]int{204, 204, 204, 403, 204, 403, 401}},
	{"readMessages", "", func(s *scene) (string, any) {
		return "/api/messages/read", map[string]any{"messageIds": []any{s.theirs}}
	}, [roles]int{204, 204, 204, 404, 204, 404, 401}},
	{"searchMessages", "", fixed("/api/messages/search?q=theirs"), known(200)},
	{"searchMessages", "in a conversation", at("/api/messages/search?q=theirs&conversationId=%s", conv), [roles]int{200, 200, 200, 404, 200, 404, 401}},
	{"listPresence", "", at("/api/presence?userIds=%s", func(s *scene) []any { return []any{s.target.ID} }), known(200)},
	{"sync", "", fixed("/api/sync"), known(200)},
}

func command(payload string, id func(*scene) []any) func(*scene) (string, string) {
	return func(s *scene) (string, string) { return s.conv.Topic("messages"), fmt.Sprintf(payload, id(s)...) }
}

func convTopic(what string) func(*scene) string {
	return func(s *scene) string { return s.conv.Topic(what) }
}

func filter(text string) func(*scene) string { return func(*scene) string { return text } }

const (
	granted = 1 // at QoS 1
	no      = 0x87
)

var mqttCases = []mqttCase{
	{operation: "receiveCommand", what: "message", publish: command(`{"content":"hello"}`, func(*scene) []any { return nil }), want: [6]byte{0, 0, 0, no, no, no}},
	{operation: "receiveCommand", what: "edit another's", publish: command(`{"type":"edit","messageId":"%s","content":"new"}`, theirs), want: [6]byte{no, no, no, no, no, no}},
	{operation: "receiveCommand", what: "edit one's own", publish: command(`{"type":"edit","messageId":"%s","content":"new"}`, mine), want: [6]byte{0, 0, 0, no, no, no}},
	{operation: "receiveCommand", what: "delete another's", publish: command(`{"type":"delete","messageId":"%s"}`, theirs), want: [6]byte{0, 0, no, no, no, no}},
	{operation: "receiveCommand", what: "delete one's own", publish: command(`{"type":"delete","messageId":"%s"}`, mine), want: [6]byte{0, 0, 0, no, 0, no}},
	{operation: "receiveCommand", what: "react", publish: command(`{"type":"reaction","messageId":"%s","emoji":"👍","op":"add"}`, theirs), want: [6]byte{0, 0, 0, no, no, no}},
	{operation: "receiveTyping", publish: func(s *scene) (string, string) { return s.conv.Topic("typing"), `{"typing":true}` }, want: [6]byte{0, 0, 0, no, 0, no}},
	{operation: "sendEvent", subscribe: convTopic("messages"), want: [6]byte{granted, granted, granted, no, granted, no}},
	{operation: "sendEvent", what: "mine", subscribe: filter("conv/+/messages"), want: [6]byte{granted, granted, granted, granted, granted, granted}},
	{operation: "sendTyping", subscribe: convTopic("typing"), want: [6]byte{granted, granted, granted, no, granted, no}},
	{operation: "sendRead", subscribe: convTopic("reads"), want: [6]byte{granted, granted, granted, no, granted, no}},
	{operation: "sendDelivered", subscribe: convTopic("delivered"), want: [6]byte{granted, granted, granted, no, granted, no}},
	{operation: "receiveRead", publish: func(s *scene) (string, string) { return s.conv.Topic("reads"), `{"upTo":2}` }, want: [6]byte{0, 0, 0, no, 0, no}},
	{operation: "receivePresence", what: "another's", publish: func(s *scene) (string, string) { return s.target.Topic("presence"), `{"status":"away"}` }, want: [6]byte{no, no, no, no, no, no}},
	{operation: "receivePresence", what: "one's own", publish: func(s *scene) (string, string) { return s.me.Topic("presence"), `{"status":"away"}` }, want: [6]byte{0, 0, 0, 0, 0, 0}},
	// Whoever asks is granted it, so that the answer tells nothing; contacts alone hear something.
	{operation: "sendPresence", subscribe: func(s *scene) string { return s.target.Topic("presence") }, want: [6]byte{granted, granted, granted, granted, granted, granted}},
	{operation: "sendError", what: "another's", subscribe: func(s *scene) string { return s.target.Topic("errors") }, want: [6]byte{no, no, no, no, no, no}},
	{operation: "sendError", what: "one's own", subscribe: func(s *scene) string { return s.me.Topic("errors") }, want: [6]byte{granted, granted, granted, granted, granted, granted}},
	// Everybody's own, by the same names.
	{operation: "receiveDevice", publish: func(*scene) (string, string) { return "dev/lamp/state", "on" }, want: [6]byte{0x10, 0x10, 0x10, 0x10, 0x10, 0x10}},
	{operation: "receiveDevice", what: "elsewhere", publish: func(*scene) (string, string) { return "home/lamp", "on" }, want: [6]byte{no, no, no, no, no, no}},
	{operation: "sendDevice", subscribe: filter("dev/#"), want: [6]byte{granted, granted, granted, granted, granted, granted}},
	{operation: "sendDevice", what: "elsewhere", subscribe: filter("home/#"), want: [6]byte{no, no, no, no, no, no}},
	{operation: "", what: "$SYS", subscribe: filter("$SYS/#"), want: [6]byte{no, no, no, no, no, no}},
	{operation: "", what: "everything", subscribe: filter("#"), want: [6]byte{no, no, no, no, no, no}},
	{operation: "", what: "shared", subscribe: filter("$share/g/conv/+/messages"), want: [6]byte{0x9e, 0x9e, 0x9e, 0x9e, 0x9e, 0x9e}},
}

// Every operation of both doors, asked for in every role. An operation that the
// documents name and no table does fails the test.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	methods := restOperations(t, a)
	read := newScenes(t, a) // for what changes nothing
	var tried []string
	for _, c := range restCases {
		tried = append(tried, c.operation)
		t.Run(strings.TrimSpace(c.operation+" "+c.what), func(t *testing.T) {
			t.Parallel()
			method, ok := methods[c.operation]
			if !ok {
				t.Fatal("there is no such operation")
			}
			scenes := read
			if method != http.MethodGet {
				scenes = newScenes(t, a)
			}
			for role := range roles {
				s := scenes(role)
				path, body := c.request(s)
				r := a.REST(t, s.me, method, path, body)
				if r.Status != c.want[role] {
					t.Errorf("%s: %s %s = %s, want %d", roleNames[role], method, path, r, c.want[role])
				}
			}
		})
	}
	for operation := range methods {
		if !slices.Contains(tried, operation) {
			t.Errorf("the REST operation %s is in no table: say who may do it", operation)
		}
	}
	var document struct {
		Operations map[string]json.RawMessage
	}
	a.REST(t, apptest.User{}, http.MethodGet, "/asyncapi.json", nil).Into(&document)
	for operation := range document.Operations {
		if !slices.ContainsFunc(mqttCases, func(c mqttCase) bool { return c.operation == operation }) {
			t.Errorf("the MQTT operation %s is in no table: say who may do it", operation)
		}
	}
	for _, c := range mqttCases {
		t.Run(strings.TrimSpace("MQTT "+c.operation+" "+c.what), func(t *testing.T) {
			t.Parallel()
			scenes := read
			if c.publish != nil {
				scenes = newScenes(t, a)
			}
			for role := range anonymous {
				s := scenes(role)
				d := a.Device(t, s.me, brokertest.Connect{ClientID: "authorization " + c.operation + c.what})
				var got byte
				if c.publish != nil {
					topic, payload := c.publish(s)
					got = d.Publish(1, topic, payload).Code
				} else {
					got = d.Subscribe(1, c.subscribe(s))[0]
				}
				if got != c.want[role] {
					t.Errorf("%s: answered with %#x, want %#x", roleNames[role], got, c.want[role])
				}
				d.Close()
			}
		})
	}
	t.Run("MQTT anonymous", func(t *testing.T) {
		t.Parallel()
		for _, c := range []brokertest.Connect{{ClientID: "nobody"}, {ClientID: "nobody", Username: "target"}, {ClientID: "nobody", Username: "target", Password: "guess"}} {
			if pk := a.Dial(t).Connect(c); pk.FixedHeader.Type != packets.Connack || pk.ReasonCode != packets.ErrBadUsernameOrPassword.Code {
				t.Errorf("CONNECT without a good credential is answered with %s", brokertest.Describe(pk))
			}
		}
	})
}

// newScenes returns scenes with people of their own, one for each role, that are made
// when they are asked for first.
func newScenes(t *testing.T, a *apptest.App) func(role int) *scene {
	t.Helper()
	people := sync.OnceValue(func() *cast { return newCast(t, a) })
	var made [roles]func() *scene
	for role := range made {
		made[role] = sync.OnceValue(func() *scene { return people().scene(t, role) })
	}
	return func(role int) *scene { return made[role]() }
}

func newCast(t *testing.T, a *apptest.App) *cast {
	t.Helper()
	c := &cast{App: a, target: a.User(t, "target"), fresh: a.User(t, "fresh")}
	for role := range anonymous {
		c.people[role] = a.User(t, strings.ReplaceAll(roleNames[role], " ", "-"))
	}
	return c
}

// restOperations returns the method of each operation in /openapi.json.
func restOperations(t *testing.T, a *apptest.App) map[string]string {
	t.Helper()
	var document struct {
		Paths map[string]map[string]json.RawMessage
	}
	a.REST(t, apptest.User{}, http.MethodGet, "/openapi.json", nil).Into(&document)
	methods := map[string]string{}
	for _, path := range document.Paths {
		for method, raw := range path {
			var operation struct{ OperationID string }
			if json.Unmarshal(raw, &operation) == nil && operation.OperationID != "" {
				methods[operation.OperationID] = strings.ToUpper(method)
			}
		}
	}
	if len(methods) == 0 {
		t.Fatal("the document names no operation")
	}
	return methods
}
