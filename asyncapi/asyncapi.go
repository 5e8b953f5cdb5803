// Package asyncapi holds the AsyncAPI 3.0 document of Parley's MQTT side, asyncapi.json: what
// goes over which topic, in which form, and how it is answered. The file is written by hand.
//
// Tests keep it true: its form against AsyncAPI's own parser, its events, commands, signals, limits
// and reason codes against chat and the broker, and every payload that passes through the test
// suite against its schemas (asyncapitest).
//
// The schemas of what clients send are closed: the server ignores unknown fields, but whoever
// validates finds a misspelt one. What clients receive may get new fields, so those schemas are open.
package asyncapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/parleymq/parley/chat"
)

//go:embed asyncapi.json
var document []byte

// JSON returns the document of a server of that version, without white space.
func JSON(version string) []byte {
	var b bytes.Buffer
	_ = json.Compact(&b, document) // a mistake in the file is found by Read
	return bytes.Replace(b.Bytes(), []byte(`"version":"dev"`), []byte(`"version":`+strconv.Quote(version)), 1)
}

// Read returns the document, parsed.
func Read() *Document {
	var d Document
	if err := json.Unmarshal(JSON("dev"), &d); err != nil {
		panic("asyncapi: " + err.Error()) // a mistake in the file, which the first test finds
	}
	return &d
}

// Actions of an operation. They are the server's: it receives what clients publish.
const (
	Publish = "receive"
	Receive = "send"
)

// Document is the document as far as /docs and the tests look into it.
type Document struct {
	Info    struct{ Description string }
	Servers Ordered[struct {
		Title, Protocol, Pathname string
		Variables                 Ordered[struct{ Default string }] // host and port
	}]
	Channels   Ordered[Channel]
	Operations Ordered[Operation]
	Components struct {
		Messages Ordered[struct {
			Title, Summary, ContentType string
			Payload                     Ref
			Examples                    []struct {
				Summary string
				Payload json.RawMessage
			}
		}]
		Schemas         Ordered[Schema]
		SecuritySchemes Ordered[struct{ Description string }]
	}
}

// Channel is a topic, with parameters in braces.
type Channel struct {
	Address, Title, Description string
	Parameters                  Ordered[struct{ Examples []string }]
}

// Operation is what may be done with a channel.
type Operation struct {
	Action, Title, Summary, Description string
	Channel                             Ref
	Messages                            []Ref
	Bindings                            struct{ MQTT struct{ QoS int } }
	Acknowledgement                     *Schema      `json:"x-parley-acknowledgement"` // the user properties of PUBACK and PUBREC in MQTT 5
	ReasonCodes                         []ReasonCode `json:"x-parley-reason-codes"`    // of PUBACK and PUBREC
	Filters                             []string     `json:"x-parley-filters"`         // that SUBSCRIBE takes for it
}

// ReasonCode is an outcome of a publish.
type ReasonCode struct {
	Code        int // 0: success if Problem is "", otherwise nothing is acknowledged, and the connection ends
	Reason, Why string
	Problem     chat.Code // of the same refusal in REST and on user/{userId}/errors
	Disconnect  int       // reason code of the DISCONNECT; 0: none
}

// Schema is a JSON Schema (draft 7).
type Schema struct {
	Type                                     any // a string, or a list of them
	Description, Const, Format, Pattern      string
	Enum, Required                           []string
	MinLength, MaxLength, MinItems, MaxItems int
	Items                                    *Schema
	Properties                               Ordered[Schema]
	AdditionalProperties                     *bool
}

// Ref points to a part of the document.
type Ref struct {
	Ref string `json:"$ref"`
}

// Name is the last part of what the reference points to.
func (r Ref) Name() string { return r.Ref[strings.LastIndexByte(r.Ref, '/')+1:] }

// Ordered is an object whose members keep their order.
type Ordered[T any] []Member[T]

// Member is one of them.
type Member[T any] struct {
	Name  string
	Value T
}

// Get returns the member of that name, or a zero T.
func (o Ordered[T]) Get(name string) (v T) {
	if i := slices.IndexFunc(o, func(m Member[T]) bool { return m.Name == name }); i >= 0 {
		v = o[i].Value
	}
	return v
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *Ordered[T]) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text)) // text is valid JSON
	_, err := d.Token()
	for err == nil && d.More() {
		var m Member[T]
		name, _ := d.Token()
		m.Name, _ = name.(string)
		err = d.Decode(&m.Value)
		*o = append(*o, m)
	}
	return err
}
