package rest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// addExamples gives each request and each successful answer of the document an example,
// unless it has one: made from its schema, so that it stays true when the schema grows.
func addExamples(doc *huma.OpenAPI) {
	b := exampleBuilder{doc.Components.Schemas}
	for _, op := range operations(doc) {
		if op.RequestBody != nil {
			b.fill(op.RequestBody.Content)
		}
		for status, response := range op.Responses {
			if status[0] == '2' {
				b.fill(response.Content)
			}
		}
	}
}

// operations returns the operations of the document, by path, and then by method in the
// order in which people read them.
func operations(doc *huma.OpenAPI) (list []*huma.Operation) {
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		item := doc.Paths[path]
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				list = append(list, op)
			}
		}
	}
	return list
}

// exampleIDs are the ids that examples have in a field of that name. The AsyncAPI document
// has the same, so that both tell one story.
var exampleIDs = map[string]string{
	"conversationId": "0198c0de-2b00-7c04-8000-00000000c0de",
	"senderId":       exampleAlice,
	"userId":         exampleAlice,
	"userIds":        exampleAlice,
	"otherUserId":    exampleBob,
	"mentions":       exampleBob,
	"replyTo":        "0198c0df-4c00-7e55-8000-00000000002d",
	"attachments":    "0198c0df-0f00-7f11-8000-0000000f11e5",
	"sessionId":      "0198c0de-0c00-7e5e-8000-00000005e551",
	"clientMsgId":    "5f0e6c1e-8d7e-4b57-9a64-3f1a0c2d9b11",
}

const (
	exampleAlice   = "0198c0de-0a00-7a11-8000-0000000a11ce"
	exampleBob     = "0198c0de-0b00-7b0b-8000-000000000b0b"
	exampleMessage = "0198c0df-1a2b-7e55-8000-00000000001d"
)

// exampleOf returns the id that examples use in a field; by default that of a message.
func exampleOf(field string) string { return cmp.Or(exampleIDs[field], exampleMessage) }

// idFields names the field in which others refer to the id of a thing of that type.
var idFields = map[string]string{"User": "userId", "Me": "userId", "Conversation": "conversationId", "Session": "sessionId"}

type exampleBuilder struct{ registry huma.Registry }

// exampler is a body whose example does not follow from its fields, such as one that takes
// either of two fields, but not both.
type exampler interface{ example() any }

func (b exampleBuilder) fill(content map[string]*huma.MediaType) {
	for _, media := range content {
		if media.Example == nil && len(media.Examples) == 0 && media.Schema != nil {
			media.Example = b.of(media.Schema, "")
		}
	}
}

// of returns an example of a schema; field is the name of the field that has it, if any.
// An object gets its required fields and the optional ones that have an example of their
// own; if there are none of either, all fields.
func (b exampleBuilder) of(s *huma.Schema, field string) json.RawMessage {
	var order []string
	var owner string
	if s.Ref != "" {
		t := b.registry.TypeFromRef(s.Ref)
		if own, ok := reflect.New(t).Interface().(exampler); ok {
			return raw(own.example())
		}
		order = jsonFields(t)
		owner = t.Name()
		s = b.registry.SchemaFromRef(s.Ref)
	}
	switch {
	case isIDSchema(s):
		return raw(exampleOf(field))
	case len(s.Examples) > 0:
		return raw(s.Examples[0])
	case s.Default != nil:
		return raw(s.Default)
	case len(s.Enum) > 0:
		return raw(s.Enum[0])
	case len(s.AnyOf) > 0:
		return b.of(s.AnyOf[0], field)
	case len(s.OneOf) > 0:
		return b.of(s.OneOf[0], field)
	}
	switch s.Type {
	case huma.TypeObject:
		return b.object(s, owner, order)
	case huma.TypeArray:
		return raw([]json.RawMessage{b.of(s.Items, field)})
	case huma.TypeInteger, huma.TypeNumber:
		if s.Minimum != nil {
			return raw(*s.Minimum)
		}
		return raw(1)
	case huma.TypeBoolean:
		return raw(true)
	}
	return raw("…")
}

func (b exampleBuilder) object(s *huma.Schema, owner string, order []string) json.RawMessage {
	if len(order) == 0 {
		order = slices.Sorted(maps.Keys(s.Properties))
	}
	shown := slices.DeleteFunc(slices.Clone(order), func(name string) bool {
		return !slices.Contains(s.Required, name) && !hasOwnExample(s.Properties[name])
	})
	if len(shown) == 0 {
		shown = order
	}
	fields := mapped(shown, func(name *string) string {
		field := *name
		if field == "id" {
			field = idFields[owner]
		}
		return string(raw(*name)) + ":" + string(b.of(s.Properties[*name], field))
	})
	return json.RawMessage("{" + strings.Join(fields, ",") + "}")
}

// hasOwnExample reports whether a field's tag has an example: the examples of ids and
// times come from their type and say nothing about the field.
func hasOwnExample(s *huma.Schema) bool {
	return len(s.Examples) > 0 && !isIDSchema(s) && s.Format != "date-time"
}

func isIDSchema(s *huma.Schema) bool {
	return len(s.Examples) == 1 && s.Examples[0] == exampleID
}

// jsonFields lists the fields of a struct as JSON has them, in their order; nil for other types.
func jsonFields(t reflect.Type) []string {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			names = append(names, jsonFields(f.Type)...)
		case name != "" && name != "-":
			names = append(names, name)
		}
	}
	return names
}

// raw returns a value as readable JSON: "<" stays "<".
func raw(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("rest: an example: " + err.Error()) // a bug, found by the first test
	}
	return bytes.TrimSpace(b.Bytes())
}
