package asyncapi

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"github.com/parleymq/parley/chat"
)

// Schema is a JSON Schema (draft 7), as far as the document needs one.
type Schema struct {
	Ref                  string     `json:"$ref,omitempty"`
	Type                 Types      `json:"type,omitempty"`
	Title                string     `json:"title,omitempty"`
	Description          string     `json:"description,omitempty"`
	Const                string     `json:"const,omitempty"`
	Enum                 []string   `json:"enum,omitempty"`
	Format               string     `json:"format,omitempty"`
	Pattern              string     `json:"pattern,omitempty"`
	MinLength            int        `json:"minLength,omitempty"`
	MaxLength            int        `json:"maxLength,omitempty"`
	Minimum              *int64     `json:"minimum,omitempty"`
	Items                *Schema    `json:"items,omitempty"`
	MinItems             int        `json:"minItems,omitempty"`
	MaxItems             int        `json:"maxItems,omitempty"`
	Properties           Properties `json:"properties,omitempty"`
	Required             []string   `json:"required,omitempty"`
	AdditionalProperties *bool      `json:"additionalProperties,omitempty"`
	AnyOf                []Schema   `json:"anyOf,omitempty"`
	OneOf                []Schema   `json:"oneOf,omitempty"`
}

// Types are the JSON types that a value may have: nearly always one.
type Types []string

// MarshalJSON implements json.Marshaler: one type is a text.
func (t Types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

// Properties are the fields of an object, in the order in which people should read them.
type Properties []Property

// Property is one field of an object.
type Property struct {
	Name   string
	Schema *Schema
}

// MarshalJSON implements json.Marshaler.
func (p Properties) MarshalJSON() ([]byte, error) {
	return marshalOrdered(len(p), func(i int) (string, any) { return p[i].Name, p[i].Schema })
}

// marshalOrdered writes n members of an object in their order.
func marshalOrdered(n int, at func(int) (string, any)) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range n {
		name, v := at(i)
		text, err := marshal(v)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(name))
		b.WriteByte(':')
		b.Write(text)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// marshal is json.Marshal for people: "<" stays "<".
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

// ID is an id as JSON carries it.
type ID string

// IDPattern is what an ID looks like.
const IDPattern = `^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`

// Time is RFC 3339 in UTC with three digits of milliseconds.
type Time string

const timePattern = `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`

// Seq is a place in a conversation's log.
type Seq int64

// schemaOf makes the schema of a struct from its fields' types and tags: json for the
// name ("omitempty": it may be left out), doc, const, enum, min and max (of a text's or
// an array's length). strict refuses fields that are not there. Its mistakes are ours,
// and the first test finds them.
func schemaOf(t reflect.Type, strict bool) *Schema {
	s := &Schema{Type: Types{"object"}}
	addFields(s, t)
	if strict {
		s.AdditionalProperties = new(bool)
	}
	return s
}

func addFields(s *Schema, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			addFields(s, f.Type)
			continue
		}
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		s.Properties = append(s.Properties, Property{name, fieldSchema(f)})
		if rest != "omitempty" {
			s.Required = append(s.Required, name)
		}
	}
}

func fieldSchema(f reflect.StructField) *Schema {
	s := typeSchema(f.Type)
	s.Description = f.Tag.Get("doc")
	s.Const = f.Tag.Get("const")
	if e := f.Tag.Get("enum"); e != "" {
		s.Enum = strings.Split(e, ",")
	}
	for tag, limits := range map[string][2]*int{"min": {&s.MinLength, &s.MinItems}, "max": {&s.MaxLength, &s.MaxItems}} {
		text := f.Tag.Get(tag)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			panic("asyncapi: the tag " + tag + " of " + f.Name + ": " + err.Error())
		}
		if s.Items != nil {
			*limits[1] = n
		} else {
			*limits[0] = n
		}
	}
	return s
}

func typeSchema(t reflect.Type) *Schema {
	switch t {
	case reflect.TypeFor[ID]():
		return &Schema{Type: Types{"string"}, Pattern: IDPattern}
	case reflect.TypeFor[Time]():
		return &Schema{Type: Types{"string"}, Format: "date-time", Pattern: timePattern}
	case reflect.TypeFor[Seq]():
		one := int64(1)
		return &Schema{Type: Types{"integer"}, Minimum: &one}
	case reflect.TypeFor[chat.Code]():
		return &Schema{Type: Types{"string"}}
	}
	switch t.Kind() {
	case reflect.String:
		return &Schema{Type: Types{"string"}}
	case reflect.Bool:
		return &Schema{Type: Types{"boolean"}}
	case reflect.Pointer: // or null
		s := typeSchema(t.Elem())
		s.Type = append(s.Type, "null")
		return s
	case reflect.Slice:
		return &Schema{Type: Types{"array"}, Items: typeSchema(t.Elem())}
	default:
		panic("asyncapi: no schema for " + t.String())
	}
}
