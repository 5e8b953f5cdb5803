package chat_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/asyncapi"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/client"
	"github.com/parleymq/parley/rest"
)

// What events, commands and signals look like is declared in chat: by Event and its tags, by
// ParseCommand, and by what writes and reads the signals. The AsyncAPI document, the REST API and the
// Go client say it again, each in its own way, and are held to it here.

// shape is the fields of a JSON object: the type of each, with "?" behind it if it may be absent.
type shape map[string]string

func (s shape) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, "%s: %s, ", name, s[name])
	}
	return b.String()
}

// required is the shape without what tells which fields may be absent.
func (s shape) required() shape {
	out := shape{}
	for name, kind := range s {
		out[name] = strings.TrimSuffix(kind, "?")
	}
	return out
}

// shapeOf reads the fields of full; those that are not in least may be absent.
func shapeOf(t *testing.T, full, least []byte) shape {
	t.Helper()
	var all, some map[string]any
	if err := json.Unmarshal(full, &all); err != nil {
		t.Fatalf("%s: %v", full, err)
	}
	if err := json.Unmarshal(least, &some); err != nil {
		t.Fatalf("%s: %v", least, err)
	}
	s := shape{}
	for name, v := range all {
		s[name] = map[reflect.Kind]string{reflect.String: "string", reflect.Float64: "integer", reflect.Bool: "boolean", reflect.Slice: "array"}[reflect.TypeOf(v).Kind()]
		if _, ok := some[name]; !ok {
			s[name] += "?"
		}
	}
	return s
}

// eventShape is what chat writes of events of a type.
func eventShape(t *testing.T, kind chat.EventType) shape {
	t.Helper()
	id, now := chat.NewID(), time.Now()
	least := chat.Event{Type: kind, ConversationID: id, Seq: 1, ID: id, SenderID: id, ClientMsgID: id, CreatedAt: now}
	full := least
	full.Content, full.EditedAt, full.DeletedAt = "x", now, now
	details := reflect.TypeFor[chat.EventDetail]()
	for i := range details.NumField() {
		tags := details.Field(i).Tag
		always, maybe := strings.Fields(tags.Get("always")), strings.Fields(tags.Get("maybe"))
		if len(always)+len(maybe) == 0 {
			t.Errorf("chat.EventDetail.%s does not say which events have it", details.Field(i).Name)
		}
		for _, e := range []struct {
			event *chat.Event
			of    []string
		}{{&full, append(always, maybe...)}, {&least, always}} {
			if !slices.Contains(e.of, string(kind)) {
				continue
			}
			switch f := reflect.ValueOf(&e.event.EventDetail).Elem().Field(i).Addr().Interface().(type) {
			case *chat.ID:
				*f = id
			case *[]chat.ID:
				*f = []chat.ID{id}
			default:
				reflect.ValueOf(f).Elem().SetString("x")
			}
		}
	}
	return shapeOf(t, full.AppendJSON(nil, "e"), least.AppendJSON(nil, "e"))
}

// documented is a schema's.
func documented(s asyncapi.Schema) shape {
	out := shape{}
	for _, p := range s.Properties {
		kind := fmt.Sprint(p.Value.Type)
		if kind == "[string null]" {
			kind = "string"
		}
		if !slices.Contains(s.Required, p.Name) {
			kind += "?"
		}
		out[p.Name] = kind
	}
	return out
}

// goShape is a Go type's, as encoding/json reads and writes it.
func goShape(t reflect.Type) shape {
	out := shape{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		at := f.Type
		for at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		switch {
		case at.ConvertibleTo(reflect.TypeFor[time.Time]()):
			out[name] = "string"
		case at.Kind() == reflect.Int64:
			out[name] = "integer"
		case at.Kind() == reflect.Bool:
			out[name] = "boolean"
		case at.Kind() == reflect.Slice:
			out[name] = "array"
		default:
			out[name] = at.Kind().String()
		}
		if option != "" {
			out[name] += "?"
		}
	}
	return out
}

func same(t *testing.T, what string, got, want shape) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s has\n  %v\nand chat\n  %v", what, got, want)
	}
}

func TestWireOfEvents(t *testing.T) {
	t.Parallel()
	schemas := asyncapi.Read().Components.Schemas
	all := shape{}
	for _, kind := range chat.EventTypes() {
		want := eventShape(t, kind)
		maps.Copy(all, want.required())
		schema := schemas.Get(strings.ToUpper(string(kind[:1])) + string(kind[1:]) + "Event")
		same(t, "the AsyncAPI document of "+string(kind), documented(schema), want)
		if got := schema.Properties.Get("type").Const; got != string(kind) {
			t.Errorf("the AsyncAPI document's %s events are of the type %q", kind, got)
		}
	}
	same(t, "client.Event", goShape(reflect.TypeFor[client.Event]()), all)

	message := goShape(reflect.TypeFor[rest.Message]())
	delete(message, "reactions") // of now, and in no event
	want := eventShape(t, chat.EventMessage)
	delete(want, "type")
	delete(want, "epoch") // REST has it in a header
	same(t, "rest.Message", message, want)
	message = goShape(reflect.TypeFor[client.Message]())
	maps.DeleteFunc(message, func(name, _ string) bool { return want[name] == "" }) // of REST alone
	same(t, "client.Message", message, want.required())

	op := func(schema string) []string { return schemas.Get(schema).Properties.Get("op").Enum }
	for schema, ops := range map[string][]string{
		"ReactionEvent": {chat.OpAdd, chat.OpRemove}, "ReactionCommand": {chat.OpAdd, chat.OpRemove},
		"ConversationEvent": {chat.OpCreated, chat.OpRenamed, chat.OpHistory, chat.OpJoined, chat.OpLeft, chat.OpRole},
	} {
		if !slices.Equal(op(schema), ops) {
			t.Errorf("op of %s is one of %v, and in chat of %v", schema, op(schema), ops)
		}
	}
}

// Each field of a command is needed, or not, as the document says, and of the type that it says.
func TestWireOfCommands(t *testing.T) {
	t.Parallel()
	schemas := asyncapi.Read().Components.Schemas
	unknown := shape{}
	command := reflect.TypeFor[chat.Command]()
	for i := range command.NumField() {
		unknown[strings.ToLower(command.Field(i).Name)] = ""
	}
	for _, kind := range []string{"Message", "Edit", "Delete", "Reaction"} {
		s := schemas.Get(kind + "Command")
		full := map[string]any{}
		for _, p := range s.Properties {
			delete(unknown, strings.ToLower(p.Name))
			switch {
			case p.Value.Const != "":
				full[p.Name] = p.Value.Const
			case p.Value.Enum != nil:
				full[p.Name] = p.Value.Enum[0]
			case p.Name == "emoji":
				full[p.Name] = "👍"
			case p.Value.Items != nil:
				full[p.Name] = []chat.ID{chat.NewID()}
			default:
				full[p.Name] = chat.NewID()
			}
		}
		try := func(what string, change func(map[string]any), ok bool) {
			t.Helper()
			m := maps.Clone(full)
			change(m)
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := chat.ParseCommand(text, ""); (err == nil) != ok {
				t.Errorf("%s, %s: %s: %v, want ok %v", kind, what, text, err, ok)
			}
		}
		try("everything", func(map[string]any) {}, true)
		for _, p := range s.Properties {
			if kind != "Message" || p.Name != "content" && p.Name != "attachments" { // of these one is needed
				needed := slices.Contains(s.Required, p.Name) && p.Name != "type" || p.Name == "type" && kind == "Reaction"
				if p.Name != "type" || kind == "Message" {
					try("without "+p.Name, func(m map[string]any) { delete(m, p.Name) }, !needed)
				}
			}
			try("a wrong type of "+p.Name, func(m map[string]any) { m[p.Name] = 7 }, false)
		}
	}
	if len(unknown) > 0 {
		t.Errorf("no command in the AsyncAPI document has the fields %v of chat.Command", unknown)
	}
}

func TestWireOfSignals(t *testing.T) {
	t.Parallel()
	schemas := asyncapi.Read().Components.Schemas
	id, now := chat.NewID(), time.Now()
	one := func(text []byte) shape { t.Helper(); return shapeOf(t, text, text) }
	typing := one(chat.TypingPayload(id, id, true, now))
	same(t, "the AsyncAPI document of typing", documented(schemas.Get("TypingEvent")), typing)
	same(t, "client.Typing", goShape(reflect.TypeFor[client.Typing]()), typing)
	read := one(chat.ReadPayload(id, id, 1, now))
	same(t, "the AsyncAPI document of reads", documented(schemas.Get("ReadEvent")), read)
	same(t, "the AsyncAPI document of deliveries", documented(schemas.Get("DeliveredEvent")), read)
	same(t, "client.Read", goShape(reflect.TypeFor[client.Read]()), read)
	same(t, "client.Delivered", goShape(reflect.TypeFor[client.Delivered]()), read)
	presence := one(chat.Presence{UserID: id, Status: chat.Online, LastOnlineAt: now}.AppendJSON(nil))
	same(t, "the AsyncAPI document of presence", documented(schemas.Get("PresenceEvent")), presence)
	same(t, "client.Presence", goShape(reflect.TypeFor[client.Presence]()), presence)
	same(t, "rest.Presence", goShape(reflect.TypeFor[rest.Presence]()), presence)

	for _, status := range schemas.Get("PresenceStatus").Properties.Get("status").Enum {
		if got, err := chat.ParseStatus([]byte(`{"status":"` + status + `"}`)); err != nil || string(got) != status {
			t.Errorf("the status %s is read as %q, %v", status, got, err)
		}
	}
	for _, s := range []string{"TypingSignal", "ReadUpTo", "ReadMessages", "PresenceStatus"} {
		if got := documented(schemas.Get(s)); len(got) != 1 || !maps.Equal(got, got.required()) {
			t.Errorf("%s is not one field: %v", s, got)
		}
	}
}

func TestWireLimits(t *testing.T) {
	t.Parallel()
	schemas := asyncapi.Read().Components.Schemas
	at := func(schema, field string) asyncapi.Schema { return schemas.Get(schema).Properties.Get(field) }
	for _, tt := range []struct {
		what      string
		got, want int
	}{
		{"text", schemas.Get("Text").MaxLength, chat.MaxContentBytes},
		{"content", at("MessageCommand", "content").MaxLength, chat.MaxContentBytes},
		{"an edit's content", at("EditCommand", "content").MaxLength, chat.MaxContentBytes},
		{"attachments", at("MessageCommand", "attachments").MaxItems, chat.MaxAttachments},
		{"emoji", at("ReactionCommand", "emoji").MaxLength, chat.MaxEmojiBytes},
		{"title", at("ConversationEvent", "title").MaxLength, chat.MaxTitleRunes},
		{"userIds", at("ConversationEvent", "userIds").MaxItems, chat.MaxEventUsers},
		{"messageIds", at("ReadMessages", "messageIds").MaxItems, chat.MaxReadIDs},
	} {
		if tt.got != tt.want {
			t.Errorf("the AsyncAPI document limits %s to %d, and chat to %d", tt.what, tt.got, tt.want)
		}
	}
}

// The examples of both documents are about the same users, conversation and messages, and clients see
// the same codes by both ways.
func TestWireExamples(t *testing.T) {
	t.Parallel()
	w := httptest.NewRecorder()
	rest.New(rest.Options{Logger: slog.New(slog.DiscardHandler)}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/openapi.json", nil))
	openapi, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range regexp.MustCompile(`"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"`).FindAllString(string(asyncapi.JSON("")), -1) {
		if !strings.Contains(string(openapi), id) {
			t.Errorf("the id %s of the AsyncAPI document's examples is in none of the OpenAPI document's", id)
		}
	}
}
