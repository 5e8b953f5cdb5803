package app_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/chat"
)

// document is what the sweep reads of /openapi.json.
type document struct {
	Paths      map[string]map[string]documentOperation
	Components struct{ Schemas map[string]documentSchema }
}

type documentOperation struct {
	OperationID string
	Parameters  []struct {
		Name, In string
		Required bool
		Schema   documentSchema
	}
	RequestBody struct {
		Content map[string]struct{ Schema documentSchema }
	}
}

type documentSchema struct {
	Ref        string `json:"$ref"`
	Type       any
	Maximum    float64
	Properties map[string]documentSchema
	Required   []string
}

func (d *document) schema(s documentSchema) documentSchema {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return d.Components.Schemas[name]
	}
	return s
}

// sweep sends requests that must be refused.
type sweep struct {
	*scene
	t       *testing.T
	method  string
	refused int
}

// refuse expects 400 or 413 for the field; "" means that the body as a whole, or what
// it is about, is at fault.
func (s *sweep) refuse(what, path string, body any, fields ...string) {
	s.t.Helper()
	r := s.REST(s.t, s.me, s.method, path, body)
	s.refused++
	var problem struct {
		Code   string
		Detail string
		Errors []struct{ Field, Message string }
	}
	if err := json.Unmarshal(r.Body, &problem); err != nil || r.Status != http.StatusBadRequest && r.Status != http.StatusRequestEntityTooLarge {
		s.t.Errorf("%s: %s %.100s = %.300s, want it refused", what, s.method, path, r)
		return
	}
	if problem.Code != string(chat.Invalid) && problem.Code != string(chat.TooLarge) || problem.Detail == "" {
		s.t.Errorf("%s: %s", what, r)
	}
	if len(fields) == 0 {
		return
	}
	if len(problem.Errors) == 0 || !slices.ContainsFunc(fields, func(f string) bool {
		got := problem.Errors[0].Field
		return got == f || strings.HasPrefix(got, f+"[") || strings.HasPrefix(got, f+".")
	}) {
		s.t.Errorf("%s: %.400s: want the field %v named", what, r, fields)
	}
}

// Whatever is wrong with a request is said by name, and nothing is stored: each field
// of each body, each parameter, and each way of getting them wrong, as far as the
// OpenAPI document knows them. An operation that no case of TestAuthorization knows
// how to ask for fails there.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	var doc document
	a.REST(t, apptest.User{}, http.MethodGet, "/openapi.json", nil).Into(&doc)
	scenes := newScenes(t, a)
	s := scenes(owner)
	admins := scenes(admin)
	before := fingerprint(t, a)
	tried := 0
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if slices.Contains([]string{"", "health", "ready", "jwks", "createUser", "logIn", "refresh"}, op.OperationID) {
				continue // not in somebody's name: tested with rest and identity
			}
			i := slices.IndexFunc(restCases, func(c restCase) bool { return c.operation == op.OperationID })
			if i < 0 {
				continue
			}
			c := restCases[i]
			tried++
			t.Run(op.OperationID, func(t *testing.T) {
				w := &sweep{scene: s, t: t, method: strings.ToUpper(method)}
				good, body := "", any(nil)
				if op.OperationID == "endSession" { // whose case makes a session
					good = "/api/sessions/" + uuid(1)
				} else {
					good, body = c.request(s)
				}
				w.paths(path, good, body)
				w.parameters(op, good, body, admins.me)
				if fields, ok := body.(map[string]any); ok {
					w.bodies(good, fields, doc.schema(op.RequestBody.Content["application/json"].Schema))
				}
				if w.refused == 0 {
					t.Error("nothing was tried")
				}
			})
		}
	}
	if tried < 25 {
		t.Errorf("%d operations were tried", tried)
	}
	if after := fingerprint(t, a); after != before {
		t.Errorf("something was stored: %s before, %s after", before, after)
	}
}

// paths gets each id of the path wrong.
func (s *sweep) paths(pattern, good string, body any) {
	s.t.Helper()
	wanted := strings.Split(pattern, "/")
	parts := strings.Split(strings.SplitN(good, "?", 2)[0], "/")
	for i, name := range wanted {
		if !strings.HasPrefix(name, "{") || i >= len(parts) {
			continue
		}
		field := strings.Trim(name, "{}")
		for _, bad := range []string{"x", strings.ToUpper("0198c0de-aaaa-7000-8000-000000000000"), "0198c0deaaaa70008000000000000000", "%00", "%ff", strings.Repeat("a", 5000), "..%2f.."} {
			changed := slices.Clone(parts)
			changed[i] = bad
			s.refuse(field+" in the path is "+bad[:min(len(bad), 40)], strings.Join(changed, "/"), body, field)
		}
	}
}

// parameters gets each parameter of the query wrong, and adds one.
func (s *sweep) parameters(op documentOperation, good string, body any, other apptest.User) {
	s.t.Helper()
	path, query, _ := strings.Cut(good, "?")
	with := func(name, value string) string {
		values, _ := url.ParseQuery(query)
		values.Set(name, value)
		return path + "?" + values.Encode()
	}
	s.refuse("an unknown parameter", with("xyzzy", "1"), body, "xyzzy")
	for _, p := range op.Parameters {
		if p.In != "query" {
			continue
		}
		var bad []string
		switch {
		case p.Name == "cursor":
			bad = []string{"x", "AXUx", "!!", strings.Repeat("A", 10_000), "\x00"}
			if r := s.REST(s.t, other, http.MethodGet, with("limit", "1"), nil); r.JSON["nextCursor"] != nil {
				theirs, _ := r.JSON["nextCursor"].(string)
				bad = append(bad, theirs, theirs[:len(theirs)-1], theirs+"A")
			}
		case p.Schema.Type == "integer":
			bad = []string{"x", "-1", "1.5", "99999999999999999999"}
			if p.Schema.Maximum > 0 {
				bad = append(bad, fmt.Sprint(int64(p.Schema.Maximum)+1))
			}
		case strings.HasSuffix(p.Name, "Id") || p.Name == "around" || p.Name == "from" && op.OperationID != "sync":
			bad = []string{"x", strings.ToUpper("0198c0de-aaaa-7000-8000-000000000000")}
		case p.Name == "userIds":
			bad = []string{"x", strings.TrimSuffix(strings.Repeat(uuid(1)+",", 101), ","), ","}
		case p.Name == "q":
			bad = []string{"", strings.Repeat("x", 300), "a\xffb", "a\x00b"}
		case p.Name == "before":
			bad = []string{"yesterday", "2026-13-01T00:00:00Z"}
		default:
			bad = []string{"\xff", "xyzzy"}
		}
		for _, value := range bad {
			s.refuse(fmt.Sprintf("%s is %.30q", p.Name, value), with(p.Name, value), body, p.Name)
		}
	}
}

// bodies gets the body, and each field of it, wrong.
func (s *sweep) bodies(path string, good map[string]any, schema documentSchema) {
	s.t.Helper()
	for _, bad := range []string{"", "[]", "null", "{", `"text"`, "{}{}", "\xff", `{"x":` + strings.Repeat("[", 20_000)} {
		s.refuse(fmt.Sprintf("the body is %.20q", bad), path, bad)
	}
	with := func(name string, value any) map[string]any {
		changed := maps.Clone(good)
		changed[name] = value
		return changed
	}
	s.refuse("an unknown field", path, with("xyzzy", 1), "xyzzy")
	many := make([]any, 10_000)
	for i := range many {
		many[i] = uuid(i)
	}
	for name, field := range schema.Properties {
		if name == "currentPassword" {
			continue // any text is one, if it is not needed
		}
		bad := []any{map[string]any{"a": 1}, true}
		switch kind := fmt.Sprint(s.kind(field)); {
		case strings.Contains(kind, "array"):
			bad = append(bad, "text", 5, []any{5}, []any{"x"}, []any{strings.ToUpper("0198c0de-aaaa-7000-8000-000000000000")})
			if name != "userIds" || !strings.HasSuffix(path, "/conversations") {
				bad = append(bad, many)
			} else {
				bad = append(bad, append(slices.Clone(many), uuid(0)))
			}
		case strings.Contains(kind, "integer"):
			bad = append(bad, "text", 1.5, -1, []any{}, json.RawMessage("99999999999999999999"))
		default:
			bad = append(bad, 5, []any{}, strings.Repeat("x", 70_000), json.RawMessage(`"a\u0000b"`))
		}
		for _, value := range bad {
			s.refuse(fmt.Sprintf("%s is %.30v", name, value), path, with(name, value), name)
		}
	}
	for _, name := range schema.Required {
		changed := maps.Clone(good)
		delete(changed, name)
		s.refuse(name+" is missing", path, changed, name)
	}
}

func (s *sweep) kind(f documentSchema) any {
	if f.Type == nil {
		return "string"
	}
	return f.Type
}

// fingerprint says how much there is of what requests could have stored.
func fingerprint(t *testing.T, a *apptest.App) string {
	t.Helper()
	var parts []string
	for _, table := range []string{"conversations", "events", "participants", "reads", "reactions", "blocks", "departures", "message_originals", "logins"} {
		parts = append(parts, fmt.Sprintf("%s %d", table, number(t, a, "SELECT count(*) FROM "+table)))
	}
	parts = append(parts, fmt.Sprintf("members %d", number(t, a, "SELECT sum(members_version)::bigint FROM conversations")))
	return strings.Join(parts, ", ")
}
