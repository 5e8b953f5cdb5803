package app_test

import (
	"bytes"
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

// apiDocument is what tests read of /openapi.json.
type apiDocument struct {
	Paths      map[string]map[string]*apiOperation
	Components struct{ Schemas map[string]*apiSchema }
}

type apiOperation struct {
	OperationID string
	Parameters  []*apiParameter
	RequestBody *struct {
		Content map[string]struct {
			Schema  apiSchema
			Example map[string]any
		}
	}
	Security []map[string][]string

	method, path string
	body         *apiSchema     // nil: it has none
	example      map[string]any // of the body
}

type apiParameter struct {
	Name, In string
	Required bool
	Schema   apiSchema
}

type apiSchema struct {
	Ref                string `json:"$ref"`
	Type               any    // a name, or several
	Format, Pattern    string
	Enum, Examples     []any
	Minimum, Maximum   *float64
	MinItems, MaxItems *int
	Items              *apiSchema
	Properties         map[string]*apiSchema
	Required           []string
}

// kind is the type, or the first of several: the others are null.
func (s *apiSchema) kind() string {
	if list, ok := s.Type.([]any); ok {
		return fmt.Sprint(list[0])
	}
	return fmt.Sprint(s.Type)
}

func (s *apiSchema) isID() bool { return strings.HasPrefix(s.Pattern, "^[0-9a-fA-F]{8}-") }

// readOperations returns the operations of /openapi.json, by name.
func readOperations(t *testing.T, a *apptest.App) []*apiOperation {
	t.Helper()
	var doc apiDocument
	a.REST(t, apptest.User{}, http.MethodGet, "/openapi.json", nil).Into(&doc)
	var list []*apiOperation
	for path, methods := range doc.Paths {
		for method, op := range methods {
			op.method, op.path = strings.ToUpper(method), path
			if op.RequestBody != nil {
				media, ok := op.RequestBody.Content["application/json"]
				op.body, op.example = doc.Components.Schemas[strings.TrimPrefix(media.Schema.Ref, "#/components/schemas/")], media.Example
				if !ok || op.body == nil || op.example == nil {
					t.Fatalf("the document has no schema or no example of the body of %s", op.OperationID)
				}
			}
			list = append(list, op)
		}
	}
	slices.SortFunc(list, func(a, b *apiOperation) int { return strings.Compare(a.OperationID, b.OperationID) })
	if len(list) == 0 {
		t.Fatal("the document names no operation")
	}
	return list
}

// A request is one to an operation, in parts that can be changed one by one.
type apiRequest struct {
	op    *apiOperation
	path  map[string]string // percent-encoded
	query url.Values
	body  map[string]any // nil: none
	raw   *string        // instead of body
	media string         // "": JSON, if there is a body

	rawQuery string      // after query
	header   http.Header // beside those that every request has
}

func (r *apiRequest) clone() *apiRequest {
	c := *r
	c.path, c.body, c.query = maps.Clone(r.path), maps.Clone(r.body), url.Values{}
	for name, values := range r.query {
		c.query[name] = slices.Clone(values)
	}
	return &c
}

// notUTF8 stands for bytes that are no UTF-8 in a body that is made as JSON.
const notUTF8 = "\ue000not UTF-8\ue000"

// send makes the request.
func (r *apiRequest) send(t *testing.T, a *apptest.App, u apptest.User) *apptest.Response {
	t.Helper()
	target := r.op.path
	for name, value := range r.path {
		target = strings.ReplaceAll(target, "{"+name+"}", value)
	}
	if text := strings.Trim(r.query.Encode()+"&"+r.rawQuery, "&"); text != "" {
		target += "?" + text
	}
	var body []byte
	switch {
	case r.raw != nil:
		body = []byte(*r.raw)
	case r.body != nil:
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			t.Fatal(err)
		}
		body = bytes.ReplaceAll(body, []byte(notUTF8), []byte("a\xff\xfeb"))
	}
	req, err := http.NewRequestWithContext(t.Context(), r.op.method, "http://"+a.HTTPAddr(), bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = "//" + a.HTTPAddr() + target // as it is, whatever a URL may hold
	if r.media == "" && r.op.body != nil {
		r.media = "application/json"
	}
	if r.media != "" {
		req.Header.Set("Content-Type", r.media)
	}
	for name, values := range r.header {
		req.Header[name] = append(req.Header[name], values...)
	}
	return a.Do(t, u, req)
}

// world is what requests are about.
type world struct {
	*rig // eve asks; nan is in the group, too

	group   apptest.Conv // of which eve is the owner
	message string       // hers in the group, edited, with reactions
	gone    string       // hers in the group, deleted
	session string       // a login of hers
	refresh string       // its token
	fresh   apptest.User // whom nobody knows

	other struct{ group, message, session string } // of people with whom eve has nothing to do
	aside string                                   // a message of eve's in another conversation
}

func newWorld(t *testing.T, a *apptest.App) *world {
	t.Helper()
	w := &world{rig: &rig{App: a, eve: a.User(t, "eve"), nan: a.User(t, "nan")}, fresh: a.User(t, "fresh")}
	w.conv = a.Direct(t, w.eve, w.nan)
	w.group = a.Group(t, w.eve, w.nan)
	w.message = w.send(t, w.eve, w.group, "helo")
	w.must(t, w.eve, http.MethodPatch, "/api/messages/"+w.message, map[string]any{"content": "hello"})
	for _, u := range []apptest.User{w.eve, w.nan} {
		w.must(t, u, http.MethodPut, "/api/messages/"+w.message+"/reactions/"+url.PathEscape("👍"), nil)
	}
	w.gone = w.send(t, w.eve, w.group, "gone")
	w.must(t, w.eve, http.MethodDelete, "/api/messages/"+w.gone, nil)
	w.aside = w.send(t, w.eve, w.conv, "hello again")
	logIn := func(u apptest.User) map[string]any {
		return w.must(t, u, http.MethodPost, "/api/sessions", map[string]any{"username": u.Username, "password": apptest.Password}).JSON
	}
	login := logIn(w.eve)
	w.session, w.refresh = fmt.Sprint(login["sessionId"]), fmt.Sprint(login["refreshToken"])
	logIn(w.eve)
	for _, name := range []string{"x", "y"} {
		w.must(t, w.eve, http.MethodPut, "/api/blocks/"+a.User(t, name).ID.String(), nil)
	}
	mallory := a.User(t, "mallory")
	theirs := a.Group(t, mallory, a.User(t, "bob"))
	w.other.group, w.other.message = string(theirs), w.send(t, mallory, theirs, "private")
	w.other.session = fmt.Sprint(logIn(mallory)["sessionId"])
	w.seq = a.LastSeq(t, w.eve, w.conv)
	return w
}

func (w *world) must(t *testing.T, u apptest.User, method, path string, body any) *apptest.Response {
	t.Helper()
	r := w.REST(t, u, method, path, body)
	if r.Status/100 != 2 {
		t.Fatalf("%s %s: %s", method, path, r)
	}
	return r
}

func (w *world) send(t *testing.T, u apptest.User, c apptest.Conv, content string) string {
	t.Helper()
	return fmt.Sprint(w.must(t, u, http.MethodPost, "/api/messages", map[string]any{"conversationId": c, "content": content}).JSON["id"])
}

// value is what an input must be in this world that an example cannot know; "" if the
// example will do.
func (w *world) value(op *apiOperation, name string) string {
	switch op.OperationID + " " + name {
	case "logIn username":
		return w.eve.Username
	case "createUser username":
		return "new-" + chat.NewID().String()[20:]
	case "createUser email", "updateMe email":
		return "new-" + chat.NewID().String() + "@example.org"
	case "listPresence userIds", "removeParticipant userId", "updateParticipant userId":
		return w.nan.ID.String()
	case "endSession id":
		return w.session
	}
	switch name {
	case "id":
		if strings.HasPrefix(op.path, "/api/messages/") {
			return w.message
		}
		return string(w.group)
	case "conversationId":
		return string(w.group)
	case "messageIds", "messageId", "replyTo", "around":
		return w.message
	case "userId", "userIds", "otherUserId":
		return w.fresh.ID.String()
	case "clientMsgId":
		return chat.NewID().String()
	case "from":
		return w.eve.ID.String()
	case "password", "currentPassword":
		return apptest.Password
	case "refreshToken":
		return w.refresh
	case "upTo":
		return "2"
	}
	return ""
}

// good returns a request that is taken, made from the document's examples.
func (w *world) good(t *testing.T, op *apiOperation) *apiRequest {
	t.Helper()
	r := &apiRequest{op: op, path: map[string]string{}, query: url.Values{}}
	for _, p := range op.Parameters {
		if !p.Required {
			continue
		}
		text := w.value(op, p.Name)
		switch {
		case text != "":
		case p.Schema.isID() || len(p.Schema.Examples) == 0:
			t.Fatalf("%s: what is a good %s? The document has no example; or say it in world.value", op.OperationID, p.Name)
		default:
			text = fmt.Sprint(p.Schema.Examples[0])
		}
		if p.In == "path" {
			r.path[p.Name] = url.PathEscape(text)
		} else {
			r.query.Set(p.Name, text)
		}
	}
	if op.body != nil {
		r.body = map[string]any{}
		for name := range op.example {
			r.body[name] = w.field(t, op, name)
		}
		for _, name := range op.body.Required {
			if r.body[name] == nil {
				t.Fatalf("%s: the example lacks %s", op.OperationID, name)
			}
		}
	}
	return r
}

// field returns a good value of a field of the body.
func (w *world) field(t *testing.T, op *apiOperation, name string) any {
	t.Helper()
	s, text := op.body.Properties[name], w.value(op, name)
	switch {
	case s == nil:
		t.Fatalf("%s: the example has a field %s, and the schema has none", op.OperationID, name)
	case s.kind() == "array" && text != "":
		return []any{text}
	case s.kind() == "integer" && text != "":
		return json.Number(text)
	case text != "":
		return text
	case op.example[name] != nil:
		return op.example[name]
	case len(s.Examples) > 0 && !s.isID():
		return s.Examples[0]
	case name == "attachments":
		return []any{}
	}
	t.Fatalf("%s: what is a good %s? The document has no example; or say it in world.value", op.OperationID, name)
	return nil
}

// settle waits until what was done before is in every table that follows behind.
func (w *world) settle(t *testing.T) {
	t.Helper()
	apptest.Eventually(t, "messages can be found", func() bool {
		r := w.REST(t, w.eve, http.MethodGet, "/api/messages/search?q=hello", nil)
		list, _ := r.JSON["data"].([]any)
		return len(list) == 2
	})
}
